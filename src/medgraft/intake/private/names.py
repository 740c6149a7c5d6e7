"""What in a DICOM header names a person, a place or a device, and the day of the acquisition."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

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


def day_of(header: Dataset) -> int | None:
    """Day of the acquisition since 1970-01-01, or ``None``."""
    for name in DAY_TAGS:
        day = date_of(str(header.get(name) or ""))
        if day is not None:
            return (day - datetime.date(1970, 1, 1)).days
    return None


def date_of(text: str) -> datetime.date | None:
    """The date with which a text begins, as DICOM writes it; ``None`` where it does not."""
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
