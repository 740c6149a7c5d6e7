"""The tables of a data set, made from the journal and the labels: new labels need no new decoding."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import medgraft
from medgraft import tables
from medgraft.datasets import FORMAT, QUANTITY
from medgraft.errors import UserError
from medgraft.files import no_formula, write_json, write_text
from medgraft.intake import labels
from medgraft.intake.burnt_text import Pixels
from medgraft.intake.journal import Journal
from medgraft.intake.labels import Target
from medgraft.intake.options import ScanOptions, changes_values
from medgraft.intake.plan import Item, Plan
from medgraft.intake.private.keys import Names, write_private
from medgraft.intake.read import Reject, stem_of
from medgraft.intake.roles import Chosen, Wanted
from medgraft.intake.work import Task, day_pad
from medgraft.notices import Notice, notice, to_json


@dataclass(frozen=True)
class Studies:
    """The studies of a scan: all that is known of them before the first is read."""

    source: Path
    found: Plan
    chosen: Chosen
    outside: Names
    names: dict[str, str]  # item key -> case id
    patients: dict[str, str]  # item key -> patient id; empty where the headers name them
    tasks: dict[str, Task]  # item key -> what stores it
    structures: dict[int, str]  # mask value -> name


@dataclass(frozen=True)
class Composer:
    """Makes the tables from the journal and the labels. Order follows the source, not the workers."""

    options: ScanOptions
    out: Path
    studies: Studies
    journal: Journal
    pixels: Pixels

    @property
    def wanted(self) -> Wanted:
        """The roles of the label columns."""
        return self.studies.chosen.wanted

    def cases(self, rejects: list[Reject]) -> list[tuple[Item, dict[str, Any]]]:
        """Items that are cases, each with its journal record; the others are added to ``rejects``."""
        cases: list[tuple[Item, dict[str, Any]]] = []
        for item in self.studies.chosen.items:
            record = self.journal.records.get(self.studies.tasks[item.key].key)
            if record is None:
                continue
            if "reject" in record:
                rejects.append(Reject(item.key, record["reject"]["reason"], record["reject"]["fix"]))
            elif self.wanted.patient == "header" and record["study"]["patient"] is None:
                rejects.append(Reject(item.key, "the header names no patient", "give patient=COLUMN or patient=none"))
            else:
                cases.append((item, record["study"]))
        if not self.studies.outside.keep:
            cases.sort(key=lambda case: self.studies.names[case[0].key])  # the source's order is that of names
        return cases

    def patient(self, item: Item, study: dict[str, Any]) -> str:
        """The patient of a case, as the manifest calls them."""
        if self.wanted.patient != "header":
            return self.studies.patients[item.key]
        return str(study["patient"]) if self.studies.outside.keep else f"patient-{study['patient']}"

    def __call__(
        self, complete: bool, more: Sequence[Reject] = ()
    ) -> tuple[pl.DataFrame, dict[str, Any], list[Reject]]:
        """Write all tables; return the manifest, ``dataset.json`` and all rejects, ``more`` among them."""
        rejects = [*self.studies.chosen.rejects, *more]
        cases = [(item, self.pixels.of(study)) for item, study in self.cases(rejects)]
        found = self._found(cases, rejects)
        rejects = [self._coded(r) for r in rejects]
        targets = self._targets(cases)
        manifest = self._manifest(cases, targets)
        frames = self._frames(cases)
        annotations = self._annotations(cases)
        info = self._info(cases, targets, manifest, rejects, complete) | {"found": found}
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
        if self.studies.outside.keep:
            return reject
        row = reject.source.startswith("labels row ")  # its number is no identity
        if row:
            return reject
        source = self.studies.outside.of("case", f"{self.options.name or self.out.name}/{reject.source}")
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
        return None if value is None else self.studies.outside.of(role, value)

    def _day(self, study: dict[str, Any], key: str, patient: str) -> int | None:
        """The day of acquisition, shifted as all dates of this patient are."""
        if study["day"] is None or self.options.dates == "drop":
            return None
        return int(study["day"]) - day_pad(self.studies.outside.key, key) + self.studies.outside.days(patient)

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
        for item, study in cases:
            name, task = self.studies.names[item.key], self.studies.tasks[item.key]
            patient = self.patient(item, study)
            uid = study["study"] if self.studies.outside.keep or study["study"] is None else f"study-{study['study']}"
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
            quantity = target.type == QUANTITY
            read: Callable[[str], Any] = labels.as_number if quantity else labels.class_text
            found = [None if text is None else read(text) for text in texts]
            dtype = pl.Float64 if quantity else pl.String
            frame = frame.with_columns(pl.Series(f"label.{target.name}", found, dtype=dtype))
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
        """Boxes of labels and headers, then every row of the table that somebody else put there."""
        rows: list[tuple[Any, ...]] = []
        names = self.studies.names
        if self.wanted.matched is not None:
            for item, _ in cases:
                for drawn in self.wanted.matched.rows[item.key].boxes:
                    box = json.dumps(dict(zip(("x", "y", "width", "height"), drawn.xywh())))
                    rows.append((names[item.key], 0, "box", box, "labels", "finding", None))
        for item, study in cases:  # regions that a header names hold for every frame
            for region in study.get("boxes", []):
                rows.append((names[item.key], -1, "box", json.dumps(region), "header", "region", None))
        made = pl.DataFrame(rows, schema=tables.SCHEMAS["annotations"], orient="row")
        return pl.concat([made, self._kept_annotations()])

    def _kept_annotations(self) -> pl.DataFrame:
        """Rows of the table that is there, without those that a scan makes itself. Raises ``UserError`` where it cannot
        be read: what people drew is never written over.
        """
        path = self.out / "annotations.parquet"
        if not path.is_file():
            return tables.empty("annotations")
        try:
            there = tables.read(path, "annotations")
        except UserError as error:
            raise UserError(
                error.cause, case=str(path), fix="put the file right, or move it away if nobody drew in this data set"
            ) from error
        return there.filter(~pl.col("author").fill_null("").is_in(["labels", "header"]))

    def _info(
        self,
        cases: list[tuple[Item, dict[str, Any]]],
        targets: list[Target],
        manifest: pl.DataFrame,
        rejects: list[Reject],
        complete: bool,
    ) -> dict[str, Any]:
        matched, structures = self.wanted.matched, self.studies.structures
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
            "format": FORMAT,
            "name": self.options.name or self.out.name,
            "medgraft": medgraft.__version__,
            "complete": complete,
            "cases": manifest.height,
            "patients": manifest["patient_id"].n_unique(),
            "rejected": len(rejects),
            "kinds": dict(sorted(Counter(manifest["kind"].to_list()).items())),
            "channels": 3 if self.options.colour else 1,
            "stored_with": changes_values(self.options),
            "targets": described,
            "structures": [structures[v] for v in sorted(structures)],
            **({"exclusive": True} if structures else {}),  # a label map holds one value a voxel
            "label_level": self.options.label_level,
            "patient": "none" if self.wanted.patient == "none" else "column",
            "patient_source": self.wanted.patient,
            "identity": self.options.identity,
            "text": {"pass": self.options.text, **dict(sorted(Counter(manifest["pixel_text"].to_list()).items()))},
            "dates": "as given"
            if self.studies.outside.keep
            else "shifted"
            if self.options.dates == "shift"
            else "dropped",
            "mapping": matched.mapping if matched is not None else [],
            "coordinates": "to_source: (d, h, w, 1) -> patient x, y, z in mm (LPS) for volumes; frame, row, column "
            "for images and videos",
            "warnings": to_json(self._warnings(bool(cases), described)),
            "notes": self._notes(cases, described, manifest),
        }

    def _found(self, cases: list[tuple[Item, dict[str, Any]]], rejects: Sequence[Reject]) -> dict[str, Any]:
        """What became of everything that was found, as the data set stands: ``studies`` (with files that could not be
        taken for one) = ``read`` + ``waiting`` (not read yet) + the sum of ``refused`` [{reason, n}], most frequent
        first. ``ignored`` files are no studies. Rows of labels without a file are none either.
        """
        found, records = self.studies.found, self.journal.records
        read = {item.key for item, _ in cases}
        wanted = {item.key for item in self.studies.chosen.items}
        why: dict[str, Reject] = {}
        for reject in rejects:
            why.setdefault(reject.source, reject)
        refused, waiting = [self._coded(r).reason for r in found.rejects], 0
        for item in found.items:
            if item.key in read:
                continue
            if item.key in wanted and self.studies.tasks[item.key].key not in records:
                waiting += 1
            else:
                refused.append(self._coded(why[item.key]).reason if item.key in why else "left out by the labels")
        counts = sorted(Counter(refused).items(), key=lambda pair: (-pair[1], pair[0]))
        return {
            "studies": len(found.items) + len(found.rejects),
            "read": len(cases),
            "waiting": waiting,
            "refused": [{"reason": reason, "n": n} for reason, n in counts],
            "ignored": len(found.ignored),
        }

    def _warnings(self, any_case: bool, described: dict[str, Any]) -> list[Notice]:
        """What every page of a report must carry."""
        found = list(self.studies.found.warnings)
        if self.wanted.patient == "none" and any_case:
            found.append(notice("patient_none"))
        return found + [
            notice("no_value", n=facts["missing"], target=name) for name, facts in described.items() if facts["missing"]
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


def write_sources(out: Path, studies: Studies) -> None:
    """The private map from case to files and from codes to names, beside the data set, for its owner only."""
    path = out.parent / f".medgraft-sources-{out.name}.json"
    source = studies.source
    found = {studies.names[i.key]: [os.path.relpath(f, source) for f in i.files] for i in studies.chosen.items}
    write_private(
        path,
        {
            "source": str(source.resolve()),
            "cases": found,
            "names": {k: v for k, v in studies.outside.given.items() if k not in found},
        },
    )
