"""The audit, from a data set to a page: where leaks, acquisition facts and the report's page meet.

No torch.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft import __version__, notices, progress
from medgraft.audit import leaks
from medgraft.audit.acquisition import acquisition
from medgraft.audit.options import AuditOptions
from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.files import write_json

SAMPLE = 6  # cases shown of each class and role


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
    with progress.bar(
        cases.frame.height if options.near else 0, "fingerprints", options.progress, then="comparing"
    ) as advance:
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
