#!/usr/bin/env python3
"""What becomes of every DICOM file that pydicom and pydicom-data ship: a case, compared with a second decoder, or its
reason.

    python scripts/dicom_table.py            print the table
    python scripts/dicom_table.py --write    put it into docs/formats.md

The second decoder is ITK's own copy of GDCM (by SimpleITK), which shares no code with pydicom's Python parser; it
applies rescale and palettes and turns colours into RGB, so that is undone or done on our side before values are
compared. Nothing is downloaded: both packages carry their files (pydicom-data is a development dependency).
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import data_store
import numpy as np
import pydicom
import SimpleITK as sitk

from medgraft.intake.read import Limits, Study, Unreadable, guarded, sniff
from medgraft.intake.readers import open_study

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- dicom table: begin (scripts/dicom_table.py --write) -->", "<!-- dicom table: end -->"
LIMITS = Limits(colour=True)
#: Files that the second decoder refuses or reads wrongly, and the uncompressed file with the same pixels.
SIBLINGS = {
    "SC_rgb_rle_16bit.dcm": "SC_rgb_16bit.dcm",
    "SC_rgb_rle_16bit_2frame.dcm": "SC_rgb_16bit_2frame.dcm",
    "SC_rgb_rle_32bit.dcm": "SC_rgb_32bit.dcm",
    "SC_rgb_rle_32bit_2frame.dcm": "SC_rgb_32bit_2frame.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "emri_small.dcm",
    "badVR.dcm": "rtdose.dcm",
    "rtdose_expb.dcm": "rtdose.dcm",
    "rtdose_rle_1frame.dcm": "rtdose_1frame.dcm",
    "rtdose_expb_1frame.dcm": "rtdose_1frame.dcm",
}
FOLDERS = (Path(pydicom.__file__).parent / "data" / "test_files", Path(data_store.__file__).parent / "data")


@dataclass(frozen=True)
class Row:
    """One file: what it became and how that compares, or why not."""

    name: str
    syntax: str
    colours: str
    outcome: str
    compared: str

    @property
    def case(self) -> bool:
        return not self.outcome.startswith("refused")


def files() -> list[tuple[str, Path]]:
    """Names and paths of all files that are DICOM or claim to be, in the order of their names."""
    found = {
        p.relative_to(folder).as_posix(): p for folder in FOLDERS for p in sorted(folder.rglob("*")) if p.is_file()
    }
    return [(n, p) for n, p in sorted(found.items()) if _claims(p)]


def _claims(path: Path) -> bool:
    reader = sniff(path)
    return (reader is not None and reader.name == "dicom") or path.suffix in (".dcm", ".gz")


def row(name: str, path: Path, second: bool = True) -> Row:
    """Read one file as a scan does, and again with the second decoder."""
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    named = (
        ""
        if syntax is None
        else re.sub(
            r" \(Process.*?\)|, Non-Hierarchical.*|,? ?Image Compression| Endian", "", pydicom.uid.UID(syntax).name
        )
    )
    colours = str(header.get("PhotometricInterpretation") or "")
    try:
        if sniff(path) is None:
            reason = "a gzip file that holds no NIfTI" if path.suffix == ".gz" else "not a format that medgraft reads"
            return Row(name, named, colours, f"refused: {reason}", "")
        study = open_study(path, LIMITS)
        array = np.stack(list(guarded(study, LIMITS)), axis=1)
    except Unreadable as error:
        return Row(name, named, colours, f"refused: {error.cause}", "")
    shape = "x".join(map(str, array.shape[1:]))
    compared = compare(array, study, path) if second else ""
    if second and compared != "equal" and name in SIBLINGS:
        sibling = dict(files())[SIBLINGS[name]]
        same = np.array_equal(array, np.stack(list(guarded(open_study(sibling, LIMITS), LIMITS)), axis=1))
        compared = f"{'equal to' if same else 'differs from'} {SIBLINGS[name]}; {compared}"
    return Row(name, named, colours, f"{study.kind} {shape} {array.dtype} {study.value_unit}", compared)


def compare(array: np.ndarray, study: Study, path: Path) -> str:
    """How our (C, D, H, W) differs from what the second decoder gives, in words."""
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        image = reader.Execute()
    except RuntimeError:
        return "the second refuses it"
    second = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        ours, second = _grey(array, study, header), second.reshape(-1, *second.shape[-2:]).astype(np.float64)
    else:
        ours = array.transpose(1, 2, 3, 0).astype(np.float64)
        second = second.reshape(-1, *second.shape[-3:]).astype(np.float64)
        if second.max() > 255:
            second = np.floor(second / 2.0 ** (int(header.get("BitsStored") or 16) - 8))
    if ours.shape != second.shape:
        return f"the second gives {'x'.join(map(str, second.shape))}"
    if study.kind == "volume":  # ours is turned into the common orientation
        ours, second = np.sort(ours, axis=None), np.sort(second, axis=None)
    difference = np.abs(ours - second)
    if difference.max() < 1e-3 * max(1.0, float(np.abs(second).max()) * 1e-3):
        return "equal"
    return f"mean {difference.mean():.2f}, most {difference.max():.0f}"


def _grey(array: np.ndarray, study: Study, header: pydicom.Dataset) -> np.ndarray:
    """Our values as the second decoder counts them: rescaled. Both invert MONOCHROME1."""
    values = array[0].astype(np.float64)
    if study.value_unit == "HU":
        return values
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if header.get("Modality") in ("PT", "NM"):
        return values
    return values * float(1 if slope is None else slope) + float(0 if intercept is None else intercept)


def rows(second: bool = True) -> list[Row]:
    """A row for every file; without the second decoder in a sixth of the time."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [row(name, path, second) for name, path in files()]


def markdown(found: list[Row]) -> str:
    """The table and its counts; files of one folder with one fate share a line."""
    cases = [r for r in found if r.case]
    equal = sum(r.compared == "equal" for r in cases)
    refused = len(found) - len(cases)
    lines = [
        f"pydicom {version('pydicom')} and pydicom-data {version('pydicom-data')}: {len(found)} files, {len(cases)} "
        f"become cases, "
        f"{refused} are refused. Of the cases {equal} equal what ITK's GDCM decodes, "
        f"{sum(r.compared.startswith('equal to') for r in cases)} equal an uncompressed file with the same pixels "
        f"where the second decoder errs, "
        f"{len(cases) - sum(r.compared.startswith('equal') for r in cases)} cannot be compared.",
        "",
        "| file | transfer syntax | colours | becomes | against the second decoder |",
        "|---|---|---|---|---|",
    ]
    for _, group in groupby(
        found,
        key=lambda r: (
            (r.name.rpartition("/")[0], r.syntax, r.colours, r.outcome, r.compared) if "/" in r.name else r.name
        ),
    ):
        members = list(group)
        first = members[0]
        name = first.name if len(members) == 1 else f"{first.name.rpartition('/')[0]}/ ({len(members)} files)"
        lines.append(f"| {name} | {first.syntax} | {first.colours} | {first.outcome} | {first.compared} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    text = markdown(rows())
    if "--write" not in arguments:
        print(text)
        return 0
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
