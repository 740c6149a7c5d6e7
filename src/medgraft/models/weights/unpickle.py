"""The arrays of a foreign pickle, read with stand-ins: every name in it leads to one of these, or is refused.

A pickle may name any function of Python to be called. A stand-in holds numbers and does nothing. The file is run as a
process of its own with limits on time and memory, so it imports numpy and safetensors and nothing of medgraft.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np

_WRAPPERS = ("blobs", "state_dict", "model_state", "model_state_dict", "model")


class Refused(Exception):
    """A file that asks for more than numbers; the message is one line."""


# ------------------------------------------------------------------------------- stand-ins: numbers, no behaviour


class _Storage:
    """The numbers of a torch storage; in older files they come after the pickle that names it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.data: bytes | memoryview = b""


class _Tensor:
    """A view of a storage, made an array when its numbers are there."""

    def __init__(self, storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        if not isinstance(storage, _Storage):
            raise Refused("a tensor without a storage")
        self.storage, self.offset, self.size, self.stride = (
            storage,
            int(offset),
            tuple(map(int, size)),
            tuple(map(int, stride)),
        )

    def array(self) -> np.ndarray:
        flat = _numbers(self.storage.kind, self.storage.data)
        if len(self.size) != len(self.stride) or self.offset < 0 or min((*self.size, *self.stride, 0)) < 0:
            raise Refused("a tensor with impossible sides")
        reach = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride)) if all(self.size) else -1
        if reach >= len(flat) or math.prod(self.size) > max(1, len(flat)):
            raise Refused("a tensor larger than its numbers")
        steps = tuple(step * flat.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, steps).copy()


class _Dtype:
    """numpy's dtype of one plain kind of number."""

    def __init__(self, code: object, align: object = 0, copy: object = 1) -> None:
        self.code, self.order = str(code).lstrip("<>|="), "<" if not str(code).startswith(">") else ">"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"

    def plain(self) -> np.dtype[Any]:
        if self.code not in {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}:
            raise Refused(f"an array of '{self.code[:20]}', which are no plain numbers")
        return np.dtype(self.order + self.code)


class _Array:
    """numpy's array: shape, dtype and bytes."""

    def __init__(self, *nothing: object) -> None:
        self.made: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.made = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: object, dtype: object, shape: object, order: object = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise Refused("an array without a plain dtype and shape")
    raw = (
        data.encode("latin-1")
        if isinstance(data, str)
        else bytes(data)
        if isinstance(data, (bytes, bytearray))
        else None
    )
    plain = dtype.plain()
    if raw is None or len(raw) != math.prod(map(int, shape)) * plain.itemsize:
        raise Refused("an array whose bytes do not fit its shape")
    return np.frombuffer(raw, plain).reshape(tuple(map(int, shape)), order="F" if order == "F" else "C")


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    made = _Array()
    made.made = _array(data, dtype, shape, order)
    return made


def _scalar(dtype: object, data: object = b"") -> _Array:
    return _from_buffer(data, dtype, (), "C")


def _latin(text: object, encoding: object = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise Refused("a text in an encoding other than latin-1")
    return text.encode("latin-1")


class _Settings:
    """argparse's Namespace, of which nothing is kept."""

    def __init__(self, *nothing: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _Array0(_Array):
    """``numpy.ndarray`` itself, which ``_reconstruct`` is given."""


def _nothing(*words: object) -> None:
    return None


def _first(data: object, *others: object) -> object:
    return data


def _tensor(storage: object, offset: Any, size: Any, stride: Any, *others: object) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


_KINDS = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1", "UntypedStorage": "u1",
}  # fmt: skip
_DTYPES = (
    "float64",
    "double",
    "float32",
    "float",
    "float16",
    "half",
    "bfloat16",
    "int64",
    "long",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)

_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin,
    ("numpy", "ndarray"): _Array0,
    ("numpy", "dtype"): _Dtype,
    ("argparse", "Namespace"): _Settings,
    ("torch", "Size"): tuple,
    ("torch", "device"): _nothing,
    ("torch.serialization", "_get_layout"): _nothing,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.storage", "_load_from_bytes"): lambda data: _legacy(io.BytesIO(data if isinstance(data, bytes) else b"")),
    **{("torch", name): kind for name, kind in _KINDS.items()},
    **{("torch", name): name for name in _DTYPES},
    ("torch.storage", "UntypedStorage"): "u1",
}
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"{_package}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_package}.numeric", "_frombuffer"] = _from_buffer


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names above and nothing else of Python."""

    def __init__(self, stream: IO[bytes], storages: Callable[[tuple[Any, ...]], _Storage] | None = None) -> None:
        super().__init__(stream, encoding="latin1")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise Refused(f"it asks for {module}.{name}, which no weights need"[:200])

    def persistent_load(self, key: Any) -> _Storage:
        if self._storages is None or not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise Refused("it points outside itself")
        return self._storages(key)


# ---------------------------------------------------------------------------------------- formats


def read(stream: IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays of a file, by name. Raises ``Refused``."""
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _named(_archive(stream))
    if not head.startswith((b"\x80", b"(", b"}", b"c")):
        raise Refused("it is no pickle and no archive of tensors")
    first = _Reader(stream).load()
    if first == 0x1950A86A20F9469CFC6C:  # older torch.save: several pickles, then the numbers
        stream.seek(0)
        return _named(_legacy(stream))
    return _named(first)


