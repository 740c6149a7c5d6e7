"""NumPy files: archives row by row, single arrays mapped. Never a pickle, never a whole archive in memory."""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from medgraft.intake import picture
from medgraft.intake.read import Limits, Study, Unreadable

_MOST_LABEL_BYTES = 1 << 28
_MOST_HEADER = 1 << 16  # bytes of the header of one array; NumPy itself would read up to 4 GiB of it
_MOST_ROWS = 5_000_000  # rows of one array, each of which becomes a case
_MOST_RATIO = 1100  # the most that deflate can compress is 1032


@dataclass(frozen=True)
class Member:
    """The header of one array in an archive."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def members(path: Path) -> dict[str, Member]:
    """Names, shapes and dtypes of an archive, from headers alone. Raises ``Unreadable`` on pickles and damage."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as stream:
                        found[name[:-4]] = Member(name[:-4], *_header(stream))
                    _check_member(found[name[:-4]], archive.getinfo(name))
            return found
    except Unreadable:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's parser of headers raise many kinds
        if isinstance(error, ValueError) and "pickle" in str(error):
            raise Unreadable(
                "holds pickled objects, which could run code", fix="save plain numeric arrays with numpy.savez"
            ) from error
        raise Unreadable(
            "not a whole NumPy archive: damaged or truncated", fix="copy the file again from its source"
        ) from error


def _check_member(member: Member, info: zipfile.ZipInfo) -> None:
    """Refuse an array that declares more than its part of the archive can hold."""
    declared = math.prod(member.shape) * member.dtype.itemsize
    if declared > info.file_size or declared > (info.compress_size + 64) * _MOST_RATIO:
        raise Unreadable(
            f"array {member.name[:40]} declares more than the archive holds: truncated or hostile", fix="save it again"
        )
    if member.shape and member.shape[0] > _MOST_ROWS:
        raise Unreadable(f"array {member.name[:40]} declares more than {_MOST_ROWS} rows", fix="split the archive")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    wide = 2 if version == (1, 0) else 4
    length = stream.read(wide)
    if int.from_bytes(length, "little") > _MOST_HEADER:
        raise ValueError("header")
    text = io.BytesIO(length + stream.read(int.from_bytes(length, "little")))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(text)
    if dtype.hasobject:
        raise ValueError("pickle")
    if fortran and len(shape) > 1:
        raise Unreadable("holds column-major arrays", fix="save them with numpy.ascontiguousarray")
    return shape, dtype


def load_small(path: Path, name: str) -> np.ndarray:
    """A label array, whole. Its declared size is checked first."""
    member = members(path)[name]
    if math.prod(member.shape) * member.dtype.itemsize > _MOST_LABEL_BYTES:
        raise Unreadable(f"label array {name} is larger than {_MOST_LABEL_BYTES >> 20} MiB", fix="give one label a row")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except Exception as error:
        raise Unreadable(
            f"label array {name} is damaged or truncated", fix="copy the file again from its source"
        ) from error


class Rows:
    """Rows of one member in rising order; the stream stays open between them, so a sequence is read once."""

    def __init__(self, path: Path, name: str, limits: Limits) -> None:
        self.path, self.name = path, name
        self._archive = zipfile.ZipFile(path)
        self._stream = self._archive.open(f"{name}.npy")
        shape, self.dtype = _header(self._stream)
        self.shape = shape[1:]
        self._bytes = math.prod(self.shape) * self.dtype.itemsize
        if self._bytes > limits.bytes:
            raise Unreadable(f"a row declares more than {limits.bytes >> 20} MiB", fix="allow more with max_mib=N")
        self.next = 0

    def read(self, index: int) -> np.ndarray:
        """Row ``index``; at or after the last one read."""
        while self.next <= index:
            data = self._stream.read(self._bytes)
            if len(data) != self._bytes:
                raise Unreadable(f"ends before row {index}: truncated", fix="copy the file again from its source")
            self.next += 1
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def close(self) -> None:
        self._stream.close()
        self._archive.close()


_OPEN: list[Rows] = []  # at most one a process


def read_row(path: Path, name: str, index: int, limits: Limits) -> np.ndarray:
    """One row of a member; consecutive rows cost one pass over the archive. Raises ``Unreadable``."""
    try:
        if not (_OPEN and (_OPEN[0].path, _OPEN[0].name) == (path, name) and _OPEN[0].next <= index):
            forget()
            _OPEN.append(Rows(path, name, limits))
        return _OPEN[0].read(index)
    except Unreadable:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise Unreadable(
            f"row {index} cannot be read ({type(error).__name__})", fix="copy the file again from its source"
        ) from error


def forget() -> None:
    """Close the archive that ``read_row`` keeps open."""
    while _OPEN:
        _OPEN.pop().close()


def read_array(path: Path, limits: Limits) -> Study:
    """A bare ``.npy``: (H, W) or uint8 (H, W, 3) an image, (D, H, W) a volume, uint8 (N, H, W, 3) a video.

    Read through a map.
    """
    with open(path, "rb") as stream:
        try:
            shape, dtype = _header(stream)
        except ValueError as error:
            if "pickle" in str(error):
                raise Unreadable(
                    "holds pickled objects, which could run code", fix="save a plain numeric array with numpy.save"
                ) from error
            raise
        start = stream.tell()
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise Unreadable(f"holds values of type {dtype}", fix="save 8 or 16 bit numbers, or floats")
    declared = math.prod(shape) * dtype.itemsize
    if declared > limits.bytes:
        raise Unreadable(f"declares more than {limits.bytes >> 20} MiB", fix="allow more with max_mib=N")
    there = path.stat().st_size - start
    if there < declared:
        raise Unreadable(
            f"truncated: {declared - there} of {declared} bytes of values are missing",
            fix="copy the file again from its source",
        )
    colour = len(shape) in (3, 4) and shape[-1] == 3 and dtype == np.uint8
    planes = len(shape) - colour
    if planes not in (2, 3) or 0 in shape:
        raise Unreadable(
            f"has shape {'x'.join(map(str, shape))}",
            fix="save (H, W), (D, H, W), or colours as uint8 (H, W, 3) or (N, H, W, 3)",
        )
    sides = shape[-2 - colour : len(shape) - colour]
    if math.prod(sides) > limits.pixels:
        raise Unreadable(f"frames are larger than {limits.pixels} pixels", fix="allow more with max_pixels=N")
    values = np.memmap(path, dtype, "r", start, shape)
    unit = "display" if dtype in (np.uint8, np.bool_) else "raw"
    kind = "image" if planes == 2 else "video" if colour else "volume"
    notes = [] if kind != "volume" else ["no spacing or orientation in the file"]
    frames = (
        picture.channels_first(_plain(frame), limits.colour) for frame in (values[None] if planes == 2 else values)
    )
    return Study(kind, frames, value_unit=unit, time_source=["none"], notes=notes)


def _plain(values: np.ndarray) -> np.ndarray:
    """Values in memory and of a type that can be stored: bool as 0 and 255, 64 bit as 32 where they fit."""
    values = np.array(values)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.itemsize < 8:
        return values
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.min() < -(2**31) or values.max() >= 2**31:
        raise Unreadable("integers beyond 32 bit", fix="store 16 or 32 bit values")
    return values.astype(np.int32)
