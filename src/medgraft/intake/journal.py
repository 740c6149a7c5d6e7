"""The journal of a scan: what is finished, known again by a keyed hash of the files' name, size and time of change."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from medgraft.errors import UserError
from medgraft.files import disk_error
from medgraft.intake.masks import mask_values
from medgraft.intake.options import ScanOptions
from medgraft.intake.plan import Item
from medgraft.intake.private.keys import code
from medgraft.intake.read import Limits
from medgraft.intake.work import Task
from medgraft.store import IGNORE

READER_VERSION = 3  # raise when readers store other values than before: everything is then read again
JOURNAL = "scan.journal.jsonl"


class Journal:
    """Finished studies, one JSON line each, append-only. Only one scan at a time may hold it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Journal:
        try:
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise disk_error(error, self.path.parent) from error
        self._lock()
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # torn by a kill: dropped
            whole += len(line)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                self.records[record["key"]] = record
        self._file.truncate(whole)
        self._file.seek(0, io.SEEK_END)
        return self

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks; two scans at once are the user's care
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(
                "another scan is writing this data set",
                case=str(self.path.parent),
                fix="wait for it or choose another out=DIR",
            ) from error

    def add(self, records: list[dict[str, Any]]) -> None:
        """Append records; they survive a kill of this process from here on."""
        try:
            for record in records:
                self.records[record["key"]] = record
                self._file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path.parent) from error

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def task_of(
    item: Item, mask: str | None, structures: dict[int, str], out: Path, limits: Limits, secret: bytes, source: Path
) -> Task:
    """The task that stores a study; its key changes with the files, the reader, the limits and the mask."""
    parts = [
        str(READER_VERSION),
        item.reader,
        item.member,
        str(item.row),
        repr(limits),
        *(_stamp(f, source) for f in item.files),
    ]
    if mask is not None:
        parts += [_stamp(mask, source), *map(str, sorted(structures))]
    return Task(
        code(secret, "source", "|".join(parts), 32),
        item,
        out,
        limits,
        secret,
        mask,
        tuple(sorted(structures)) if mask else (),
    )


def _stamp(file: str, source: Path) -> str:
    """Name, size and time of change: the same file, unless somebody tries hard."""
    facts = os.stat(file)
    return f"{os.path.relpath(file, source)}:{facts.st_size}:{facts.st_mtime_ns}"


def structures_of(
    masks: dict[str, str], options: ScanOptions, limits: Limits, journal: Journal, secret: bytes, source: Path
) -> dict[int, str]:
    """Mask value -> structure name: as given, else every value found in any mask."""
    if not masks or options.structures:
        if 0 in options.structures:
            raise UserError("0 is the background, not a structure", case="structures", fix="leave 0 out")
        return dict(options.structures) if masks else {}
    values: set[int] = set()
    for path in sorted(set(masks.values())):
        key = code(secret, "mask values", f"{READER_VERSION}|{_stamp(path, source)}", 32)
        if key not in journal.records:
            journal.add([{"key": key, "values": mask_values(path, limits)}])
        values |= set(journal.records[key]["values"])
    if len(values) > 1:
        values.discard(IGNORE)
    if len(values) > 64:
        raise UserError(
            f"the masks hold {len(values)} different values",
            case="masks",
            fix="name the structures with structures={VALUE: NAME}",
        )
    if not values:
        raise UserError(
            "no mask holds anything but background", case="masks", fix="check the mask files or leave masks out"
        )
    return {v: f"structure_{v}" for v in sorted(values)}
