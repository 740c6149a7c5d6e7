"""``scan``: a folder of raw studies and its labels become a data set. A second scan does only what is new.

Every finished study is one line of ``scan.journal.jsonl`` in the data set folder, written when its array is
whole on disk. A killed scan therefore loses nothing but the studies in hand; tables are made from the journal
and the labels, so new labels need no new decoding. The journal knows files by a keyed hash of name, size and
time of change; names stay out of the data set: patients, studies, cases, sites and rejected files appear as
keyed codes unless ``identity=keep`` is said. What each code means stands in ``.medgraft-sources-<data set>.json``
beside the data set, readable by its owner only (see docs/privacy.md).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from medgraft import store
from medgraft.errors import UserError
from medgraft.export.frames import write_frames
from medgraft.files import disk_error
from medgraft.intake import jobs
from medgraft.intake.burnt_text import Pixels
from medgraft.intake.compose import Composer, Studies, write_sources
from medgraft.intake.copies import write_copies
from medgraft.intake.journal import JOURNAL, Journal, structures_of, task_of
from medgraft.intake.layouts import find_layout
from medgraft.intake.names import coded_names, unique_names, video_names
from medgraft.intake.options import ScanOptions
from medgraft.intake.private.keys import Names, load_key
from medgraft.intake.read import Limits
from medgraft.intake.roles import choose
from medgraft.intake.work import Task
from medgraft.notices import from_json

_SMALL = 32 << 20  # bytes of sources below which starting processes costs more than it saves
_TABLES_EVERY = 120.0  # seconds between tables written while the scan goes on


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


def scan(source: str | os.PathLike[str], options: ScanOptions) -> ScanReport:
    """Scan ``source`` (a folder, or one ``.npz`` archive) into the data set folder ``options.out``.

    Studies that cannot be read become lines of ``rejects.csv`` and the rest goes on. Raises ``UserError``
    when the source, the labels or the options are wrong, or the disk refuses.
    """
    began = time.monotonic()
    source = Path(source)
    _check(source, options)
    out = options.out or Path("datasets") / (source.stem if source.is_file() else source.resolve().name)
    options = options.model_copy(update={"out": out})
    found = find_layout(source, options.layout, options.labels).plan(source, options)
    options = options.model_copy(update={k: v for k, v in found.fixed.items() if not getattr(options, k)})
    chosen = choose(source, found, options)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    outside = Names(load_key(out.parent), options.identity == "keep")
    with Journal(out / JOURNAL) as journal:
        store.clean(out)
        limits = Limits(options.max_pixels, options.max_mib << 20, options.colour)
        structures = structures_of(chosen.masks, options, limits, journal, outside.key, source)
        tasks = {
            item.key: task_of(item, chosen.masks.get(item.key), structures, out, limits, outside.key, source)
            for item in chosen.items
        }
        if outside.keep:
            names = unique_names(chosen.items)
        else:
            names = coded_names(chosen.items, outside, options.name or out.name)
        patients = names if chosen.wanted.patient == "none" else {}
        patients = {k: outside.of("patient", p) for k, p in chosen.patients.items()} or patients
        studies = Studies(source, found, chosen, outside, names, patients, tasks, structures)
        pixels = Pixels(out, options, journal, outside.key)
        compose = Composer(options, out, studies, journal, pixels)
        todo = _in_order([t for t in tasks.values() if not pixels.kept(journal.records.get(t.key))], outside)
        write_sources(out, studies)  # before a code can appear anywhere
        _read_all(todo, journal, options, compose)
        pixels.search([study for _, study in compose.cases([])])
        copies, refused = write_copies(compose) if options.deidentified is not None else (0, [])
        manifest, info, rejects = compose(True, refused)
    exported = _export(manifest, studies, out, options)
    write_sources(out, studies)
    return ScanReport(
        out=out,
        name=info["name"],
        cases=manifest.height,
        patients=manifest["patient_id"].n_unique(),
        new=len(todo),
        known=len(tasks) - len(todo),
        rejected=len(rejects),
        ignored=len(found.ignored),
        kinds=dict(sorted(Counter(manifest["kind"].to_list()).items())),
        classes={t: facts["counts"] for t, facts in info["targets"].items() if facts["counts"]},
        mapping=info["mapping"],
        warnings=[str(from_json(w)) for w in info["warnings"]],
        notes=info["notes"],
        seconds=time.monotonic() - began,
        reasons=dict(Counter(r.reason for r in rejects).most_common()),
        exported=f"{exported} frames in {options.export}" if options.export is not None else "",
        copies=f"{copies} de-identified files in {options.deidentified}" if options.deidentified is not None else "",
    )


def _check(source: Path, options: ScanOptions) -> None:
    """Refuse a source that is not there, and options that exclude each other."""
    if not source.exists():
        raise UserError("no such file or folder", case=str(source), fix="give the folder that holds the studies")
    if options.deidentified is not None and options.identity == "keep":
        raise UserError("identity=keep and deidentified= exclude each other", fix="leave identity=keep out")
    if options.deidentified is not None and options.text == "none":
        raise UserError(
            "copies whose pixels were not searched are not de-identified",
            fix="say text=black, or text=list to refuse files with text",
        )


def _in_order(todo: list[Task], outside: Names) -> list[Task]:
    """Tasks as they are handed out. The order in which the journal grows must not tell the order of names; rows of
    archives are read in theirs.
    """
    if outside.keep:
        return todo
    return sorted(todo, key=lambda t: ("", t.item.row) if t.item.row >= 0 else (t.key, 0))


def _read_all(todo: list[Task], journal: Journal, options: ScanOptions, compose: Composer) -> None:
    """Read all tasks and journal each as it ends; tables are refreshed now and then."""
    total = sum(os.path.getsize(f) for t in todo if t.item.row <= 0 for f in t.item.files)
    last = time.monotonic()
    for records in jobs.done(todo, options.workers, options.progress, small=total < _SMALL):
        journal.add(records)
        if time.monotonic() - last > _TABLES_EVERY:
            compose(False)
            last = time.monotonic()


def _export(manifest: pl.DataFrame, studies: Studies, out: Path, options: ScanOptions) -> int:
    """Write every frame as a picture where ``export=`` asks for it; return how many."""
    if options.export is None:
        return 0
    of_case = {studies.names[i.key]: i.key for i in studies.chosen.items}
    tumours = video_names({c: of_case[c] for c in manifest["case_id"]}, lambda name: studies.outside.of("case", name))
    return write_frames(out, manifest, tumours, options.export, options.export_as)
