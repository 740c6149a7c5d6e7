"""A journal that an older version wrote goes on being known: nothing is decoded anew that was decoded before.

``journal_3.jsonl`` was written by the scan below at the commit before scans were parted into modules; it is read by
the scan of today. It changes only together with ``READER_VERSION``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset

from medgraft.intake.options import ScanOptions
from medgraft.intake.scan import scan

WRITTEN = Path(__file__).with_name("journal_3.jsonl")


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def dicom(path: Path, values: np.ndarray, **tags: Any) -> None:
    """A bare data set: no preamble whose length the version of pydicom decides."""
    data = Dataset()
    data.SOPClassUID, data.PatientID, data.StudyInstanceUID, data.Modality = (
        "1.2.840.10008.5.1.4.1.1.2",
        "P7",
        "1.2",
        "CT",
    )
    data.InstitutionName, data.Manufacturer, data.StudyDate = "Ward 9", "Maker", "20190627"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *values.shape, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.astype("<u2").tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, implicit_vr=True, little_endian=True, enforce_file_format=False)
    path.write_bytes(stream.getvalue())


def build(root: Path) -> tuple[Path, Path, Path]:
    """Studies of every way in which a key is made, volumes with masks, and an archive; all of one day in 2020."""
    studies, volumes, archive = root / "studies", root / "volumes", root / "set.npz"
    for folder in (studies / "clip", studies / "ct", volumes / "images", volumes / "masks"):
        folder.mkdir(parents=True)
    Image.fromarray(pixels(1, 12, 16)).save(studies / "picture.bmp")
    np.save(studies / "array.npy", pixels(2, 9, 9))
    (studies / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    for n in range(8):
        Image.fromarray(pixels(10 + n, 10, 14)).save(studies / "clip" / f"frame_{n}.bmp")
    dicom(studies / "single.dcm", pixels(3, 8, 8), RescaleIntercept=-1024, RescaleSlope=1)
    for n in range(3):
        place = {"ImagePositionPatient": [0, 0, 2.5 * n], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        dicom(
            studies / "ct" / f"{n}.dcm",
            pixels(20 + n, 8, 8),
            SeriesInstanceUID="1.2.3",
            PixelSpacing=[0.5, 0.5],
            **place,
        )
    for n in range(2):
        sitk.WriteImage(sitk.GetImageFromArray(pixels(30 + n, 4, 5, 6)), str(volumes / "images" / f"{n}.nii"))
        sitk.WriteImage(sitk.GetImageFromArray(pixels(40 + n, 4, 5, 6) % 3), str(volumes / "masks" / f"{n}.nii"))
    with zipfile.ZipFile(archive, "w") as packed:
        for name, values in (("train_images", pixels(50, 3, 8, 8)), ("train_labels", np.array([[0], [1], [0]]))):
            stream = io.BytesIO()
            np.save(stream, values)
            packed.writestr(zipfile.ZipInfo(f"{name}.npy"), stream.getvalue())
    for path in (archive, *(p for p in root.rglob("*") if p.is_file())):
        os.utime(path, ns=(1_577_836_800_000_000_000, 1_577_836_800_000_000_000))
    return studies, volumes, archive


def scanned(root: Path) -> dict[str, tuple[int, int]]:
    """Scan all three into ``root/data``, with one key; new and known studies of each."""
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / ".medgraft-key").write_bytes(bytes(range(32)))
    options: list[dict[str, Any]] = [{"text": "black"}, {"masks": "masks"}, {"colour": True, "max_pixels": 1000}]
    reports = {}
    for source, more in zip((root / "studies", root / "volumes", root / "set.npz"), options):
        name = source.stem
        found = scan(source, ScanOptions(out=root / "data" / name, patient="none", workers=1, **more))
        reports[name] = (found.new, found.known)
    return reports


def records(root: Path) -> dict[str, dict[str, Any]]:
    """Journal records by data set and key."""
    return {
        f"{name} {record['key']}": record
        for name in ("studies", "volumes", "set")
        for record in map(json.loads, (root / "data" / name / "scan.journal.jsonl").read_text().splitlines())
    }


def test_a_scan_of_today_continues_a_journal_of_before(tmp_path: Path) -> None:
    build(tmp_path)
    assert scanned(tmp_path) == {"studies": (6, 0), "volumes": (2, 0), "set": (3, 0)}
    known = [json.loads(line) for line in WRITTEN.read_text(encoding="utf-8").splitlines()]
    today = records(tmp_path)
    assert {f"{line['set']} {line['record']['key']}": line["record"] for line in known} == today
    for name in ("studies", "volumes", "set"):
        lines = [json.dumps(line["record"]) for line in known if line["set"] == name]
        (tmp_path / "data" / name / "scan.journal.jsonl").write_text("\n".join(lines) + "\n")
    assert scanned(tmp_path) == {"studies": (0, 6), "volumes": (0, 2), "set": (0, 3)}
    assert records(tmp_path) == today


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """The check can fail: one file of another time is one study read again."""
    build(tmp_path)
    scanned(tmp_path)
    os.utime(tmp_path / "studies" / "picture.bmp")
    shutil.rmtree(tmp_path / "data" / "set" / "arrays")
    assert scanned(tmp_path) == {"studies": (1, 5), "volumes": (0, 2), "set": (3, 0)}
