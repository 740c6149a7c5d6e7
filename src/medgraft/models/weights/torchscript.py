"""Tensors of a TorchScript archive, by name, without running the program in it.

The pickle that says where each tensor lies is read by a child process that knows nothing but this file
and the standard library, with an unpickler for which every class of the archive is an empty shell and
which can call nothing but what writes down a tensor's place. The parent then cuts the tensors out of the
archive's raw data, with every size checked first. Only stored (not compressed) archives are read, as
torch writes them, so a small file cannot grow.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

#: Storage classes of torch -> dtype and bytes of an element.
STORAGES = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
PICKLE_BYTES = 32 << 20  # largest list of names that is read
TENSORS = 100_000  # most tensors and modules that one archive may name
SECONDS = 60


class Place(NamedTuple):
    """Where a tensor lies: its storage (class, key, elements), first element, shape and strides."""

    storage: str
    key: str
    elements: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def is_torchscript(path: Path) -> bool:
    """Is this file a TorchScript archive (a zip file with the constants of a program)?"""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def read(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of an archive by their dotted names.

    Raises ``ValueError`` for anything but plain tensors.
    """
    import torch

    command = [sys.executable, "-I", "-S", "-B", __file__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ValueError("the archive takes too long to read") from error
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["the archive cannot be read"])[-1])
    places = {name: Place(*row) for name, row in json.loads(done.stdout).items()}
    tensors: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        root = _root(archive)
        stored = {entry.filename: entry for entry in archive.infolist()}
        for name, place in places.items():
            dtype, width = STORAGES[place.storage]
            entry = stored.get(f"{root}/data/{place.key}")
            last = place.offset + sum((side - 1) * step for side, step in zip(place.shape, place.stride))
            numbers = (place.elements, place.offset, *place.shape, *place.stride)
            if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != place.elements * width:
                raise ValueError(f"{name} has no data of its size")
            if (
                min(numbers) < 0
                or len(place.shape) != len(place.stride)
                or math.prod(place.shape) > place.elements
                or last >= place.elements > 0
            ):
                raise ValueError(f"{name} reaches beyond its data")
            raw = bytearray(archive.read(entry))
            flat = (
                torch.frombuffer(raw, dtype=getattr(torch, dtype))
                if raw
                else torch.empty(0, dtype=getattr(torch, dtype))
            )
            tensors[name] = flat.as_strided(place.shape, place.stride, place.offset).clone()
    return tensors


# ---------------------------------------------------------------------------------------- the child


class _Shell:
    """Stands for any class of the archive; holds what was stored in it."""

    held: Any = None

    def __setstate__(self, state: Any) -> None:
        self.held = state


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Place:
    kind, key, elements = storage
    return Place(kind, key, elements, offset, tuple(shape), tuple(stride))


def _as_is(value: Any, *rest: Any) -> Any:
    return value


class _Unpickler(pickle.Unpickler):
    """Knows shells, tensor records and ordered dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Shell
        if module == "torch" and name in STORAGES:
            return name
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _as_is,
            ("torch.jit._pickle", "restore_type_tag"): _as_is,
            ("collections", "OrderedDict"): dict,
            **{("torch.jit._pickle", f"build_{kind}list"): _as_is for kind in ("int", "double", "bool", "tensor")},
        }
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(f"the archive asks for {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        kind, storage, key, _, elements = pid
        if kind != "storage" or storage not in STORAGES or not isinstance(key, str) or not key.isalnum():
            raise pickle.UnpicklingError("the archive names data that are not a storage")
        return storage, key, int(elements)


def _root(archive: zipfile.ZipFile) -> str:
    return next(
        name.partition("/")[0]
        for name in archive.namelist()
        if name.count("/") == 1 and name.endswith("/constants.pkl")
    )


def places(path: Path) -> dict[str, Place]:
    """Names of the tensors of an archive and where they lie. For the child process."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{_root(archive)}/data.pkl")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > PICKLE_BYTES:
            raise ValueError("the list of tensors is compressed or too long")
        with archive.open(entry) as stream:
            top = _Unpickler(stream).load()
    if not isinstance(top, _Shell):
        raise ValueError("the archive holds no module")
    return named(top)


def named(top: _Shell) -> dict[str, Place]:
    """Tensors of a module and of those in it, by dotted names."""
    found: dict[str, Place] = {}
    pending: list[tuple[str, Any]] = [("", top)]
    seen = 0
    while pending:
        name, value = pending.pop()
        seen += 1
        if seen > TENSORS or len(name) > 1000:  # modules inside themselves, or one module in very many places
            raise ValueError("the archive names too many modules")
        if isinstance(value, Place):
            found[name] = value
        elif isinstance(value, _Shell) and isinstance(value.held, dict):
            pending += [(f"{name}.{key}" if name else str(key), part) for key, part in reversed(value.held.items())]
    return found


def _child(path: str) -> None:
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        print(json.dumps(places(Path(path))))
    except Exception as error:  # a stranger's pickle can raise anything; the parent wants one line
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    _child(sys.argv[1])
