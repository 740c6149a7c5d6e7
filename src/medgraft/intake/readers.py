"""Who reads which format. A reader and its libraries are imported when the first file of its format comes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from medgraft.intake.read import VIDEOS, VOLUMES, Limits, Study, Unreadable, sniff, unreadable

#: Name in ``read.FORMATS`` -> ``module:function`` of its reader.
READERS: dict[str, str] = {
    **dict.fromkeys(("png", "jpeg", "bmp"), "medgraft.intake.picture:read_picture"),
    "tiff": "medgraft.intake.picture:read_tiff",
    "dicom": "medgraft.intake.dicom.study:read_dicom",
    **dict.fromkeys(VIDEOS, "medgraft.intake.video:read_video"),
    **dict.fromkeys(VOLUMES, "medgraft.intake.volume:read_volume"),
    "npy": "medgraft.intake.npz:read_array",
}


def reader_of(name: str) -> Callable[[Path, Limits], Study]:
    """The function that reads a format."""
    module, function = READERS[name].split(":")
    found: Callable[[Path, Limits], Study] = getattr(importlib.import_module(module), function)
    return found


def open_study(path: Path, limits: Limits) -> Study:
    """Open one file with the reader its content asks for. Raises ``Unreadable`` with cause and fix."""
    form = sniff(path)
    if form is None:
        raise Unreadable("not a format that medgraft reads", fix="convert it to PNG, DICOM, AVI, MP4 or NIfTI")
    return open_as(form.name, path, limits)


def open_as(name: str, path: Path, limits: Limits) -> Study:
    """Open one file as a format of the table; every fault becomes ``Unreadable``."""
    with unreadable(f"not a whole {name} file"):
        return reader_of(name)(path, limits)
