"""The scan as a whole: real sets, matching, masks, resume after a kill, and one clear line for each kind of bad
input.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import SimpleITK as sitk
from PIL import Image

import identity_kit
from medgraft import store, tables
from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.intake import jobs
from medgraft.intake.journal import JOURNAL
from medgraft.intake.options import ScanOptions
from medgraft.intake.scan import ScanReport, scan
from medgraft.notices import Notice


def picture(path: Path, seed: int = 0, shape: tuple[int, int] = (12, 16)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows, infer_schema_length=None).write_csv(path)
    return path


def run(source: Path, out: Path, identity: str = "keep", **options: Any) -> tuple[ScanReport, Dataset, dict[str, str]]:
    """Report, data set, and reason by rejected source."""
    report = scan(source, ScanOptions(out=out, identity=identity, **options))
    with open(out / "rejects.csv", encoding="utf-8", newline="") as stream:
        rejects = {row["source"]: row["reason"] for row in csv.DictReader(stream)}
    assert report.rejected >= len(rejects)
    return report, load_dataset(out), rejects


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Six pictures of three patients, in a folder with a space and Chinese characters."""
    source = tmp_path / "胸片 set"
    rows = []
    for n in range(6):
        picture(source / "图 像" / f"片 {n}.png", n)
        rows.append({"path": f"图 像/片 {n}.png", "label": "病" if n % 2 else "健康", "patient": f"p{n // 2}"})
    table(source / "labels.csv", rows)
    return source


# ------------------------------------------------------------------------------------------ real studies


def test_real_chest_xrays(shared_data: Path, tmp_path: Path) -> None:
    options = {"labels": "labels.csv", "patient": "patient", "target": "label", "positive": "pneumonia"}
    report, dataset, rejects = run(shared_data / "nih_cxr_pneumonia", tmp_path / "cxr", **options)
    assert (report.cases, report.patients, rejects) == (400, 325, {})
    assert report.classes == {"label": {"normal": 200, "pneumonia": 200}}
    assert dataset.info["targets"]["label"]["positive"] == "pneumonia" and dataset.info["channels"] == 1
    assert set(map(tuple, dataset.manifest["shape"].to_list())) == {(1, 1, 256, 256)}
    row = dataset.manifest.row(17, named=True)
    with Image.open(shared_data / "nih_cxr_pneumonia" / "images" / f"{row['case_id']}.jpg") as original:
        assert (store.open_array(dataset.root, row["array_id"])[0, 0] == np.asarray(original.convert("L"))).all()


def test_real_ultrasound_videos(shared_data: Path, tmp_path: Path) -> None:
    report, dataset, rejects = run(
        shared_data / "lung_pocus_video", tmp_path / "pocus", labels="labels.csv", patient="patient"
    )
    assert (report.cases, rejects, report.kinds) == (76, {}, {"video": 76})
    facts = pl.read_csv(shared_data / "lung_pocus_video" / "labels.csv")
    expected = {
        Path(p).stem: (1, n, h, w) for p, n, h, w in facts.select("path", "frames", "height", "width").iter_rows()
    }
    assert {c: tuple(s) for c, s in dataset.manifest.select("case_id", "shape").iter_rows()} == expected
    assert dataset.frames.height == facts["frames"].sum()
    rate = dict(zip((Path(p).stem for p in facts["path"]), facts["fps"]))
    steps = {c: s[0] for c, s in dataset.manifest.select("case_id", "spacing").iter_rows()}
    assert all(steps[c] == pytest.approx(1 / rate[c], rel=0.15) for c in rate)


def test_real_volumes_with_an_official_split(shared_data: Path, tmp_path: Path) -> None:
    options = {"labels": "labels.csv", "patient": "none", "split": "official_split"}
    report, dataset, rejects = run(shared_data / "medmnist_adrenal3d", tmp_path / "adrenal", **options)
    assert (report.cases, rejects, report.kinds) == (340, {}, {"volume": 340})
    assert set(map(tuple, dataset.manifest["shape"].to_list())) == {(1, 64, 64, 64)}
    assert set(map(tuple, dataset.manifest["spacing"].to_list())) == {(1.0, 1.0, 1.0)}
    assert dict(dataset.manifest["split.official_split"].value_counts().iter_rows()) == {"train": 300, "val": 40}
    assert not dataset.patients_known and any(w.kind == "patient_none" for w in dataset.warnings)


