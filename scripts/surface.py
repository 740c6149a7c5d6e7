#!/usr/bin/env python3
"""What people and their scripts build on: verbs, arguments, keys, defaults, choices, and the columns of every table.

python scripts/surface.py            writes tests/golden_surface.json
python scripts/surface.py --check    says how the code differs from it; exit status 1 where it does
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import typer

from medgraft import knobs, serve, tables, verbs
from medgraft.cli import app
from medgraft.data.dataset import TargetSpec
from medgraft.stats import summary, write
from medgraft.tasks.choose import make
from medgraft.tasks.task import TaskSpec

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden_surface.json"

CLASSES = ("cyst", "healthy", "tumour")
#: A task of each kind: what is asked, and the words of a run that the statistics need.
TASKS: dict[str, tuple[TaskSpec, dict[str, Any]]] = {
    "binary": (
        TaskSpec("classify", (TargetSpec("finding", "binary", ("healthy", "ill"), "ill"),)),
        {"classes": {"finding": ["healthy", "ill"]}, "positive": {"finding": "ill"}},
    ),
    "multiclass": (
        TaskSpec("classify", (TargetSpec("finding", "classes", CLASSES),)),
        {"classes": {"finding": list(CLASSES)}},
    ),
    "multilabel": (
        TaskSpec("classify", tuple(TargetSpec(t, "binary", ("no", "yes"), "yes") for t in ("fluid", "nodule"))),
        {},
    ),
    "regression": (TaskSpec("regress", (TargetSpec("ef", "regress"),)), {}),
    "segmentation": (TaskSpec("segment", structures=("heart",)), {"structures": ["heart"]}),
}


def surface() -> dict[str, Any]:
    """Everything that is frozen, as plain JSON."""
    return {
        "verbs": {name: {"arguments": arguments, "keys": keys(name)} for name, arguments in commands()},
        "tables": {name: {c: str(t) for c, t in schema.items()} for name, schema in tables.SCHEMAS.items()},
        **judged(),
        "predict": {kind: served(kind) for kind in TASKS},
    }


def commands() -> Iterator[tuple[str, dict[str, str]]]:
    """(Verb, {argument: how often it stands}) of every command, in the order of the help."""
    found = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in found.items():
        inner = getattr(command, "commands", None)
        for path, each in [(f"{name} {n}", c) for n, c in inner.items()] if inner else [(name, command)]:
            words = [p for p in each.params if p.param_type_name == "argument"]
            yield path, {p.metavar or p.name: ("one" if p.required else "one or none") if p.nargs == 1 else "several"
                         for p in words}  # fmt: skip


def keys(verb: str) -> dict[str, Any]:
    """Key -> kind, default and choices, of a verb and of its other kinds (``bench official=DIR``)."""
    found = {}
    for name in [v for v in verbs.OPTIONS if v.partition(" official")[0] == verb]:
        for knob in knobs.knobs(verbs.options_class(name)):
            default = "required" if knob.required else json.loads(json.dumps(knob.default, default=str))
            key = knob.key if name == verb else f"{name.removeprefix(verb).strip()} {knob.key}"
            found[key] = {"kind": knob.kind, "default": default, "choices": list(knob.choices)}
    return found


def judged() -> dict[str, dict[str, list[str]]]:
    """Columns of the tables of a run's statistics, by kind of task: {file: {kind: columns}}."""
    found: dict[str, dict[str, list[str]]] = {"leaderboard.csv": {}, "pairs.csv": {}}
    for kind, (spec, facts) in TASKS.items():
        targets = [t.name for t in spec.targets]
        run = {"name": "r", "task": spec.name, "targets": targets, "classes": {}, "level": "case", "unit": "patient"}
        run["patients"] = {f"c{n}": f"p{n}" for n in range(20)}
        with tempfile.TemporaryDirectory() as place:
            write.write_tables(summary.summarise(*answers(kind, spec), {**run, **facts}, resamples=100), place)
            for file, of in found.items():
                of[kind] = header(Path(place) / file)
    return found