def _kind(marker: object) -> str:
    if not isinstance(marker, str) or marker not in _KINDS.values():
        raise Refused("a storage of no known kind")
    return marker


def _archive(stream: IO[bytes]) -> Any:
    """The object of a zip of ``torch.save``."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise Refused("a broken archive") from error
    names = archive.namelist()
    found = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1 or archive.getinfo(found[0]).compress_type != zipfile.ZIP_STORED:
        raise Refused("an archive without tensors in today's form")
    root = found[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() != b"little":
        raise Refused("numbers in big-endian order")
    storages: dict[str, _Storage] = {}

    def storage(key: tuple[Any, ...]) -> _Storage:
        name = f"{root}data/{key[2]}"
        if name not in storages:
            if name not in names or archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise Refused("an archive that lacks numbers, or compresses them")
            storages[name] = _Storage(_kind(key[1]))
            storages[name].data = archive.read(name)
        return storages[name]

    return _Reader(io.BytesIO(archive.read(found[0])), storage).load()


def _legacy(stream: IO[bytes]) -> Any:
    """The object of ``torch.save`` before its zip: magic number, version, machine, object, keys, then the storages'
    numbers.
    """
    storages: dict[str, _Storage] = {}

    def storage(key: tuple[Any, ...]) -> _Storage:
        if len(key) > 5 and key[5] is not None:
            raise Refused("a storage that is a view of another")
        return storages.setdefault(str(key[2]), _Storage(_kind(key[1])))

    if _Reader(stream).load() != 0x1950A86A20F9469CFC6C:
        raise Refused("numbers without their beginning")
    version, machine = _Reader(stream).load(), _Reader(stream).load()
    if version != 1001 or not isinstance(machine, dict) or not machine.get("little_endian", False):
        raise Refused("a version or byte order of torch.save that is not read here")
    made = _Reader(stream, storage).load()
    for key in _Reader(stream).load():
        if str(key) not in storages:
            raise Refused("numbers that no tensor names")
        entry = storages[str(key)]
        count = int.from_bytes(stream.read(8), "little", signed=True)
        size = count * _width(entry.kind)
        entry.data = stream.read(size) if count >= 0 else b""
        if len(entry.data) != size:
            raise Refused("fewer numbers than it says")
    return made


def _width(kind: str) -> int:
    return 2 if kind == "bf16" else np.dtype(kind).itemsize


def _numbers(kind: str, data: bytes | memoryview) -> np.ndarray:
    """A storage's numbers, little-endian; bfloat16 as the same numbers in float32."""
    if kind == "bf16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, "<" + kind)


def _named(made: Any) -> dict[str, np.ndarray]:
    """Arrays by name out of what a file holds: a dict of them, wrapped or not."""
    while (
        isinstance(made, Mapping)
        and (inner := next((made[key] for key in _WRAPPERS if isinstance(made.get(key), Mapping)), None)) is not None
    ):
        made = inner
    found: dict[str, np.ndarray] = {}
    for name, value in made.items() if isinstance(made, Mapping) else ():
        if isinstance(value, _Tensor):
            found[str(name)] = value.array()
        elif isinstance(value, _Array) and value.made is not None:
            found[str(name)] = value.made
    if not found:
        raise Refused("it holds no named arrays")
    return found


# ---------------------------------------------------------------------------------------- the process of its own


def _limit(memory: int, seconds: float) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the time is limited from outside
        return
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, math.ceil(seconds) + 1)):
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS does not limit address space
            continue


def _main(source: str, target: str, memory: str, seconds: str) -> int:
    from safetensors.numpy import save_file

    _limit(int(memory), float(seconds))
    try:
        with open(source, "rb") as stream:
            arrays = read(stream)
        plain = {name: np.asarray(a, dtype=a.dtype.newbyteorder("="), order="C") for name, a in arrays.items()}
        save_file(plain, target)
    except Refused as error:
        word = str(error)
    except MemoryError:
        word = "it asks for more memory than its size allows"
    except RecursionError:
        word = "it is nested too deep"
    except Exception as error:  # a pickle can be broken in every way
        word = f"it is broken ({type(error).__name__})"
    else:
        return 0
    print("refused: " + " ".join(word.split()), file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