def test_real_masks_lie_on_their_images(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "msd_hippocampus"
    names = {1: "anterior", 2: "posterior"}
    report, dataset, rejects = run(
        source, tmp_path / "msd", labels="cases.csv", masks="label", patient="none", structures=names
    )
    assert (report.cases, rejects, dataset.info["structures"], dataset.targets) == (
        80,
        {},
        ["anterior", "posterior"],
        [],
    )
    facts = {r["case"]: r for r in pl.read_csv(source / "cases.csv").iter_rows(named=True)}
    for case in dataset.manifest.iter_rows(named=True):
        mask = store.open_mask(dataset.root, case["mask_id"])
        fact = facts[case["case_id"]]
        assert mask.shape == (case["shape"][1], 2, *case["shape"][2:])
        assert sorted(case["shape"][1:]) == sorted(map(int, fact["shape"].split("x")))
        assert mask.sum((0, 2, 3)).tolist() == [fact["voxels_anterior_1"], fact["voxels_posterior_2"]]
    traced = dataset.frames.filter(pl.col("array_id") == case["array_id"])
    assert traced["mask_index"].to_list() == list(range(case["shape"][1]))


# ------------------------------------------------------------------------------------------ labels


def test_odd_names_are_matched_and_stay_out_of_the_tables(study: Path, tmp_path: Path) -> None:
    report, dataset, rejects = run(study, tmp_path / "出 out", labels="labels.csv", patient="patient")
    assert (report.cases, report.patients, rejects) == (6, 3, {})
    assert report.mapping[0] | {"examples": []} == {
        "column": "path",
        "role": "file",
        "matched by": "path",
        "matched": 6,
        "rows": 6,
        "examples": [],
    }
    for name in ("manifest", "frames", "annotations"):
        assert "图 像" not in str(tables.read(dataset.root / f"{name}.parquet", name).to_dicts())
    assert "图 像" not in (dataset.root / JOURNAL).read_text(encoding="utf-8")
    for private in (tmp_path / ".medgraft-key", tmp_path / ".medgraft-sources-出 out.json"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["name", "stem", "excel", "semicolon"])
def test_files_are_found_by_name_or_stem_in_csv_or_excel(study: Path, tmp_path: Path, how: str) -> None:
    rows = [
        {"comment": f"c{n}", "id": f"片 {n}" + (".png" if how == "name" else ""), "who": n // 2, "label": n % 2}
        for n in range(6)
    ]
    path = study / ("labels.xlsx" if how == "excel" else "labels.csv")
    if how == "excel":
        import openpyxl

        book = openpyxl.Workbook()
        book.active.append(list(rows[0]))
        for row in rows:
            book.active.append(list(row.values()))
        book.save(path)
        (study / "labels.csv").unlink()
    else:
        pl.DataFrame(rows).write_csv(path, separator=";" if how == "semicolon" else ",")
    report, dataset, rejects = run(study, tmp_path / "out", labels=path.name, patient="who", workers=1)
    assert (report.cases, report.patients, rejects) == (6, 3, {})
    assert report.mapping[0]["column"] == "id" and report.mapping[0]["matched by"] == (
        "name" if how == "name" else "stem"
    )
    assert (
        dataset.manifest["label.label"].to_list() == ["0", "1"] * 3
        and dataset.info["targets"]["label"]["positive"] == "1"
    )
    assert set(dataset.manifest["patient_id"]) == {"0", "1", "2"}


def test_quantities_and_several_targets(study: Path, tmp_path: Path) -> None:
    rows = [
        {"path": f"图 像/片 {n}.png", "p": n // 2, "ef": 50.5 + n, "a": n % 2, "b": 1 - n % 2 if n else None}
        for n in range(6)
    ]
    table(study / "labels.csv", rows)
    _, dataset, _ = run(study, tmp_path / "out", labels="labels.csv", patient="p", target=["ef", "a", "b"])
    assert dataset.manifest["label.ef"].to_list() == [50.5 + n for n in range(6)]
    assert dataset.manifest["label.b"].to_list() == [None, "0", "1", "0", "1", "0"]
    assert dataset.info["targets"]["ef"]["type"] == "regress" and any(
        w == Notice("no_value", {"n": 1, "target": "b"}) for w in dataset.warnings
    )
    _, dataset, _ = run(study, tmp_path / "out", labels="labels.csv", patient="p", target="a", type="regress")
    assert dataset.manifest["label.a"].to_list() == [0.0, 1.0] * 3


def test_columns_of_a_table_have_the_roles_that_the_options_give_them(study: Path, tmp_path: Path) -> None:
    roles = {"who": 2, "exam": 3, "where": 3, "probe": 2}
    rows = [
        {"path": f"图 像/片 {n}.png", "ef": 50.5 + n // 2, **{k: f"{k}{n // v}" for k, v in roles.items()}}
        for n in range(6)
    ]
    table(study / "labels.csv", rows)
    given = {"labels": "labels.csv", "patient": "who", "target": "ef", "id": "path"}
    more = {
        "study": "exam",
        "site": "where",
        "device": "probe",
        "target_unit": "%",
        "label_level": "patient",
        "name": "mine",
    }
    _, plain, _ = run(study, tmp_path / "plain", **given)
    _, dataset, _ = run(study, tmp_path / "out", **given, **more)
    assert plain.info["label_level"] == "case" and dataset.info["label_level"] == "patient"
    assert dataset.info["targets"]["ef"]["unit"] == "%" and dataset.info["name"] == "mine" != plain.info["name"]
    counts = {column: dataset.manifest[column].n_unique() for column in ("patient_id", "study_id", "site", "device")}
    assert counts == {"patient_id": 3, "study_id": 2, "site": 2, "device": 3}
    assert plain.manifest["site"].null_count() == 6 and plain.manifest["study_id"].n_unique() != 2


def test_files_are_named_by_the_given_column_and_not_by_the_best(study: Path, tmp_path: Path) -> None:
    rows = [{"path": f"图 像/片 {n}.png", "turned": f"片 {5 - n}", "label": "ab"[n > 3]} for n in range(6)]
    table(study / "labels.csv", rows)
    given = {"labels": "labels.csv", "patient": "none"}
    _, first, _ = run(study, tmp_path / "first", **given)
    report, other, _ = run(study, tmp_path / "other", **given, id="turned")
    assert first.manifest["label.label"].to_list() == list("aaaabb") and report.mapping[0]["column"] == "turned"
    assert other.manifest["label.label"].to_list() == list("bbaaaa")


def test_the_positive_class_is_the_given_one_or_the_last_in_order(study: Path, tmp_path: Path) -> None:
    given = {"labels": "labels.csv", "patient": "patient"}
    _, plain, _ = run(study, tmp_path / "plain", **given)
    last, first = sorted(["病", "健康"], reverse=True)
    _, told, _ = run(study, tmp_path / "told", **given, positive=first)
    assert plain.info["targets"]["label"]["positive"] == last and told.info["targets"]["label"]["positive"] == first


def test_days_of_acquisition_are_shifted_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    identity_kit.dicom(tmp_path / "in" / "a.dcm", identity_kit.picture(0, 0), 0)
    days = {}
    for dates in ("shift", "drop"):
        _, dataset, _ = run(tmp_path / "in", tmp_path / dates, identity="code", patient="header", dates=dates)
        days[dataset.info["dates"]] = dataset.manifest["day"].null_count()
    assert days == {"shifted": 0, "dropped": 1}


def test_a_study_may_decode_to_as_much_as_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(
        tmp_path / "in" / "large.npy", np.zeros((9, 256, 256), np.int16) + np.arange(9, dtype=np.int16)[:, None, None]
    )
    np.save(tmp_path / "in" / "small.npy", np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
    _, whole, none = run(tmp_path / "in", tmp_path / "whole", patient="none", unit="raw")
    _, part, refused = run(tmp_path / "in", tmp_path / "part", patient="none", unit="raw", max_mib=1)
    assert (len(whole.manifest), none, len(part.manifest), list(refused)) == (2, {}, 1, ["large.npy"])
    assert "more than 1 MiB" in refused["large.npy"]


def test_a_scan_has_as_many_processes_as_asked_for(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six small pictures are read in the scan's own process unless more are wished for."""
    asked: list[int] = []
    original = jobs.results

    def heard(todo: Any, workers: int) -> Any:
        asked.append(workers)
        return original(todo, workers)

    monkeypatch.setattr(jobs, "results", heard)
    for name, more in (("one", {}), ("two", {"workers": 2})):
        report, _, _ = run(study, tmp_path / name, labels="labels.csv", patient="patient", **more)
        assert report.cases == 6
    assert asked == [1, 2]


def test_the_unit_of_values_is_the_given_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "v.npy", np.arange(-500, 500, dtype=np.int16).reshape(10, 10, 10))
    units = []
    for unit in ("HU", "raw"):
        given = {"patient": "none", "unit": unit}
        _, dataset, _ = run(tmp_path / "in", tmp_path / unit, **given)
        units.append(dataset.manifest["value_unit"].to_list())
    assert units == [["HU"], ["raw"]]


def test_facts_are_kept_as_text_for_the_audit(study: Path, tmp_path: Path) -> None:
    rows = [
        {
            "path": f"图 像/片 {n}.png",
            "label": "ab"[n % 2],
            "patient": f"p{n // 2}",
            "view": "AP" if n else None,
            "age": 40 + n,
        }
        for n in range(6)
    ]
    table(study / "labels.csv", rows)
    report, dataset, _ = run(study, tmp_path / "d", labels="labels.csv", patient="patient", facts=["view", "age"])
    kept = dict(
        zip(
            dataset.manifest["label.label"],
            zip(dataset.manifest["fact.view"], dataset.manifest["fact.age"], strict=True),
            strict=True,
        )
    )
    assert dataset.manifest.filter(pl.col("fact.view").is_null())["fact.age"].to_list() == ["40"] and kept["b"] == (
        "AP",
        "45",
    )
    assert {"fact view", "fact age"} <= {entry["role"] for entry in report.mapping}
    with pytest.raises(UserError, match="no column probe"):
        run(study, tmp_path / "e", labels="labels.csv", patient="patient", facts=["probe"])


def test_classes_from_folder_names(tmp_path: Path) -> None:
    for n in range(4):
        picture(tmp_path / "in" / ("sick" if n % 2 else "well") / f"p{n // 2}" / "image.png", n)
    report, dataset, _ = run(tmp_path / "in", tmp_path / "out", labels="folders", patient="folder")
    assert report.classes == {"label": {"sick": 2, "well": 2}} and report.patients == 2
    assert dataset.manifest["case_id"].to_list() == ["sick_p0_image", "sick_p1_image", "well_p0_image", "well_p1_image"]


def test_what_the_labels_get_wrong_has_a_line_each(study: Path, tmp_path: Path) -> None:
    picture(study / "extra.png", 77)
    picture(tmp_path / "outside.png", 78)
    rows = pl.read_csv(study / "labels.csv").to_dicts()
    rows[0]["label"] = "健康"
    rows += [
        {"path": "图 像/片 0.png", "label": "病", "patient": "p0"},
        {"path": "图 像/absent.png", "label": "病", "patient": "p9"},
        {"path": "../outside.png", "label": "病", "patient": "p9"},
        {"path": "=HYPERLINK(1)", "label": "病", "patient": "p9"},
        {"path": "图 像/片 1.png", "label": "病", "patient": "p0"},
    ]
    table(study / "labels.csv", rows)
    report, dataset, rejects = run(study, tmp_path / "out", labels="labels.csv", patient="patient")
    assert "片 0" not in dataset.manifest["case_id"].to_list() and dataset.manifest.height == 5
    assert rejects == {
        "extra.png": "no label",
        "图 像/片 0.png": "has 2 labels: 健康, 病",
        "图 像/absent.png": "labelled, but the file is absent",
        "labels row 10": "the path leaves the source folder",
        "'=HYPERLINK(1)": "labelled, but the file is absent",
    }
    assert any("repeat another" in n for n in report.notes)


def test_patients_must_be_said(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="patient=patient"):
        scan(study, ScanOptions(out=tmp_path / "out", labels="labels.csv"))
    rows = (
        pl.read_csv(study / "labels.csv")
        .with_columns(patient=pl.Series(["p0", None, "p1", "p1", None, "p2"]))
        .to_dicts()
    )
    table(study / "labels.csv", rows)
    with pytest.raises(UserError, match=r"no patient for 2 cases: labels rows 3, 6\. .*patient=none"):
        scan(study, ScanOptions(out=tmp_path / "out", labels="labels.csv", patient="patient"))
    with pytest.raises(UserError, match=r"no labels that could name the patients.*patient=none"):
        scan(study, ScanOptions(out=tmp_path / "out"))
    with pytest.raises(UserError, match="no column subject"):
        scan(study, ScanOptions(out=tmp_path / "out", labels="labels.csv", patient="subject"))
    _, dataset, _ = run(study, tmp_path / "out", labels="labels.csv", patient="none")
    assert dataset.manifest["patient_id"].to_list() == dataset.manifest["case_id"].to_list() and dataset.warnings


def test_links_that_leave_the_folder_are_not_followed(study: Path, tmp_path: Path) -> None:
    picture(tmp_path / "secret.png", 9)
    (study / "link.png").symlink_to(tmp_path / "secret.png")
    _, dataset, rejects = run(study, tmp_path / "out", patient="none")
    assert rejects == {"link.png": "a link that leaves the source folder"} and dataset.manifest.height == 6


def test_names_are_codes_unless_said_otherwise(study: Path, tmp_path: Path) -> None:
    (study / "图 像" / "片 9.png").write_bytes(b"")
    options = {"labels": "labels.csv", "patient": "patient"}
    report, dataset, rejects = run(study, tmp_path / "out", identity="code", **options)
    cases = dataset.manifest["case_id"].to_list()
    assert all(re.fullmatch(r"case-[0-9a-f]{12}", c) for c in cases) and cases == sorted(cases)
    assert set(dataset.manifest["patient_id"].str.slice(0, 8)) == {"patient-"} and report.patients == 3
    assert list(rejects.values()) == ["the file has zero bytes"] and all(r.startswith("case-") for r in rejects)
    assert (
        "图 像" not in report.text() and "片" not in report.text()
    )  # the mapping shows how names are built, not what they are
    private = json.loads((tmp_path / ".medgraft-sources-out.json").read_text(encoding="utf-8"))
    files = {c: private["cases"][c][0] for c in cases}
    assert sorted(files.values()) == [f"图 像/片 {n}.png" for n in range(6)]
    for case, patient, label in dataset.manifest.select("case_id", "patient_id", "label.label").iter_rows():
        n = int(files[case][-5])
        assert private["names"][patient] == f"p{n // 2}" and label == ("病" if n % 2 else "健康")
    _, again, _ = run(study, tmp_path / "out", identity="code", **options)
    assert again.manifest.equals(dataset.manifest)
    (tmp_path / "elsewhere").mkdir()
    _, other, _ = run(study, tmp_path / "elsewhere" / "out", identity="code", **options)  # another key
    assert not set(other.manifest["case_id"]) & set(cases) and not set(other.manifest["patient_id"]) & set(
        dataset.manifest["patient_id"]
    )


# ------------------------------------------------------------------------------------------ annotations


def test_a_scan_keeps_what_others_drew_and_renews_its_own(study: Path, tmp_path: Path) -> None:
    boxes = [{"x": n, "y": 2, "width": 4, "height": 5.5} for n in range(6)]
    rows = pl.read_csv(study / "labels.csv").to_dicts()
    table(study / "labels.csv", [{**row, **box} for row, box in zip(rows, boxes)])
    options = {"labels": "labels.csv", "patient": "patient"}
    _, dataset, _ = run(study, tmp_path / "out", **options)
    path = dataset.root / "annotations.parquet"
    first = tables.read(path, "annotations")
    assert first["author"].to_list() == ["labels"] * 6 and json.loads(first["geometry"][3]) == boxes[3]
    case = dataset.manifest["case_id"][0]
    point = json.dumps({"x": 3, "y": 4})
    by_hand = pl.DataFrame(
        [
            (case, 0, "box", json.dumps(boxes[0]), "reader 2", "finding", None),
            (case, 0, "point", point, "reader 2", "structure", None),
            ("a case that is gone", -1, "time", "{}", None, "peak", 12.5),
        ],
        schema=tables.SCHEMAS["annotations"],
        orient="row",
    )
    tables.write(pl.concat([by_hand, first]), path, "annotations")
    boxes[0]["x"] = 7
    table(study / "labels.csv", [{**row, **box} for row, box in zip(rows[:5], boxes)])
    for _ in range(2):
        run(study, tmp_path / "out", **options)
        second = tables.read(path, "annotations")
        assert second.filter(pl.col("author") == "labels").height == 5
        assert json.loads(second["geometry"][0])["x"] == 7
        assert second.tail(3).equals(by_hand)


def test_a_scan_never_writes_over_annotations_that_it_cannot_read(study: Path, tmp_path: Path) -> None:
    run(study, tmp_path / "out", labels="labels.csv", patient="patient")
    path = tmp_path / "out" / "annotations.parquet"
    path.write_bytes(b"drawn for hours, then half copied")
    with pytest.raises(UserError, match="move it away") as caught:
        run(study, tmp_path / "out", labels="labels.csv", patient="patient")
    assert "\n" not in str(caught.value) and path.read_bytes().startswith(b"drawn")


# ------------------------------------------------------------------------------------------ layouts


def test_rsna_rows_are_collapsed_to_images(tmp_path: Path) -> None:
    from medgraft.simulate import chest_xray

    made = chest_xray.simulate(tmp_path / "rsna", patients=8, images_per_patient=2, size=64, prevalence=0.5, seed=3)
    report, dataset, rejects = run(tmp_path / "rsna", tmp_path / "out")
    assert (report.cases, report.patients, rejects) == (16, 8, {})
    assert report.classes["pneumonia"] == {"no pneumonia": 8, "pneumonia": 8}
    assert report.classes["class_info"] == {k: v for k, v in sorted(made.counts.items()) if v}
    boxes = tables.read(dataset.root / "annotations.parquet", "annotations")
    truth = pl.read_csv(tmp_path / "rsna" / "stage_2_train_labels.csv").drop_nulls("x")
    assert boxes.height == made.boxes == truth.height
    assert set(boxes["what"]) == {"finding"} and boxes["time_s"].null_count() == boxes.height
    found = {(c, *json.loads(g).values()) for c, g in boxes.select("case_id", "geometry").iter_rows()}
    assert found == set(truth.select("patientId", "x", "y", "width", "height").iter_rows())
    positive = dataset.manifest.filter(pl.col("label.pneumonia") == "pneumonia")["case_id"]
    assert set(positive) == set(truth["patientId"])  # those with boxes, and no others
    (tmp_path / "rsna" / "patient_mapping.csv").unlink()
    with pytest.raises(UserError, match="patient"):
        scan(tmp_path / "rsna", ScanOptions(out=tmp_path / "out2"))
    _, dataset, _ = run(tmp_path / "rsna", tmp_path / "out2", patient="none")
    assert any(w.kind == "image_not_person" for w in dataset.warnings)


def test_labels_given_by_hand_win_over_a_detected_layout(tmp_path: Path) -> None:
    from medgraft.simulate import chest_xray

    source = tmp_path / "rsna"
    chest_xray.simulate(source, patients=4, images_per_patient=2, size=64, prevalence=0.5, seed=3)
    names = sorted(p.stem for p in (source / "stage_2_train_images").iterdir())
    table(
        source / "mine.csv",
        [{"image": n, "person": f"q{i // 4}", "side": "left" if i % 2 else "right"} for i, n in enumerate(names)],
    )
    options = {"labels": "mine.csv", "patient": "person", "target": "side"}
    report, dataset, _ = run(source, tmp_path / "out", **options)
    assert (report.cases, report.patients, dataset.targets) == (8, 2, ["side"])
    with pytest.raises(UserError, match=r"labels=mine\.csv: the layout rsna brings its own labels"):
        scan(source, ScanOptions(out=tmp_path / "out2", layout="rsna", **options))


def test_medmnist_archives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{p}_images": rng.integers(0, 256, (n, 6, 7, 8), dtype=np.uint8)
        for p, n in (("train", 5), ("val", 2), ("test", 3))
    }
    labels = {f"{p}_labels": np.arange(n)[:, None] % 2 for p, n in (("train", 5), ("val", 2), ("test", 3))}
    (tmp_path / "in").mkdir()
    np.savez_compressed(tmp_path / "in" / "x.npz", **arrays, **labels)
    report, dataset, rejects = run(tmp_path / "in" / "x.npz", tmp_path / "out")
    assert (report.cases, report.kinds, rejects) == (10, {"volume": 10}, {})
    case = dataset.manifest.filter(pl.col("case_id") == "test_00001").row(0, named=True)
    assert (store.open_array(dataset.root, case["array_id"])[0] == arrays["test_images"][1]).all()
    assert case["label.label"] == "1" and case["split.official_split"] == "test"
    np.savez(tmp_path / "in" / "y.npz", train_images=np.array([{}], dtype=object))
    _, dataset, rejects = run(tmp_path / "in", tmp_path / "out2")
    assert dataset.manifest.height == 10 and "pickled" in rejects["y.npz"]
    with pytest.raises(UserError, match="medmnist brings its own labels"):
        scan(tmp_path / "in", ScanOptions(out=tmp_path / "out3", labels="labels.csv", patient="none"))


# ------------------------------------------------------------------------------------------ masks and bad studies


def test_masks_must_fit(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for n in range(4):
        picture(source / "images" / f"{n}.png", n, (8, 9))
    masks = {0: np.full((8, 9), 7), 1: np.zeros((8, 8)), 2: np.eye(8, 9) * 3, 3: np.zeros((8, 9))}
    masks[3][0, :3] = 3, 7, 255
    for n, mask in masks.items():
        (source / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(source / "masks" / f"{n}.png")
    _, dataset, rejects = run(source, tmp_path / "out", masks="masks", patient="none")
    assert rejects == {"images/1.png": "the image is 1x8x9, its mask 1x8x8"}
    assert dataset.info["structures"] == ["structure_3", "structure_7"] and dataset.manifest.height == 3
    mask = store.open_mask(dataset.root, dataset.manifest.row(-1, named=True)["mask_id"])
    assert mask.shape == (1, 2, 8, 9) and mask[0, :, 0, :4].tolist() == [[1, 0, 255, 0], [0, 1, 255, 0]]
    _, dataset, rejects = run(source, tmp_path / "out", masks="masks", patient="none", structures={3: "wall"})
    assert rejects["images/0.png"] == "the mask holds value 7, which is no structure" and dataset.info[
        "structures"
    ] == ["wall"]


def test_bad_studies_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "in"
    picture(source / "good.png")
    picture(source / "wrong_suffix.png")
    (source / "wrong_suffix.png").rename(source / "wrong_suffix.dcm")
    (source / "zero.png").write_bytes(b"")
    (source / "short.png").write_bytes((source / "good.png").read_bytes()[:60])
    (source / "list.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")
    hole = np.zeros((3, 4, 5), np.float32)
    hole[1, 1, 1] = np.inf
    sitk.WriteImage(sitk.GetImageFromArray(hole), str(source / "hole.nii.gz"))
    (source / "notes.txt").write_text("bystander")
    report, dataset, rejects = run(source, tmp_path / "out", patient="none", workers=2)
    assert dataset.manifest["case_id"].to_list() == ["good", "wrong_suffix"] and report.ignored == 1
    assert set(rejects) == {"zero.png", "short.png", "list.mp4", "hole.nii.gz"} and "infinite" in rejects["hole.nii.gz"]
    again, _, same = run(source, tmp_path / "out", patient="none")
    assert (again.new, same) == (0, rejects)
    shutil.copy(source / "good.png", source / "zero.png")  # mended: read again
    again, dataset, rejects = run(source, tmp_path / "out", patient="none")
    assert again.new == 1 and "zero.png" not in rejects and dataset.manifest.height == 3


# ------------------------------------------------------------------------------------------ disk and resume


def content(out: Path) -> dict[str, Any]:
    """All that matters of a data set: tables and arrays."""
    info = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    names = {p.name for p in (out / "arrays").rglob("*.npy")}
    manifest, frames = tables.read(out / "manifest.parquet", "manifest"), tables.read(out / "frames.parquet", "frames")
    return {"info": info, "arrays": names, "manifest": manifest.to_dicts(), "frames": frames.to_dicts()}


SCRIPT = """
import sys
from pathlib import Path
from medgraft.intake.options import ScanOptions
from medgraft.intake.scan import scan
if __name__ == "__main__":
    scan(Path(sys.argv[1]), ScanOptions(out=Path(sys.argv[2]), patient="none", name="x", workers=int(sys.argv[3])))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_scan_goes_on_where_it_stopped(tmp_path: Path, workers: int) -> None:
    source = tmp_path / "in"
    for n in range(160):
        picture(source / f"{n:03d}.png", n, (200, 200))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(source), str(tmp_path / "killed"), str(workers)]
    process = subprocess.Popen(command, start_new_session=True)
    journal = tmp_path / "killed" / JOURNAL
    deadline = time.monotonic() + 60
    while (not journal.is_file() or journal.read_bytes().count(b"\n") < 20) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n")
    assert 20 <= done < 160 and not (tmp_path / "killed" / "manifest.parquet").exists()
    with open(journal, "ab") as stream:
        stream.write(b'{"key":"torn')  # as a power cut would leave it
    deadline = time.monotonic() + 20
    while True:  # orphaned workers end with their parent and let go of the lock
        try:
            report, _, _ = run(source, tmp_path / "killed", patient="none", name="x", workers=1)
            break
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (report.new, report.known) == (160 - done, done)
    run(source, tmp_path / "whole", patient="none", name="x", workers=1)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_second_scan_does_only_what_is_new(study: Path, tmp_path: Path) -> None:
    run(study, tmp_path / "out", labels="labels.csv", patient="patient")
    rows = pl.read_csv(study / "labels.csv").to_dicts()
    picture(study / "new.png", 50)
    table(study / "labels.csv", [*rows, {"path": "new.png", "label": "病", "patient": "p7"}])
    report, dataset, _ = run(study, tmp_path / "out", labels="labels.csv", patient="patient")
    assert (report.new, report.known, dataset.manifest.height) == (1, 6, 7)
    gone = dataset.manifest["array_id"][0]
    store.close_all()
    store.path_of(dataset.root, gone).unlink()
    report, dataset, _ = run(study, tmp_path / "out", labels="labels.csv", patient="patient")
    assert report.new == 1 and store.path_of(dataset.root, gone).is_file()


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    """A 1 MiB file system of its own; where that is not allowed, the test skips."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
        if os.name == "posix"
        else None
    )
    if made is None or made.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_done(tmp_path: Path, mounted: Path) -> None:
    source = tmp_path / "in"
    for n in range(12):
        picture(source / f"{n}.png", n, (400, 400))
    with pytest.raises(UserError, match="disk is full"):
        scan(source, ScanOptions(out=mounted / "out", patient="none"))
    done = (mounted / "out" / JOURNAL).read_bytes().count(b"\n")
    assert 0 < done < 12 and not (mounted / "out" / "dataset.json").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(mounted)], check=True)
    report, dataset, _ = run(source, mounted / "out", patient="none")
    assert (report.new, report.known, dataset.manifest.height) == (12 - done, done, 12)


def test_a_read_only_folder_is_named(study: Path, mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(UserError, match="read-only"):
        scan(study, ScanOptions(out=mounted / "out", patient="none"))


def test_two_scans_at_once_are_refused(study: Path, tmp_path: Path) -> None:
    from medgraft.intake.journal import Journal

    (tmp_path / "out").mkdir()
    with Journal(tmp_path / "out" / JOURNAL), pytest.raises(UserError, match="another scan"):
        scan(study, ScanOptions(out=tmp_path / "out", patient="none"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes, to hold a decoder at a known place")
def test_a_study_that_kills_its_decoder_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    import multiprocessing
    import threading
    from multiprocessing import connection

    from medgraft.intake import work
    from medgraft.intake.jobs import results
    from medgraft.intake.plan import Item
    from medgraft.intake.read import Limits

    os.mkfifo(tmp_path / "3.png")
    for n in (0, 1, 2, 4, 5, 6):
        picture(tmp_path / f"{n}.png", n)
    tasks = [
        work.Task(
            str(n), Item(f"{n}.png", (str(tmp_path / f"{n}.png"),), "png", str(n)), tmp_path / "out", Limits(), b"k"
        )
        for n in range(7)
    ]

    def kill_twice() -> None:
        for _ in range(2):
            pipe = os.open(tmp_path / "3.png", os.O_WRONLY)  # returns when a worker has opened the other end
            workers = multiprocessing.active_children()
            for worker in workers:
                worker.kill()
            for worker in workers:
                connection.wait([worker.sentinel], timeout=5)
            time.sleep(0.1)  # the dead reader's end must be closed before the pipe is opened again
            os.close(pipe)

    killer = threading.Thread(target=kill_twice, daemon=True)
    killer.start()
    records = {r["key"]: r for records in results(tasks, 2) for r in records}
    killer.join(timeout=10)
    assert records.pop("3")["reject"]["reason"] == "its decoder crashed"
    assert sorted(records) == ["0", "1", "2", "4", "5", "6"] and all("study" in r for r in records.values())
