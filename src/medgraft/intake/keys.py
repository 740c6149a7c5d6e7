"""Keyed codes: pseudonyms that nobody without the key can turn back or guess.

The key is a file of 32 random bytes, ``.medgraft-key`` in the folder that holds the data set folder
(never inside it), readable by its owner only. Data sets in one folder share it, so one person gets
one code in all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from medgraft.errors import UserError
from medgraft.tables import disk_error

KEY_FILE = ".medgraft-key"


def load_key(folder: Path) -> bytes:
    """The key of a folder; made when there is none."""
    path = folder / KEY_FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(os.urandom(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        key = path.read_bytes()
    except OSError as error:
        raise UserError("the key cannot be read", case=str(path), fix="ask its owner or choose another folder with out=DIR") from error
    if len(key) != 32:
        raise UserError(
            "the key is not 32 bytes long", case=str(path), fix="put the right key back, or delete it to get new codes (a full scan follows)"
        )
    return key


def code(key: bytes, purpose: str, value: str, length: int = 12) -> str:
    """A keyed code of ``value`` (hexadecimal); equal for equal purpose and value under one key."""
    return hmac.new(key, f"{purpose}|{value}".encode(), hashlib.sha256).hexdigest()[:length]
