"""The header of a DICOM file: opened within limits, what it declares compared with what is there.

A file of up to ``WHOLE`` bytes is parsed once and decoded from memory; a greater one is decoded frame by frame from
the disk unless it is compressed. Functional groups follow PS3.3 C.7.6.16.
"""

from __future__ import annotations

import io
import mmap
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble

from medgraft.intake.read import Limits, Unreadable

pydicom.config.settings.reading_validation_mode = (
    pydicom.config.IGNORE
)  # odd header values are the norm, not a fault to print

GROUP_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
    "Modality",
]
WHOLE = 128 << 20  # bytes of a file that is read into memory at once
_MOST_COMPRESSED = 2 << 30
_MOST_INFLATED = 1 << 30  # bytes of a deflated data set; its pixels cannot be streamed
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_FRAGILE = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
#: Objects with pixels that are no study, by SOP class: what to say of them.
_NO_STUDY = {
    "1.2.840.10008.5.1.4.1.1.66.4": (
        "a DICOM segmentation: a mask, not an image",
        "convert it to NIfTI and give it as masks=",
    ),
    "1.2.840.10008.5.1.4.1.1.66.7": (
        "a DICOM segmentation: a mask, not an image",
        "convert it to NIfTI and give it as masks=",
    ),
    "1.2.840.10008.5.1.4.1.1.77.1.6": ("a whole-slide image", "export the regions of interest as pictures"),
}


class Group(NamedTuple):
    """What decides with which other files a file is read, and where."""

    series: str
    part: str  # slices of one orientation and size: a localiser that shares the series is a part of its own
    slice_like: bool  # whether it may belong to a stack
    fragile: bool  # its decoder may crash on damaged data: read in a process of its own


def group_key(path: Path) -> Group:
    """Series, part of the series, whether the file may belong to a stack, and whether its decoder needs a process of
    its own.
    """
    with warnings.catch_warnings():  # the header is read again, with its warnings noted, when the study is stored
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=GROUP_TAGS, force=True)
        series = str(header.get("SeriesInstanceUID") or "")
        slice_like = (
            bool(series) and declared_frames(header, []) == 1 and header.get("ImagePositionPatient") is not None
        )
        turn = [round(float(v), 2) + 0.0 for v in header.get("ImageOrientationPatient") or ()]
        fragile = str(header.file_meta.get("TransferSyntaxUID", "")) in _FRAGILE
        return Group(series, f"{series} {turn} {header.get('Rows')}x{header.get('Columns')}", slice_like, fragile)


