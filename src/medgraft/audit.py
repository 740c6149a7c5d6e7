"""The audit, from a data set to a page: where intake's leaks, the associations of stats and the report's page meet.

No torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from medgraft import __version__, notices
from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.files import write_json
from medgraft.intake import audit as leaks
from medgraft.stats.association import associate
from medgraft.stats.baseline import trivial_auc

STRONG, WEAK = 0.3, 0.1  # strength of an association from which it is a finding to check, or a note
LIKELY, OPEN = 0.05, 0.1  # p up to which an association counts; up to which a strong one is worth a note (few patients)
TOLD = 0.6  # AUC of all facts together from which it is a finding, if its interval leaves out one half
SHOWN = 12  # values of a fact that are listed
SAMPLE = 6  # cases shown of each class and role


class AuditOptions(BaseModel):
    """The knobs of ``medgraft audit``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: list[str] = Field(
        [], description="split columns whose roles are checked; default: all that the data set has"
    )
    run: Path | None = Field(None, description="run folder whose folds (splits.json) are checked")
    test: Path | None = Field(None, description="external test set: a second data set folder")
    near: bool = Field(True, description="look for near-duplicates too, not only for the same stored pixels")
    alike: float = Field(leaks.ALIKE, gt=0.5, le=1, description="likeness from which two pictures count as one")
    permutations: int = Field(999, ge=99, description="for the p values of acquisition facts")
    seed: int = 0
    lang: Literal["en", "zh"] = Field("en", description="language of the page")
    progress: bool | None = Field(None, description="show progress; default: on a terminal")

    @field_validator("split", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [] if value is None else [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found and where the page lies.

    ``leaks`` counts findings of that severity; a shell should see them as exit status 3.
    """

    page: Path
    findings: list[dict[str, Any]]
    lines: list[str]
    seconds: float

    @property
    def leaks(self) -> int:
        return sum(f["severity"] == "leak" for f in self.findings)

    def text(self) -> str:
        """For a terminal: the findings in order, then where the page lies."""
        counts = Counter(f["severity"] for f in self.findings)
        need = counts["leak"] + counts["check"]
        head = (
            f"{need} finding{'s need' if need != 1 else ' needs'} you ({counts['leak']} leaks), {counts['note']} "
            f"notes; {self.seconds:.1f} s"
        )
        return "\n".join([head, *(f"  {line}" for line in self.lines), f"open {self.page}"])


def audit(root: Path, options: AuditOptions) -> AuditReport:
    """Audit a data set folder, alone or against an external test set; write ``audit.json`` and ``audit.html`` into it.

    Raises ``UserError`` when the folder is no data set, the split or run is not there, or the disk refuses.
    """
    from medgraft.report import audit as page

    began = time.monotonic()
    dataset = load_dataset(root)
    if not dataset.manifest.height:
        raise UserError("the data set holds no case", case=str(root), fix="see its rejects.csv, and scan again")
    other = load_dataset(options.test) if options.test is not None else None
    cases = leaks.gather(dataset, other)
    parts = leaks.roles(cases, options.split, options.run)
    cases = leaks.Cases(cases.sets, cases.frame, parts)
    findings = leaks.patients_in_two_roles(cases) + leaks.people_and_labels(cases)
    with _progress(cases.frame.height if options.near else 0, options.progress) as advance:
        pairs, search = leaks.pairs(cases, advance, near=options.near, alike=options.alike)
    findings += leaks.picture_findings(cases, pairs, search)
    facts, more = acquisition(dataset, options)
    findings = leaks.in_order(findings + more)
    search = {k: v for k, v in search.items() if k != "blank"}
    content = {
        "format": 1,
        "medgraft": __version__,
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "name": dataset.info.get("name", ""),
        "sets": [
            {"name": d.info.get("name", ""), "path": os.path.relpath(d.root.resolve(), root.resolve())}
            for d in cases.sets
        ],
        "cases": dataset.manifest.height,
        "patients": dataset.manifest["patient_id"].n_unique(),
        "patients_known": dataset.patients_known,
        "kinds": dict(sorted(Counter(dataset.manifest["kind"].to_list()).items())),
        "warnings": notices.to_json(dataset.warnings),
        "parts": [{"name": p.name, "roles": dict(sorted(Counter(r for r in p.roles if r).items()))} for p in parts],
        "findings": findings,
        "targets": [{"name": t, **_classes(dataset, t, parts)} for t in dataset.targets],
        "facts": facts,
        "sample": sample(dataset, parts, options.seed),
        "search": search,
        "seconds": round(time.monotonic() - began, 2),
    }
    write_json(root / "audit.json", content)
    path = page.build(root, lang=options.lang)
    return AuditReport(path, findings, page.lines(content), time.monotonic() - began)


@contextmanager
def _progress(total: int, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    if not total or not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("fingerprints", total=total)

        def advance(number: int) -> None:
            bar.update(task, advance=number)
            if bar.tasks[0].finished:
                bar.update(task, description="comparing")

        yield advance


# ------------------------------------------------------------------------------------------ counts


def _classes(dataset: Dataset, target: str, parts: list[leaks.Part]) -> dict[str, Any]:
    """Cases and patients of each class, and how many of them stand in each role of each part."""
    values, patients = dataset.manifest[f"label.{target}"].to_list(), dataset.manifest["patient_id"].to_list()
    described = dataset.info.get("targets", {}).get(target, {})
    if described.get("type") == "regress":
        known = np.array([v for v in values if v is not None], float)
        quantiles = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(known) else []
        return {
            "type": "regress",
            "unit": described.get("unit"),
            "quantiles": quantiles,
            "missing": len(values) - len(known),
            "classes": [],
        }
    rows = []
    for name in described.get("classes") or sorted({v for v in values if v is not None}):
        members = [i for i, v in enumerate(values) if v == name]
        roles = {
            p.name: dict(Counter(p.roles[i] for i in members if p.roles[i])) for p in parts if ", inner " not in p.name
        }
        rows.append(
            {"name": name, "cases": len(members), "patients": len({patients[i] for i in members}), "roles": roles}
        )
    return {
        "type": "classify",
        "positive": described.get("positive"),
        "classes": rows,
        "missing": sum(v is None for v in values),
    }


def sample(dataset: Dataset, parts: list[leaks.Part], seed: int) -> list[dict[str, Any]]:
    """A few cases of each class and role, for the contact sheet: other patients first."""
    manifest = dataset.manifest
    target = next(
        (t for t in dataset.targets if dataset.info.get("targets", {}).get(t, {}).get("type") == "classify"), None
    )
    labels = manifest[f"label.{target}"].to_list() if target else [None] * manifest.height
    part = next((p for p in parts if p.name != "external"), None)
    roles = part.roles[: manifest.height] if part else [None] * manifest.height
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, key in enumerate(zip(labels, roles)):
        groups[key[0] or "", key[1] or ""].append(number)
    rng = np.random.default_rng(seed)
    names, patients = manifest["case_id"].to_list(), manifest["patient_id"].to_list()
    few = SAMPLE if len(groups) <= 12 else 2
    found = []
    for (label, role), members in sorted(groups.items())[:40]:
        mixed = [members[int(i)] for i in rng.permutation(len(members))]
        seen: set[str] = set()
        fresh = [i for i in mixed if patients[i] not in seen and not seen.add(patients[i])]  # type: ignore[func-returns-value]
        chosen = list(dict.fromkeys([*fresh, *mixed]))[:few]
        found.append(
            {
                "label": label,
                "role": role,
                "part": part.name if part else "",
                "of": len(members),
                "cases": [names[i] for i in chosen],
            }
        )
    return found


# ------------------------------------------------------------------------------------------ acquisition facts


def acquisition(dataset: Dataset, options: AuditOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table of acquisition facts with their association with each target, and the findings that follow."""
    known = leaks.acquisition(dataset)
    patients = dataset.manifest["patient_id"].to_list()
    rows: list[dict[str, Any]] = []
    findings: list[dict[str, Any]] = []
    varied = {name: values for name, values in known.items() if len({v for v in values if v is not None}) > 1}
    for name, values in known.items():
        row: dict[str, Any] = {"name": name, **_described(values, patients), "targets": []}
        rows.append(row)
        if name not in varied:
            continue
        for target in dataset.targets:
            labels = dataset.manifest[f"label.{target}"].to_list()
            found = associate(values, labels, patients, permutations=options.permutations, seed=options.seed)
            if found is None:
                continue
            entry = {"target": target, "measure": found.measure, "strength": found.strength, "p": found.p, "n": found.n}
            row["targets"].append({**entry, "by_class": _by_class(values, labels)})
    for target in dataset.targets:
        told: dict[str, list[dict[str, Any]]] = {"fact_strong": [], "fact_weak": []}
        for name, entry in ((r["name"], e) for r in rows for e in r.get("targets", []) if e["target"] == target):
            if entry["strength"] >= STRONG and entry["p"] <= OPEN:
                told["fact_strong" if entry["p"] <= LIKELY else "fact_weak"].append({"fact": name, **entry})
            elif entry["strength"] >= WEAK and entry["p"] <= LIKELY:
                told["fact_weak"].append({"fact": name, **entry})
        for kind, some in told.items():
            if some:
                some.sort(key=lambda e: -e["strength"])
                severity = "check" if kind == "fact_strong" else "note"
                findings.append({"kind": kind, "severity": severity, "n": len(some), "target": target, "facts": some})
    for target in dataset.targets:
        if varied and dataset.info.get("targets", {}).get(target, {}).get("type") == "classify":
            together = _together(varied, dataset.manifest[f"label.{target}"].to_list(), patients, options)
            if together is not None:
                rows.append({"name": "", "together": together, "target": target})
                if together["auc"] >= TOLD and together["low"] > 0.5:
                    findings.append(
                        {
                            "kind": "facts_together",
                            "severity": "check",
                            "n": together["n"],
                            "target": target,
                            **together,
                        }
                    )
    return rows, findings


def _described(values: list[Any], patients: list[str]) -> dict[str, Any]:
    """Counts of a category, or quantiles of a number."""
    known = [v for v in values if v is not None]
    if any(isinstance(v, str) for v in known):
        counts = Counter(known)
        who: dict[str, set[str]] = defaultdict(set)
        for value, patient in zip(values, patients):
            who[value].add(patient)
        listed = [{"value": v, "cases": n, "patients": len(who[v])} for v, n in counts.most_common(SHOWN)]
        return {"type": "category", "known": len(known), "distinct": len(counts), "values": listed}
    quantiles = np.quantile(np.array(known, float), [0, 0.25, 0.5, 0.75, 1]).tolist()
    return {"type": "number", "known": len(known), "distinct": len(set(known)), "quantiles": quantiles}


def _by_class(values: list[Any], labels: list[Any]) -> list[dict[str, Any]]:
    """The fact within each class: shares of its values, or median and quartiles.

    For a quantity: within its lower and upper half.
    """
    known = [(v, y) for v, y in zip(values, labels) if v is not None and y is not None]
    if not isinstance(known[0][1], str):
        middle = float(np.median([y for _, y in known]))
        known = [(v, "low" if y <= middle else "high") for v, y in known]
    groups: dict[str, list[Any]] = defaultdict(list)
    for value, label in known:
        groups[label].append(value)
    text = any(isinstance(v, str) for v, _ in known)
    order = [v for v, _ in Counter(v for v, _ in known).most_common(SHOWN)] if text else []
    found = []
    for label, members in sorted(groups.items()):
        if text:
            counts = Counter(members)
            found.append({"class": label, "n": len(members), "shares": {v: counts[v] / len(members) for v in order}})
        else:
            found.append(
                {
                    "class": label,
                    "n": len(members),
                    "quartiles": np.quantile(np.array(members, float), [0.25, 0.5, 0.75]).tolist(),
                }
            )
    return found


def _together(
    facts: dict[str, list[Any]], labels: list[Any], patients: list[str], options: AuditOptions
) -> dict[str, Any] | None:
    """How well all facts together tell the label of unseen patients: AUC of a logistic regression (several classes:
    mean of one against the rest).
    """
    columns = []
    for values in facts.values():
        if any(isinstance(v, str) for v in values):
            for value, n in Counter(v for v in values if v is not None).most_common(SHOWN):
                if n >= 3:
                    columns.append([np.nan if v is None else float(v == value) for v in values])
        else:
            columns.append([np.nan if v is None else float(np.sign(v) * np.log1p(abs(v))) for v in values])
    classes = sorted({y for y in labels if y is not None})
    if len(classes) < 2 or not columns:
        return None
    y = np.array([np.nan if v is None else classes.index(v) for v in labels])
    codes = np.unique(patients, return_inverse=True)[1]
    if (
        min(len(set(codes[y == k])) for k in range(len(classes))) < 5
    ):  # a class of a few patients cannot be predicted for others
        enough = [k for k in range(len(classes)) if len(set(codes[y == k])) >= 5]
        if len(enough) < 2:
            return None
        y = np.where(np.isin(y, enough), np.searchsorted(enough, np.nan_to_num(y)), np.nan)
        classes = [classes[k] for k in enough]
    found = trivial_auc(np.array(columns).T, y, codes, seed=options.seed, resamples=500)
    if not np.isfinite(found.value):
        return None
    return {
        "auc": found.value,
        "low": found.low,
        "high": found.high,
        "n": int(np.isfinite(y).sum()),
        "classes": classes,
        "facts": list(facts),
    }
