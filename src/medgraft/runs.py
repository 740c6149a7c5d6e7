"""The run folder and its cells: names, hashes, seeds, versions, atomic results, resume.

A cell (model x start x strategy x setting x outer x inner x seed) lives in ``cells/<hash12>/``. Its
hash covers everything that decides its numbers, so a finished cell is never trained again and a
changed one never taken for it. ``DONE`` is the last file written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from medgraft import __version__, notices, tables
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.files import disk_error, read_json, write_json, write_text

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "monai",
    "segmentation-models-pytorch",
    "lightning-fabric",
    "numpy",
    "polars",
    "scikit-learn",
    "av",
    "pydicom",
)
FORMAT = 2  # raise when the meaning of a cell's files changes
LOOKS = "looks.jsonl"  # beside the data set: every look at one of its test parts, by any run


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One training, by everything that decides its numbers.

    ``arm``, ``strategy`` as tables print it, and ``data_hash`` say whose it is and decide none: a new label makes no
    new cell, and what of the data counts stands in ``context`` by part (``engine.plan``).
    """

    arm: str
    model: str
    start: str
    strategy: str
    setting: dict[str, Any] = field(compare=False)
    outer: int
    inner: int  # -1 = refit on the whole training part
    seed: int
    data_hash: str
    context: dict[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over all that decides its numbers."""
        named = {k: v for k, v in asdict(self).items() if k not in ("arm", "strategy", "data_hash")}
        return digest({"format": FORMAT, **named})[:12]

    @property
    def title(self) -> str:
        part = "refit" if self.inner < 0 else f"inner {self.inner + 1}"
        return f"{self.arm} fold {self.outer + 1} {part} seed {self.seed}"


class Run:
    """A run folder: opens or makes it, refuses a changed data set, knows what is done.

    ``run.json`` holds ``cells``, {hash: arm} of the last plan: inner ones from its start, refits from the moment their
    setting is chosen. What an earlier plan left in the folder stays there and has no say.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.info: dict[str, Any] = read_json(self.root / "run.json") if (self.root / "run.json").is_file() else {}

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        recipe: dict[str, Any],
        recipe_text: str,
        dataset: Dataset,
        case_digests: dict[str, str],
        facts: dict[str, Any],
    ) -> Run:
        """Make or reopen a run folder.

        Raises ``UserError`` that names the first difference when the data set changed since the run began, in its cases
        or in what its labels mean.
        """
        try:
            (root / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, root) from error
        run = cls(root)
        if run.info and run.info.get("format") != FORMAT:
            raise UserError(
                f"the run was made by another medgraft (format {run.info.get('format', 1)}, this one writes {FORMAT})",
                case=str(root),
                fix="choose a new run with name=NAME",
            )
        data_hash = digest(case_digests)
        if run.info and (meaning := _meaning(run.info.get("target_specs") or [], facts.get("target_specs") or [])):
            raise UserError(meaning, case=str(root), fix="choose a new run with name=NAME")
        if run.info and run.info.get("data_hash") != data_hash:
            difference = _difference(read_json(root / "cases.json"), case_digests)
            raise UserError(
                f"the data set is not the one this run began with: {difference}",
                case=str(root),
                fix="choose a new run with name=NAME, or bring the old data set back",
            )
        write_json(root / "cases.json", case_digests)
        run.info = {
            **run.info,
            "format": FORMAT,
            "name": root.name,
            "created": run.info.get("created", time.strftime("%Y-%m-%d %H:%M")),
            "dataset": os.path.relpath(dataset.root.resolve(), root.resolve()),
            "data_hash": data_hash,
            "versions": versions(),
            "recipe": recipe,
            "looks": run.info.get("looks", []),
            "warnings": notices.to_json(dataset.warnings),
            **facts,
        }
        write_text(root / "recipe.yaml", recipe_text)
        run.save()
        return run

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> Run:
        """A run folder of this version. Raises ``UserError`` where it is none, or an older one."""
        run = cls(root)
        if not run.info:
            raise UserError(
                "not a run folder (no run.json)", case=str(root), fix="give the folder that `medgraft run` printed"
            )
        if run.info.get("format") != FORMAT:
            raise UserError(
                f"the run was made by another medgraft (format {run.info.get('format', 1)}, this one reads {FORMAT})",
                case=str(root),
                fix="use the medgraft that made it, or run its recipe again with name=NAME",
            )
        return run

    @property
    def dataset_root(self) -> Path:
        return (self.root / self.info["dataset"]).resolve()

    def save(self) -> None:
        write_json(self.root / "run.json", self.info)

    def folder(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.hash

    def done(self, cell: Cell) -> bool:
        return (self.folder(cell) / "DONE").is_file()

    def belongs(self, *cells: Cell) -> None:
        """Take cells into the last plan."""
        known = self.info.setdefault("cells", {})
        fresh = {cell.hash: cell.arm for cell in cells if known.get(cell.hash) != cell.arm}
        if fresh:
            known.update(fresh)
            self.save()

    def begin(self, cell: Cell) -> Path:
        """Make the cell's folder and mark it running; what an earlier try left there stays for resume."""
        folder = self.folder(cell)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.root) from error
        self.mark(cell, "running")
        return folder

    def mark(self, cell: Cell, state: str, **facts: Any) -> None:
        """Write ``cell.json`` with the state: running, done, failed: ..., not run: ..."""
        path = self.folder(cell) / "cell.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        before = read_json(path) if path.is_file() else {}
        now = {"hash": cell.hash, "state": state, "pid": os.getpid(), "updated": time.time()}
        write_json(path, {**before, **asdict(cell), **now, **facts})

    def finish(self, cell: Cell, **facts: Any) -> None:
        """Seal a cell: facts, then the DONE file, then the resume checkpoint goes."""
        self.mark(cell, "done", **facts)
        write_text(self.folder(cell) / "DONE", time.strftime("%Y-%m-%d %H:%M:%S\n"))
        (self.folder(cell) / "last.ckpt").unlink(missing_ok=True)

    def look(self, cell: Cell, part: str) -> None:
        """Log one look at a test part, which ``part`` names. A look is logged once for a cell."""
        if cell.hash in {entry["cell"] for entry in self.info["looks"]}:
            return
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        look = {"cell": cell.hash, "arm": cell.arm, "outer": cell.outer, "seed": cell.seed, "time": when, "part": part}
        self.info["looks"].append(look)
        self.save()
        ledger = {"run": os.path.relpath(self.root.resolve(), self.dataset_root), "cell": cell.hash, "part": part}
        with contextlib.suppress(OSError), open(self.dataset_root / LOOKS, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({**ledger, "time": when}, ensure_ascii=False) + "\n")

    def earlier_looks(self, parts: Collection[str]) -> list[dict[str, Any]]:
        """Looks at the given test parts by cells that are not of the last plan: of earlier plans, and of other runs on
        the same data set, which keeps a list of them (``looks.jsonl``).
        """
        mine = set(self.info.get("cells") or {})
        own = os.path.relpath(self.root.resolve(), self.dataset_root)
        found = {("", entry["cell"]): {**entry, "run": ""} for entry in self.info["looks"]}
        for entry in _lines(self.dataset_root / LOOKS):
            run = "" if entry.get("run") == own else str(entry.get("run"))
            found.setdefault((run, str(entry.get("cell"))), {**entry, "run": run})
        return [e for e in found.values() if e.get("part") in parts and (e["run"] or e["cell"] not in mine)]

    def records(self, only: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """``cell.json`` of the last plan's cells (or of the given hashes), in order of hash, with the plan's name
        of each.
        """
        plan: dict[str, str] = self.info.get("cells") or {}
        wanted = set(plan) if only is None else set(only)
        found = []
        for path in sorted((self.root / "cells").glob("*/cell.json")):
            if path.parent.name in wanted:
                record = read_json(path)
                if record["state"] == "done" and not (path.parent / "DONE").is_file():
                    record["state"] = "running"
                record["arm"] = plan.get(path.parent.name, record["arm"])
                record["strategy"] = record["arm"].split(" · ", 2)[2]
                found.append(record)
        return found

    def cells(self, only: Iterable[str] | None = None) -> pl.DataFrame:
        """The table of cells."""
        records = self.records(only)
        rows = [
            {
                "hash": r["hash"],
                **{k: r[k] for k in ("model", "start", "strategy", "outer", "inner", "seed", "data_hash", "state")},
                "setting": json.dumps(r["setting"], sort_keys=True),
            }
            for r in records
        ]
        return (
            tables.validate(pl.DataFrame(rows, schema_overrides=tables.SCHEMAS["cells"]), "cells")
            if rows
            else tables.empty("cells")
        )

    def gather(self, name: str, only: Sequence[str]) -> pl.DataFrame:
        """Join one table (predictions or measures) over the given finished cells."""
        parts = []
        for cell in only:
            path = self.root / "cells" / cell / f"{name}.parquet"
            if path.is_file():
                parts.append(tables.read(path, name))
        return pl.concat(parts) if parts else tables.empty(name)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of JSON objects; a torn last line, or an absent file, is none."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
    return found


def versions() -> dict[str, str]:
    """Versions of medgraft, Python, the platform and the packages that decide numbers."""
    found = {
        "medgraft": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def case_digests(dataset: Dataset, targets: Sequence[str]) -> dict[str, str]:
    """What decides a case's numbers (patient, pixels and what they mean, mask, view, labels), hashed by case id."""
    columns = ["patient_id", "array_id", "mask_id", "view_center", "view_size", "view_direction", "kind"]
    columns += ["value_unit", "p005", "p995", *(f"label.{t}" for t in targets)]
    marks: dict[str, list[tuple[int, int]]] = {}
    marked = dataset.frames.filter(pl.col("mask_index") >= 0).sort("array_id", "frame")
    for array, frame, index in marked.select("array_id", "frame", "mask_index").iter_rows():
        marks.setdefault(array, []).append((frame, index))
    return {
        row["case_id"]: digest([*(row[c] for c in columns), marks.get(row["array_id"]) if row["mask_id"] else None])[
            :16
        ]
        for row in dataset.manifest.iter_rows(named=True)
    }


def _meaning(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> str:
    """How the targets of a run and of a recipe differ, or nothing."""
    words = {"kind": "kind", "classes": "classes", "positive": "positive class"}
    before, now = {t["name"]: t for t in old}, {t["name"]: t for t in new}
    if set(before) != set(now):
        return f"targets: {', '.join(before) or 'none'} -> {', '.join(now) or 'none'}"
    for name, target in now.items():
        for key, word in words.items():
            a, b = before[name].get(key), target.get(key)
            a, b = (", ".join(v) if isinstance(v, (list, tuple)) else v for v in (a, b))
            if a != b:
                return f"{word} of {name}: {a} -> {b}"
    return ""


def _difference(old: dict[str, str], new: dict[str, str]) -> str:
    gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    changed = sorted(k for k in set(old) & set(new) if old[k] != new[k])
    parts = []
    for word, cases in (("gone", gone), ("new", come), ("changed", changed)):
        if cases:
            parts.append(f"{len(cases)} {word} (first {cases[0]})")
    return ", ".join(parts) or "the order of nothing changed, yet the hash did"


def free_space(path: Path) -> float:
    """Free gigabytes on the disk that holds ``path``."""
    return shutil.disk_usage(path).free / 1e9


def inner_scores(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean score of each arm over its finished inner cells; no test part has a say in it."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if record["state"] == "done" and record["inner"] >= 0 and record.get("score") is not None:
            scores.setdefault(record["arm"], []).append(record["score"])
    return {arm: sum(values) / len(values) for arm, values in scores.items()}


def status(root: Path) -> dict[str, Any]:
    """Cells of the last plan by state, failures by name, and the leaderboard so far from inner scores only."""
    the_run = Run.open(root)
    records = the_run.records()
    counts: dict[str, int] = {}
    for record in records:
        counts[record["state"]] = counts.get(record["state"], 0) + 1
    return {
        "name": the_run.info["name"],
        "cells": counts,
        "planned": the_run.info["planned"],
        "failed": [(r["hash"], r["state"]) for r in records if r["state"].startswith("failed")],
        "metric": the_run.info["metric"]["name"],
        "higher_is_better": the_run.info["metric"]["higher_is_better"],
        "inner_scores": inner_scores(records),
        "report": (the_run.root / "report.html").is_file(),
    }


def status_text(facts: dict[str, Any]) -> str:
    """``status`` for a terminal."""
    lines = [f"{facts['name']}: {facts['cells'].get('done', 0)} of {facts['planned']} cells done"]
    lines += [f"  {n:4d} {state}" for state, n in sorted(facts["cells"].items())]
    lines += [f"  {cell} {state}" for cell, state in facts["failed"][:10]]
    if facts["inner_scores"]:
        lines.append(f"inner {facts['metric']} so far (no test part was looked at for this):")
        best = sorted(facts["inner_scores"].items(), key=lambda item: item[1], reverse=facts["higher_is_better"])
        lines += [f"  {score:.3f}  {name}" for name, score in best]
    lines.append("report.html is there" if facts["report"] else "no report yet; `medgraft run` writes it at the end")
    return "\n".join(lines)