def open_dataset(path: Path, limits: Limits) -> Dataset:
    """The data set, with its pixels where the file is not large.

    Raises where it holds no picture or too much of one.
    """
    size = path.stat().st_size
    if size <= WHOLE:
        raw = path.read_bytes()
        if _DEFLATED in raw:
            _check_inflated(io.BytesIO(raw), limits)
        data = pydicom.dcmread(io.BytesIO(raw), force=True)
        if not has_pixels(data) and (
            "Rows" in data or not len(data)
        ):  # pixels that end with the file, without a delimiter
            data = pydicom.dcmread(io.BytesIO(raw + _DELIMITER), force=True)
    else:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if mapped.find(_DEFLATED) >= 0:
                _check_inflated(stream, limits)
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if data.file_meta.get("TransferSyntaxUID", pydicom.uid.UID(_EXPLICIT)).is_encapsulated:
            if size > _MOST_COMPRESSED:
                raise Unreadable(
                    f"holds more than {_MOST_COMPRESSED >> 30} GiB of compressed pixels",
                    fix="cut it into shorter files",
                )
            data = pydicom.dcmread(path, force=True)  # compressed frames are looked at before they are decoded
    kind = str(data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind in _NO_STUDY:
        cause, fix = _NO_STUDY[kind]
        raise Unreadable(cause, fix=fix)
    if "Rows" not in data or "Columns" not in data or not (has_pixels(data) or size > WHOLE):
        known = pydicom.uid.UID(kind).name if kind else ""
        what = f" ({known})" if known and known != kind else ""
        raise Unreadable(f"a DICOM object without pixels{what}", fix="leave it out")
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = pydicom.uid.UID(_guessed_syntax(data))
    check_size(data, 1, limits)
    return data


def has_pixels(data: Dataset) -> bool:
    return any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def _guessed_syntax(data: Dataset) -> str:
    """How a data set without file meta information was read; it can only be uncompressed."""
    implicit, little = data.original_encoding
    return _IMPLICIT if implicit or implicit is None else _EXPLICIT if little else BIG_ENDIAN


def syntax_of(data: Dataset) -> str:
    return str(data.file_meta.TransferSyntaxUID)


def _check_inflated(stream: io.BytesIO | io.BufferedReader, limits: Limits) -> None:
    """Count what a deflated data set inflates to, without keeping it, before pydicom inflates it as a whole."""
    stream.seek(0)
    read_preamble(stream, force=True)
    if str(_read_file_meta_info(stream).get("TransferSyntaxUID", "")).encode() != _DEFLATED:
        return
    most = min(limits.bytes, _MOST_INFLATED)
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while block := stream.read(1 << 16):
        while block:
            total += len(inflater.decompress(block, 1 << 20))
            if total > most:
                raise Unreadable(
                    f"inflates to more than {most >> 20} MiB (decompression bomb?)",
                    fix="decompress the file if it is trusted",
                )
            block = inflater.unconsumed_tail


def check_size(data: Dataset, frames: int, limits: Limits) -> None:
    rows, columns = int(data.Rows or 0), int(data.Columns or 0)
    if rows * columns > limits.pixels:
        raise Unreadable(
            f"declares {columns}x{rows} pixels, more than {limits.pixels}",
            fix="allow more with max_pixels=N if the file is trusted",
        )
    if rows < 1 or columns < 1:
        raise Unreadable("declares no pixels (0 rows or columns)", fix="leave it out")
    if (
        rows * columns * frames * int(data.get("SamplesPerPixel") or 1) * int(data.get("BitsAllocated") or 8) // 8
        > limits.bytes
    ):
        raise Unreadable(
            f"declares more than {limits.bytes >> 20} MiB of pixels",
            fix="allow more with max_mib=N if the file is trusted",
        )


def check_frames(data: Dataset, path: Path, limits: Limits, notes: list[str]) -> int:
    """The number of frames that are there; a wrong count in the header is noted, one that the file cannot hold
    refused.
    """
    declared = declared_frames(data, notes)
    check_size(data, declared, limits)
    if data.file_meta.TransferSyntaxUID.is_encapsulated:
        if declared * 8 > path.stat().st_size:  # an item of a fragment has 8 bytes before its data
            raise Unreadable(
                f"truncated: declares {declared} frames in {path.stat().st_size} bytes",
                fix="copy the file again from its source",
            )
        return declared
    pixels = int(data.Rows) * int(data.Columns) * int(data.get("SamplesPerPixel") or 1)
    bits = pixels * int(data.get("BitsAllocated") or 8)
    if str(data.get("PhotometricInterpretation", "")).endswith("_422"):
        bits = bits * 2 // 3
    if "PixelData" in data:
        held = len(data.PixelData) * 8
    elif "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        held = bits * declared
    else:
        held = path.stat().st_size * 8
    if bits * declared > held:
        wanted = -(-bits * declared // 8)
        raise Unreadable(
            f"truncated: {held // 8} of {wanted} bytes of pixels are in the file",
            fix="copy the file again from its source",
        )
    there = held // bits
    if "PixelData" in data and there > declared:
        notes.append(f"header declares {declared} frames, {there} are in the file")
        data.NumberOfFrames = there
        check_size(data, there, limits)
        return there
    return declared


def declared_frames(data: Dataset, notes: list[str]) -> int:
    """NumberOfFrames; a value that is no number counts as unknown and is then told from the pixels."""
    value = data.get("NumberOfFrames")
    try:
        return max(1, int(value or 1))
    except (ValueError, TypeError):
        notes.append("NumberOfFrames is no number")
        data.NumberOfFrames = 1
        return 1


def functional(data: Dataset, name: str) -> list[Dataset]:
    """The item of a functional group for each frame (PS3.3 C.7.6.16), or once when shared; empty where it is absent."""
    shared = data.get("SharedFunctionalGroupsSequence")
    if shared and shared[0].get(name):
        return [shared[0][name][0]]
    groups = data.get("PerFrameFunctionalGroupsSequence") or []
    found = [group[name][0] for group in groups if group.get(name)]
    return found if len(found) == len(groups) else []


def numbers(value: Any) -> np.ndarray:
    return np.array([float(v) for v in value])
