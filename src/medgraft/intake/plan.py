"""What a scan is going to read: items, found in a folder and grouped into studies."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from medgraft.errors import UserError
from medgraft.intake.read import SUFFIXES, VOLUMES, Reject, Unreadable, sniff, stem_of, suffix_of
from medgraft.notices import Notice


@dataclass(frozen=True)
class Item:
    """One study to read: a file, the slices of a series, the frames of a video, or a row of an archive.

    ``key`` is its name within the source, unique; ``reader`` a line of the reader table, ``series``,
    ``frames`` or ``npz``; ``ids`` are further names by which labels may call it.
    """

    key: str
    files: tuple[str, ...]
    reader: str
    stem: str
    paths: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    member: str = ""  # npz: the array and its row
    row: int = -1
    notes: tuple[str, ...] = ()
    fragile: bool = False  # its decoder may crash on damaged data: never read in the scan's own process


@dataclass(frozen=True)
class Plan:
    """What a layout found. ``fixed`` are scan options that the layout knows by itself."""

    items: list[Item]
    table: pl.DataFrame | None = None
    fixed: dict[str, Any] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)


def walk(source: Path, skip: set[Path], follow_links: bool) -> tuple[list[str], list[Reject]]:
    """Relative paths of all files below a folder, sorted; hidden ones and those in ``skip`` are left out.

    Links that lead out of the folder are rejected unless ``follow_links``; so are links that lead in circles or
    nowhere, pipes and devices. A folder is entered once, whatever leads to it.
    """
    root = source.resolve()
    found: list[str] = []
    rejects: list[Reject] = []
    seen = {root}

    def failed(error: OSError) -> None:
        name = Path(error.filename).name if error.filename else "folder"
        rejects.append(Reject(name, f"the folder cannot be read ({error.strerror})", "check its rights"))

    for folder, folders, files in os.walk(source, followlinks=follow_links, onerror=failed):
        here = Path(folder)
        kept = []
        for name in sorted(d for d in folders if not d.startswith(".") and here / d not in skip):
            target = _resolved(here / name)
            if target is not None and target not in skip and target not in seen:
                seen.add(target)
                kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            path = here / name
            if name.startswith(".") or path in skip:
                continue
            relative = path.relative_to(source).as_posix()
            target = _resolved(path)
            if target is None or not target.exists():
                rejects.append(Reject(relative, "a link that leads nowhere or in a circle", "copy the file itself"))
            elif path.is_symlink() and not follow_links and not target.is_relative_to(root):
                rejects.append(
                    Reject(
                        relative,
                        "a link that leaves the source folder",
                        "copy the file itself, or say follow_links=true",
                    )
                )
            elif target in skip:
                continue
            elif target.is_file():
                found.append(relative)
            else:
                rejects.append(Reject(relative, "a pipe or a device, not a file", "leave it out"))
    return sorted(found), rejects


def _resolved(path: Path) -> Path | None:
    """Where a path leads; ``None`` for links in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def discover(source: Path, files: list[str], frames: str | None = None) -> tuple[list[Item], list[Reject], list[str]]:
    """Items among files, rejects, and bystanders (files that neither are nor claim to be studies).

    ``frames`` as in ``ScanOptions``: whether the pictures of a folder are the frames of one video.
    """
    from medgraft.intake.dicom.header import group_key
    from medgraft.intake.volume import voxel_file

    items: list[Item] = []
    rejects: list[Reject] = []
    ignored: list[str] = []
    pictures: list[Item] = []
    series: dict[str, list[str]] = defaultdict(list)  # by series, orientation and size
    uid_of: dict[str, str] = {}
    risky: set[str] = set()
    for relative in files:
        path = source / relative
        try:
            reader = sniff(path)
            beside = voxel_file(path, reader.name) if reader is not None and reader.name in VOLUMES else None
        except Unreadable as error:
            rejects.append(Reject(relative, error.cause, error.fix))
            continue
        except Exception as error:
            rejects.append(
                Reject(relative, f"not a whole header ({type(error).__name__})", "copy the file again from its source")
            )
            continue
        if reader is None:
            if suffix_of(path) in SUFFIXES:
                rejects.append(Reject(relative, *_unknown(path)))
            else:
                ignored.append(relative)
            continue
        if reader.name == "dicom":
            try:
                uid, part, slice_like, fragile = group_key(path)
            except Exception as error:
                rejects.append(
                    Reject(
                        relative,
                        f"not a whole DICOM header ({type(error).__name__})",
                        "copy the file again from its source",
                    )
                )
                continue
            if fragile:
                risky.add(relative)
            if slice_like:
                series[part].append(relative)
                uid_of[part] = uid
                continue
        held = (str(path),) if beside is None else (str(path), str(beside))
        item = Item(relative, held, reader.name, stem_of(path.name), (relative,))
        (pictures if reader.name in ("png", "jpeg", "bmp", "tiff") else items).append(item)
    items += pictures if frames == "files" else _videos_of(pictures, frames == "folder", source)
    folders = {part: {Path(m).parent.as_posix() for m in members} for part, members in series.items()}
    held_by = Counter(folder for some in folders.values() for folder in some)
    for part, members in series.items():
        uid = uid_of[part]
        if len(members) == 1:
            items.append(
                Item(
                    members[0],
                    (str(source / members[0]),),
                    "dicom",
                    stem_of(Path(members[0]).name),
                    (members[0],),
                    (uid,),
                )
            )
            continue
        folder = Path(os.path.commonpath([str(Path(m).parent) for m in members])).as_posix()
        alone = held_by[folder] == (folder in folders[part])  # no file of another series lies there
        name = folder if folder not in ("", ".") and alone else members[0]
        ids = (uid, Path(name).name)
        files_of = tuple(str(source / m) for m in sorted(members))
        items.append(Item(name, files_of, "series", stem_of(Path(name).name), (name, *members), ids))
    items = [replace(item, fragile=True) if not risky.isdisjoint(item.paths) else item for item in items]
    items.sort(key=lambda item: item.key)
    return items, rejects, ignored


