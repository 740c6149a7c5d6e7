"""NumPy archives row by row: never a pickle, never a whole archive in memory."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from medgraft.intake.read import Limits, Unreadable

_MOST_LABEL_BYTES = 1 << 28


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
            return found
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, zlib.error) as error:
        if isinstance(error, ValueError) and "pickle" in str(error):
            raise Unreadable("holds pickled objects, which could run code", fix="save plain numeric arrays with numpy.savez") from error
        raise Unreadable("not a whole NumPy archive: damaged or truncated", fix="copy the file again from its source") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
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
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]


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
    """One row of a member; consecutive rows cost one pass over the archive."""
    if not (_OPEN and (_OPEN[0].path, _OPEN[0].name) == (path, name) and _OPEN[0].next <= index):
        while _OPEN:
            _OPEN.pop().close()
        _OPEN.append(Rows(path, name, limits))
    return _OPEN[0].read(index)
