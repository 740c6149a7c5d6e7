"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medgraft.files import whole


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that it is there whole or not at all."""
    with whole(path) as temporary, open(temporary, "wb") as stream:
        try:
            torch.save(dict(state), stream)
        except RuntimeError as error:  # the library's own words for a full disk
            raise OSError(errno.ENOSPC, str(error)) from error
        stream.flush()
        os.fsync(stream.fileno())


def load(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None where there is none. A torn one is removed: the cell begins anew."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # any unpickling fault means the same: not a whole checkpoint
        path.unlink(missing_ok=True)
        return None
    return state
