"""Weight files of other formats to safetensors, once, without running anything that stands in them.

Read are Caffe2 pickles (a dict under ``blobs``), plain pickles of arrays or tensors, files of ``torch.save`` (zip and
older) that ``weights_only=True`` turns down, and TorchScript archives (by ``weights/torchscript``). A pickle may
name any function of Python to be called: ``weights/unpickle`` reads it in a process of its own with limits on time
and memory.

The result lies beside the file, ``NAME.safetensors``, with a note ``NAME.safetensors.sha256`` that holds the hashes of
both in the form of ``sha256sum -c``; where that folder cannot be written, in the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from medgraft.errors import UserError
from medgraft.files import sha256
from medgraft.models.weights import torchscript, unpickle

SUFFIX = ".safetensors"
SECONDS = 600.0  # of processor time, and of waiting


def twin(path: Path) -> Path:
    """Where the converted file of ``path`` lies."""
    return path.with_name(path.name + SUFFIX)


def checked(converted: Path, *, source: str = "") -> Path:
    """A converted file whose note holds its hash; ``source`` is the hash (or its beginning) that its original must have
    had.

    Raises ``UserError`` for a missing note and for hashes that differ.
    """
    try:
        original, own = (line.split()[0] for line in _note(converted).read_text(encoding="ascii").splitlines()[:2])
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            "the converted file has no note of its hashes", case=converted.name, fix="convert the original again"
        ) from error
    if not original.startswith(source):
        raise UserError(
            f"it was converted from a file with sha256 {original}, the card says {source}",
            case=converted.name,
            fix="fetch the right file",
        )
    if sha256(converted) != own:
        raise UserError(
            "the converted file has changed since its conversion", case=converted.name, fix="convert the original again"
        )
    return converted


def converted(path: Path, cache: Path | None = None) -> Path:
    """The safetensors file of ``path``: made on the first call, beside it or in ``cache``, then checked and used
    again.
    """
    places = [twin(path), *([cache / twin(path).name] if cache is not None else [])]
    digest = sha256(path)
    for place in places:
        if place.is_file() and _note(place).is_file():
            try:
                return checked(place, source=digest)
            except UserError:
                continue  # of another version of the file: made anew
    for place in places[:-1]:
        if os.access(place.parent, os.W_OK):
            return convert(path, place)
    places[-1].parent.mkdir(parents=True, exist_ok=True)
    return convert(path, places[-1])


def convert(path: Path, out: Path | None = None, *, seconds: float = SECONDS, memory: int = 0) -> Path:
    """Write the tensors of a foreign weight file as safetensors to ``out`` (default: beside it) and return that path.

    ``seconds`` limits the time, ``memory`` the bytes of the reading process (default: five times the file and
    1 GiB, where the system can limit it). Raises ``UserError`` with one line for anything but plain numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such file", case=str(path))
    out = Path(out) if out is not None else twin(path)
    if out.suffix != SUFFIX:
        raise UserError(f"the converted file must end in {SUFFIX}", case=str(out))
    memory = memory or 5 * path.stat().st_size + (1 << 30)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=out.parent) as place:
        made = Path(place) / out.name
        words = [
            sys.executable,
            "-P",
            unpickle.__file__,
            str(path.resolve()),
            str(made.resolve()),
            str(memory),
            str(seconds),
        ]
        settings = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if torchscript.is_torchscript(path):
            _from_script(path, made)
        else:
            _in_child(path, words, settings, seconds)
        hashes = f"{sha256(path)}  {path.name}\n{sha256(made)}  {out.name}\n"
        (Path(place) / "note").write_text(hashes, encoding="ascii")
        os.replace(made, out)
        os.replace(Path(place) / "note", _note(out))
    return out


def _from_script(path: Path, made: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(torchscript.read(path), made)
    except ValueError as error:
        raise UserError(" ".join(str(error).split()), case=path.name, fix="do not trust the file") from None


def _in_child(path: Path, words: list[str], settings: dict[str, str], seconds: float) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, env=settings)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"reading it took longer than {seconds:g} s",
            case=path.name,
            fix="no weights need that long; do not trust the file",
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        line = (
            lines[-1].removeprefix("refused: ")
            if lines and lines[-1].startswith("refused: ")
            else "it breaks its reader"
        )
        raise UserError(
            line, case=path.name, fix="only arrays, tensors, dicts, text and numbers are read; do not trust other files"
        )


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
