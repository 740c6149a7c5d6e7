"""``scan``: a folder of raw studies and its labels become a data set. A second scan does only what is new.

Every finished study is one line of ``scan.journal.jsonl`` in the data set folder, written when its array is
whole on disk. A killed scan therefore loses nothing but the studies in hand; tables are made from the journal
and the labels, so new labels need no new decoding. The journal knows files by a keyed hash of name, size and
time of change; names stay out of the data set: patients, studies, cases, sites and rejected files appear as
keyed codes unless ``identity=keep`` is said. What each code means stands in ``.medgraft-sources-<data set>.json``
beside the data set, readable by its owner only (see docs/privacy.md).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import io
import json
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator

import medgraft
from medgraft import progress, store, tables
from medgraft.errors import UserError
from medgraft.files import cores, disk_error, no_formula, write_json, write_text
from medgraft.intake import deidentify, export, labels, plan, text, work
from medgraft.intake.keys import Names, append_private, code, load_key, shape_of, write_private
from medgraft.intake.labels import Matched, Reject, Target
from medgraft.intake.layouts import find_layout
from medgraft.intake.plan import Item, Plan
from medgraft.intake.read import Limits, stem_of

READER_VERSION = 3  # raise when readers store other values than before: everything is then read again
JOURNAL = "scan.journal.jsonl"
_SMALL = 32 << 20  # bytes of sources below which starting processes costs more than it saves
_CHUNK = 8  # studies in one message to a worker
Records = list[dict[str, Any]]
_TABLES_EVERY = 120.0  # seconds between tables written while the scan goes on


class ScanOptions(BaseModel):
    """The knobs of ``medgraft scan``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = Field(None, description="data set folder to write; default datasets/<name of the source>")
    labels: str | None = Field(
        None,
        description="CSV or Excel file (looked up in SOURCE, then here), or `folders`: the first folder level is the "
        "class",
    )
    id: str | None = Field(None, description="column that names the files; default: the column with most matches")
    patient: str | None = Field(
        None,
        description="column of patients; `header` (DICOM, as a keyed code), `folder`, or `none` (said explicitly; "
        "every report then warns)",
    )
    target: list[str] = Field([], description="label columns; default: the one called label, target, class, ...")
    positive: str | None = Field(
        None, description="positive class of a two-class target; default: the last in sorted order"
    )
    type: Literal["classify", "regress"] | None = Field(
        None, description="what the targets are; default: told from their values"
    )
    target_unit: str | None = Field(None, description="unit of a quantity, for the report (e.g. %, ml)")
    split: list[str] = Field([], description="columns with predefined parts (train, val, test), kept as split.<column>")
    facts: list[str] = Field(
        [],
        description="columns kept as fact.<column>, for the audit (e.g. view, age, probe); nothing that names a person",
    )
    study: str | None = Field(None, description="column of studies")
    site: str | None = Field(None, description="column of sites")
    device: str | None = Field(None, description="column of devices")
    masks: str | None = Field(None, description="column with mask files, or a folder of masks with the images' names")
    structures: dict[int, str] = Field(
        {}, description="names of mask values, e.g. {1: anterior, 2: posterior}; default: the values found"
    )
    colour: bool = Field(False, description="keep three channels (only where colour carries information)")
    frames: Literal["folder", "files"] | None = Field(
        None,
        description="`folder`: numbered pictures of one folder are the frames of one video; `files`: never; default: "
        "where names leave no doubt",
    )
    export: Path | None = Field(
        None, description="also write every frame of images and videos below this folder, <tumour>_<video>_<index>.bmp"
    )
    export_as: Literal["bmp", "png"] = Field("bmp", description="format of exported frames")
    unit: Literal["display", "HU", "raw"] | None = Field(None, description="value unit, where the files do not say it")
    label_level: Literal["case", "study", "patient"] = Field("case", description="the level at which labels live")
    layout: str | None = Field(
        None, description="rsna, medmnist or folder; default: told from the source, folder where labels=FILE is given"
    )
    name: str | None = Field(None, description="name of the data set; default: name of its folder")
    identity: Literal["code", "keep"] = Field(
        "code",
        description="patients, studies, cases and sites as keyed codes, or as they are called (public data only; said "
        "in every report)",
    )
    text: Literal["none", "list", "black", "black_all"] = Field(
        "none",
        description="search pixels for burnt-in text (1 to 3 s a frame looked at) and list it, black out what may "
        "name someone, or all of it",
    )
    deidentified: Path | None = Field(
        None, description="folder for de-identified copies of the DICOM files (PS3.15); needs text=list or black"
    )
    dates: Literal["shift", "drop"] = Field(
        "shift", description="days of acquisition: shifted by a keyed offset a patient, or left out"
    )
    workers: int | None = Field(None, ge=1, description="processes; default: the cores, or one for little data")
    max_pixels: int = Field(120_000_000, ge=1, description="most pixels of one frame")
    max_mib: int = Field(8192, ge=1, description="most decoded MiB of one study")
    follow_links: bool = Field(False, description="follow links that leave the source folder")
    progress: bool | None = Field(None, description="show progress; default: on a terminal")

    @field_validator("labels", "id", "patient", "positive", "study", "site", "device", "masks", "name", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @field_validator("target", "split", "facts", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [] if value is None else [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


@dataclass(frozen=True)
class ScanReport:
    """What a scan did. ``rejected`` counts lines of ``rejects.csv``; a shell should see them as exit status 3."""

    out: Path
    name: str
    cases: int
    patients: int
    new: int
    known: int
    rejected: int
    ignored: int
    kinds: dict[str, int]
    classes: dict[str, dict[str, int]]
    mapping: list[dict[str, Any]]
    warnings: list[str]
    notes: list[str]
    seconds: float
    reasons: dict[str, int] = field(default_factory=dict)
    exported: str = ""
    copies: str = ""

    def text(self) -> str:
        """For a terminal: counts, the mapping of columns, classes, warnings, and where things lie."""
        kinds = ", ".join(f"{n} {kind}s" for kind, n in self.kinds.items()) or "nothing"
        lines = [
            f"{self.name}: {self.cases} cases ({kinds}) of {self.patients} patients; {self.new} read now, "
            f"{self.known} known; {self.seconds:.1f} s"
        ]
        for entry in self.mapping:
            how = f" by {entry['matched by']}" if entry["matched by"] else ""
            shown = ", ".join(map(str, entry["examples"]))
            lines.append(
                f"  {entry['role']:<8} <- column {entry['column']}{how}: {entry['matched']} of {entry['rows']} "
                f"({shown}, ...)"
            )
        for target, counts in self.classes.items():
            lines.append(f"  {target}: " + ", ".join(f"{c} {n}" for c, n in counts.items()))
        lines += [f"warning: {w}" for w in self.warnings] + [f"note: {n}" for n in self.notes]
        if self.ignored:
            lines.append(f"{self.ignored} other files are no studies and were left alone")
        if self.rejected:
            lines.append(f"{self.rejected} rejected, see {self.out / 'rejects.csv'}:")
            lines += [f"  {n} x {reason}" for reason, n in list(self.reasons.items())[:8]]
        lines += [line for line in (self.exported, self.copies) if line]
        lines.append(f"data set {self.out}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Wanted:
    """The resolved roles of label columns, after the layout had its say."""

    patient: str
    targets: list[str]
    split: list[str]
    facts: list[str]
    matched: Matched | None


def scan(source: str | os.PathLike[str], options: ScanOptions) -> ScanReport:
    """Scan ``source`` (a folder, or one ``.npz`` archive) into the data set folder ``options.out``.

    Studies that cannot be read become lines of ``rejects.csv`` and the rest goes on. Raises ``UserError``
    when the source, the labels or the options are wrong, or the disk refuses.
    """
    began = time.monotonic()
    source = Path(source)
    if not source.exists():
        raise UserError("no such file or folder", case=str(source), fix="give the folder that holds the studies")
    if options.deidentified is not None and options.identity == "keep":
        raise UserError("identity=keep and deidentified= exclude each other", fix="leave identity=keep out")
    if options.deidentified is not None and options.text == "none":
        raise UserError(
            "copies whose pixels were not searched are not de-identified",
            fix="say text=black, or text=list to refuse files with text",
        )
    out = options.out or Path("datasets") / (source.stem if source.is_file() else source.resolve().name)
    options = options.model_copy(update={"out": out})
    layout = find_layout(source, options.layout, options.labels)
    found: Plan = layout.plan(source, options)
    options = options.model_copy(update={k: v for k, v in found.fixed.items() if not getattr(options, k)})
    table = _folder_table(found.items) if options.labels == "folders" else found.table
    rejects = list(found.rejects)
    wanted = _match(table, found.items, options)
    items = found.items
    if wanted.matched is not None:
        rejects += _spared(wanted.matched.rejects, found.rejects)
        named = {r.source for r in rejects}
        for item in items:
            if item.key not in wanted.matched.rows and item.key not in named:
                rejects.append(Reject(item.key, "no label", "add a row to the labels table or leave the file out"))
        items = [i for i in items if i.key in wanted.matched.rows]
    if not items and not rejects:
        raise UserError(
            "holds no study", case=str(source), fix="give a folder with PNG, JPEG, DICOM, AVI, MP4, NIfTI or NPZ files"
        )
    masks, items, more = _masks(source, table, items, wanted, options)
    rejects += more
    patients = _patients(items, wanted)
    if options.identity == "code":
        _nameless(wanted)

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    secret = load_key(out.parent)
    outside = Names(secret, options.identity == "keep")
    names = plan.unique_names(items) if outside.keep else plan.coded_names(items, outside, options.name or out.name)
    patients = (
        {k: outside.of("patient", p) for k, p in patients.items()}
        if patients
        else names
        if wanted.patient == "none"
        else {}
    )
    limits = Limits(options.max_pixels, options.max_mib << 20, options.colour)
    with Journal(out / JOURNAL) as journal:
        store.clean(out)
        structures = _structures(masks, options, limits, journal, secret, source)
        tasks = [_task(item, masks.get(item.key), structures, out, limits, secret, source) for item in items]
        pixels = _Pixels(out, options, journal, secret)
        todo = [t for t in tasks if not _kept(pixels, journal.records.get(t.key), out)]
        if (
            not outside.keep
        ):  # the order in which the journal grows must not tell the order of names; rows of archives are read in theirs
            todo.sort(key=lambda t: ("", t.item.row) if t.item.row >= 0 else (t.key, 0))
        compose = _Composer(
            out,
            source,
            options,
            found,
            wanted,
            items,
            names,
            patients,
            tasks,
            structures,
            rejects,
            journal,
            outside,
            pixels,
        )
        _write_sources(out, source, items, names, outside)  # before a code can appear anywhere
        _read_all(todo, journal, options, compose)
        pixels.search([study for _, study in compose.cases([])])
        copies = _copies(compose) if options.deidentified is not None else 0
        manifest, info, all_rejects = compose(True)
    exported = 0
    if options.export is not None:
        of_case = {names[i.key]: i.key for i in items}
        tumours = export.video_names(
            {c: of_case[c] for c in manifest["case_id"]}, lambda name: outside.of("case", name)
        )
        exported = export.write_frames(out, manifest, tumours, options.export, options.export_as)
    _write_sources(out, source, items, names, outside)
    reasons = Counter(r.reason for r in all_rejects)
    return ScanReport(
        out=out,
        name=info["name"],
        cases=manifest.height,
        patients=manifest["patient_id"].n_unique(),
        new=len(todo),
        known=len(tasks) - len(todo),
        rejected=len(all_rejects),
        ignored=len(found.ignored),
        kinds=dict(sorted(Counter(manifest["kind"].to_list()).items())),
        classes={t: facts["counts"] for t, facts in info["targets"].items() if facts["counts"]},
        mapping=info["mapping"],
        warnings=info["warnings"],
        notes=info["notes"],
        seconds=time.monotonic() - began,
        reasons=dict(reasons.most_common()),
        exported=f"{exported} frames in {options.export}" if options.export is not None else "",
        copies=f"{copies} de-identified files in {options.deidentified}" if options.deidentified is not None else "",
    )


# ------------------------------------------------------------------------------------------ labels


def _folder_table(items: list[Item]) -> pl.DataFrame:
    """Labels from folders: the first level below the source is the class, the second may be the patient."""
    rows = [(i.key, i.key.split("/")[0] if "/" in i.key else None) for i in items]
    table = pl.DataFrame(rows, schema={"path": pl.String, "label": pl.String}, orient="row").drop_nulls()
    if not table.height:
        raise UserError(
            "labels=folders, but no study lies in a sub-folder", fix="put each class into a folder of its own"
        )
    return table


def _match(table: pl.DataFrame | None, items: list[Item], options: ScanOptions) -> Wanted:
    """Which column plays which role, and which row belongs to which item."""
    if table is None:
        for role in ("id", "study", "site", "device", "facts"):
            if getattr(options, role):
                raise UserError(
                    f"{role}={getattr(options, role)} names a column, but there are no labels", fix="give labels=FILE"
                )
        if options.patient is None:
            raise UserError(
                "there are no labels that could name the patients",
                fix="give labels=FILE patient=COLUMN; or say patient=header (DICOM), patient=folder or patient=none",
            )
        if options.patient not in ("none", "header", "folder"):
            raise UserError(
                f"patient={options.patient} names a column, but there are no labels",
                fix="give labels=FILE, or patient=none",
            )
        return Wanted(options.patient, [], [], [], None)
    columns = table.columns
    mask_column = options.masks if options.masks in columns else None
    patient = options.patient
    if patient is None:
        likely = [c for c in columns if c.lower() in labels.PATIENT_NAMES]
        raise UserError(
            "which column names the patient?",
            fix=f"say patient={likely[0] if likely else 'COLUMN'}, or patient=none (one case may then leak into test)",
        )
    roles = {"study": options.study, "site": options.site, "device": options.device}
    if patient not in ("none", "header", "folder"):
        roles["patient"] = patient
    for role, name in [*roles.items(), *[("split", s) for s in options.split], *[("facts", f) for f in options.facts]]:
        if name is not None and name not in columns:
            raise UserError(f"the labels have no column {name} ({role})", fix=f"columns are: {', '.join(columns)}")
    used = [c for c in [patient, mask_column, *options.split, *options.facts, *[r for r in roles.values() if r]] if c]
    targets = labels.choose_targets(table, options.target, used, mask_column is not None or options.masks is not None)
    index = labels.Index()
    for item in items:
        index.add(item.key, list(item.paths or (item.key,)), list(item.ids))
    shown = {"patient": roles.get("patient"), **{f"target {t}": t for t in targets}, "mask": mask_column}
    shown |= (
        {r: roles[r] for r in ("study", "site", "device")}
        | {f"split {s}": s for s in options.split}
        | {f"fact {f}": f for f in options.facts}
    )
    agree = [*targets, *([patient] if patient in columns else []), *options.split]
    private = [c for c in roles.values() if c]
    reserved = [mask_column] if mask_column else []
    matched = labels.match(
        table, index, id_column=options.id, reserved=reserved, targets=agree, required=shown, private=private
    )
    if options.identity == "code":
        for entry in matched.mapping:
            if not entry["role"].startswith(("target", "split", "fact")):
                entry["examples"] = list(dict.fromkeys(shape_of(str(e)) for e in entry["examples"]))
    return Wanted(patient, targets, options.split, options.facts, matched)


def _spared(from_labels: list[Reject], from_files: list[Reject]) -> list[Reject]:
    """Label rejects without those whose file is there but broken: it has its own line."""
    broken = {r.source for r in from_files} | {r.source.rsplit("/", 1)[-1] for r in from_files}
    return [r for r in from_labels if not (r.reason.endswith("absent") and (labels.normal(r.source) in broken))]


def _patients(items: list[Item], wanted: Wanted) -> dict[str, str]:
    """Item key -> patient as given. Empty for ``header``, which is known only after reading, and for ``none``."""
    if wanted.patient in ("none", "header"):
        return {}
    if wanted.patient == "folder":
        by_folder: dict[str, str] = {}
        for item in items:
            parts = item.key.split("/")
            level = (
                1
                if wanted.matched is not None
                and wanted.targets == ["label"]
                and wanted.matched.rows[item.key].values.get("label") == parts[0]
                else 0
            )
            if len(parts) < level + 2:
                above = "class folder" if level else "source"
                raise UserError(
                    f"a file lies in no patient folder, directly in the {above}",
                    fix="give patient=COLUMN or patient=none",
                )
            by_folder[item.key] = parts[level]
        return by_folder
    assert wanted.matched is not None
    given = {i.key: wanted.matched.rows[i.key].values.get(wanted.patient) for i in items}
    empty = [wanted.matched.rows[k].row for k, v in given.items() if v is None]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UserError(
            f"column {wanted.patient} names no patient for {len(empty)} cases: labels rows "
            f"{', '.join(map(str, empty[:3]))}{more}",
            fix="fill it in, or say patient=none (one person may then stand in training and test)",
        )
    return {k: v for k, v in given.items() if v is not None}


def _nameless(wanted: Wanted) -> None:
    """Refuse classes, parts and facts that look like people: their text would stand in every table and report."""
    rows = wanted.matched.rows.values() if wanted.matched is not None else ()
    for column in [*wanted.targets, *wanted.split, *wanted.facts]:
        for value in {r.values[column] for r in rows if column in r.values}:
            if labels.as_number(value) is None and re.search(r"\d{5}|\^|@", value):
                raise UserError(
                    f"values of {column} look like names or numbers of people ({shape_of(value)[:40]})",
                    fix="choose another column, or say identity=keep where the data are public",
                )


def _masks(
    source: Path, table: pl.DataFrame | None, items: list[Item], wanted: Wanted, options: ScanOptions
) -> tuple[dict[str, str], list[Item], list[Reject]]:
    """Item key -> mask file, the items that stay, and rejects.

    A case without a mask stays, untraced, if it has a label.
    """
    if options.masks is None:
        return {}, items, []
    rejects: list[Reject] = []
    if table is not None and options.masks in table.columns:
        assert wanted.matched is not None
        found: dict[str, str] = {}
        root = source.resolve()
        for item in items:
            value = wanted.matched.rows[item.key].values.get(options.masks)
            if value is None:
                continue
            path = source / labels.normal(value)
            if labels.escapes(value) or not (options.follow_links or path.resolve().is_relative_to(root)):
                rejects.append(
                    Reject(
                        item.key, "the mask's path leaves the source folder", "use paths relative to the source folder"
                    )
                )
            elif not path.is_file():
                rejects.append(Reject(item.key, "its mask file is absent", "add the mask or empty the cell"))
            else:
                found[item.key] = str(path)
    else:
        found, rejects = plan.mask_files(source, options.masks, items)
    refused = {r.source for r in rejects}
    bare = [i.key for i in items if i.key not in found and i.key not in refused] if not wanted.targets else []
    rejects += [Reject(key, "no mask", "add a mask or leave the file out") for key in bare]
    refused |= set(bare)
    return found, [i for i in items if i.key not in refused], rejects


# ------------------------------------------------------------------------------------------ journal


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


def _task(
    item: Item, mask: str | None, structures: dict[int, str], out: Path, limits: Limits, secret: bytes, source: Path
) -> work.Task:
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
    return work.Task(
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


def _kept(pixels: _Pixels, record: dict[str, Any] | None, out: Path) -> bool:
    """Whether a journal record still holds: its arrays are there, the original or the one with blacked text."""
    if record is None:
        return False
    if "reject" in record:
        return True
    ids = [pixels.of(record["study"])["array_id"], record["study"]["mask_id"]]
    return all(store.path_of(out, i).is_file() for i in ids if i is not None)


def _structures(
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
            journal.add([{"key": key, "values": work.mask_values(path, limits)}])
        values |= set(journal.records[key]["values"])
    if len(values) > 1:
        values.discard(work.IGNORE)
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


# ------------------------------------------------------------------------------------------ reading


def _read_all(todo: list[work.Task], journal: Journal, options: ScanOptions, compose: _Composer) -> None:
    """Read all tasks and journal each as it ends; tables are refreshed now and then."""
    total = sum(os.path.getsize(f) for t in todo if t.item.row <= 0 for f in t.item.files)
    last = time.monotonic()
    for records in _done(todo, options, small=total < _SMALL):
        journal.add(records)
        if time.monotonic() - last > _TABLES_EVERY:
            compose(False)
            last = time.monotonic()


def _done(jobs: Sequence[work.Job], options: ScanOptions, *, small: bool, label: str = "scan") -> Iterator[Records]:
    """Records of jobs as they end, with progress shown."""
    workers = options.workers or (1 if small else cores())
    with progress.bar(len(jobs), label, options.progress, rate="studies/s") as advance:
        for records in _results(jobs, min(workers, max(1, len(jobs)))):
            yield records
            advance(len(records))


def _results(todo: Sequence[work.Job], workers: int) -> Iterator[Records]:
    """Records of tasks as they end, in this process or in others."""
    if workers == 1:
        for task in todo:
            if not task.fragile:
                yield [task.record()]
        todo = [task for task in todo if task.fragile]
    size = max(1, min(_CHUNK, len(todo) // (workers * 4)))
    chunks = [todo[i : i + size] for i in range(0, len(todo), size)]
    while chunks:
        done, broken = yield from _pooled(chunks, workers)
        if not broken:
            return
        # A decoder brought its process down. Each study in hand gets a process of its own; the culprit is named.
        chunks = [c for n, c in enumerate(chunks) if n not in done and n not in broken]
        for task in (t for n in sorted(broken) for t in broken[n]):
            try:
                with _pool(1) as alone:
                    yield alone.submit(work.read_items, [task]).result()
            except concurrent.futures.process.BrokenProcessPool:
                yield [
                    {
                        "key": task.key,
                        "reject": {
                            "reason": "its decoder crashed",
                            "fix": "the file is damaged or hostile; leave it out",
                        },
                    }
                ]


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), work.start_worker)


def _pooled(
    chunks: Sequence[Sequence[work.Job]], workers: int
) -> Generator[Records, None, tuple[set[int], dict[int, Sequence[work.Job]]]]:
    """Yield records; return (numbers of chunks done, chunks in hand when a worker died)."""
    done: set[int] = set()
    waiting = iter(enumerate(chunks))
    running: dict[concurrent.futures.Future[Records], int] = {}
    with _pool(workers) as pool:
        try:
            while True:
                while len(running) < workers * 3 and (pair := next(waiting, None)) is not None:
                    running[pool.submit(work.read_items, pair[1])] = pair[0]
                if not running:
                    return done, {}
                ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    records = future.result()
                    done.add(running.pop(future))
                    yield records
        except concurrent.futures.process.BrokenProcessPool:
            return done, {n: chunks[n] for n in range(len(chunks)) if n not in done and n in set(running.values())}
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


# ------------------------------------------------------------------------------------------ text in pixels, copies


@dataclass(frozen=True)
class _Pixels:
    """What is known of text in the pixels of stored arrays: boxes and kinds in the journal, words in a private file
    beside the data set.
    """

    out: Path
    options: ScanOptions
    journal: Journal
    secret: bytes

    @property
    def black(self) -> tuple[str, ...]:
        """Kinds of text that are blacked out."""
        return {"black": text.NAMING, "black_all": text.KINDS}.get(self.options.text, ())

    def key(self, array_id: str) -> str:
        return code(self.secret, "text", f"{text.VERSION}|{array_id}|{','.join(self.black)}", 32)

    def of(self, study: dict[str, Any]) -> dict[str, Any]:
        """The study's record with ``pixel_text``, the boxes found, and the array in which text is blacked out."""
        record = self.journal.records.get(self.key(study["array_id"]), {}) if self.options.text != "none" else {}
        found = record.get("text") or {
            "state": "unchecked",
            "array_id": study["array_id"],
            "p005": None,
            "p995": None,
            "found": [],
        }
        state = (
            "public" if self.options.identity == "keep" and found["state"] in ("unchecked", "found") else found["state"]
        )
        shown = {k: found[k] for k in ("p005", "p995") if found[k] is not None}
        return {**study, **shown, "array_id": found["array_id"], "pixel_text": state, "text": found["found"]}

    def search(self, studies: list[dict[str, Any]]) -> None:
        """Search all arrays that were not searched yet; the originals of blacked ones are removed."""
        if self.options.text == "none":
            return
        jobs: dict[str, text.TextJob] = {}
        for study in studies:
            key = self.key(study["array_id"])
            if "text" not in self.journal.records.get(key, {}):
                shown = (0.0, 255.0) if study["value_unit"] == "display" else (study["p005"], study["p995"])
                jobs[key] = text.TextJob(key, self.out, study["array_id"], study["kind"], shown, self.black)
        private = self.out.parent / f".medgraft-text-{self.out.name}.jsonl"
        for records in _done(list(jobs.values()), self.options, small=len(jobs) < 4, label="text"):
            for record in records:
                if "text" in record:
                    rows = [[*row, word] for row, word in zip(record["text"]["found"], record.pop("words"))]
                    append_private(private, {"array_id": record["text"]["array_id"], "found": rows})
            self.journal.add(records)
        for study in studies:
            final = self.of(study)["array_id"]
            if final != study["array_id"]:
                store.remove(self.out, study["array_id"])

    def table(self, studies: list[dict[str, Any]]) -> pl.DataFrame:
        """Rows of ``text.parquet``."""
        rows = [(array, *row) for array, found in {s["array_id"]: s["text"] for s in studies}.items() for row in found]
        return pl.DataFrame(rows, schema=tables.SCHEMAS["text"], orient="row") if rows else tables.empty("text")

    def notes(self, states: list[str]) -> list[str]:
        """What the states of all cases mean for whoever scans."""
        count = Counter(states)
        found = []
        if count["unchecked"]:
            found.append(
                f"pixels of {count['unchecked']} cases were not searched for text: thumbnails stay masked (text=list "
                f"searches, text=black blacks out)"
            )
        if count["found"]:
            found.append(
                f"pixels of {count['found']} cases hold text that may name someone: thumbnails stay masked "
                f"(text=black blacks it out)"
            )
        if count["blacked"]:
            found.append(f"text was blacked out in the pixels of {count['blacked']} cases")
        return found


def _copies(compose: _Composer) -> int:
    """Write de-identified copies of the DICOM files of all cases; return how many.

    A file that cannot be cleaned is a reject.
    """
    folder = compose.options.deidentified
    assert folder is not None
    jobs: dict[str, tuple[Item, deidentify.CopyJob]] = {}
    tasks = {item.key: task for item, task in zip(compose.items, compose.tasks)}
    for item, study in compose.cases([]):
        if item.reader not in ("dicom", "series"):
            continue
        known = compose.pixels.of(study)
        blacked = [tuple(row[1:5]) for row in known["text"] if row[-1]]
        reason = ""
        if known["pixel_text"] not in ("clear", "blacked"):
            reason = (
                "text in its pixels may name someone"
                if known["pixel_text"] == "found"
                else "its pixels could not be searched for text"
            )
        elif blacked and study["kind"] == "volume":
            reason = "text stands in the slices of a volume"
        if reason:
            fix = (
                "black it out with text=black"
                if known["pixel_text"] == "found" and not compose.pixels.black
                else "leave it out"
            )
            compose.rejects.append(Reject(item.key, f"no de-identified copy: {reason}", fix))
            continue
        patient = compose.patient(item, study)
        days = compose.outside.days(patient) if compose.options.dates == "shift" else None
        clocks = [tuple(row[1:5]) for row in known["text"] if row[5] == "clock" and not row[-1]]
        boxes = tuple(text.margin(box, tuple(study["shape"][2:]), clocks) for box in blacked)
        key = code(
            compose.outside.key,
            "copy",
            f"{deidentify.METHOD}|{tasks[item.key].key}|{folder.resolve()}|{patient}|{compose.names[item.key]}|{days}|{boxes}",
            32,
        )
        jobs[key] = (
            item,
            deidentify.CopyJob(
                key, item.files, folder, compose.outside.key, patient, compose.names[item.key], days, boxes
            ),
        )
    records = compose.journal.records
    todo = [
        job
        for key, (_, job) in jobs.items()
        if not all((folder / f).is_file() for f in records.get(key, {}).get("copy", [""])) or key not in records
    ]
    for done in _done(todo, compose.options, small=len(todo) < 100, label="copy"):
        compose.journal.add(done)
    written = 0
    for key, (item, _) in jobs.items():
        if "reject" in records[key]:
            compose.rejects.append(
                Reject(
                    item.key,
                    f"no de-identified copy: {records[key]['reject']['reason']}",
                    records[key]["reject"]["fix"],
                )
            )
        else:
            written += len(records[key]["copy"])
    return written


# ------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class _Composer:
    """Makes the tables from the journal and the labels. Order follows the source, not the workers."""

    out: Path
    source: Path
    options: ScanOptions
    found: Plan
    wanted: Wanted
    items: list[Item]
    names: dict[str, str]
    patients: dict[str, str]
    tasks: list[work.Task]
    structures: dict[int, str]
    rejects: list[Reject]
    journal: Journal
    outside: Names
    pixels: _Pixels

    def cases(self, rejects: list[Reject]) -> list[tuple[Item, dict[str, Any]]]:
        """Items that are cases, each with its journal record; the others are added to ``rejects``."""
        cases: list[tuple[Item, dict[str, Any]]] = []
        for item, task in zip(self.items, self.tasks):
            record = self.journal.records.get(task.key)
            if record is None:
                continue
            if "reject" in record:
                rejects.append(Reject(item.key, record["reject"]["reason"], record["reject"]["fix"]))
            elif self.wanted.patient == "header" and record["study"]["patient"] is None:
                rejects.append(Reject(item.key, "the header names no patient", "give patient=COLUMN or patient=none"))
            else:
                cases.append((item, record["study"]))
        if not self.outside.keep:
            cases.sort(key=lambda case: self.names[case[0].key])  # the source's order is that of names
        return cases

    def patient(self, item: Item, study: dict[str, Any]) -> str:
        """The patient of a case, as the manifest calls them."""
        if self.wanted.patient != "header":
            return self.patients[item.key]
        return str(study["patient"]) if self.outside.keep else f"patient-{study['patient']}"

    def __call__(self, complete: bool) -> tuple[pl.DataFrame, dict[str, Any], list[Reject]]:
        """Write all tables; return the manifest, ``dataset.json`` and all rejects."""
        rejects = list(self.rejects)
        cases = [(item, self.pixels.of(study)) for item, study in self.cases(rejects)]
        rejects = [self._coded(r) for r in rejects]
        targets = self._targets(cases)
        manifest = self._manifest(cases, targets)
        frames = self._frames(cases)
        annotations = self._annotations(cases)
        info = self._info(cases, targets, manifest, rejects, complete)
        rejects.sort(key=lambda r: (r.source, r.reason))
        tables.write(manifest, self.out / "manifest.parquet", "manifest")
        tables.write(frames, self.out / "frames.parquet", "frames")
        tables.write(annotations, self.out / "annotations.parquet", "annotations")
        tables.write(self.pixels.table([study for _, study in cases]), self.out / "text.parquet", "text")
        write_rejects(rejects, self.out / "rejects.csv")
        write_json(self.out / "dataset.json", info)
        return manifest, info, rejects

    def _coded(self, reject: Reject) -> Reject:
        """A reject without identity: the code its case would have, and a reason in which no name of the file stands."""
        if self.outside.keep:
            return reject
        row = reject.source.startswith("labels row ")  # its number is no identity
        if row:
            return reject
        source = self.outside.of("case", f"{self.options.name or self.out.name}/{reject.source}")
        words = {reject.source, *Path(reject.source).parts, stem_of(Path(reject.source).name)}
        reason, fix = reject.reason, reject.fix
        for word in sorted((w for w in words if len(w) > 3), key=len, reverse=True):
            reason, fix = reason.replace(word, "..."), fix.replace(word, "...")
        return Reject(source, reason, fix)

    def _value(self, item: Item, column: str | None) -> str | None:
        if column is None or self.wanted.matched is None:
            return None
        return self.wanted.matched.rows[item.key].values.get(column)

    def _column(self, role: str, item: Item) -> str | None:
        """What a label column says of study, site or device, as a code."""
        value = self._value(item, getattr(self.options, role))
        return None if value is None else self.outside.of(role, value)

    def _day(self, study: dict[str, Any], key: str, patient: str) -> int | None:
        """The day of acquisition, shifted as all dates of this patient are."""
        if study["day"] is None or self.options.dates == "drop":
            return None
        return int(study["day"]) - work.day_pad(self.outside.key, key) + self.outside.days(patient)

    def _targets(self, cases: list[tuple[Item, dict[str, Any]]]) -> list[Target]:
        options = self.options
        found = []
        for name in self.wanted.targets:
            values = [self._value(item, name) for item, _ in cases]
            known = {labels.class_text(v) for v in values if v is not None}
            positive = options.positive if len(self.wanted.targets) == 1 or options.positive in known else None
            found.append(
                labels.describe_target(name, values, options.type, positive if cases else None, options.target_unit)
            )
        return found

    def _manifest(self, cases: list[tuple[Item, dict[str, Any]]], targets: list[Target]) -> pl.DataFrame:
        options = self.options
        columns: dict[str, list[Any]] = {name: [] for name in tables.SCHEMAS["manifest"]}
        tasks = {item.key: task for item, task in zip(self.items, self.tasks)}
        for item, study in cases:
            name, task = self.names[item.key], tasks[item.key]
            patient = self.patient(item, study)
            uid = study["study"] if self.outside.keep or study["study"] is None else f"study-{study['study']}"
            row = {
                **study,
                "patient_id": patient,
                "study_id": self._column("study", item) or uid or name,
                "case_id": name,
                "value_unit": options.unit or study["value_unit"],
                "site": self._column("site", item) or study["site"],
                "device": self._column("device", item) or study["device"],
                "day": self._day(study, task.key, patient),
            }
            for column, values in columns.items():
                values.append(row.get(column))
        frame = pl.DataFrame(columns, schema=tables.SCHEMAS["manifest"], strict=False)
        kept = [("split", name) for name in self.wanted.split] + [("fact", name) for name in self.wanted.facts]
        for role, name in kept:
            frame = frame.with_columns(
                pl.Series(f"{role}.{name}", [self._value(item, name) for item, _ in cases], dtype=pl.String)
            )
        for target in targets:
            texts = [self._value(item, target.name) for item, _ in cases]
            if target.type == "regress":
                series = pl.Series(
                    f"label.{target.name}",
                    [None if t is None else labels.as_number(t) for t in texts],
                    dtype=pl.Float64,
                )
            else:
                series = pl.Series(
                    f"label.{target.name}",
                    [None if t is None else labels.class_text(t) for t in texts],
                    dtype=pl.String,
                )
            frame = frame.with_columns(series)
        return frame

    def _frames(self, cases: list[tuple[Item, dict[str, Any]]]) -> pl.DataFrame:
        """One row a frame. Cases that share an array share its rows; traced ones win."""
        chosen: dict[str, dict[str, Any]] = {}
        for _, study in cases:
            have = chosen.get(study["array_id"])
            if have is None or (have["mask_id"] is None and study["mask_id"] is not None):
                chosen[study["array_id"]] = study
        if not chosen:
            return tables.empty("frames")
        counts = np.array([s["shape"][1] for s in chosen.values()])
        number = np.concatenate([np.arange(n) for n in counts])
        traced = np.repeat([s["mask_id"] is not None for s in chosen.values()], counts)
        times = np.concatenate(
            [np.array(s["times"]) if s["times"] else np.full(n, np.nan) for s, n in zip(chosen.values(), counts)]
        )
        ids = pl.Series("array_id", list(chosen), dtype=pl.String)
        sources = pl.Series("time_source", [s["time_source"] for s in chosen.values()], dtype=pl.String)
        which = pl.Series(np.repeat(np.arange(len(counts)), counts))
        return pl.DataFrame(
            {
                "array_id": ids.gather(which),
                "frame": number,
                "time_s": pl.Series(times).fill_nan(None),
                "time_source": sources.gather(which),
                "mask_index": np.where(traced, number, -1),
                "phase": pl.Series([None] * len(number), dtype=pl.String),
            }
        )

    def _annotations(self, cases: list[tuple[Item, dict[str, Any]]]) -> pl.DataFrame:
        rows = []
        if self.wanted.matched is not None:
            for item, _ in cases:
                for x, y, width, height in self.wanted.matched.rows[item.key].boxes:
                    box = json.dumps({"x": x, "y": y, "width": width, "height": height})
                    rows.append((self.names[item.key], 0, "box", box, "labels"))
        for item, study in cases:  # regions that a header names hold for every frame
            rows += [(self.names[item.key], -1, "box", json.dumps(box), "header") for box in study.get("boxes", [])]
        return (
            pl.DataFrame(rows, schema=tables.SCHEMAS["annotations"], orient="row")
            if rows
            else tables.empty("annotations")
        )

    def _info(
        self,
        cases: list[tuple[Item, dict[str, Any]]],
        targets: list[Target],
        manifest: pl.DataFrame,
        rejects: list[Reject],
        complete: bool,
    ) -> dict[str, Any]:
        matched = self.wanted.matched
        described: dict[str, Any] = {}
        for target in targets:
            column = manifest[f"label.{target.name}"]
            counts = {c: int((column == c).sum() or 0) for c in target.classes}
            described[target.name] = {
                "type": target.type,
                "classes": target.classes,
                "positive": target.positive,
                "unit": target.unit,
            }
            described[target.name] |= {"missing": column.null_count(), "counts": counts}
        return {
            "format": 1,
            "name": self.options.name or self.out.name,
            "medgraft": medgraft.__version__,
            "complete": complete,
            "cases": manifest.height,
            "patients": manifest["patient_id"].n_unique(),
            "rejected": len(rejects),
            "kinds": dict(sorted(Counter(manifest["kind"].to_list()).items())),
            "channels": 3 if self.options.colour else 1,
            "targets": described,
            "structures": [self.structures[v] for v in sorted(self.structures)],
            "label_level": self.options.label_level,
            "patient": "none" if self.wanted.patient == "none" else "column",
            "patient_source": self.wanted.patient,
            "identity": self.options.identity,
            "text": {"pass": self.options.text, **dict(sorted(Counter(manifest["pixel_text"].to_list()).items()))},
            "dates": "as given" if self.outside.keep else "shifted" if self.options.dates == "shift" else "dropped",
            "mapping": matched.mapping if matched is not None else [],
            "coordinates": "to_source: (d, h, w, 1) -> patient x, y, z in mm (LPS) for volumes; frame, row, column "
            "for images and videos",
            "warnings": self._warnings(bool(cases), described),
            "notes": self._notes(cases, described, manifest),
        }

    def _warnings(self, any_case: bool, described: dict[str, Any]) -> list[str]:
        """What every page of a report must carry."""
        found = list(self.found.warnings)
        if self.wanted.patient == "none" and any_case:
            found.append("patient=none: one person may stand in training and test, and intervals are by case")
        return found + [
            f"{facts['missing']} cases have no value of {name}" for name, facts in described.items() if facts["missing"]
        ]

    def _notes(
        self, cases: list[tuple[Item, dict[str, Any]]], described: dict[str, Any], manifest: pl.DataFrame
    ) -> list[str]:
        """What whoever scans should know: choices made for them, and what readers noticed."""
        found = list(self.wanted.matched.notes) if self.wanted.matched is not None else []
        for name, facts in described.items():
            if self.options.positive is None and facts["positive"] is not None:
                found.append(
                    f"positive class of {name} is {facts['positive']} (the last in order); another with positive=CLASS"
                )
        shared = manifest.height - manifest["array_id"].n_unique()
        if shared:
            found.append(f"{shared} cases have the same pixels as another")
        found += self.pixels.notes([study["pixel_text"] for _, study in cases])
        notes = Counter(note for _, study in cases for note in study["notes"])
        found += [f"{count} cases: {note}" for note, count in notes.most_common(10)]
        return found


def write_rejects(rejects: list[Reject], path: Path) -> Path:
    """``rejects.csv``: source, reason, fix. Cells that a spreadsheet would run as a formula are made plain text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(tables.SCHEMAS["rejects"]))
    writer.writerows([no_formula(c) for c in (r.source, r.reason, r.fix)] for r in rejects)
    return write_text(path, text.getvalue())


def _write_sources(out: Path, source: Path, items: list[Item], names: dict[str, str], outside: Names) -> None:
    """The private map from case to files and from codes to names, beside the data set, for its owner only."""
    path = out.parent / f".medgraft-sources-{out.name}.json"
    found = {names[i.key]: [os.path.relpath(f, source) for f in i.files] for i in items}
    write_private(
        path,
        {
            "source": str(source.resolve()),
            "cases": found,
            "names": {k: v for k, v in outside.given.items() if k not in found},
        },
    )
