"""What a file is, told by its content, and what a reader makes of it.

A reader is a function ``(path, limits) -> Study``. To add a format, write one such function, add one line to
``FORMATS`` here and one to ``medgraft.intake.readers.READERS``. Readers yield frames one by one; the store appends
them, so a video is never in memory as a whole. Whatever goes wrong while reading becomes ``Unreadable``: cause and fix.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.errors import UserError

HEAD_BYTES = 1024
IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


class Unreadable(UserError):
    """A study that cannot become a case; it gets a line in ``rejects.csv`` and the rest goes on."""


@dataclass(frozen=True)
class Reject:
    """A line of ``rejects.csv``."""

    source: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Limits:
    """What a reader may take from a stranger's file. Declared sizes are checked before allocation."""

    pixels: int = 120_000_000  # pixels of one frame
    bytes: int = 8 << 30  # decoded bytes of one study
    colour: bool = False  # keep three channels; otherwise luminance


@dataclass(frozen=True)
class Study:
    """One study as a reader gives it.

    ``frames`` yields ``(C, H, W)`` arrays of one shape and dtype. ``spacing`` is (d, h, w): mm, and
    seconds in d for a video; ``None`` parts are unknown. ``to_source`` maps (d, h, w, 1): for
    volumes to patient coordinates (x, y, z in mm, DICOM's LPS), for pictures and videos to
    (frame, row, column) of the source. ``times`` (seconds from the first frame) and ``notes`` are
    complete only after ``frames`` is exhausted.
    """

    kind: str  # image, video, volume
    frames: Iterator[np.ndarray]
    spacing: list[float | None] = field(default_factory=lambda: [None, None, None])
    value_unit: str = "display"  # display, HU, raw
    times: list[float] = field(default_factory=list)
    time_source: list[str] = field(default_factory=list)  # one word once known: header, clock, naive, none
    to_source: tuple[float, ...] = IDENTITY
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(
        default_factory=list
    )  # regions that the header names: x, y, width, height in source pixels, and facts


@dataclass(frozen=True)
class Format:
    """One line of the table of formats."""

    name: str
    sniff: Callable[[bytes], bool]
    suffixes: tuple[str, ...]


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


