"""DICOM headers without identity.

A cleaned header follows the Basic Application Level Confidentiality Profile of PS3.15 (table E.1-1 as dicom-anonymizer
holds it), applied at every level of nesting, with keyed pseudonyms and UIDs in place of random ones, so that
files of one study stay together and a second run gives the same names. It fails closed: what the table does not
know and could hold free text, dates or unknown bytes goes; a file in which a name of its own header still stands
afterwards is not written.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import uuid
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from medgraft.intake.private.keys import Names
from medgraft.intake.private.names import date_of, identity_words, words
from medgraft.intake.read import Unreadable

TABLE = "dicomfields_2026c"
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
    day = date_of(text)
    if day is None:
        element.value = ""
        return
    moved = (day + datetime.timedelta(days=days)).strftime("%Y%m%d")
    digits = re.sub(r"[.:-]", "", text[:10]) if re.match(r"\d{4}[.:-]", text) else text
    element.value = moved if element.VR == "DA" else moved + digits[8:]
