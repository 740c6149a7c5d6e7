"""The flow of cases adds up, from a scan of messy pictures to what was judged, whatever the split; the page draws it
without the data set.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from conftest import MODEL, quiet
from medgraft import config, flow
from medgraft.files import read_json, write_json
from medgraft.intake.options import ScanOptions
from medgraft.intake.scan import scan
from medgraft.report import page

PATIENTS = 36


def messy(folder: Path, *, first: int = 0, patients: int = PATIENTS, masks: bool = False) -> Path:
    """Pictures of patients with one or two cases each, scanned: ``a`` known in most, ``b`` in others, some in neither;
    two cases with the same pixels, a broken file, one without a row, one with two labels.
    """
    source = folder / "in"
    source.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    g = np.random.default_rng(first)
    for k in range(patients):
        for view in range(1 + (k % 3 == 0)):
            name = f"{first + k:03d}-{view}.png"
            value = k % 2
            Image.fromarray(g.integers(0, 200, (24, 24), dtype=np.uint8) + np.uint8(50 * value)).save(source / name)
            a = "" if k % 9 == 4 or k % 12 == 7 else ("no", "yes")[value]
            b = "" if k % 12 == 7 or k >= 2 * patients // 3 else ("low", "high")[(k // 2) % 2]
            size = "" if k % 9 == 4 else str(10 * value + k / 10)
            part = "test" if k % 4 == 0 else "val" if k % 4 == 1 else "train"
            row = {"path": name, "who": f"p{first + k}", "a": a, "b": b, "size": size, "part": part, "mask": ""}
            if masks and k % 5:
                (source / "masks").mkdir(exist_ok=True)
                mask = np.zeros((24, 24), np.uint8)
                mask[4 : 12 + k % 6, 5:15] = 1
                Image.fromarray(mask).save(source / "masks" / name)
                row["mask"] = f"masks/{name}"
            rows.append(row)
    shutil.copy(source / f"{first:03d}-0.png", source / f"{first + 2:03d}-0.png")
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(source / "no-row.png")
    (source / "broken.png").write_bytes(b"")
    rows.append({**rows[1], "a": "yes" if rows[1]["a"] == "no" else "no"})
    pl.DataFrame(rows).write_csv(source / "labels.csv")
    options: dict[str, Any] = {
        "labels": "labels.csv",
        "patient": "who",
        "target": ["a", "b", "size"],
        "split": ["part"],
    }
    if masks:
        options |= {"masks": "mask", "structures": {1: "organ"}}
    scan(source, ScanOptions(out=folder / "data", identity="keep", progress=False, **options))
    return folder / "data"


def made(tmp_path: Path, data: Path, *words: str) -> tuple[Path, dict[str, Any]]:
    """A run, and its flow as the summary keeps it."""
    base = [f"data={data}", f"out={tmp_path / 'runs'}", "split.folds=3", "seeds=[0]", "threads=1", "workers=0"]
    base += ["window.size=32", "train={iterations: 1, batch_size: 8, evaluations: 1}", "stats.resamples=100"]
    root = flow.run(
        config.load_recipe(None, [*base, f"models=[{{model: '{MODEL}', start: random}}]", *words]), say=quiet
    )
    return root, json.loads((root / "summary.json").read_text(encoding="utf-8"))["run"]["flow"]


def adds_up(found: dict[str, Any], *, folds: int) -> None:
    """Every number of a flow is the sum of what follows from it."""
    for source in found["sources"]:
        counts = source["found"]
        assert counts["studies"] == counts["read"] + counts["waiting"] + sum(r["n"] for r in counts["refused"])
        assert counts["read"] == source["read"]["cases"]
        assert source["read"]["cases"] == source["used"]["cases"] + source["unlabelled"] + source["left_out"]
        assert all(n <= source["used"]["cases"] for n in source["targets"].values())
    used, tested = found["used"]["cases"], found["tested"]["cases"]
    assert used == sum(s["used"]["cases"] for s in found["sources"])
    assert len(found["folds"]) == folds
    for fold in found["folds"]:
        assert fold["learns"]["cases"] + fold["test"]["cases"] + found["idle"]["cases"] == used
        assert all(size["cases"] < fold["learns"]["cases"] for size in fold["select"])
    assert sum(f["test"]["cases"] for f in found["folds"]) == tested  # every case once
    if folds > 1:
        assert tested == used
    for target in found["targets"]:
        known = sum(s["targets"][target] for s in found["sources"])
        parts = [f["targets"][target] for f in found["folds"]]
        assert all(p["learns"] + p["test"] == known for p in parts)
        assert found["judged"]["targets"][target] == sum(p["test"] for p in parts)
    assert found["judged"]["cases"] == tested and found["judged"]["patients"] == found["tested"]["patients"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return messy(tmp_path_factory.mktemp("messy"), masks=False)


def test_two_targets_in_folds(data: Path, tmp_path: Path) -> None:
    root, found = made(tmp_path, data, "target=[a,b]")
    adds_up(found, folds=3)
    (source,) = found["sources"]
    manifest = pl.read_parquet(data / "manifest.parquet")
    a, b = manifest["label.a"].is_not_null(), manifest["label.b"].is_not_null()
    assert source["found"]["studies"] == 50 and source["read"]["cases"] == 47 == manifest.height
    assert (
        source["targets"] == {"a": int(a.sum()), "b": int(b.sum())}
        and source["unlabelled"] == int((~(a | b)).sum()) > 0
    )
    assert source["used"]["cases"] == int((a | b).sum()) > max(source["targets"].values())
    assert source["same_pixels"] == 1
    assert found["used"]["patients"] == manifest.filter(a | b)["patient_id"].n_unique()
    other = made(tmp_path, data, "target=[b,a]", "name=turned")[1]
    assert other["judged"]["targets"] == found["judged"]["targets"]  # the order of the targets drops nobody

    says = _figure(root, "broad")
    for line in ("50 studies or files found", "3 refused", "1 × no label", "47 cases of 36 patients read"):
        assert line in says, line
    assert f"a: known in {a.sum()}, not in {(~a & b).sum()}" in says
    assert f"{source['unlabelled']} cases without a label of any target" in says


def test_splits_of_one_part(data: Path, tmp_path: Path) -> None:
    for number, split in enumerate(["{kind: holdout, test_share: .25}", "{kind: column, column: part}"]):
        root, found = made(tmp_path, data, "target=a", f"split={split}", f"name=s{number}")
        adds_up(found, folds=1)
        (fold,) = found["folds"]
        says = _figure(root, "broad")
        assert f"{fold['learns']['cases']} cases of {fold['learns']['patients']} patients trained on" in says
        assert f"{fold['test']['cases']} cases of {fold['test']['patients']} patients tested" in says
        assert f"of these, {fold['select'][0]['cases']} cases choose settings" in says
    manifest = pl.read_parquet(data / "manifest.parquet").filter(pl.col("label.a").is_not_null())
    assert found["tested"]["cases"] == int((manifest["split.part"] == "test").sum())
    assert found["folds"][0]["select"][0]["cases"] == int((manifest["split.part"] == "val").sum())


def test_an_external_set_has_a_flow_of_its_own(data: Path, tmp_path: Path) -> None:
    away = messy(tmp_path / "away", first=500, patients=12)
    root, found = made(tmp_path, data, "target=size", f"split={{kind: external, test: {away}}}")
    adds_up(found, folds=1)
    home, abroad = found["sources"]
    assert (home["role"], abroad["role"]) == ("train", "test")
    assert (
        home["used"] == found["folds"][0]["learns"] and abroad["used"] == found["tested"] == found["folds"][0]["test"]
    )
    assert (home["found"]["studies"], abroad["found"]["studies"]) == (50, 18)
    says = _figure(root, "broad")
    assert (
        "Training set data: 50 studies or files found" in says
        and "External set data: 18 studies or files found" in says
    )


def test_masks_and_classes_that_take_no_part(tmp_path: Path) -> None:
    masked = messy(tmp_path / "m", masks=True, patients=18)
    unet = "models=[{model: unet2d, start: random}]"
    root, found = made(tmp_path, masked, "target=null", "task=segment", unet)
    adds_up(found, folds=3)
    (source,) = found["sources"]
    assert source["unlabelled"] == source["read"]["cases"] - source["used"]["cases"] > 0 and not found["targets"]
    assert f"{source['unlabelled']} cases without a mask" in _figure(root, "slim")


def test_classes_left_out_and_trainings_that_failed(tmp_path: Path) -> None:
    from factory import make_dataset

    data = make_dataset(tmp_path / "three", "image", cases=30, classes=3, missing=0.2).root
    info = read_json(data / "dataset.json")
    write_json(data / "dataset.json", info | {"found": {"studies": 30, "read": 30, "waiting": 0, "refused": []}})
    root, found = made(tmp_path, data, "classes=[class0,class2]", "split.folds=2")
    adds_up(found, folds=2)
    (source,) = found["sources"]
    labels = pl.read_parquet(data / "manifest.parquet")["label.finding"]
    assert source["unlabelled"] == labels.null_count() > 0 and source["left_out"] == int((labels == "class1").sum())
    summary = read_json(root / "summary.json")
    lost = found["folds"][1]["test"]["cases"]
    summary["run"]["flow"]["judged"]["cases"] -= lost  # as if one fold had failed
    write_json(root / "summary.json", summary)
    page.build(root)
    assert f"{lost} cases tested, but not judged" in _figure(root, "broad")


def test_the_page_needs_no_data_set_and_older_runs_show_what_they_have(data: Path, tmp_path: Path) -> None:
    root, found = made(tmp_path, data, "target=a")
    before = _figure(root, "broad")
    facts, summary = read_json(root / "run.json"), read_json(root / "summary.json")
    write_json(root / "run.json", facts | {"dataset": "gone"})
    page.build(root)
    assert _figure(root, "broad") == before and _figure(root, "slim")
    page.build(root, lang="zh")
    chinese = (root / "report.zh.html").read_text(encoding="utf-8")
    assert "找到 50 个检查或文件" in chinese and "程序原文“no label”" in chinese and "病例流程" in chinese
    # without the scan's counts: from what was read
    older = json.loads(json.dumps(summary))
    older["run"]["flow"]["sources"][0]["found"] = None
    write_json(root / "summary.json", older)
    page.build(root)
    says = _figure(root, "broad")
    assert "found" not in says and "47 cases of 36 patients read" in says
    assert "is not on record for this data set" in (root / "report.html").read_text(encoding="utf-8")
    # a run that is older than the flow: from its patients and its splits
    del older["run"]["flow"], facts["flow"]
    write_json(root / "summary.json", older)
    write_json(root / "run.json", facts)
    page.build(root)
    says = _figure(root, "broad")
    assert "47 cases read" in says and f"{found['used']['cases']} cases of {found['used']['patients']} patients" in says
    learns = sorted({f["learns"]["cases"] for f in found["folds"]})
    told = str(learns[0]) if len(learns) == 1 else f"{learns[0]} to {learns[-1]}"
    assert f"{told} cases trained on in each fold" in says
    # nothing on record: a sentence, and no figure
    (root / "splits.json").unlink()
    page.build(root)
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "The flow of cases is not on record for this run" in text and 'figure class="flow' not in text


def _figure(root: Path, which: str) -> str:
    """The text of the figure as drawn for a wide page or a phone, in one line, and its words beside it."""
    text = (root / "report.html").read_text(encoding="utf-8")
    part = text.partition(f'<div class="{which}">')[2].partition("</svg>")[0]
    assert 'role="img" aria-label="Flow of cases: ' in part
    return html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", part)))