def header(path: Path) -> list[str]:
    """First line of a CSV file."""
    with open(path, newline="", encoding="utf-8") as stream:
        return next(csv.reader(stream))


def answers(kind: str, spec: TaskSpec) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Predictions, measures and cells of two made-up models on twenty patients."""
    g = np.random.default_rng(0)
    cells, predictions, measures = [], [], []
    columns = [(t.name, c) for t in spec.targets for c in (t.classes if t.kind == "classes" else (t.positive or "",))]
    for model in ("a", "b"):
        row = {"model": model, "start": "random", "strategy": "finetune", "setting": "{}", "outer": 0, "inner": -1}
        cells.append({"hash": model, **row, "seed": 0, "data_hash": "d", "state": "done"})
        for n in range(20):
            case = {"cell": model, "case_id": f"c{n}"}
            for k, (target, name) in enumerate(columns):
                truth = float(n % 3 == k) if kind == "multiclass" else float(n % 2)
                predictions.append(
                    {**case, "split": "test", "inner": -1, "patient_id": f"p{n}", "window": -1, "window_start": 0}
                    | {"view": 0, "target": target, "class": name, "y_true": truth, "y_pred": float(g.random())}
                )
            for part in ("tp", "fp", "fn") if spec.structures else ():
                measures.append({**case, "frame": -1, "name": f"{part}.heart", "value": float(g.integers(1, 50))})
    made = (("predictions", predictions), ("measures", measures), ("cells", cells))
    frames = [tables.validate(pl.DataFrame(rows, schema=tables.SCHEMAS[name]), name) for name, rows in made]
    return frames[0], frames[1], frames[2]


def served(kind: str) -> list[str]:
    """Columns of the table that ``medgraft predict`` writes for a task of this kind."""
    task = make(TASKS[kind][0])
    scores = np.full((task.outputs, 1, 4, 4) if task.joins == "field" else (task.outputs,), 0.4)
    line = {"case_id": "c", "kind": "image", "shape": [1, 1, 4, 4], "spacing": None, "value_unit": "display"}
    line |= {"p005": 0.0, "p995": 255.0, "to_source": None}
    seen = {"value_unit": ["display"], **dict.fromkeys(("frames", "height", "width"), (1, 4)), "p995": (200.0, 255.0)}
    manifest = pl.DataFrame([line])
    serving = SimpleNamespace(task=task, seen=lambda row: "", run=SimpleNamespace(info={"acquisition": seen}))
    serving.place = lambda row: {}
    serving.session = SimpleNamespace(dataset=SimpleNamespace(manifest=manifest))
    said = serve.Said([scores], [], [0.5] if kind == "binary" else [], networks=1)
    with tempfile.TemporaryDirectory() as place:
        return list(serve._row(serving, 0, said, Path(place) / "out.csv"))  # type: ignore[arg-type]


def difference(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """One line for each place that differs."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        place = f"{path}{key}"
        if key not in new:
            found.append(f"gone: {place} ({json.dumps(old[key])})")
        elif key not in old:
            found.append(f"new: {place} ({json.dumps(new[key])})")
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            found += difference(old[key], new[key], f"{place} > ")
        elif old[key] != new[key]:
            found.append(f"changed: {place}: {json.dumps(old[key])} -> {json.dumps(new[key])}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    now = surface()
    if parser.parse_args().check:
        found = difference(json.loads(GOLDEN.read_text(encoding="utf-8")), now)
        print("\n".join([*found, "renew it with python scripts/surface.py"] if found else ["as it was"]))
        return int(bool(found))
    GOLDEN.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    print(f"{GOLDEN}: {len(now['verbs'])} verbs, {len(now['tables'])} tables")
    return 0


if __name__ == "__main__":
    sys.exit(main())
