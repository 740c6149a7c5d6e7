"""Nothing that names a person leaves the source: planted names are looked for in every byte that medgraft writes or
prints.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest

import identity_kit as kit
from medgraft import store
from medgraft.cli import main
from medgraft.datasets import load_dataset

MODEL = "timm:test_efficientnet"
Command = Callable[..., str]


@pytest.fixture
def medgraft(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``medgraft(*words, code=0)`` -> all that a command printed, also from below Python; run in ``tmp_path/work``."""
    (tmp_path / "work").mkdir()

    def call(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["medgraft", *words])
        monkeypatch.chdir(tmp_path / "work")
        with pytest.raises(SystemExit) as end:
            main()
        printed = "".join(capfd.readouterr())
        assert (end.value.code or 0) == code, printed
        assert not kit.in_bytes(printed.encode()), printed
        return printed

    return call


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    """The kit itself: each hiding place that the search knows, and that the sources are full of what is looked for."""
    import base64
    import zipfile

    name = kit.PLANTED["family name"]
    places = {
        "plain.txt": b"x" + name.upper().encode(),
        "wide.bin": b"y" + name.encode("utf-16-le"),
        "page.html": b'<img src="data:image/jpeg;base64,' + base64.b64encode(b"ab" + name.encode() + b"cdef") + b'">',
        "coded.json": b'"' + base64.b64encode(b"z" + name.encode() + b"tail") + b'"',
        "clean.txt": b"nothing",
    }
    for file, data in places.items():
        (tmp_path / file).write_bytes(data)
    pl.DataFrame({"a": [name] * 50}).write_parquet(tmp_path / "table.parquet")
    with zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", name * 20)
    found = {line.split(" ")[0].rstrip(":") for line in kit.leaks(tmp_path)}
    assert found == {*places, "table.parquet", "packed.ckpt"} - {"clean.txt"}
    pictures, others = kit.plant(tmp_path / "sources", burnt=False)
    planted = {line.rsplit(" ", 1)[-1] if line.count(":") else "" for line in kit.leaks(pictures, others)}
    assert len(
        {what for what in kit.PLANTED if any(line.endswith(what) for line in kit.leaks(pictures, others))}
    ) == len(kit.PLANTED), planted


def test_a_scan_of_every_format_names_nobody(tmp_path: Path, medgraft: Command) -> None:
    _pictures, _others = kit.plant(tmp_path, burnt=False)
    printed = medgraft(
        "scan",
        "../pictures",
        "labels=labels.csv",
        "patient=patient",
        "site=clinic",
        "target=finding",
        "out=data",
        "workers=1",
        code=3,
    )
    assert "16 cases" not in printed and "15 cases (15 images)" in printed  # one has two patients
    medgraft("scan", "../others", "patient=none", "out=other", "workers=1", code=3)
    medgraft("scan", "../others", "patient=header", "out=headers", "workers=2", code=3)
    medgraft(
        "scan", "../pictures", "labels=folders", "patient=none", "out=folders", "workers=1", code=2
    )  # classes that are people
    assert not kit.leaks(tmp_path / "work")
    other = load_dataset(tmp_path / "work" / "other")
    assert set(other.manifest["kind"]) == {"image", "video", "volume"} and other.manifest.height >= 8
    rejects = pl.read_csv(tmp_path / "work" / "other" / "rejects.csv")
    assert rejects.height >= 8 and rejects["source"].str.starts_with("case-").all()
    known = json.loads((tmp_path / "work" / ".medgraft-sources-other.json").read_text(encoding="utf-8"))
    assert all(
        code in known["names"] or code in known["cases"] for code in rejects["source"]
    )  # whoever holds the private map finds every file again
    first = load_dataset(tmp_path / "work" / "data").manifest
    assert set(first["site"].str.slice(0, 5)) == {"site-"} and set(first["device"].drop_nulls()) == {"Maker Model 5"}
    headers = load_dataset(tmp_path / "work" / "headers").manifest
    true = (datetime.date(2019, 6, 27) - datetime.date(1970, 1, 1)).days
    assert (
        headers["day"].null_count() == 0
        and true - headers["day"].max() >= 335
        and true - headers["day"].min() <= 3651 + 30
    )


