"""The scripts for a lent GPU run on a CPU at reduced size, so that no minute of a device is lost to a typing error."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

BENCH = Path(__file__).resolve().parents[1] / "bench"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(path: Path, rows: list[dict[str, object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def sets(root: Path) -> Path:
    """The three sets in little, in their published layout."""
    draw = np.random.default_rng(0)
    xrays, adrenal, hippo = (root / n for n in ("nih_cxr_pneumonia", "medmnist_adrenal3d", "msd_hippocampus"))
    for folder in (xrays / "images", adrenal / "volumes", hippo / "images", hippo / "labels"):
        folder.mkdir(parents=True)
    rows: dict[str, list[dict[str, object]]] = {"xrays": [], "adrenal": [], "hippo": []}
    for k in range(12):
        label = ("normal", "pneumonia")[k % 2]
        picture = draw.integers(0, 120, (40, 40)).astype(np.uint8) + np.uint8(80 * (k % 2))
        Image.fromarray(picture).save(xrays / "images" / f"x{k}.png")
        rows["xrays"].append({"path": f"images/x{k}.png", "patient": f"p{k}", "label": label})
        volume = sitk.GetImageFromArray(draw.integers(0, 200, (20, 20, 20)).astype(np.int16))
        sitk.WriteImage(volume, str(adrenal / "volumes" / f"a{k}.nii.gz"))
        shape = ("normal", "hyperplasia")[k % 2]
        part = "test" if k >= 8 else "val" if k >= 6 else "train"
        rows["adrenal"].append({"path": f"volumes/a{k}.nii.gz", "official_split": part, "label": shape})
        mask = np.zeros((20, 20, 20), np.uint8)
        mask[5:10, 5:15, 5:15], mask[10:15, 5:15, 5:15] = 1, 2
        sitk.WriteImage(volume, str(hippo / "images" / f"h{k}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(hippo / "labels" / f"h{k}.nii.gz"))
        rows["hippo"].append({"image": f"images/h{k}.nii.gz", "label": f"labels/h{k}.nii.gz"})
    table(xrays / "labels.csv", rows["xrays"])
    table(adrenal / "labels.csv", rows["adrenal"])
    table(hippo / "cases.csv", rows["hippo"])
    return root


@pytest.mark.slow
def test_real_studies_at_reduced_size(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    bench = script("bench_device_real")
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "kept.json")
    bench.main([f"data={sets(tmp_path)}", "small=1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if " s, " in line]
    assert [line.split()[0] for line in lines] == ["xrays", "xrays", "adrenal", "hippocampus"]
    assert not (tmp_path / "kept.json").exists()  # figures of a toy are not kept


@pytest.mark.slow
def test_a_network_of_each_kind_at_reduced_size(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    bench = script("bench_device")
    monkeypatch.setattr(bench, "NETWORKS", {family: rows[:1] for family, rows in bench.NETWORKS.items()})
    monkeypatch.setattr(bench, "REPEATS", 2)
    monkeypatch.setattr(bench, "STEPS", 1)
    bench.main(["device=cpu", "small=1"])
    out = capsys.readouterr().out
    assert out.count(" train ") == 3 and "not measured" not in out
