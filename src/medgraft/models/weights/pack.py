"""Weight files on their way to a machine without a network: packed with a list of what they are, checked on arrival.

A pack is a folder, or an uncompressed tar file, with ``manifest.json`` first and the weight files after it
under ``weights/``. The manifest gives each file's size, sha256, cards, licences and sources.

A tar file comes from strangers, so it is read by the rules of a pack and no others: plain files, each named
in the manifest, each of its size. Links, devices, folders, long names, sparse files and whatever else tar
can hold are refused, and a file lands in the folder of weights only when all of them are whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from medgraft.errors import UserError, WeightsAbsent
from medgraft.files import sha256
from medgraft.models import registry
from medgraft.models.records import WeightCard
from medgraft.models.weights import convert
from medgraft.models.weights.cards import cards as cards_by_name
from medgraft.models.weights.cards import find_card
from medgraft.models.weights.locate import default_cache, locate, verify
from medgraft.progress import bar

MANIFEST = "manifest.json"
FOLDER = "weights"
VERSION = 1
MANIFEST_BYTES = 8 << 20
FILES = 10_000
TAR_BYTES = 8**11 - 1  # the largest size that the plain tar header can write
_BLOCK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,90}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices on Windows, with any suffix


@dataclass(frozen=True)
class Entry:
    """One file of a pack."""

    file: str
    sha256: str
    bytes: int
    cards: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    source_data: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packed:
    """What was packed, and the named cards whose file is not here."""

    path: Path
    entries: tuple[Entry, ...]
    absent: tuple[str, ...] = ()

    def text(self) -> str:
        lines = [f"{e.file}  {e.bytes / 1e6:.0f} MB  {', '.join(e.licences)}" for e in self.entries]
        total = sum(e.bytes for e in self.entries)
        lines.append(
            f"{_count(len(self.entries))}, {total / 1e6:.0f} MB, in {self.path}; there: medgraft weights unpack "
            f"{self.path.name}"
        )
        if self.absent:
            lines.append(f"not here, so not packed: {', '.join(self.absent)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Unpacked:
    """What was put where: new files, those that were there already, and those that no card of this version names."""

    folder: Path
    placed: tuple[str, ...]
    there: tuple[str, ...]
    unknown: tuple[str, ...] = field(default=())

    def text(self) -> str:
        lines = [f"{_count(len(self.placed))} put into {self.folder}, every hash checked"]
        if self.there:
            lines.append(f"{_count(len(self.there))} there already")
        if self.unknown:
            lines.append(f"without a card of this version, checked against the pack alone: {', '.join(self.unknown)}")
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------- pack


def cards_of(names: Sequence[str]) -> list[WeightCard]:
    """The cards of networks (``r2plus1d_34``, ``torchvision:resnet50``) or of full card names; all of the zoo where
    none is named.
    """
    if not names:
        return [card for name in registry.names() for card in cards_by_name(name)]
    found = []
    for name in names:
        card = card_named(name)
        found += [card] if card is not None else cards_by_name(name)
    return found


def card_named(name: str) -> WeightCard | None:
    """The card of that full name, or None."""
    try:
        card = find_card(name.partition(".")[0], name)
    except UserError:
        return None
    return card if card is not None and card.name.lower() == name.lower() else None


def pack(out: Path, cards: Sequence[WeightCard], *, folders: Sequence[Path] = (), cache: Path | None = None) -> Packed:
    """Collect the files of these cards that are on this machine into ``out``: a tar file by its name, else a new
    folder.

    Every file is verified as ``weights.locate`` does; nothing is downloaded. Raises ``UserError`` where none is
    here, where ``out`` exists, and for two different files of one name.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError("there is something of that name already", case=str(out), fix="name a new file or folder")
    sources: dict[str, Path] = {}
    entries: dict[str, Entry] = {}
    absent: list[str] = []
    with bar(len(cards), "checking", transient=True) as step:
        for card in cards:
            try:
                path = locate(card, folders=folders, cache=cache)
            except WeightsAbsent:
                absent.append(card.name)
                continue
            finally:
                step(1)
            for file, source in _files(card, path).items():
                _add(entries, sources, file, source, card)
    if not entries:
        raise UserError(
            "no weight file of these networks is on this machine",
            case=", ".join(c.name for c in cards[:5]),
            fix="fetch one first",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = tuple(entries[name] for name in sorted(entries))
    with (
        tempfile.TemporaryDirectory(prefix=".pack-", dir=out.parent) as place,
        bar(sum(e.bytes for e in rows), "packing", rate="bytes/s", transient=True) as step,
    ):
        made = Path(place) / out.name
        if out.suffix == ".tar":
            _write_tar(made, rows, sources, step)
        else:
            _write_folder(made, rows, sources, step)
            if out.is_dir():
                out.rmdir()
        os.replace(made, out)
    return Packed(out, rows, tuple(absent))


def _files(card: WeightCard, path: Path) -> dict[str, Path]:
    """The file of a card under the name that it is looked for by; a converted one with the note of its hashes."""
    if path.name == convert.twin(Path(card.file_name)).name != card.file_name:
        note = path.with_name(path.name + ".sha256")
        return {path.name: path, note.name: note}
    return {card.file_name: path}


def _add(entries: dict[str, Entry], sources: dict[str, Path], file: str, source: Path, card: WeightCard) -> None:
    if not _plain(file):
        raise UserError("the file's name cannot be packed", case=f"{card.name}: {file}", fix="rename it")
    old = entries.get(file)
    digest = old.sha256 if old is not None and sources[file] == source else sha256(source)
    if old is not None and old.sha256 != digest:
        raise UserError(f"two different files are called {file}", case=card.name, fix="pack them apart")
    sources[file] = source
    entries[file] = Entry(
        file,
        digest,
        source.stat().st_size,
        *(
            tuple(dict.fromkeys([*before, *new]))
            for before, new in (
                (old.cards if old else (), (card.name,)),
                (old.licences if old else (), (card.licence,)),
                (old.source_data if old else (), (card.source_data,)),
                (old.addresses if old else (), card.addresses),
            )
        ),
    )


def _manifest(rows: Sequence[Entry]) -> bytes:
    return (json.dumps({"medgraft_weights": VERSION, "files": [vars(row) for row in rows]}, indent=1) + "\n").encode(
        "ascii"
    )


def _write_tar(path: Path, rows: Sequence[Entry], sources: dict[str, Path], step: Callable[[int], None]) -> None:
    """The same bytes for the same files: no times, no owners."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        listed = _manifest(rows)
        archive.addfile(_member(MANIFEST, len(listed)), io.BytesIO(listed))
        for row in rows:
            if row.bytes > TAR_BYTES:
                raise UserError(
                    f"{row.file} is too large for a tar file", case=str(path.name), fix="pack into a folder"
                )
            with open(sources[row.file], "rb") as source:
                archive.addfile(_member(f"{FOLDER}/{row.file}", row.bytes), source)
            step(row.bytes)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _write_folder(path: Path, rows: Sequence[Entry], sources: dict[str, Path], step: Callable[[int], None]) -> None:
    (path / FOLDER).mkdir(parents=True)
    (path / MANIFEST).write_bytes(_manifest(rows))
    for row in rows:
        shutil.copyfile(sources[row.file], path / FOLDER / row.file)
        step(row.bytes)


# ---------------------------------------------------------------------------------------- unpack


def unpack(source: Path, *, into: Path | None = None) -> Unpacked:
    """Check every file of a pack (tar file or folder) and put it into a folder of weights (default: the cache).

    Nothing is put there unless the whole pack is as its manifest says and every file is the one that its cards
    name. A file of the same name with other bytes stays, and the pack is refused. Raises ``UserError``.
    """
    source = Path(source)
    into = Path(into) if into is not None else default_cache()
    if not source.exists():
        raise UserError("no such pack", case=str(source))
    try:
        into.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".unpack-", dir=into)
    except OSError as error:
        raise UserError(
            f"the folder for weights cannot be written to ({error.strerror})",
            case=str(into),
            fix="name another with into=",
        ) from error
    with place as name:
        stage = Path(name)
        parts = _folder_parts(source) if source.is_dir() else _tar_parts(source)
        try:
            rows = _stage(parts, stage, source, into)
        finally:
            parts.close()
        unknown = [row.file for row in rows if not _known(row, stage, source)]
        there = [row for row in rows if (into / row.file).exists()]
        for row in there:
            if not (into / row.file).is_file() or sha256(into / row.file) != row.sha256:
                raise UserError(
                    f"another {row.file} is there already",
                    case=str(into),
                    fix="move it away, or unpack into another folder",
                )
        placed = [row.file for row in rows if row not in there]
        for file in placed:
            os.replace(stage / file, into / file)
    return Unpacked(
        into, tuple(placed), tuple(row.file for row in there), tuple(f for f in unknown if not f.endswith(".sha256"))
    )


Part = tuple[str, int, IO[bytes]]  # name within the pack, bytes, where to read them


def _stage(parts: Iterator[Part], stage: Path, source: Path, into: Path) -> list[Entry]:
    """Write the files of a pack into ``stage``, each checked against the manifest; all of them must come, and once."""
    first = next(parts, None)
    if first is None or first[0] != MANIFEST or first[1] > MANIFEST_BYTES:
        raise _refused(source, f"it does not begin with a {MANIFEST}")
    rows = _read_manifest(first[2].read(first[1]), source)
    waiting = {f"{FOLDER}/{row.file}": row for row in rows}
    total = sum(row.bytes for row in rows)
    if total > shutil.disk_usage(into).free:
        raise UserError(
            f"the pack needs {total / 1e9:.1f} GB, more than is free",
            case=str(into),
            fix="make room or name another folder with into=",
        )
    with bar(total, "unpacking", rate="bytes/s", transient=True) as step:
        for name, size, stream in parts:
            row = waiting.pop(name, None)
            if row is None:
                raise _refused(source, f"it holds {name[:100]!r}, which its manifest does not name, or names once")
            if size != row.bytes:
                raise _refused(source, f"{row.file} has {size} bytes, its manifest says {row.bytes}")
            digest = hashlib.sha256()
            with open(stage / row.file, "xb") as sink:
                left = size
                while left:
                    block = stream.read(min(_BLOCK, left))
                    if not block:
                        raise _refused(source, f"{row.file} is cut off")
                    digest.update(block)
                    sink.write(block)
                    left -= len(block)
                    step(len(block))
            if digest.hexdigest() != row.sha256:
                raise _refused(source, f"{row.file} has sha256 {digest.hexdigest()}, its manifest says {row.sha256}")
    if waiting:
        raise _refused(source, f"{next(iter(waiting.values())).file} is missing")
    return rows


def _known(row: Entry, stage: Path, source: Path) -> bool:
    """Does a card of this version name the file? Then its hash must be the card's: a manifest vouches for transport,
    not for origin.
    """
    found = [card for name in row.cards if (card := card_named(name)) is not None]
    for card in found:
        converted = convert.twin(Path(card.file_name)).name
        try:
            if row.file == card.file_name:
                verify(stage / row.file, card)
            elif row.file == converted:
                convert.checked(stage / row.file, source=card.sha256)
            elif row.file != converted + ".sha256":
                raise UserError(f"it gives {row.file} for {card.name}, whose file is {card.file_name}")
        except UserError as error:
            raise _refused(source, error.cause) from error
    return bool(found)


def _read_manifest(data: bytes, source: Path) -> list[Entry]:
    try:
        listed = json.loads(data)
        version, files = listed["medgraft_weights"], listed["files"]
        if not isinstance(files, list) or not 0 < len(files) <= FILES:
            raise ValueError("no list of files")
        rows = [_entry(row) for row in files]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(source, f"its {MANIFEST} is not one of a pack") from error
    if version != VERSION:
        raise UserError(
            f"the pack has version {version!r:.20}", case=source.name, fix="unpack it with the medgraft that packed it"
        )
    if len({row.file.lower() for row in rows}) != len(rows):
        raise _refused(source, "its manifest names a file twice")
    return rows


def _entry(row: Any) -> Entry:
    texts = {key: tuple(row[key]) for key in ("cards", "licences", "source_data", "addresses")}
    entry = Entry(row["file"], row["sha256"], row["bytes"], **texts)
    if (
        not isinstance(entry.file, str)
        or not _plain(entry.file)
        or not isinstance(entry.sha256, str)
        or not re.fullmatch("[0-9a-f]{64}", entry.sha256)
    ):
        raise ValueError("no plain name and hash")
    if (
        type(entry.bytes) is not int
        or entry.bytes < 0
        or not all(isinstance(t, str) for words in texts.values() for t in words)
    ):
        raise ValueError("no size, or words that are none")
    return entry


def _plain(name: str) -> bool:
    """A file name that stands for itself on every system: no folder, no device, no leading or trailing dot."""
    return bool(_NAME.fullmatch(name)) and not name.endswith(".") and not _RESERVED.fullmatch(name)


def _tar_parts(path: Path) -> Generator[Part, None, None]:
    """The members of a tar file in order, header by header; anything but a plain file ends it."""
    with open(path, "rb") as stream:
        while True:
            block = stream.read(tarfile.BLOCKSIZE)
            if not block.strip(b"\0"):
                return  # the zeros at the end, or the end itself
            try:
                member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as error:
                raise _refused(path, "it is no plain tar file, or cut off") from error
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.size < 0:
                raise _refused(path, f"{member.name[:100]!r} in it is not a plain file")
            begin = stream.tell()
            yield member.name, member.size, stream
            stream.seek(begin + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)


def _folder_parts(path: Path) -> Generator[Part, None, None]:
    """The files of a packed folder, the manifest first; links are not followed."""
    inside = sorted(p for p in path.iterdir() if p.name != FOLDER)
    below = path / FOLDER
    if below.is_symlink() or not below.is_dir():
        raise _refused(path, f"it has no folder {FOLDER}")
    inside.sort(key=lambda p: p.name != MANIFEST)
    for part in [*inside, *sorted(below.iterdir())]:
        facts = part.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise _refused(path, f"{part.name!r} in it is not a plain file")
        with open(part, "rb") as stream:
            yield part.relative_to(path).as_posix(), facts.st_size, stream


def _count(files: int) -> str:
    return f"{files} file" if files == 1 else f"{files} files"


def _refused(source: Path, why: str) -> UserError:
    return UserError(
        f"the pack is refused: {why}",
        case=source.name,
        fix="pack it again with `medgraft weights pack`, or do not trust it",
    )
