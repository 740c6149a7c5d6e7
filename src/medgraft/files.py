"""Files that appear whole or not at all, in words that a person can mend; and how many cores there are."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from medgraft.errors import UserError


@contextlib.contextmanager
def whole(path: str | os.PathLike[str], *, said: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and goes when it does not.

    Raises ``UserError``, which names ``said`` (default: the file), where the operating system refuses to write.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path if said is None else said) from error
    finally:
        temporary.unlink(missing_ok=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> Path:
    """Write a file so that it appears whole or not at all."""
    with whole(path) as temporary, open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file (UTF-8, line feeds) so that it appears whole or not at all."""
    return write_bytes(path, text.encode("utf-8"))


def no_formula(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, quoted; other values as they are. White space is one line's."""
    if not isinstance(value, str):
        return value
    cell = " ".join(value.split())
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")) else cell


def write_csv(frame: pl.DataFrame, path: str | os.PathLike[str]) -> Path:
    """A table for people, as CSV without a formula in it: names of columns and text may come from strangers' labels."""
    frame = frame.with_columns(pl.col(pl.String).map_elements(no_formula, return_dtype=pl.String))
    return write_text(path, frame.rename({c: no_formula(c) for c in frame.columns}).write_csv())


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write JSON (NaN becomes null) so that it appears whole or not at all."""
    return write_text(path, json.dumps(_without_nan(value), ensure_ascii=False, indent=1, sort_keys=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; a broken one is named."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", case=str(path)) from error
    except (ValueError, OSError) as error:
        raise UserError(f"not a readable JSON file ({type(error).__name__})", case=str(path)) from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _without_nan(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def disk_error(error: OSError, path: str | os.PathLike[str]) -> UserError:
    """Turn the operating system's refusal to write into one line with a way out."""
    fixes = {
        errno.ENOSPC: (
            "the disk is full",
            "free some space or choose another folder with out=DIR; what is done is kept",
        ),
        errno.EDQUOT: (
            "the disk quota is used up",
            "free some space or choose another folder with out=DIR; what is done is kept",
        ),
        errno.EACCES: ("the folder may not be written", "choose another folder with out=DIR"),
        errno.EROFS: ("the folder is read-only", "choose another folder with out=DIR"),
        errno.EPERM: ("the folder may not be written", "choose another folder with out=DIR"),
        errno.ENOENT: ("the folder does not exist", "make it or choose another with out=DIR"),
    }
    cause, fix = fixes.get(error.errno or 0, (f"cannot write ({error.strerror})", "choose another folder with out=DIR"))
    return UserError(cause, case=str(path), fix=fix)