def _unknown(path: Path) -> tuple[str, str]:
    """Why a file with a study's suffix is none, and what to do."""
    with open(path, "rb") as stream:
        head = stream.read(2)
    if head == b"\x1f\x8b":
        return "a gzip file that holds no NIfTI", "unpack it"
    return "its content is no format that medgraft reads", "convert it to PNG, DICOM, AVI, MP4 or NIfTI"


_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_FRAME_WORDS = ("frame", "frames", "fr", "frm", "img_frame", "image_frame")
_FEWEST_FRAMES = 8


def _videos_of(pictures: list[Item], asked: bool, source: Path) -> list[Item]:
    """Pictures that are the frames of one video as one item, the others as they are.

    Frames are pictures of one folder whose names differ in their last number only. When not asked for, the names
    must leave no doubt: a prefix that says ``frame``, or ``<case>_<video>_<index>`` in a folder called ``<case>``,
    eight or more, counted without a gap. A folder of pictures that are merely numbered stays pictures.
    """
    groups: dict[tuple[str, str], list[tuple[int, Item]]] = defaultdict(list)
    rest: list[Item] = []
    for item in pictures:
        found = _NUMBERED.match(item.stem)
        if found is None:
            rest.append(item)
        else:
            groups[Path(item.key).parent.as_posix(), found.group(1)].append((int(found.group(2)), item))
    alone: dict[str, int] = defaultdict(int)
    for folder, _ in groups:
        alone[folder] += 1
    for (folder, prefix), members in groups.items():
        members.sort(key=lambda pair: (pair[0], pair[1].key))
        numbers = [number for number, _ in members]
        base = prefix.rstrip("_-. ")
        place = Path(folder).name
        case, _, number = base.rpartition("_")
        exported = case == place and number.isdigit()
        whole = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        sure = whole and len(members) >= _FEWEST_FRAMES and folder != "." and (exported or base.lower() in _FRAME_WORDS)
        if len(members) < 2 or not (asked or sure):
            rest += [item for _, item in members]
            continue
        base = "" if base.lower() in _FRAME_WORDS else base
        single = alone[folder] == 1 and folder != "."
        name = base if exported or (not single and base) else place
        key = folder if single else f"{folder}/{name}" if folder != "." else name
        held = [item for _, item in members]
        notes: tuple[str, ...] = (
            () if asked else ("numbered pictures read as the frames of one video; frames=files keeps them pictures",)
        )
        notes += () if whole else ("numbers of frames are missing",)
        names = (key, *(i.key for i in held))
        ids = tuple(dict.fromkeys(n for n in (name, base, place if single else "") if n))
        rest.append(
            Item(
                key or source.name,
                tuple(i.files[0] for i in held),
                "frames",
                name or source.name,
                names,
                ids,
                notes=notes,
            )
        )
    return rest


def mask_files(source: Path, masks: str, items: list[Item]) -> tuple[dict[str, str], list[Reject]]:
    """Masks in a parallel folder: item key -> mask file, by relative path, name or stem."""
    folder = source / masks if (source / masks).is_dir() else Path(masks)
    if not folder.is_dir():
        raise UserError(
            "neither a column of the labels nor a folder",
            case=f"masks={masks}",
            fix="give masks=COLUMN or masks=FOLDER",
        )
    by: dict[str, set[str]] = defaultdict(set)
    files, rejects = walk(folder, set(), False)
    for relative in files:
        by[stem_of(relative)].add(relative)
        by[stem_of(relative.rsplit("/", 1)[-1])].add(relative)
    found: dict[str, str] = {}
    for item in items:
        parts = stem_of(item.key).split("/")
        for name in ("/".join(parts), "/".join(parts[1:]), parts[-1]):
            if len(by.get(name, ())) == 1:
                found[item.key] = str(folder / next(iter(by[name])))
                break
    return found, rejects
