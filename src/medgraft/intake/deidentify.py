"""De-identified copies of DICOM files, and what in a header names a person or a place.

A copy follows the Basic Application Level Confidentiality Profile of PS3.15 (table E.1-1 as dicom-anonymizer
holds it), applied at every level of nesting, with keyed pseudonyms and UIDs in place of random ones, so that
files of one study stay together and a second run gives the same names. It fails closed: what the table does not
know and could hold free text, dates or unknown bytes goes; a file in which a name of its own header still stands
afterwards is not written.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import io
import re
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medgraft import __version__
from medgraft.files import write_bytes
from medgraft.intake.jobs import Job
from medgraft.intake.keys import Names
from medgraft.intake.read import Unreadable

TABLE = "dicomfields_2026c"
METHOD = f"medgraft {__version__}: PS3.15 Basic Profile, keyed pseudonyms and UIDs"
#: Dates and times of the acquisition: shifted by whole days where a data set wants them, else removed.
DATED = {
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
    "StudyTime",
    "SeriesTime",
    "AcquisitionTime",
    "ContentTime",
}
DAY_TAGS = ("AcquisitionDate", "AcquisitionDateTime", "ContentDate", "SeriesDate", "StudyDate")
#: Elements whose words name a person, a place or a device; elements of VR PN do so too.
NAMING = (
    "PatientID",
    "PatientBirthDate",
    "OtherPatientIDs",
    "IssuerOfPatientID",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "MedicalRecordLocator",
    "AccessionNumber",
    "AdmissionID",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "DeviceSerialNumber",
)
#: Words of institutions that say nothing; without them a maker's name would look like a hospital's.
_COMMON = """
hospital hospitals clinic clinical center centre medical medicine university department systems general health
healthcare radiology ultrasound imaging institute laboratory lab the and von der anonymous anonymized unknown none null
test
"""
COMMON = frozenset(_COMMON.split())
_TEXT = ("LO", "SH", "UC", "CS", "AE", "AS", "IS", "DS")
_GONE = (
    "LT",
    "ST",
    "UT",
    "UR",
    "UN",
    "DA",
    "DT",
    "AE",
)  # not in the table: free text, unknown bytes, dates of whatever


def day_of(header: Dataset) -> int | None:
    """Day of the acquisition since 1970-01-01, or ``None``."""
    for name in DAY_TAGS:
        day = _date(str(header.get(name) or ""))
        if day is not None:
            return (day - datetime.date(1970, 1, 1)).days
    return None


def _date(text: str) -> datetime.date | None:
    match = re.match(r"(\d{4})[.:-]?(\d{2})[.:-]?(\d{2})", text)
    try:
        return datetime.date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def identity_words(header: Dataset, *, nested: bool = False) -> tuple[str, ...]:
    """Words (lower case, three letters or more) of elements that name people, places or devices; ``nested`` looks
    into sequences too.
    """
    found: set[str] = set()
    if nested:
        elements: Iterator[Any] = (e for e in _walk(header) if e.VR == "PN" or e.keyword in NAMING)
    else:
        elements = (
            header[name]
            for name in ("PatientName", "ReferringPhysicianName", "OperatorsName", *NAMING)
            if name in header
        )
    for element in elements:
        found.update(w for w in words(str(element.value)) if len(w) > 2 and w not in COMMON)
    return tuple(sorted(found))


def words(text: str) -> list[str]:
    """Words of a text in lower case; punctuation and underscores part them."""
    return [w for w in re.split(r"[\W_]+", text.lower()) if w]


def _walk(dataset: Dataset) -> Iterator[Any]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _walk(item)


@lru_cache(1)
def _table() -> tuple[dict[int, str], list[tuple[int, int, str]]]:
    """Tag -> action of the profile (X, Z, D, U and their mixtures), and (mask, value, action) of repeating groups."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    single: dict[int, str] = {}
    masked: list[tuple[int, int, str]] = []
    for category, tags in dicom_anonymization_database_selector(TABLE).items():
        if category == "ALL_TAGS":
            continue
        action = category.removesuffix("_TAGS")
        for tag in tags:
            value = tag[0] << 16 | tag[1]
            if len(tag) == 4:
                mask = tag[2] << 16 | tag[3]
                masked.append((mask, value & mask, action))
            else:
                single[value] = action
    return single, masked


def action_of(tag: int) -> str | None:
    """What the profile does to an element: X remove, Z empty, D dummy, U new UID, or a mixture; ``None`` for
    elements it does not name.
    """
    single, masked = _table()
    return single.get(tag) or next((action for mask, value, action in masked if tag & mask == value), None)


