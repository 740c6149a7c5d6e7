"""New studies read as those that a network learnt from: every option that changes values, every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont

import identity_kit as kit
from medgraft.datasets import load_dataset
from medgraft.errors import UserError
from medgraft.intake.options import CHANGE_VALUES, ScanOptions, changes_values
from medgraft.intake.scan import scan
from medgraft.intake.studies import read_like

#: Options that choose studies, names, labels or outputs and leave the stored values alone.
LEAVE_VALUES = {
    *("out", "labels", "id", "patient", "target", "positive", "type", "target_unit", "split", "facts", "study", "site"),
    *("device", "masks", "structures", "export", "export_as", "label_level", "layout", "name", "identity"),
    *("deidentified", "dates", "workers", "follow_links", "progress"),
}


def colourful(path: Path, seed: int, name: str = "") -> None:
    pixels = np.random.default_rng(seed).integers(60, 120, (96, 128, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if name:
        ImageDraw.Draw(picture).text((4, 3), name, fill=(255, 255, 255), font=ImageFont.load_default(size=18))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def ct(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def values_of(root: Path) -> list[tuple[Any, ...]]:
    """All that a network sees of a data set, whatever its cases are called."""
    columns = ("array_id", "kind", "shape", "spacing", "value_unit", "p005", "p995")
    return sorted(map(str, load_dataset(root).manifest.select(columns).rows()))


def test_every_option_is_said_to_change_values_or_not() -> None:
    """A new option must be sorted into one of the two, so that serving is not forgotten."""
    assert set(ScanOptions.model_fields) == LEAVE_VALUES | set(CHANGE_VALUES)
    assert not LEAVE_VALUES & set(CHANGE_VALUES)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("volumes", {"unit": "HU"}),
        ("frames", {"frames": "folder"}),
        ("frames", {"frames": "files"}),
        ("pictures", {"colour": True}),
        ("pictures", {"text": "black"}),
        ("pictures", {"text": "list"}),
        ("pictures", {}),
        ("dicom", {"colour": True, "unit": "raw"}),
        ("archive", {"colour": True}),
    ],
)
def test_a_training_file_is_read_again_as_it_was(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    source = tmp_path / "source"
    for n in range(2):
        if kind == "volumes":
            ct(source / f"{n}.nii.gz", n)
        elif kind == "frames":
            for frame in range(9):
                colourful(source / f"clip{n}" / f"frame_{frame}.png", 10 * n + frame)
        elif kind == "dicom":
            kit.dicom(source / f"{n}.dcm", kit.picture(n, n), n)
        elif kind == "pictures":
            colourful(source / f"{n}.png", n, "QUILLFEATHER" if n else "")
    files = sorted(source.iterdir()) if source.is_dir() else []
    if kind == "archive":
        files = [tmp_path / "set.npz"]
        source = files[0]
        pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
        np.savez(source, train_images=pixels, train_labels=np.array([[0], [1], [0], [1]]))
    scan(source, ScanOptions(out=tmp_path / "out", patient="none", workers=1, **options))
    info = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert info["stored_with"] == changes_values(ScanOptions(**options))
    (tmp_path / "scratch").mkdir()
    dataset, rejects = read_like(files, tmp_path / "scratch", info["stored_with"])
    assert rejects == [] and values_of(dataset.root) == values_of(tmp_path / "out")


def test_a_limit_of_the_training_scan_holds_for_new_studies(tmp_path: Path) -> None:
    colourful(tmp_path / "a.png", 0)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match="more than 100 pixels") as caught:
        read_like([tmp_path / "a.png"], tmp_path / "scratch", {"max_pixels": 100})
    assert caught.value.case == str(tmp_path / "a.png")


def test_files_of_one_name_and_what_cannot_be_read(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        colourful(tmp_path / folder / "a.png", len(folder) + ord(folder[0]))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "scratch").mkdir()
    files = [tmp_path / "one" / "a.png", tmp_path / "two" / "a.png", tmp_path / "b.png"]
    dataset, rejects = read_like(files, tmp_path / "scratch", {})
    assert sorted(dataset.manifest["case_id"]) == ["1_a", "a"]
    assert [r["source"] for r in rejects] == ["b.png"] and rejects[0]["fix"]


def test_an_option_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    colourful(tmp_path / "a.png", 0)
    with pytest.raises(UserError, match="scanned with gamma=, which this version does not know"):
        read_like([tmp_path / "a.png"], tmp_path, {"colour": True, "gamma": 2.2})
