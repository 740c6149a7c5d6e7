"""Which column of the labels plays which role, which studies stay, and whose they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from medgraft.errors import UserError
from medgraft.intake import labels, plan
from medgraft.intake.labels import Matched
from medgraft.intake.options import ScanOptions
from medgraft.intake.plan import Item, Plan
from medgraft.intake.private.keys import shape_of
from medgraft.intake.read import Reject


@dataclass(frozen=True)
class Wanted:
    """The resolved roles of label columns, after the layout had its say."""

    patient: str
    targets: list[str]
    split: list[str]
    facts: list[str]
    matched: Matched | None


@dataclass(frozen=True)
class Chosen:
    """What the labels and options made of the studies that a layout found."""

    wanted: Wanted
    items: list[Item]  # that stay
    masks: dict[str, str]  # item key -> mask file
    patients: dict[str, str]  # item key -> patient as given; empty for ``header`` (known after reading) and ``none``
    rejects: list[Reject]


def choose(source: Path, found: Plan, options: ScanOptions) -> Chosen:
    """Give every column its role and every study its row, mask and patient; what has none becomes a reject.

    Raises ``UserError`` where options and labels contradict each other or the source holds no study.
    """
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
    patients = _patients(items, wanted)
    if options.identity == "code":
        _nameless(wanted)
    return Chosen(wanted, items, masks, patients, rejects + more)


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
