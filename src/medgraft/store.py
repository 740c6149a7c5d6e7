"""Arrays on disk: append frames, read a window. The only file that knows the format.

One array is one ``.npy`` named by the SHA-256 of its dtype, shape and bytes
(``arrays/ab/<sha256>.npy``). File order is (D, C, H, W), so frames are appended as they are
decoded; readers see (C, D, H, W). The header is written last and the file renamed into place: a
killed writer leaves only a temporary file, which the next ``clean`` removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medgraft.errors import UserError
from medgraft.files import disk_error, whole

IGNORE = 255  # mask value of pixels that nobody judged

HEADER_BYTES = 128
TEMPORARY = "incoming"
_SAMPLE = 1 << 16  # values a frame contributes to the percentiles of arrays that are not 8-bit


@dataclass(frozen=True)
class Stored:
    """What the store knows of an array after writing: its id, shape (C, D, H, W) and percentiles."""

    array_id: str
    shape: tuple[int, int, int, int]
    dtype: str
    p005: float
    p995: float


def path_of(root: str | os.PathLike[str], array_id: str) -> Path:
    """Where an array lies below a data set folder. Refuses ids that are not plain hexadecimal."""
    if len(array_id) != 64 or any(c not in "0123456789abcdef" for c in array_id):
        raise UserError("not an array id", case=array_id[:80])
    return Path(root) / "arrays" / array_id[:2] / f"{array_id}.npy"


class ArrayWriter:
    """Write one array frame by frame in constant memory.

    ``append`` takes a frame (C, H, W) or (H, W); all frames share shape and dtype. ``close`` writes
    the header, names the file after its content and returns ``Stored``. Leaving a ``with`` block by
    an exception removes the unfinished file.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        folder = self.root / "arrays" / TEMPORARY
        self.path = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb")  # noqa: SIM115 (closed by close or abort)
            self._file.write(b"\0" * HEADER_BYTES)
        except OSError as error:
            raise disk_error(error, self.root) from error
        self._hash = hashlib.sha256()
        self._frames = 0
        self._frame_shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] | None = None
        self._histogram = np.zeros(256, np.int64)
        self._samples: list[np.ndarray] = []
        self.result: Stored | None = None

    def append(self, frame: np.ndarray) -> None:
        """Add one frame. Raises ``UserError`` when shape or dtype changes, ``UserError`` on a full disk."""
        frame = np.ascontiguousarray(frame[None] if frame.ndim == 2 else frame)
        if self._frame_shape is None:
            if frame.ndim != 3:
                raise UserError(f"a frame must be (C, H, W), not of shape {frame.shape}")
            if frame.dtype.kind not in "uif" or frame.dtype.itemsize > 8:
                raise UserError(f"values of type {frame.dtype} cannot be stored")
            self._frame_shape, self._dtype = frame.shape, frame.dtype.newbyteorder("<")
        if frame.shape != self._frame_shape or frame.dtype != self._dtype:
            raise UserError(
                f"frame {self._frames} is {frame.dtype} {frame.shape}, the first is {self._dtype} {self._frame_shape}"
            )
        if frame.dtype == np.uint8:
            self._histogram += np.bincount(frame.reshape(-1), minlength=256)
        else:
            flat = frame.reshape(-1)
            self._samples.append(flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64))
        data = frame.astype(self._dtype, copy=False).data.cast("B")
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.abort()
            raise disk_error(error, self.root) from error
        self._frames += 1

    def close(self) -> Stored:
        """Finish the file and return its id. Raises ``UserError`` when no frame was appended."""
        if self.result is not None:
            return self.result
        if self._frame_shape is None or self._dtype is None:
            self.abort()
            raise UserError("no frame could be decoded")
        shape = (self._frames, *self._frame_shape)
        header = _header(self._dtype, shape)
        digest = hashlib.sha256(header + self._hash.digest()).hexdigest()
        target = path_of(self.root, digest)
        try:
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                self.path.unlink()
            else:
                os.replace(self.path, target)
        except OSError as error:
            self.abort()
            raise disk_error(error, self.root) from error
        low, high = self._percentiles()
        channels, height, width = self._frame_shape
        self.result = Stored(digest, (channels, self._frames, height, width), str(self._dtype), low, high)
        return self.result

    def _percentiles(self) -> tuple[float, float]:
        if self._samples:
            low, high = np.percentile(np.concatenate(self._samples), [0.5, 99.5])
            return float(low), float(high)
        share = np.cumsum(self._histogram) / max(1, self._histogram.sum())
        return float(np.searchsorted(share, 0.005)), float(np.searchsorted(share, 0.995))

    def abort(self) -> None:
        """Drop the unfinished file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        else:
            self.close()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    body = text.encode("latin1")
    space = HEADER_BYTES - 10 - len(body) - 1
    if space < 0:
        raise UserError(f"array shape {shape} does not fit the header")
    return b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little") + body + b" " * space + b"\n"


def write_array(root: str | os.PathLike[str], array: np.ndarray) -> Stored:
    """Store a whole array (C, D, H, W)."""
    if array.ndim != 4:
        raise UserError(f"an array must be (C, D, H, W), not of shape {array.shape}")
    with ArrayWriter(root) as writer:
        for index in range(array.shape[1]):
            writer.append(array[:, index])
    return writer.close()


def write_mask(root: str | os.PathLike[str], mask: np.ndarray) -> Stored:
    """Store a mask (N, K, H, W) uint8 of 0, 1 and 255 (ignore). ``open_mask`` gives it back."""
    if mask.ndim != 4 or mask.dtype != np.uint8:
        raise UserError(f"a mask must be (N, K, H, W) uint8, not {mask.dtype} {mask.shape}")
    return write_array(root, mask.swapaxes(0, 1))


_OPEN: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
_MOST_OPEN = 256


def open_array(root: str | os.PathLike[str], array_id: str) -> np.ndarray:
    """A read-only memory map (C, D, H, W) of a stored array. Maps are kept open, at most 256 a process."""
    key = os.fspath(root), array_id
    found = _OPEN.get(key)
    if found is not None:
        _OPEN.move_to_end(key)
        return found
    path = path_of(root, array_id)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError("stored array is missing", case=array_id[:12], fix="run `medgraft scan` again") from error
    except (ValueError, OSError) as error:
        raise UserError(
            f"stored array cannot be read ({type(error).__name__})",
            case=array_id[:12],
            fix="delete it and run `medgraft scan` again",
        ) from error
    view = array.swapaxes(0, 1)
    _OPEN[key] = view
    if len(_OPEN) > _MOST_OPEN:
        _OPEN.popitem(last=False)
    return view


def open_mask(root: str | os.PathLike[str], mask_id: str) -> np.ndarray:
    """A read-only memory map (N, K, H, W) of a stored mask."""
    return open_array(root, mask_id).swapaxes(0, 1)


def release(root: str | os.PathLike[str], array_id: str) -> None:
    """Give the pages of an open map back to the system; the map stays open and the file stays cached.

    Without this the pages that a process has looked at count as its own until they are needed elsewhere.
    """
    view = _OPEN.get((os.fspath(root), array_id))
    mapped = getattr(view.base if view is not None else None, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def close_all() -> None:
    """Forget open maps (needed before deleting files on Windows)."""
    _OPEN.clear()


def remove(root: str | os.PathLike[str], array_id: str) -> None:
    """Delete an array that another one replaces."""
    _OPEN.pop((os.fspath(root), array_id), None)
    path_of(root, array_id).unlink(missing_ok=True)


def clean(root: str | os.PathLike[str]) -> int:
    """Remove unfinished files of writers that died; return how many."""
    folder = Path(root) / "arrays" / TEMPORARY
    gone = 0
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
            gone += 1
    return gone


def _linked(source: Path, target: Path) -> bool:
    """Whether a hard link could be made: not to another disk, nor on a system without them."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def stage(
    root: str | os.PathLike[str], array_ids: list[str], local: str | os.PathLike[str], *, link: bool = False
) -> Path:
    """Copy arrays to a local folder (``stage=DIR``), or link them where that goes; return the folder to read from.

    Arrays already there are kept (names are hashes). Copies appear whole or not at all.
    """
    local = Path(local)
    for array_id in array_ids:
        source, target = path_of(root, array_id), path_of(local, array_id)
        if target.exists():
            continue
        with whole(target, said=local) as temporary:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (link and _linked(source, temporary)):
                shutil.copyfile(source, temporary)
    return local
