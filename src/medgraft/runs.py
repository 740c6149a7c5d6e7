"""The run folder and its cells: names, hashes, seeds, versions, atomic results, resume.

A cell (model x start x strategy x setting x outer x inner x seed) lives in ``cells/<hash12>/``. Its
hash covers everything that decides its numbers, so a finished cell is never trained again and a
changed one never taken for it. ``DONE`` is the last file written.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from medgraft import __version__, config, notices, tables
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
FORMAT = 1  # raise when the meaning of a cell's files changes


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One training, by everything that decides its numbers."""

    model: str
    start: str
    strategy: str
    setting: dict[str, Any] = field(compare=False)
    outer: int
    inner: int  # -1 = refit on the whole training part
    seed: int
    data_hash: str
    context: dict[str, Any] = field(
        default_factory=dict, compare=False
    )  # split hash, window, task, weights, threads, precision

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over all fields."""
        return digest({"format": FORMAT, **asdict(self)})[:12]

    @property
    def arm(self) -> str:
        return f"{self.model} · {self.start} · {self.strategy}"

    @property
    def title(self) -> str:
        part = "refit" if self.inner < 0 else f"inner {self.inner + 1}"
        return f"{self.arm} fold {self.outer + 1} {part} seed {self.seed}"


class Run:
    """A run folder: opens or makes it, refuses a changed data set, knows what is done."""

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

        Raises ``UserError`` that names the first difference when the data set changed since the run began.
        """
        try:
            (root / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, root) from error
        run = cls(root)
        data_hash = digest(case_digests)
        if run.info and run.info.get("data_hash") != data_hash:
            raise UserError(
                f"the data set is not the one this run began with: "
                f"{_difference(read_json(root / 'cases.json'), case_digests)}",
                case=str(root),
                fix="choose a new run with name=NAME, or bring the old data set back",
            )
        write_json(root / "cases.json", case_digests)
        run.info = {
            **run.info,
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
        run = cls(root)
        if not run.info:
            raise UserError(
                "not a run folder (no run.json)", case=str(root), fix="give the folder that `medgraft run` printed"
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
        write_json(
            path,
            {
                **before,
                **asdict(cell),
                "hash": cell.hash,
                "state": state,
                "pid": os.getpid(),
                "updated": time.time(),
                **facts,
            },
        )

    def finish(self, cell: Cell, **facts: Any) -> None:
        """Seal a cell: facts, then the DONE file, then the resume checkpoint goes."""
        self.mark(cell, "done", **facts)
        write_text(self.folder(cell) / "DONE", time.strftime("%Y-%m-%d %H:%M:%S\n"))
        (self.folder(cell) / "last.ckpt").unlink(missing_ok=True)

    def look(self, cell: Cell) -> None:
        """Log one look at a test part. A look is logged once for a cell."""
        if cell.hash not in {entry["cell"] for entry in self.info["looks"]}:
            self.info["looks"].append(
                {
                    "cell": cell.hash,
                    "arm": cell.arm,
                    "outer": cell.outer,
                    "seed": cell.seed,
                    "time": time.strftime("%Y-%m-%d %H:%M:%S"),
                }
            )
            self.save()

    def records(self, only: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """All ``cell.json`` files, in order of hash; ``only`` keeps the given hashes."""
        wanted = set(only) if only is not None else None
        found = []
        for path in sorted((self.root / "cells").glob("*/cell.json")):
            if wanted is None or path.parent.name in wanted:
                record = read_json(path)
                if record["state"] == "done" and not (path.parent / "DONE").is_file():
                    record["state"] = "running"
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
    """What decides a case's numbers (patient, pixels, mask, view, labels), hashed by case id."""
    columns = [
        "patient_id",
        "array_id",
        "mask_id",
        "view_center",
        "view_size",
        "view_direction",
        *(f"label.{t}" for t in targets),
    ]
    return {row["case_id"]: digest([row[c] for c in columns])[:16] for row in dataset.manifest.iter_rows(named=True)}


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


def arm_of(record: dict[str, Any]) -> str:
    """The arm that a cell's record belongs to, as ``ArmConfig.id`` names it."""
    return f"{record['model']} · {record['start']} · {record['strategy']}"


def inner_scores(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean score of each arm over its finished inner cells; no test part has a say in it."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if record["state"] == "done" and record["inner"] >= 0 and record.get("score") is not None:
            scores.setdefault(arm_of(record), []).append(record["score"])
    return {arm: sum(values) / len(values) for arm, values in scores.items()}


def status(root: Path) -> dict[str, Any]:
    """Cells by state, failures by name, and the leaderboard so far from inner scores only."""
    the_run = Run.open(root)
    records = the_run.records()
    counts: dict[str, int] = {}
    for record in records:
        counts[record["state"]] = counts.get(record["state"], 0) + 1
    recipe = config.build(config.Recipe, the_run.info["recipe"])
    inner = len({row["inner"] for row in read_json(the_run.root / "splits.json")["rows"] if row["inner"] >= 0})
    planned = sum(
        the_run.info["folds"] * (len(recipe.arm_settings(arm)) * inner + len(recipe.seeds)) for arm in recipe.models
    )
    return {
        "name": the_run.info["name"],
        "cells": counts,
        "planned": planned,
        "failed": [(r["hash"], r["state"]) for r in records if r["state"].startswith("failed")],
        "metric": next((r["metric"] for r in records if r.get("metric")), ""),
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
        down = facts["metric"] != "mae"
        lines += [
            f"  {score:.3f}  {name}"
            for name, score in sorted(facts["inner_scores"].items(), key=lambda item: item[1], reverse=down)
        ]
    lines.append("report.html is there" if facts["report"] else "no report yet; `medgraft run` writes it at the end")
    return "\n".join(lines)