def _avi(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "


def _mp4(head: bytes) -> bool:
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def _mpegts(head: bytes) -> bool:
    return len(head) > 376 and head[0] == head[188] == head[376] == 0x47


def _nifti(head: bytes) -> bool:
    head = plain_head(head)
    return head[344:348] in (b"n+1\0", b"ni1\0") or (
        head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and head[344:348] == b"\0\0\0\0"
    )


def _nifti2(head: bytes) -> bool:
    return plain_head(head)[4:8] in (b"n+2\0", b"ni2\0")


def _metaimage(head: bytes) -> bool:
    return head[:256].lstrip().startswith((b"ObjectType", b"NDims", b"Comment")) and b"NDims" in head


def _dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":
        return True
    # Files without the preamble begin with group 0002, bare data sets with group 0008.
    return (
        head[:4] in (b"\2\0\0\0", b"\2\0\1\0", b"\2\0\2\0")
        or (head[:2] == b"\x08\0" and head[2:4] in (b"\0\0", b"\1\0", b"\5\0", b"\x08\0", b"\x16\0"))
        or (head[:2] == b"\0\x08" and head[2:4] in (b"\0\0", b"\0\5", b"\0\x08", b"\0\x16") and head[4:6].isalpha())
    )  # big endian


def _bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (
        12,
        40,
        52,
        56,
        64,
        108,
        124,
    )  # lengths of the second header


def plain_head(head: bytes) -> bytes:
    """The first bytes of what a gzip file holds; other files as they are."""
    if head[:2] != b"\x1f\x8b":
        return head
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


#: Told by content, first match wins. The only place that knows which formats exist.
FORMATS: tuple[Format, ...] = (
    Format("png", _starts(b"\x89PNG\r\n\x1a\n"), (".png",)),
    Format("jpeg", _starts(b"\xff\xd8\xff"), (".jpg", ".jpeg")),
    Format("bmp", _bmp, (".bmp",)),
    Format("dicom", _dicom, (".dcm", ".dicom", ".ima")),
    # After DICOM: some DICOM files begin with a TIFF header, to be both.
    Format("tiff", _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (".tif", ".tiff")),
    Format("avi", _avi, (".avi",)),
    Format("mov", _mp4, (".mp4", ".mov", ".m4v")),
    Format("matroska", _starts(b"\x1a\x45\xdf\xa3"), (".mkv", ".webm")),
    Format("mpeg", _starts(b"\x00\x00\x01\xba"), (".mpg", ".mpeg")),
    Format("mpegvideo", _starts(b"\x00\x00\x01\xb3"), (".m1v", ".m2v")),
    Format("mpegts", _mpegts, (".ts",)),
    Format("gif", _starts(b"GIF87a", b"GIF89a"), (".gif",)),
    Format("nifti", lambda head: _nifti(head) or _nifti2(head), (".nii", ".nii.gz", ".hdr")),
    Format("metaimage", _metaimage, (".mha", ".mhd")),
    Format("nrrd", _starts(b"NRRD000"), (".nrrd", ".nhdr")),
    Format("npy", _starts(b"\x93NUMPY"), (".npy",)),
)
#: The formats that FFmpeg reads.
VIDEOS = ("avi", "mov", "matroska", "mpeg", "mpegvideo", "mpegts", "gif")
VOLUMES = ("nifti", "metaimage", "nrrd")
#: Suffixes of files that claim to be studies; a file with one of them and unknown content is a reject, not a bystander.
SUFFIXES = frozenset(s for form in FORMATS for s in form.suffixes) | {".npz", ".wmv", ".flv", ".m3u8", ".gz"}


def sniff(path: Path) -> Format | None:
    """Which format a file has, told by its first bytes; ``None`` when nobody knows it.

    Raises ``Unreadable`` for a file of zero bytes or one that cannot be opened.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise Unreadable(f"the file cannot be opened ({error.strerror})", fix="check its rights") from error
    if not head:
        raise Unreadable("the file has zero bytes", fix="copy it again from its source")
    return next((form for form in FORMATS if form.sniff(head)), None)


def suffix_of(path: Path) -> str:
    """The suffix in lower case, with ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem_of(name: str) -> str:
    """A file name without its suffix (``a.nii.gz`` -> ``a``); dots inside names that are no known suffix stay."""
    lower = name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if lower.endswith(suffix) and len(lower) > len(suffix):
            return name[: -len(suffix)]
    return name


@contextlib.contextmanager
def unreadable(what: str) -> Iterator[None]:
    """Every fault within becomes ``Unreadable``; ``what`` says what a strange one means."""
    try:
        yield
    except Unreadable:
        raise
    except UserError as error:
        raise Unreadable(error.cause, fix=error.fix) from error
    except MemoryError as error:
        raise Unreadable("too large for this machine's memory", fix="crop or downsample it first") from error
    except Exception as error:
        raise Unreadable(
            f"{what} ({brief(error)}): damaged or truncated", fix="copy the file again from its source or leave it out"
        ) from error


def guarded(study: Study, limits: Limits) -> Iterator[np.ndarray]:
    """The frames of a study with every fault turned into ``Unreadable`` and every promise checked:
    at least one frame, finite values, one shape, and no more bytes than allowed."""
    index, total, shape, dtype = 0, 0, None, None
    frames = iter(study.frames)
    while True:
        with unreadable(f"frame {index} cannot be decoded"):
            frame = next(frames, None)
        if frame is None:
            break
        frame = frame.astype(frame.dtype.newbyteorder("="), copy=False)
        if frame.dtype.kind == "f" and not np.isfinite(frame).all():
            raise Unreadable(
                f"holds {int((~np.isfinite(frame)).sum())} NaN or infinite values in frame {index}",
                fix="replace them by the background value and scan again",
            )
        if limits.colour and len(frame) == 1:  # a data set has one number of channels
            frame = np.repeat(frame, 3, axis=0)
        if shape is not None and frame.shape != shape:
            raise Unreadable(
                f"frame {index} has size {frame.shape[1:]}, the first has {shape[1:]}",
                fix="cut it into clips of one size",
            )
        if dtype is not None and frame.dtype != dtype:
            raise Unreadable(
                f"frame {index} holds {frame.dtype} values, the first {dtype}", fix="convert all frames to one type"
            )
        shape, dtype = frame.shape, frame.dtype
        total += frame.nbytes
        if total > limits.bytes:
            raise Unreadable(
                f"decodes to more than {limits.bytes >> 20} MiB", fix="allow more with max_mib=N or shorten it"
            )
        yield frame
        index += 1
    if index == 0:
        raise Unreadable(
            "no frame could be decoded (0 frames)", fix="copy the file again from its source or leave it out"
        )


def brief(error: BaseException) -> str:
    """The kind of an error and no more: messages of decoders can hold paths."""
    return type(error).__name__
