"""Keyed codes: pseudonyms that nobody without the key can turn back or guess.

The key is a file of 32 random bytes, ``.medgraft-key`` in the folder that holds the data set folder
(never inside it), readable by its owner only. Data sets in one folder share it, so one person gets
one code in all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.errors import UserError
from medgraft.files import disk_error, whole

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
        raise UserError(
            "the key cannot be read", case=str(path), fix="ask its owner or choose another folder with out=DIR"
        ) from error
    if len(key) != 32:
        raise UserError(
            "the key is not 32 bytes long",
            case=str(path),
            fix="put the right key back, or delete it to get new codes (a full scan follows)",
        )
    return key


def code(key: bytes, purpose: str, value: str, length: int = 12) -> str:
    """A keyed code of ``value`` (hexadecimal); equal for equal purpose and value under one key."""
    return hmac.new(key, f"{purpose}|{value}".encode(), hashlib.sha256).hexdigest()[:length]


@dataclass(frozen=True)
class Names:
    """What stands in tables for patients, studies, cases, sites and devices: keyed codes, or with ``keep`` the names
    themselves.
    """

    key: bytes
    keep: bool = False
    given: dict[str, str] = field(default_factory=dict)  # code -> what it stands for, for the map outside the data set

    def of(self, purpose: str, value: str) -> str:
        """``patient``, ``study``, ``case``, ``site``, ``device`` -> its code (``case-3f9a2b1c0d4e``), or ``value``
        itself.
        """
        if self.keep:
            return value
        name = coded(self.key, purpose, value)
        self.given[name] = value
        return name

    def days(self, patient: str) -> int:
        """Days by which the dates of a patient are shifted; 0 with ``keep``.

        One to ten years back, one number for all under this key, and up to 30 days to either side for each
        patient: the day of a study is hidden, intervals within a patient are exact, and two groups that were
        examined in different seasons or years can still be told apart.
        """
        if self.keep:
            return 0
        whole = int(code(self.key, "days", ""), 16) % 3286
        return -365 - whole + int(code(self.key, "days", patient), 16) % 61 - 30


def coded(key: bytes, purpose: str, value: str) -> str:
    """``purpose-`` and the keyed code of ``value``: twelve hexadecimal digits, six for the few sites and devices."""
    return f"{purpose}-{code(key, purpose, value, 6 if purpose in ('site', 'device') else 12)}"


def write_private(path: Path, value: object) -> None:
    """Write JSON that only its owner may read."""
    with whole(path) as temporary:
        owner_only = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(owner_only, "w", encoding="utf-8") as stream:
            json.dump(value, stream, ensure_ascii=False, indent=1)


def append_private(path: Path, value: object) -> None:
    """Append a line of JSON to a file that only its owner may read."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as stream:
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")
    except OSError as error:
        raise disk_error(error, path.parent) from error


def shape_of(value: str) -> str:
    """How a name is built, without the name: ``MRN_00412b`` -> ``AAA_00000a``."""
    return "".join("0" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in value)
