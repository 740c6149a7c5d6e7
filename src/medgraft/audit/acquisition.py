"""Facts of how each case came to be, and whether they give the label away."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from medgraft.audit.options import AuditOptions
from medgraft.datasets import CLASSES, Dataset
from medgraft.stats.association import associate
from medgraft.stats.baseline import chance, trivial_auc
from medgraft.stats.compare import holm

STRONG, WEAK = 0.3, 0.1  # strength of an association from which it is a finding to check, or a note
LIKELY, OPEN = 0.05, 0.1  # p up to which an association counts; up to which a strong one is worth a note (few patients)
TOLD = 0.6  # AUC of all facts together from which it is a finding, if chance rarely gets as far
SHOWN = 12  # values of a fact that are listed


def facts_of(dataset: Dataset) -> dict[str, list[Any]]:
    """Facts of how each case came to be, one list a fact: what the manifest knows and what ``facts=`` kept.

    Text is a category. Numbers stay numbers; kept columns whose values are all numbers, more than ten of them, too.
    """
    frame = dataset.manifest
    shapes, spacings, kinds = frame["shape"].to_list(), frame["spacing"].to_list(), frame["kind"].to_list()
    spacings = [s or [None] * 3 for s in spacings]
    days = frame["day"].to_list()
    first = min((d for d in days if d is not None), default=0)
    facts: dict[str, list[Any]] = {
        "site": frame["site"].to_list(),
        "device": frame["device"].to_list(),
        "day": [None if d is None else d - first for d in days],
        "kind": kinds,
        "height": [s[2] for s in shapes],
        "width": [s[3] for s in shapes],
        "frames": [s[1] if k == "video" else None for s, k in zip(shapes, kinds)],
        "slices": [s[1] if k == "volume" else None for s, k in zip(shapes, kinds)],
        "pixel spacing": [s[1] for s in spacings],
        "slice spacing": [s[0] if k == "volume" else None for s, k in zip(spacings, kinds)],
        "frame time": [s[0] if k == "video" else None for s, k in zip(spacings, kinds)],
        "darkest": frame["p005"].to_list(),
        "brightest": frame["p995"].to_list(),
    }
    for column in (c for c in frame.columns if c.startswith("fact.")):
        values = frame[column].to_list()
        known = {v for v in values if v is not None}
        numbers = {v: _number(v) for v in known}
        numeric = len(known) > 10 and all(n is not None for n in numbers.values())
        facts[column.removeprefix("fact.")] = [None if v is None else numbers[v] if numeric else v for v in values]
    return {name: values for name, values in facts.items() if any(v is not None for v in values)}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def acquisition(dataset: Dataset, options: AuditOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table of acquisition facts with their association with each target, and the findings that follow."""
    known = facts_of(dataset)
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
        entries = [(r["name"], e) for r in rows for e in r.get("targets", []) if e["target"] == target]
        for (_, entry), p in zip(entries, holm([e["p"] for _, e in entries])):
            entry["p_adjusted"] = float(p)  # of many facts some look tied by chance
        for name, entry in entries:
            if entry["strength"] >= STRONG and entry["p_adjusted"] <= OPEN:
                told["fact_strong" if entry["p_adjusted"] <= LIKELY else "fact_weak"].append({"fact": name, **entry})
            elif entry["strength"] >= WEAK and entry["p_adjusted"] <= LIKELY:
                told["fact_weak"].append({"fact": name, **entry})
        for kind, some in told.items():
            if some:
                some.sort(key=lambda e: -e["strength"])
                severity = "check" if kind == "fact_strong" else "note"
                findings.append({"kind": kind, "severity": severity, "n": len(some), "target": target, "facts": some})
    for target in dataset.targets:
        if varied and dataset.info.get("targets", {}).get(target, {}).get("type") == CLASSES:
            together = _together(varied, dataset.manifest[f"label.{target}"].to_list(), patients, options)
            if together is not None:
                rows.append({"name": "", "together": together, "target": target})
                if together["p"] is not None and together["p"] <= LIKELY:
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
    mean of one against the rest). ``p`` by permutation of patients where the AUC is high enough for a finding, else
    None.
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
    facts_of_case = np.array(columns).T
    found = trivial_auc(facts_of_case, y, codes, seed=options.seed, resamples=500)
    if not np.isfinite(found.value):
        return None
    p = chance(facts_of_case, y, codes, seed=options.seed) if found.value >= TOLD else None  # else it is no finding
    return {
        "auc": found.value,
        "low": found.low,
        "high": found.high,
        "p": p,
        "n": int(np.isfinite(y).sum()),
        "classes": classes,
        "facts": list(facts),
    }