def keyed_uid(key: bytes, uid: str) -> str:
    """A UID under 2.25 that only the key links to ``uid``."""
    digest = hmac.new(key, f"uid|{uid}".encode(), hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def clean(dataset: Dataset, names: Names, patient: str, days: int | None) -> None:
    """De-identify in place, at every level. ``patient`` is the pseudonym; ``days`` shifts the dates, ``None`` removes
    them.

    Raises ``Unreadable`` when a name of the header remains in an element that cannot be emptied.
    """
    private = set(identity_words(dataset, nested=True)) - set(words(patient))
    _clean(dataset, names, days)
    dataset.PatientID = dataset.PatientName = patient
    for holder, element in list(_holders(dataset)):
        if element.keyword in ("PatientID", "PatientName", "PixelData") or element.VR in ("UI", "DA", "TM", "DT"):
            continue
        said = private & _said(element)
        if not said or (element.VR in ("IS", "DS") and max(map(len, said)) < 6):  # a small number is no name
            continue
        if element.VR not in _TEXT and element.VR != "PN":
            raise Unreadable(
                f"a name of its header remains in {element.keyword or element.tag}",
                fix="clean this element at its source",
            )
        del holder[element.tag]


def _said(element: Any) -> set[str]:
    """Words in the value of an element; of bytes the readable runs."""
    value = element.value
    if isinstance(value, (bytes, bytearray)):
        runs = re.findall(rb"[ -~]{3,}", bytes(value[: 1 << 20]).replace(b"\0", b""))
        return {w for run in runs for w in words(run.decode("ascii"))}
    return set(words(str(value)))


def _holders(dataset: Dataset) -> Iterator[tuple[Dataset, Any]]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _holders(item)
        else:
            yield dataset, element


def _clean(dataset: Dataset, names: Names, days: int | None) -> None:
    for tag in list(dataset.keys()):
        if (
            tag.is_private or tag.element == 0 or tag.group & 0xFF00 in (0x5000, 0x6000)
        ):  # curves and overlays may be drawn names
            del dataset[tag]
            continue
        element = dataset[tag]
        action = action_of(int(tag))
        if element.keyword in DATED and days is not None:
            if element.VR != "TM":
                _shift(element, days)
        elif element.VR == "SQ":
            _sequence(dataset, element, action, names, days)
        elif action is None:
            if element.VR == "UI":
                _rename(element, names)
            elif element.VR == "PN":
                element.value = ""
            elif element.VR in _GONE:
                del dataset[tag]
        elif action == "U":
            _rename(element, names)
        elif action == "Z":
            _empty(dataset, element)
        elif action.startswith("X"):
            del dataset[tag]
        else:  # D and Z/D: a value must stand
            _dummy(dataset, element, names)


def _sequence(dataset: Dataset, element: Any, action: str | None, names: Names, days: int | None) -> None:
    """Sequences that the profile removes or empties go; the others are cleaned item by item."""
    if action in (None, "X_Z_U_STAR"):
        for item in element.value or []:
            _clean(item, names, days)
    elif action == "Z":
        element.value = Items([])
    else:
        del dataset[element.tag]


def _rename(element: Any, names: Names) -> None:
    """Keyed UIDs; those that the standard itself registers say nothing of anyone."""
    many = isinstance(element.value, (list, pydicom.multival.MultiValue))
    new = [
        str(u) if str(u).startswith("1.2.840.10008.") or not str(u) else keyed_uid(names.key, str(u))
        for u in (element.value if many else [element.value])
    ]
    element.value = new if many else new[0]


def _empty(dataset: Dataset, element: Any) -> None:
    if element.VR in ("OB", "OW", "OF", "OD", "UN", "US", "SS", "UL", "SL", "FL", "FD"):
        del dataset[element.tag]
    else:
        element.value = ""


def _dummy(dataset: Dataset, element: Any, names: Names) -> None:
    if element.VR == "UI":
        _rename(element, names)
    elif element.VR in ("LO", "SH", "UC", "CS", "LT", "ST", "UT"):
        element.value = "REMOVED"
    elif element.VR in ("PN", "TM"):
        element.value = ""
    else:
        del dataset[element.tag]


def _shift(element: Any, days: int) -> None:
    """Move a date, or the date within a date and time; one that cannot be read is emptied."""
    text = str(element.value or "")
    day = _date(text)
    if day is None:
        element.value = ""
        return
    moved = (day + datetime.timedelta(days=days)).strftime("%Y%m%d")
    digits = re.sub(r"[.:-]", "", text[:10]) if re.match(r"\d{4}[.:-]", text) else text
    element.value = moved if element.VR == "DA" else moved + digits[8:]


def copy(
    path: Path,
    folder: Path,
    names: Names,
    patient: str,
    name: str,
    days: int | None,
    boxes: Sequence[tuple[int, int, int, int]],
) -> str:
    """Write the de-identified copy of one DICOM file, ``<patient>/<study>/<name>.dcm`` below ``folder``; return that
    path.

    ``boxes`` (top, left, bottom, right) are blacked out in every frame: all that the text pass found and that could
    name someone. Raises ``Unreadable`` where the file cannot be cleaned; then nothing is written.
    """
    try:
        dataset = pydicom.dcmread(path, force=True)
        said = identity_words(dataset, nested=True)
        study = names.of("study", str(dataset.get("StudyInstanceUID") or "").strip())
        syntax = getattr(dataset, "file_meta", FileMetaDataset()).get("TransferSyntaxUID")
        implicit = dataset.original_encoding[0]
        syntax = syntax or (ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax.is_compressed and (boxes or syntax.is_deflated or _in_stream(dataset, said)):
            if syntax.is_encapsulated:
                dataset.decompress(generate_instance_uid=False)
            else:
                dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if boxes:
            black_out(dataset, boxes)
        clean(dataset, names, patient, days)
        _flags(dataset, days)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta, dataset.preamble = meta, b"\0" * 128
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(
            f"it cannot be de-identified ({type(error).__name__})", fix="repair the header, or leave the file out"
        ) from error
    relative = f"{patient}/{study}/{name}.dcm"
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / relative, stream.getbuffer())
    return relative


def _in_stream(dataset: Dataset, said: Sequence[str]) -> bool:
    """Whether compressed pixels carry a comment, metadata of a camera, or a name of the header."""
    data = bytes(dataset.get("PixelData", b""))
    if any(w.encode() in data.lower() for w in said if len(w) > 5):
        return True
    return (
        any(mark in data for mark in (b"Exif\0", b"http://ns.adobe.com", b"\xff\xfe\x00")) and b"\xff\xd8\xff" in data
    )


def black_out(dataset: Dataset, boxes: Sequence[tuple[int, int, int, int]]) -> None:
    """Set boxes to black in every frame of uncompressed pixels; colours stored as YBR become RGB."""
    pixels = np.array(dataset.pixel_array)
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    frames = pixels.reshape(*shape, -1)
    kind = str(dataset.PhotometricInterpretation)
    black: Any = 0
    if kind == "MONOCHROME1":
        black = frames.max()
    elif kind == "MONOCHROME2":
        black = frames.min()
    elif kind == "PALETTE COLOR":
        black = _darkest(dataset)
    for top, left, bottom, right in boxes:
        frames[:, max(0, top) : bottom, max(0, left) : right] = black
    kind = "RGB" if kind.startswith("YBR") else kind
    dataset.set_pixel_data(frames.reshape(pixels.shape), kind, int(dataset.BitsStored), generate_instance_uid=False)


def _darkest(dataset: Dataset) -> int:
    from pydicom.pixels import apply_color_lut

    return int(np.argmin(apply_color_lut(np.arange(256, dtype=np.uint8)[None], dataset).astype(np.int64).sum(-1)))


def _flags(dataset: Dataset, days: int | None) -> None:
    """What was done (PS3.15 E.3 and PS3.3 C.12.1)."""
    options = [("113100", "Basic Application Confidentiality Profile"), ("113101", "Clean Pixel Data Option")]
    if days is not None:
        options.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [METHOD[:64]]
    dataset.DeidentificationMethodCodeSequence = Items([_coded(*o) for o in options])
    dataset.LongitudinalTemporalInformationModified = "REMOVED" if days is None else "MODIFIED"
    dataset.BurnedInAnnotation = "NO"


def _coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


@dataclass(frozen=True)
class CopyJob(Job):
    """De-identified copies of the files of one case; all of them, or none and a reject."""

    files: tuple[str, ...]
    folder: Path
    secret: bytes
    patient: str
    case: str
    days: int | None
    boxes: tuple[tuple[int, int, int, int], ...]

    def record(self) -> dict[str, Any]:
        done: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes values of the header
            try:
                for number, file in enumerate(self.files, start=1):
                    name = self.case if len(self.files) == 1 else f"{self.case}-{number:04d}"
                    done.append(
                        copy(Path(file), self.folder, Names(self.secret), self.patient, name, self.days, self.boxes)
                    )
            except Unreadable as error:
                for path in done:
                    (self.folder / path).unlink(missing_ok=True)
                return {"key": self.key, "reject": {"reason": error.cause, "fix": error.fix}}
        return {"key": self.key, "copy": done}