def test_a_crash_leaves_no_name_where_others_look(
    tmp_path: Path, medgraft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.plant(tmp_path, burnt=False)
    from medgraft.intake import plan

    def crash(*_: object) -> None:
        raise RuntimeError(f"cannot handle {kit.PLANTED['family name']} in {kit.PLANTED['folder']}")

    monkeypatch.setattr(plan, "discover", crash)
    monkeypatch.setattr("medgraft.intake.layouts.folder.discover", crash)
    assert "RuntimeError" in medgraft("scan", "../pictures", "patient=none", "out=data", code=1)
    assert not kit.leaks(tmp_path / "work") and (tmp_path / "work" / "medgraft-error.log").stat().st_size > 100
    assert kit.in_bytes(
        (tmp_path / "work" / ".medgraft-error-full.log").read_bytes()
    )  # its owner can still read what happened


# ------------------------------------------------------------------------------------------ de-identified copies


def test_copies_are_whole_and_name_nobody(tmp_path: Path) -> None:
    from medgraft.intake.private.copy import copy as write_copy
    from medgraft.intake.private.keys import Names

    names, p = Names(b"k" * 32), kit.PLANTED
    pixels = kit.picture(1, 1, kit.BURNT)
    source = kit.dicom(tmp_path / "in" / "a.dcm", pixels, 0)
    second = kit.jpeg_dicom(tmp_path / "in" / "b.dcm", pixels, 1)

    def copy(file: Path) -> str:
        return write_copy(
            file,
            tmp_path / "out",
            names,
            "patient-0123",
            f"case-{file.stem}",
            -400,
            [(2, 2, 22, 130)] if file == source else [],
        )

    copies = [copy(source), copy(second)]
    assert not kit.leaks(tmp_path / "out")
    assert copies == [copy(source), copy(second)]  # the same key gives the same names
    one, two = (pydicom.dcmread(tmp_path / "out" / c) for c in copies)
    assert one.PatientID == one.PatientName == "patient-0123" and one.PatientBirthDate == "" and "PatientAge" not in one
    assert one.StudyInstanceUID == two.StudyInstanceUID != f"{p['uid']}.1" and one.SOPInstanceUID != two.SOPInstanceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID and one.preamble == b"\0" * 128
    assert not [e for e in one.iterall() if e.tag.is_private or e.tag.group == 0x6000]
    assert (one.StudyDate, one.AcquisitionDateTime, one.StudyTime) == ("20180523", "20180523101112.50", "101112")
    assert (
        one.PatientIdentityRemoved == "YES"
        and one.BurnedInAnnotation == "NO"
        and one.LongitudinalTemporalInformationModified == "MODIFIED"
    )
    assert [c.CodeValue for c in one.DeidentificationMethodCodeSequence] == ["113100", "113101", "113107"]
    assert one.AnatomicRegionSequence[0].CodeValue == "T-A" and one.Manufacturer == "Maker"  # what names nobody stays
    expected = pixels.copy()
    expected[2:22, 2:130] = pixels.min()
    assert (
        one.pixel_array == expected
    ).all() and not two.file_meta.TransferSyntaxUID.is_compressed  # the JPEG's comment held a name
    dropped = pydicom.dcmread(
        tmp_path / "out" / write_copy(source, tmp_path / "out", names, "patient-0123", "case-c", None, [])
    )
    assert (
        dropped.StudyDate == ""
        and "AcquisitionDate" not in dropped
        and dropped.LongitudinalTemporalInformationModified == "REMOVED"
    )


@pytest.mark.parametrize(
    "name",
    ["examples_ybr_color.dcm", "examples_palette.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm", "CT_small.dcm"],
)
def test_real_files_keep_their_pixels_and_lose_their_names(tmp_path: Path, name: str) -> None:
    from pydicom.data import get_testdata_file

    from medgraft.intake.private.copy import copy as write_copy
    from medgraft.intake.private.keys import Names
    from medgraft.intake.private.names import identity_words, words

    source = Path(str(get_testdata_file(name)))
    before = pydicom.dcmread(source)
    said = set(identity_words(before, nested=True))
    boxes = [] if name == "CT_small.dcm" else [(0, 0, 10, 40)]
    copy = tmp_path / write_copy(source, tmp_path, Names(b"k" * 32), "patient-1", "case-1", 0, boxes)
    after = pydicom.dcmread(copy)
    old, new = before.pixel_array, after.pixel_array
    if boxes:
        height = before.Rows
        axis = old.shape.index(height)
        old, new = (np.moveaxis(a, axis, 0) for a in (old, new))
        assert (old[10:] == new[10:]).all()
    else:
        assert (old == new).all()
    left = {
        w for e in after.iterall() if e.VR in ("PN", "LO", "SH", "CS", "AE", "IS", "DS") for w in words(str(e.value))
    }
    assert not {w for w in said & left if len(w) > 5 or not w.isdigit()}
    assert not [e for e in after.iterall() if e.tag.is_private]


def test_a_header_that_cannot_be_cleaned_is_refused(tmp_path: Path) -> None:
    from medgraft.intake.private.copy import copy as write_copy
    from medgraft.intake.private.keys import Names
    from medgraft.intake.read import Unreadable

    source = kit.dicom(tmp_path / "a.dcm", kit.picture(1, 1), 0)
    d = pydicom.dcmread(source)
    d.add_new(0x00281201, "OW", kit.PLANTED["family name"].encode())  # a name where a colour table belongs
    d.save_as(source)
    with pytest.raises(Unreadable, match="a name of its header remains in RedPaletteColorLookupTableData"):
        write_copy(source, tmp_path / "out", Names(b"k" * 32), "patient-1", "case-1", 0, [])
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------ the whole way


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_way_names_nobody(tmp_path: Path, medgraft: Command) -> None:
    """Scan with the text pass and copies, run, report in two languages, audit, predict: no planted string anywhere, nor
    a name in any picture.
    """
    from medgraft.intake.private import ocr, text

    pictures, _ = kit.plant(tmp_path, burnt=True)
    labels = pl.read_csv(pictures / "labels.csv").filter(
        ~pl.col("patient").is_in([kit.PLANTED["operator"], kit.PLANTED["given name"]])
    )
    labels.write_csv(pictures / "labels.csv")
    options = ["labels=labels.csv", "patient=patient", "site=clinic", "target=finding"]
    medgraft("scan", "../pictures", *options, "out=data", "text=black", "deidentified=copies", code=3)
    medgraft("scan", "../others", "patient=header", "out=other", "text=list", "deidentified=othercopies", code=3)
    words = [
        "data=data",
        "out=runs",
        "split={folds: 2, select_share: 0.5}",
        "seeds=[0]",
        "threads=1",
        "workers=0",
        "window.size=32",
        "stats.resamples=200",
    ]
    words += ["train={epochs: 1, batch_size: 4}", f"models=[{{model: '{MODEL}', start: random}}]", "name=tiny"]
    medgraft("run", *words)
    medgraft("report", "runs/tiny", "lang=zh")
    assert "keyed codes" in (tmp_path / "work" / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    medgraft("audit", "data", code=3)  # it finds one study under two patients
    medgraft("predict", "runs/tiny", "../pictures", "out=predicted.csv", code=3)
    work = tmp_path / "work"
    assert not kit.leaks(work)
    manifest = load_dataset(work / "data").manifest
    assert manifest.height == 16 and sorted(manifest["pixel_text"].value_counts().rows()) == [
        ("blacked", 4),
        ("clear", 12),
    ]
    for array in manifest["array_id"]:
        found = ocr.read_frame(np.asarray(store.open_array(work / "data", array))[0, 0])
        assert not [f for f in found if f.kind in text.NAMING]
    copies = sorted((work / "copies").rglob("*.dcm"))
    known = {
        c: Path(f[0])
        for c, f in json.loads((work / ".medgraft-sources-data.json").read_text(encoding="utf-8"))["cases"].items()
    }
    expected = {
        (r["patient_id"], r["study_id"], r["case_id"])
        for r in manifest.iter_rows(named=True)
        if known[r["case_id"]].suffix == ".dcm"
    }
    assert {(*p.relative_to(work / "copies").parts[:2], p.stem) for p in copies} == expected and len(copies) == 6
    for path in copies:
        assert kit.BURNT not in " ".join(f.text.upper() for f in ocr.read_frame(pydicom.dcmread(path).pixel_array))
    others = pl.read_csv(work / "other" / "rejects.csv")
    assert others["reason"].str.contains("de-identified").any() or list((work / "othercopies").rglob("*.dcm"))
