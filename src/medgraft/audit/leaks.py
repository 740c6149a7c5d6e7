"""What must not be in a data set: one picture under two names, one person in two roles, one case with two labels.

One data set is looked at, or two (an external test set); each finding has its severity:

    leak    a result on this data would be too good: mend it first
    check   a person should look
    note    good to know

Pictures are compared by ``fingerprint``; a finding holds plain values only and goes into ``audit.json`` as it is.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medgraft.audit import fingerprint
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.files import read_json
from medgraft.splits import ROLES

Finding = dict[str, Any]
#: Likeness from which two pictures count as one. On clean real sets no two patients reached it; copies lie above
# (docs/audit.md).
ALIKE = 0.9
WITHOUT_CUT = 0.03  # margins below this share of a side are no crop
_BITS, _LEAST = 22, 0.45  # candidates: bits that may differ, least first likeness
_MOST = {2: 4000, 3: 400}  # candidates fitted: pictures, volumes
_ENOUGH = (
    0.6  # when everything above this first likeness was fitted, only copies cut by a twentieth or more can be missed
)
LISTED = 500  # pairs or names that a finding lists; the counts are always complete
SEVERITIES = ("leak", "check", "note")
KINDS = (  # in the order in which a person should read them
    "patient_two_sets",
    "patient_two_roles",
    "same_two_patients",
    "near_two_patients",
    "study_two_patients",
    "same_two_labels",
    "mirrored_two_patients",
    "patient_two_labels",
    "patients_unknown",
    "facts_together",
    "fact_strong",
    "blank",
    "same_one_patient",
    "near_one_patient",
    "fact_weak",
    "two_labels_rejected",
    "search_limited",
)


@dataclass(frozen=True)
class Part:
    """One way of giving roles to cases: a split column, a fold of a run, or the data set itself against an external
    one.
    """

    name: str
    roles: list[str | None]  # one a case


@dataclass(frozen=True)
class Cases:
    """The cases of all data sets in one order, with the roles they play."""

    sets: list[Dataset]
    frame: pl.DataFrame  # set, case_id, patient_id, study_id, array_id, view, kind, label.*
    parts: list[Part] = field(default_factory=list)

    def name(self, number: int) -> dict[str, Any]:
        row = self.frame.row(number, named=True)
        labels = {
            c.removeprefix("label."): row[c]
            for c in self.frame.columns
            if c.startswith("label.") and row[c] is not None
        }
        return {"set": row["set"], "case": row["case_id"], "patient": row["patient_id"], "labels": labels}


def gather(dataset: Dataset, other: Dataset | None = None) -> Cases:
    """All cases of one or two data sets."""
    frames = []
    for number, each in enumerate([d for d in (dataset, other) if d is not None]):
        labels = [c for c in each.manifest.columns if c.startswith("label.")]
        view = pl.Series(
            "view",
            [f"{c} {s}" for c, s in each.manifest.select("view_center", "view_size").iter_rows()],
            dtype=pl.String,
        )
        frames.append(
            each.manifest.select(
                pl.lit(number).alias("set"),
                "case_id",
                "patient_id",
                "study_id",
                "array_id",
                "kind",
                *(pl.col(c).cast(pl.String) for c in labels),
            ).with_columns(view)
        )
    return Cases([d for d in (dataset, other) if d is not None], pl.concat(frames, how="diagonal"))


def roles(cases: Cases, columns: list[str], run: Path | None) -> list[Part]:
    """The parts to check: split columns (all where none is named), the folds of a run, and home against external.

    Raises ``UserError`` when a column or the splits of the run are not there.
    """
    parts = []
    home = cases.sets[0].manifest
    have = [c.removeprefix("split.") for c in home.columns if c.startswith("split.")]
    for column in columns or have:
        if column not in have:
            raise UserError(
                f"no split column {column!r}; there are {', '.join(have) or 'none'}", fix="scan with split=COLUMN"
            )
        values = [None if v is None else ROLES.get(v.strip().lower(), v) for v in home[f"split.{column}"]]
        parts.append(Part(column, values + [None] * (cases.frame.height - home.height)))
    if run is not None:
        parts += _folds(cases, run)
    if len(cases.sets) > 1:
        parts.append(Part("external", ["train" if s == 0 else "test" for s in cases.frame["set"]]))
    return parts


def _folds(cases: Cases, run: Path) -> list[Part]:
    """Folds of a run's ``splits.json``, read as they stand: a file that was edited by hand is what an audit is for."""
    path = run / "splits.json" if run.is_dir() else run
    if not path.is_file():
        raise UserError(
            "no splits.json in the run", case=str(run), fix="give run=RUN, the folder that `medgraft run` printed"
        )
    content = read_json(path)
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and {"outer", "inner", "patient_id", "role"} <= set(r) for r in rows
    ):
        raise UserError(
            "splits.json holds no rows of outer, inner, patient_id and role", case=str(path), fix="make the run again"
        )
    members: dict[tuple[int, int], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        members[int(row["outer"]), int(row["inner"])][str(row["patient_id"])].add(str(row["role"]))
    parts = []
    for outer in sorted({o for o, _ in members}):
        whole: dict[str, set[str]] = defaultdict(set)
        inner = {n: who for (o, n), who in sorted(members.items()) if o == outer}
        for who in inner.values():
            for patient, given in who.items():
                whole[patient] |= {"test" if r == "test" else "train" for r in given}
        parts.append(_part(cases, f"fold {outer + 1}", whole))
        parts += [_part(cases, f"fold {outer + 1}, inner {n + 1}", who) for n, who in inner.items() if n >= 0]
    return parts


def _part(cases: Cases, name: str, who: dict[str, set[str]]) -> Part:
    """Roles by patient; a patient with two has both, joined, and is found by ``patients_in_two_roles``."""
    home = cases.frame["set"].to_list()
    given = [
        " and ".join(sorted(who[p])) if p in who and s == 0 else None for p, s in zip(cases.frame["patient_id"], home)
    ]
    return Part(name, given)


# ------------------------------------------------------------------------------------------ people and labels


def patients_in_two_roles(cases: Cases) -> list[Finding]:
    """One finding a part in which patients stand in two roles."""
    found = []
    for part in cases.parts:
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for patient, role in zip(cases.frame["patient_id"], part.roles):
            for each in (role or "").split(" and "):
                if each:
                    seen[patient][each] += 1
        twice = {p: dict(c) for p, c in sorted(seen.items()) if len(c) > 1}
        if twice:
            external = part.name == "external"
            listed = [{"patient": p, "roles": c} for p, c in list(twice.items())[:LISTED]]
            found.append(
                _finding(
                    "patient_two_sets" if external else "patient_two_roles",
                    "leak",
                    len(twice),
                    part=part.name,
                    patients=listed,
                )
            )
    return found


def people_and_labels(cases: Cases) -> list[Finding]:
    """One study of two patients; several labels where the data set says that a patient (or study) has one."""
    found = []
    studies = cases.frame.group_by("set", "study_id", maintain_order=True).agg(
        pl.col("patient_id").unique().sort(), pl.col("case_id").first()
    )
    shared = studies.filter(pl.col("patient_id").list.len() > 1)
    if shared.height:
        listed = [
            {"study": s, "patients": p}
            for s, p in zip(shared["study_id"].head(LISTED), shared["patient_id"].head(LISTED).to_list())
        ]
        found.append(_finding("study_two_patients", "leak", shared.height, studies=listed))
    for number, dataset in enumerate(cases.sets):
        level = dataset.info.get("label_level", "case")
        if level in ("patient", "study"):
            here = cases.frame.filter(pl.col("set") == number)
            for target in dataset.targets:
                several = (
                    here.drop_nulls(f"label.{target}")
                    .group_by(f"{level}_id")
                    .agg(pl.col(f"label.{target}").unique().sort().alias("values"))
                )
                several = several.filter(pl.col("values").list.len() > 1).sort(f"{level}_id")
                if several.height:
                    listed = [{"name": n, "labels": v} for n, v in several.head(LISTED).iter_rows()]
                    found.append(
                        _finding(
                            "patient_two_labels", "check", several.height, target=target, level=level, names=listed
                        )
                    )
        if not dataset.patients_known:
            found.append(
                _finding(
                    "patients_unknown", "check", dataset.manifest.height, dataset=str(dataset.info.get("name", ""))
                )
            )
        refused = _two_labels(dataset.root / "rejects.csv")
        if refused:
            found.append(_finding("two_labels_rejected", "note", refused))
    return found


def _two_labels(path: Path) -> int:
    """Lines of ``rejects.csv`` that say a case had several labels."""
    if not path.is_file():
        return 0
    with open(path, encoding="utf-8", newline="") as stream:
        return sum(
            1
            for row in csv.DictReader(stream)
            if (row.get("reason") or "").startswith("has ") and " labels: " in (row.get("reason") or "")
        )


# ------------------------------------------------------------------------------------------ pictures


def pairs(
    cases: Cases, advance: Callable[[int], None] = lambda _: None, *, near: bool = True, alike: float = ALIKE
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Pairs of cases that show one picture, and facts of the search (thresholds, pictures compared, blank cases,
    candidates left out).

    A pair is ``{a, b, relation, likeness, mirrored, margin, place_a, place_b}``: numbers of cases, ``identical`` (one
    stored array), ``rescaled`` (the same pixels but for scale and offset of their values), ``copy`` (re-encoded,
    resized, other brightness) or ``cropped``. Of a group of n identical cases n - 1 pairs are given, each with the
    first.
    """
    found: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()

    def keep(a: int, b: int, relation: str, likeness: float, **more: Any) -> None:
        found.append(
            {
                "a": a,
                "b": b,
                "relation": relation,
                "likeness": round(float(likeness), 3),
                "mirrored": False,
                "margin": 0.0,
                **more,
            }
        )
        seen.add((a, b))

    groups: dict[str, list[int]] = defaultdict(list)
    patients, views = cases.frame["patient_id"].to_list(), cases.frame["view"].to_list()
    arrays = cases.frame["array_id"].to_list()
    for case, array in enumerate(arrays):
        groups[array].append(case)
    same_as = np.arange(cases.frame.height)
    for members in groups.values():
        for b in members[1:]:
            same_as[b] = members[0]
            if (
                patients[b] != patients[members[0]] or views[b] == views[members[0]]
            ):  # many views of one array of one patient are as it should be
                keep(members[0], b, "identical", 1.0)
    facts: dict[str, Any] = {"alike": alike, "near": near}
    if not near:
        return found, facts
    records = np.concatenate([fingerprint.fingerprints(d, advance) for d in cases.sets])
    number = np.cumsum(records["part"] == 0) - 1
    kinds = cases.frame["kind"].to_numpy()
    blank = np.ones(cases.frame.height, bool)
    np.logical_and.at(blank, number, records["span"] < fingerprint.BLANK)
    whole: dict[bytes, int] = {}
    starts = np.flatnonzero(records["part"] == 0)
    for case, (start, stop) in enumerate(zip(starts.tolist(), [*starts[1:].tolist(), len(records)])):
        mark = records["hash"][start:stop].tobytes()
        first = whole.setdefault(mark, case)
        if first != case and not blank[case] and arrays[first] != arrays[case]:
            keep(first, case, "rescaled", 1.0)
            same_as[case] = min(same_as[case], first)
    facts |= {
        "parts": len(records),
        "blank": [cases.name(int(n)) for n in np.flatnonzero(blank)[:LISTED]],
        "blanks": int(blank.sum()),
        "left_out": 0,
    }
    for some in fingerprint.pictures(records, number, kinds[number] == "volume"):
        most = _MOST[some.dimensions]
        candidates = some.candidates(_BITS, _LEAST, most)
        if candidates.dropped and candidates.floor > _ENOUGH:
            facts["left_out"] += candidates.dropped
        flipped = []
        for row in candidates.rows():
            a, b = row["case_a"], row["case_b"]
            if (a, b) in seen or same_as[a] == same_as[b]:
                continue
            likeness, margin = some.fit(row["a"], row["b"], row["mirrored"])
            if likeness < alike:
                continue
            relation = "cropped" if margin > WITHOUT_CUT else "copy"
            more = {
                "margin": round(margin, 3),
                "place_a": int(some.place[row["a"]]),
                "place_b": int(some.place[row["b"]]),
                "matches": row["matches"],
            }
            if row["mirrored"]:
                flipped.append((a, b, relation, likeness, more))
            else:
                keep(a, b, relation, likeness, **more)
        for a, b, relation, likeness, more in flipped:
            if (a, b) not in seen:  # a picture that is its own mirror image is no mirrored copy
                keep(a, b, relation, likeness, **{**more, "mirrored": True})
    return found, facts


def picture_findings(cases: Cases, found: list[dict[str, Any]], facts: dict[str, Any]) -> list[Finding]:
    """Pairs sorted into findings: by patient, by label, by whether they stand in two roles."""
    sorted_in: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pair in found:
        a, b = cases.name(pair["a"]), cases.name(pair["b"])
        exact = pair["relation"] in ("identical", "rescaled")
        shared = [t for t in a["labels"] if t in b["labels"]]
        differs = [t for t in shared if a["labels"][t] != b["labels"][t]]
        across = [
            {"part": p.name, "a": p.roles[pair["a"]], "b": p.roles[pair["b"]]}
            for p in cases.parts
            if p.roles[pair["a"]] and p.roles[pair["b"]] and p.roles[pair["a"]] != p.roles[pair["b"]]
        ]
        if a["patient"] != b["patient"]:
            kind = (
                "mirrored_two_patients" if pair["mirrored"] else "same_two_patients" if exact else "near_two_patients"
            )
        elif exact and differs:
            kind = "same_two_labels"
        else:
            kind = "same_one_patient" if exact else "near_one_patient"
        sorted_in[kind].append(
            {**pair, "a": a, "b": b, "labels_differ": differs, "across": across[:6], "roles_crossed": len(across)}
        )
    results = []
    for kind, members in sorted_in.items():
        severity = (
            "leak"
            if kind in ("same_two_patients", "near_two_patients")
            else "note"
            if kind.endswith("one_patient")
            else "check"
        )
        members.sort(key=lambda p: (not p["across"], not p["labels_differ"], -p["likeness"]))
        who = {(p[side]["set"], p[side]["case"]) for p in members for side in ("a", "b")}
        counts = {
            "cases": len(who),
            "across": sum(bool(p["across"]) for p in members),
            "labels_differ": sum(bool(p["labels_differ"]) for p in members),
        }
        results.append(_finding(kind, severity, len(members), **counts, pairs=members[:LISTED]))
    if facts.get("blanks"):
        results.append(_finding("blank", "check", facts["blanks"], cases=facts["blank"]))
    if facts.get("left_out"):
        results.append(_finding("search_limited", "note", facts["left_out"]))
    return results


def _finding(kind: str, severity: str, n: int, **more: Any) -> Finding:
    return {"kind": kind, "severity": severity, "n": n, **more}


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Leaks first, then what to check, then notes."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f["severity"]), KINDS.index(f["kind"])))
