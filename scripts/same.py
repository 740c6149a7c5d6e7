#!/usr/bin/env python3
"""Prove that a change of the code changed no number, no table and no word: run small recipes on both sides and compare.

    python scripts/same.py HEAD~1 HEAD            two commits, to the bit
    python scripts/same.py HEAD                   a commit against the working tree as it is (`.`)
    python scripts/same.py main . --only image_classify clip_segment
    python scripts/same.py main . --allow 'run/folder' '/terminal/status'    differences that the changelog announces
    python scripts/same.py --stored               the working tree against the tables in tests/same, to 1e-4
    python scripts/same.py --store                write these tables again

Each recipe (scripts/same_studies.py) is one way through the command line: scan, audit, run, status, report in English
and Chinese, predict. Both sides read the same raw files under the same key, in this Python with one thread. What is
compared: every table of the data set and of the run, what `predict` writes, the lines that each command prints, the
text of every page. Only what must differ is left out (NORMAL, DROPPED). Exit status: 0 the same, 1 a difference that is
not announced, 2 a command failed.

Results of a commit are kept in .same/ in the root of the repository; the working tree is always run. On another
machine rounding differs in the last digits, so that only stored numbers are compared there, see NEAR.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from same_studies import RECIPES, Recipe, write_studies

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tests" / "same"
SHOWN = 20  # differences of a recipe that are printed
KEY = bytes(range(32))  # of every keyed code
WIDE = 150  # characters of a value that are printed

#: Text that must differ between two runs of one commit: pattern, what stands for it, why.
NORMAL: tuple[tuple[str, str, str], ...] = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "<time>", "time of day"),
    (r"; \d+\.\d s$", "; <seconds>", "how long a scan or an audit took, on a terminal"),
    (r"(^|用时 )\d+\.\d (s;|秒；)", r"\1<seconds> \2", "the same on the page of the audit"),
    (r"\| (done|failed.*?) \d+ s( \| data \d+% of step)?", r"| \1 <seconds>", "how long a cell took"),
    (r"\| ETA .*$", "| ETA <seconds>", "what is left"),
    (r"^\d+(\.\d)? ?(s|min|h|秒|分钟|小时)$", "<seconds>", "training time in the table of models"),
    (r"medgraft \d+\.\d+\S*", "medgraft <version>", "the version changes with a release"),
)
#: Fields of JSON files that must differ, wherever they stand, and why.
DROPPED: dict[str, str] = {
    "created": "time of day",
    "time": "time of day of a look",
    "seconds": "how long it took",
    "wait_share": "how long it waited",
    "versions": "the version changes with a release",
    "medgraft": "the version changes with a release",
    "data_hash": "in cells only a part of their name; the data themselves are compared",
}
#: Columns that name a row of a table; where they do not suffice, rows are counted.
NAMES: dict[str, tuple[str, ...]] = {
    "manifest": ("case_id",),
    "frames": ("array_id", "frame"),
    "annotations": ("case_id", "frame"),
    "text": ("array_id", "frame"),
    "predictions": ("cell", "case_id", "target", "class", "window", "view"),
    "measures": ("cell", "case_id", "frame", "name"),
    "cells": ("hash",),
    "rejects": ("source",),
    "leaderboard": ("id",),
    "pairs": ("a", "b", "metric"),
}
#: Third-party modules that a side imports once, before it forks for each command. Each recipe adds its own.
HEAVY = (
    "numpy",
    "polars",
    "pydantic.main",
    "yaml",
    "typer",
    "jinja2",
    "PIL.Image",
    "av",
    "SimpleITK",
    "pydicom",
    "scipy.stats",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "sklearn.covariance",
    "sklearn.decomposition",
    "sklearn.impute",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.neighbors",
    "sklearn.pipeline",
    "statsmodels.stats.multitest",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "torch",
    "torchvision.models",
    "timm",
    "lightning_fabric",
    "captum.attr",
)

Result = dict[str, Any]  # section -> {"lines": [...]}, {"table": {...}} or {"tree": ...}


# ------------------------------------------------------------------------------------------ one side


@dataclass(frozen=True)
class Step:
    """One command: a name, its words, and the exit statuses that are no fault."""

    name: str
    words: Sequence[str]
    good: tuple[int, ...] = (0,)


def steps(recipe: Recipe) -> list[Step]:
    """The commands of a recipe, in order. A scan may reject a study and an audit may find a leak: both are compared."""
    scan = ["scan", "studies/cases", *recipe.scan, "out=data", "workers=1"]
    found = [
        Step("scan", scan, (0, 3)),
        Step("scan again", scan, (0, 3)),
        Step("audit", ["audit", "data", "permutations=99"], (0, 3)),
        Step("run", ["run", "recipe.yaml"]),
        Step("status", ["status", "runs/run"]),
        Step("audit zh", ["audit", "data", "run=runs/run", "permutations=99", "lang=zh"], (0, 3)),
        Step("report zh", ["report", "runs/run", "lang=zh"]),
    ]
    if not recipe.run.get("report", True):  # else the run has written it
        found.append(Step("report en", ["report", "runs/run", "lang=en"]))
    for number, words in enumerate(recipe.predict):
        found.append(Step(f"predict {number}", ["predict", "runs/run", *words, f"out=predict{number}.csv"]))
    return found


class Failed(Exception):
    """A command ended as it should not."""


def run_recipe(recipe: Recipe, studies: Path, work: Path) -> Result:
    """Run all commands of a recipe in the empty folder ``work`` and collect what they wrote."""
    work.mkdir(parents=True)
    shutil.copytree(studies, work / "studies")
    (work / ".medgraft-key").write_bytes(KEY)
    (work / "recipe.yaml").write_text(json.dumps(recipe.whole(), ensure_ascii=False, indent=1), encoding="utf-8")
    printed: dict[str, tuple[list[str], list[str]]] = {}
    audits: dict[str, Any] = {}
    for step in steps(recipe):
        status, out, err = command(step.words, work)
        if status not in step.good:
            log = work / ".medgraft-error-full.log"
            trace = log.read_text(encoding="utf-8") if log.is_file() else ""
            raise Failed(f"{recipe.name}: `medgraft {' '.join(step.words)}` ended with {status}\n{out}{err}{trace}")
        printed[step.name] = [f"exit {status}", *out.splitlines()], err.splitlines()
        if step.name.startswith("audit"):
            audits[step.name] = json.loads((work / "data" / "audit.json").read_text(encoding="utf-8"))
    return collect(work, printed, audits)


def command(words: Sequence[str], work: Path) -> tuple[int, str, str]:
    """Exit status, standard output and error of ``python -m medgraft WORDS`` in ``work``.

    In a fork of this process where there are forks: the third-party libraries are then imported already.
    """
    out, err = work / ".out", work / ".err"
    if "fork" in multiprocessing.get_all_start_methods():
        process = multiprocessing.get_context("fork").Process(target=_medgraft, args=(words, work, out, err))
        process.start()
        process.join()
        status = process.exitcode or 0
    else:
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            call = [sys.executable, "-m", "medgraft", *words]
            status = subprocess.run(call, cwd=work, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr).returncode
    texts = out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
    out.unlink(), err.unlink()
    return status, *texts


def _medgraft(words: Sequence[str], work: Path, out: Path, err: Path) -> None:
    """``python -m medgraft`` in this process, its streams going to files."""
    sys.stdout.flush(), sys.stderr.flush()
    for file, stream in ((out, 1), (err, 2)):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    os.chdir(work)
    sys.argv = ["medgraft", *words]
    runpy.run_module("medgraft", run_name="__main__", alter_sys=True)


def side(source: Path, studies: Path, into: Path, names: Sequence[str], jobs: int, label: str) -> int:
    """Run recipes on the code below ``source``, ``jobs`` at a time, into ``into/NAME.json``. The count that failed."""
    found = importlib.util.find_spec("medgraft")
    if found is None or not Path(found.origin or "").resolve().is_relative_to(source.resolve()):
        raise SystemExit(f"error: {source} is not what would be run, but {found and found.origin}")
    fork = "fork" in multiprocessing.get_all_start_methods()
    waiting = [recipe for recipe in RECIPES if recipe.name in names]
    if fork:
        heavy = sorted({h for recipe in waiting for h in recipe.heavy})  # MONAI before transformers, see there
        for name in [*HEAVY, *heavy]:
            preload(name)
    context = multiprocessing.get_context("fork" if fork else "spawn")
    running: dict[Any, Any] = {}
    failed = 0
    while waiting or running:
        while waiting and len(running) < jobs:
            process = context.Process(target=_recipe, args=(waiting.pop(0), studies, into, label))
            process.start()
            running[process.sentinel] = process
        for sentinel in multiprocessing.connection.wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            failed += process.exitcode != 0
    return failed


def preload(name: str) -> None:
    """Import a third-party module; one that is not there is left to the commands, which may do without it."""
    hidden = {"transformers": None} if name.startswith("monai") and "transformers" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # MONAI would import it for one network, seconds for nothing
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
    for module in hidden:
        del sys.modules[module]


def _recipe(recipe: Recipe, studies: Path, into: Path, label: str) -> None:
    """One recipe, in a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="same-") as folder:
        try:
            result = run_recipe(recipe, studies / recipe.name, Path(folder) / "work")
        except Failed as error:
            sys.exit(f"error: {label}: {error}")
    temporary = into / f".{recipe.name}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    os.replace(temporary, into / f"{recipe.name}.json")
    spent = os.times()
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    print(f"{label}  {recipe.name:<18} {time.monotonic() - began:5.1f} s ({cpu:.1f} s of one core)", flush=True)


# ------------------------------------------------------------------------------------------ what is collected


def collect(work: Path, printed: dict[str, tuple[list[str], list[str]]], audits: dict[str, Any]) -> Result:
    """Everything that a recipe wrote, without what must differ."""
    data, run = work / "data", work / "runs" / "run"
    cells = name_cells(run)
    result: Result = {}
    for name, (out, err) in printed.items():
        result[f"terminal/{name}"] = {"lines": normal(out, cells, work)}
        result[f"errors/{name}"] = {"lines": normal(err, cells, work)}
    result["dataset"] = {"tree": tree(data / "dataset.json", cells)}
    for name in ("manifest", "frames", "annotations", "text"):
        result[name] = {"table": parquet(data / f"{name}.parquet", name, cells)}
    result["rejects"] = {"table": comma(data / "rejects.csv", "rejects")}
    for name, content in audits.items():
        result[f"audit/{name}"] = {"tree": pruned(content)}
    for name in ("predictions", "measures", "cells"):
        result[name] = {"table": parquet(run / f"{name}.parquet", name, cells)}
    for name in ("leaderboard", "pairs"):
        result[name] = {"table": comma(run / f"{name}.csv", name)}
    for name in ("splits", "summary", "run"):
        result[name] = {"tree": tree(run / f"{name}.json", cells)}
    trained = {cells[p.parent.name]: weights(p) for p in (run / "cells").glob("*/best.ckpt") if p.parent.name in cells}
    result["weights"] = {"tree": dict(sorted(trained.items()))}
    result["recipe"] = {"lines": normal((run / "recipe.yaml").read_text(encoding="utf-8").splitlines(), cells, work)}
    for page in sorted([*data.glob("*.html"), *run.glob("*.html")]):
        result[f"page/{page.name}"] = {"lines": normal(words_of(page.read_text(encoding="utf-8")), cells, work)}
    figures = {p.name: digest(p.read_bytes()) for p in sorted((run / "figures").glob("*"))}
    result["figures"] = {"tree": figures}
    for table in sorted(work.glob("predict*.csv")):
        result[f"{table.stem}/table"] = {"table": comma(table, "predict")}
        if table.with_suffix("").is_dir():
            result[f"{table.stem}/masks"] = {"tree": {p.name: mask(p) for p in sorted(table.with_suffix("").iterdir())}}
    here = [p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file() and "studies" not in p.parts]
    result["files"] = {
        "lines": sorted(replace_all(p, cells) for p in here if "/arrays/" not in p and "/features/" not in p)
    }
    return result


def leaves(setting: dict[str, Any]) -> dict[str, Any]:
    """Fields of a setting by their own names, whatever sections they stand in (older commits had none)."""
    found: dict[str, Any] = {}
    for key, value in setting.items():
        found |= leaves(value) if isinstance(value, dict) else {key: value}
    return found


def name_cells(run: Path) -> dict[str, str]:
    """Hash of each cell -> its name by what decides it: a hash may change by an announced change, the name does not.

    Of the setting only what differs within the arm is named, so that a new field of it changes no name.
    """
    records = [json.loads(p.read_text(encoding="utf-8")) for p in (run / "cells").glob("*/cell.json")]
    names: dict[str, str] = {}
    for record in records:
        arm = [record[k] for k in ("model", "start", "strategy")]
        others = [leaves(r["setting"]) for r in records if [r[k] for k in ("model", "start", "strategy")] == arm]
        varied = {k: v for k, v in leaves(record["setting"]).items() if any(o.get(k) != v for o in others)}
        setting = "".join(f" {k}={v}" for k, v in sorted(varied.items()))
        names[record["hash"]] = (
            f"{' · '.join(arm)}{setting} fold {record['outer']} inner {record['inner']} seed {record['seed']}"
        )
    return names


def replace_all(text: str, cells: dict[str, str]) -> str:
    """``text`` with the hash of each cell replaced by its name."""
    return re.sub(r"\b[0-9a-f]{12}\b", lambda found: cells.get(found.group(), found.group()), text)


def normal(lines: Iterable[str], cells: dict[str, str], work: Path) -> list[str]:
    """Lines without what must differ: NORMAL, hashes of cells, the folder of the run."""
    found = []
    for line in lines:
        text = replace_all(line, cells).replace(str(work), "<work>")
        for pattern, stand_in, _ in NORMAL:
            text = re.sub(pattern, stand_in, text)
        found.append(text.rstrip())
    return found


def pruned(value: Any) -> Any:
    """JSON without the DROPPED fields; a list of what belongs to cells is keyed by them: its order follows hashes."""
    if isinstance(value, dict):
        return {k: pruned(v) for k, v in value.items() if k not in DROPPED}
    if isinstance(value, list):
        if (
            value
            and all(isinstance(v, dict) and "cell" in v for v in value)
            and len({v["cell"] for v in value}) == len(value)
        ):
            return {v["cell"]: pruned(v) for v in value}
        return [pruned(v) for v in value]
    return value


def tree(path: Path, cells: dict[str, str]) -> Any:
    """A JSON file, pruned, its cells by name."""
    return pruned(json.loads(replace_all(path.read_text(encoding="utf-8"), cells)))


def parquet(path: Path, name: str, cells: dict[str, str]) -> dict[str, Any]:
    """A table: columns, their types, rows by name. Rows of cells are put in the order of the cells' names."""
    import polars

    frame = polars.read_parquet(path)
    rows = [[replace_all(v, cells) if isinstance(v, str) else v for v in row] for row in frame.rows()]
    for column in ("cell", "hash"):
        if column in frame.columns:
            index = frame.columns.index(column)
            rows.sort(key=lambda row: row[index])
    kept = [k for k, column in enumerate(frame.columns) if column not in DROPPED]
    types = [str(t) for t in frame.dtypes]
    columns = [frame.columns[k] for k in kept]
    return table(name, columns, [types[k] for k in kept], [[row[k] for k in kept] for row in rows])


def comma(path: Path, name: str) -> dict[str, Any]:
    """A CSV file as text: columns and rows by name."""
    with open(path, newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    kept = [k for k, column in enumerate(head) if column not in DROPPED]
    return table(name, [head[k] for k in kept], ["text"] * len(kept), [[row[k] for k in kept] for row in rows])


def table(name: str, columns: list[str], types: list[str], rows: Iterable[list[Any]]) -> dict[str, Any]:
    """A table whose rows are keyed by what names them (NAMES, else the first column), counted where it is shared."""
    names = [c for c in NAMES.get(name, columns[:1]) if c in columns]
    found: dict[str, list[Any]] = {}
    for row in rows:
        base = " | ".join(str(row[columns.index(c)]) for c in names)
        label, number = base, 1
        while label in found:
            number += 1
            label = f"{base} #{number}"
        found[label] = row
    return {"columns": columns, "types": types, "rows": found}


def mask(path: Path) -> dict[str, Any]:
    """A label map that was written: its place, the count of each label and a digest of its voxels."""
    if not path.name.endswith((".nii", ".nii.gz", ".png")):
        return {"digest": digest(path.read_bytes())}
    import numpy
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    values, counts = numpy.unique(array, return_counts=True)
    place = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    voxels = {str(v): int(n) for v, n in zip(values.tolist(), counts.tolist())}
    return {
        "shape": list(array.shape),
        **{k: list(v) for k, v in place.items()},
        "voxels": voxels,
        "digest": digest(array.tobytes()),
    }


def weights(path: Path) -> str:
    """A digest of all tensors of a checkpoint, whatever their names and their order."""
    import torch

    def tensors(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [t for v in value.values() for t in tensors(v)]
        return [value] if isinstance(value, torch.Tensor) else []

    found = tensors(torch.load(path, map_location="cpu", weights_only=True))
    raw = [
        f"{t.dtype} {tuple(t.shape)}".encode() + t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for t in found
    ]
    return f"{len(found)} tensors {digest(''.join(sorted(map(digest, raw))).encode())}"


def digest(data: bytes) -> str:
    """The first 12 digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:12]


class _Words(HTMLParser):
    """The words of a page: text outside scripts and styles, words for pictures, a digest of each inlined picture."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")
        for name, value in attrs:
            if name in ("alt", "title", "aria-label"):
                self.handle_data(value or "")
            elif name in ("src", "href") and (value or "").startswith("data:"):
                self.lines.append(f"picture {digest((value or '').encode())}")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if text and not self.hidden:
            self.lines.append(text)


def words_of(page: str) -> list[str]:
    """The text of a page, one line for each piece."""
    parser = _Words()
    parser.feed(page)
    parser.close()
    return parser.lines


# ------------------------------------------------------------------------------------------ comparing


@dataclass(frozen=True)
class Difference:
    """Where two sides differ (recipe/section/row/column), and both values."""

    path: str
    a: Any
    b: Any

    def text(self) -> str:
        a, b = (v if isinstance(v, str) else repr(v) for v in (self.a, self.b))
        return f"{self.path}: {shown(a, b)} | {shown(b, a)}"


ABSENT = "(absent)"


def shown(text: str, other: str) -> str:
    """A value for one line; a long one from shortly before the place where it differs."""
    text, other = " ".join(text.split()), " ".join(other.split())
    if len(text) <= WIDE:
        return text
    first = next((k for k, (x, y) in enumerate(zip(text, other)) if x != y), min(len(text), len(other)))
    start = max(0, min(first - WIDE // 3, len(text) - WIDE))
    return f"{'...' if start else ''}{text[start : start + WIDE]}{'...' if start + WIDE < len(text) else ''}"


def equal(path: str, a: Any, b: Any) -> bool:
    """To the bit; NaN equals NaN; a whole number is not a float."""
    return type(a) is type(b) and (a == b or (a != a and b != b))


#: How far numbers may lie apart where they come from another machine, relative or absolute. Few steps are trained, so
#: that rounding does not grow, save in recipes that say so (rough); but a voxel whose probability is .5 may fall on
#: either side, which moves counts and overlaps a little, and the slope of a calibration divides by a small spread.
#: Held with AVX2 against AVX-512; a processor without AVX2 resizes 8-bit pictures by another kernel, to another grey.
NEAR, ROUGH = 1e-4, 0.05
VOXELS, OVERLAP, SLOPE = (3, 0.01), 5e-3, 0.02
_ROUGH = {recipe.name for recipe in RECIPES if recipe.rough}


def near(path: str, a: Any, b: Any) -> bool:
    """Numbers within NEAR, or within what NEAR's comment says of their kind; anything else exactly."""
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    if not numbers or not (math.isfinite(a) and math.isfinite(b)):
        return equal(path, a, b)
    largest = max(abs(a), abs(b))
    if re.search("/measures/|/masks/|(voxels|ml)$", path):
        return abs(a - b) <= max(VOXELS[0], VOXELS[1] * largest)
    share = ROUGH if path.partition("/")[0] in _ROUGH else NEAR
    if re.search("calibration", path):
        share = max(share, SLOPE)
    elif "_segment/metrics/" in path:
        share = max(share, OVERLAP)
    return abs(a - b) <= share * max(1.0, largest)


Same = Callable[[str, Any, Any], bool]


def compare(name: str, a: Result, b: Result, same: Same = equal) -> list[Difference]:
    """All differences between two results of one recipe."""
    found: list[Difference] = []
    for section in dict.fromkeys([*a, *b]):
        path = f"{name}/{section}"
        if section not in a or section not in b:
            found.append(Difference(path, "there" if section in a else ABSENT, "there" if section in b else ABSENT))
            continue
        kind = next(iter(a[section]))
        if kind == "lines":
            found += _lines(path, a[section]["lines"], b[section]["lines"])
        elif kind == "table":
            found += _table(path, a[section]["table"], b[section]["table"], same)
        else:
            found += _tree(path, a[section]["tree"], b[section]["tree"], same)
    return found


def _lines(path: str, a: list[str], b: list[str]) -> list[Difference]:
    found = []
    for word, i, to_i, j, to_j in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for k in range(0 if word == "equal" else max(to_i - i, to_j - j)):
            left, right = (a[i + k] if i + k < to_i else ABSENT), (b[j + k] if j + k < to_j else ABSENT)
            found.append(Difference(f"{path}/line {(i if i + k < to_i else j) + k + 1}", left, right))
    return found


def _table(path: str, a: dict[str, Any], b: dict[str, Any], same: Same) -> list[Difference]:
    found = []
    kinds = [dict(zip(t["columns"], t["types"])) for t in (a, b)]
    for column in dict.fromkeys([*a["columns"], *b["columns"]]):
        types = [k.get(column, ABSENT) for k in kinds]
        if types[0] != types[1]:
            found.append(Difference(f"{path}/column {column}", *types))
    shared = [c for c in a["columns"] if c in b["columns"]]
    if shared != [c for c in b["columns"] if c in a["columns"]]:
        found.append(Difference(f"{path}/order of columns", a["columns"], b["columns"]))
    where = [{c: t["columns"].index(c) for c in shared} for t in (a, b)]
    for row in dict.fromkeys([*a["rows"], *b["rows"]]):
        left, right = a["rows"].get(row), b["rows"].get(row)
        if left is None or right is None:
            found.append(
                Difference(f"{path}/{row}", ABSENT if left is None else left, ABSENT if right is None else right)
            )
            continue
        for column in shared:
            place = f"{path}/{row}/{column}"
            found += _tree(place, left[where[0][column]], right[where[1][column]], same)
    if list(a["rows"]) != list(b["rows"]) and set(a["rows"]) == set(b["rows"]):
        moved = next((x, y) for x, y in zip(a["rows"], b["rows"]) if x != y)
        found.append(Difference(f"{path}/order of rows", *moved))
    return found


def _tree(path: str, a: Any, b: Any, same: Same) -> list[Difference]:
    if isinstance(a, dict) and isinstance(b, dict):
        found = []
        for key in dict.fromkeys([*a, *b]):
            if key not in a or key not in b:
                found.append(Difference(f"{path}/{key}", a.get(key, ABSENT), b.get(key, ABSENT)))
            else:
                found += _tree(f"{path}/{key}", a[key], b[key], same)
        return found
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for k, pair in enumerate(zip(a, b)) for d in _tree(f"{path}/{k}", *pair, same)]
    return [] if same(path, a, b) else [Difference(path, a, b)]


def numbers(recipe: str, result: Result) -> Result:
    """What of a result is stored in the repository: the numbers that a person would publish or act on, to 7 digits.

    Of a rough recipe no measure and no answer: which case is above a threshold hangs on rounding there.
    """
    sections = ("manifest", "losses", "predictions", "measures", "metrics", "pairs")
    kept: dict[str, Any] = {section: {} for section in sections}
    manifest = result["manifest"]["table"]
    for row, values in manifest["rows"].items():
        kept["manifest"][row] = [values[manifest["columns"].index(c)] for c in ("p005", "p995")]
    for name, value, wanted in (
        ("predictions", "y_pred", {"window": -1, "view": 0}),
        ("measures", "value", {"frame": -1}),
    ):
        content = result[name]["table"]
        for values in content["rows"].values():
            row = dict(zip(content["columns"], values))
            if " inner -1 " in row["cell"] and all(row[k] == v for k, v in wanted.items()):
                what = " ".join(str(row[c]) for c in ("case_id", "target", "class", "name") if row.get(c))
                kept[name].setdefault(row["cell"], {})[what] = row[value]
    for model in result["summary"]["tree"]["models"]:
        found = model.get("metrics", {})
        kept["metrics"][model["id"]] = {k: [m.get(x) for x in ("value", "low", "high")] for k, m in found.items()}
    for cell, steps_of in result["run"]["tree"]["curves"].items():
        kept["losses"][cell] = [step.get("train_loss") for step in steps_of]
    for pair in result["summary"]["tree"]["pairs"]:
        name = f"{pair['a']} - {pair['b']} {pair['metric']}"
        kept["pairs"][name] = [pair.get(x) for x in ("difference", "low", "high", "p")]
    for section, content in result.items():
        if section.startswith("predict") and section.endswith("/table"):
            columns, rows = content["table"]["columns"], content["table"]["rows"]
            kept[section] = {row: dict(zip(columns, map(_number, values))) for row, values in rows.items()}
        elif section.startswith("predict") and section.endswith("/masks"):
            kept[section] = {file: facts.get("voxels") for file, facts in content["tree"].items()}
    firm = [s for s in kept if recipe not in _ROUGH or s in ("manifest", "losses", "predictions")]
    return {section: {"tree": _short(kept[section])} for section in firm}


def _number(text: str) -> Any:
    """A cell of a CSV file as a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _short(value: Any) -> Any:
    """Floats to 7 digits, whole ones as integers."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return int(value) if value.is_integer() else float(f"{value:.7g}")


def store(name: str, result: Result) -> Path:
    """Write the numbers of a result into tests/same, a section's entry a line."""
    lines = []
    for section, content in numbers(name, result).items():
        entries = [f"  {json.dumps(k, ensure_ascii=False)}: {_compact(v)}" for k, v in content["tree"].items()]
        lines.append(f" {json.dumps(section)}: {{" + "".join(f"\n{e}," for e in entries).rstrip(",") + "}")
    STORED.mkdir(parents=True, exist_ok=True)
    path = STORED / f"{name}.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def stored(name: str) -> Result:
    """The numbers of a recipe that the repository holds."""
    path = STORED / f"{name}.json"
    if not path.is_file():
        print(f"error: no {path.relative_to(ROOT)}; write it with --store --only {name}", file=sys.stderr)
        raise SystemExit(2)
    return {k: {"tree": v} for k, v in json.loads(path.read_text(encoding="utf-8")).items()}


def tell(found: dict[str, list[Difference]], allowed: Sequence[str]) -> int:
    """Print the differences of each recipe, announced ones apart; the count of those that are not announced."""
    patterns = [re.compile(p) for p in allowed]
    used: set[str] = set()
    open_ones = 0
    for name, differences in found.items():
        announced = [d for d in differences if any(p.search(d.path) for p in patterns)]
        used |= {p.pattern for p in patterns if any(p.search(d.path) for d in announced)}
        others = [d for d in differences if d not in announced]
        open_ones += len(others)
        for word, group in (("", others), ("announced: ", announced)):
            for difference in group[:SHOWN]:
                print(word + difference.text())
            if len(group) > SHOWN:
                print(f"{word}{name}: {len(group) - SHOWN} more of {len(group)}")
    for pattern in patterns:
        if pattern.pattern not in used:
            print(f"announced, but no difference: {pattern.pattern}")
    return open_ones


# ------------------------------------------------------------------------------------------ the sides of a comparison


def recipe_key() -> str:
    """A hash of what decides a result besides the code under test: this script, its recipes, Python, the libraries."""
    parts = [(Path(__file__).parent / name).read_bytes() for name in ("same.py", "same_studies.py")]
    for name in (
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "polars",
        "scikit-learn",
        "scipy",
        "av",
        "pillow",
        "SimpleITK",
    ):
        parts.append(f"{name} {importlib.metadata.version(name)}".encode())
    return digest(b"\n".join([platform.python_version().encode(), *parts]))


def raw_studies(cache: Path, recipes: Sequence[Recipe]) -> Path:
    """The folder with the raw studies of all recipes, written once."""
    folder = cache / f"studies-{digest((Path(__file__).parent / 'same_studies.py').read_bytes())}"
    for recipe in recipes:
        if not (folder / recipe.name).is_dir():
            with tempfile.TemporaryDirectory(prefix=".writing-", dir=cache) as scratch:
                write_studies(recipe, Path(scratch) / recipe.name)
                folder.mkdir(exist_ok=True)
                with contextlib.suppress(OSError):  # another process was first: it wrote the same
                    os.rename(Path(scratch) / recipe.name, folder / recipe.name)
    return folder


def environment(source: Path) -> dict[str, str]:
    """One thread, no network, no GPU, one language, one time zone, one order of sets; medgraft from ``source``."""
    fixed = {
        "PYTHONPATH": str(source),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": "1",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "LC_ALL": "C.UTF-8",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    return {**os.environ, **fixed}


def git(*words: str) -> bytes:
    """What git answers. Leaves with its own words where it refuses."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True)
    if done.returncode:
        print(f"error: git {' '.join(words)}: {done.stderr.decode().strip()}", file=sys.stderr)
        raise SystemExit(2)
    return done.stdout


def hash_of(commit: str) -> str:
    """The 40 digits of a commit. Leaves where there is none."""
    return git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()


def results(where: str, names: Sequence[str], cache: Path, jobs: int) -> dict[str, Result]:
    """The results of a commit (kept in ``cache``) or, where it is ``.``, of the working tree."""
    cache.mkdir(parents=True, exist_ok=True)
    studies = raw_studies(cache, [r for r in RECIPES if r.name in names])
    with tempfile.TemporaryDirectory(prefix="same-") as scratch:
        source, into, label = Path(scratch) / "src", Path(scratch) / "results", "."
        if where != ".":
            commit = hash_of(where)
            into = cache / f"{commit}-{recipe_key()}"
            label = f"{where} ({commit[:7]})" if not commit.startswith(where) else commit[:7]
        into.mkdir(exist_ok=True)
        missing = [n for n in names if not (into / f"{n}.json").is_file()]
        if missing:
            if where == ".":  # a copy: who edits meanwhile does not mix two states
                shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "src"))) as archive:
                    archive.extractall(scratch, filter="data")
            words = [str(source), str(studies), str(into), str(jobs), label, *missing]
            call = [sys.executable, str(Path(__file__).resolve()), "--side", *words]
            status = subprocess.run(call, env=environment(source)).returncode
            lacking = [n for n in names if not (into / f"{n}.json").is_file()]
            if status or lacking:
                print(f"error: {label}: no result of {', '.join(lacking)} (status {status})", file=sys.stderr)
                raise SystemExit(2)
        else:
            print(f"{label}  known", flush=True)
        return {name: json.loads((into / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns the exit status."""
    if arguments[:1] == ["--side"]:  # a process of `results`
        source, studies, into, jobs, label, *names = arguments[1:]
        return side(Path(source), Path(studies), Path(into), names, int(jobs), label)
    known = [r.name for r in RECIPES]
    parser = argparse.ArgumentParser(
        prog="same.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", nargs="?", metavar="A", help="a commit")
    parser.add_argument("b", nargs="?", metavar="B", default=".", help="a commit; default: the working tree, `.`")
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=f"recipes to run: {', '.join(known)}")
    parser.add_argument("--allow", nargs="+", default=[], metavar="REGEX", help="announced differences, by path")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".same", help="where results of commits are kept; default .same"
    )
    parser.add_argument("--jobs", type=int, default=2, help="recipes at a time (default 2)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--stored", action="store_true", help="compare the working tree with the tables in tests/same")
    mode.add_argument("--store", action="store_true", help="write the tables in tests/same from the working tree")
    given = parser.parse_args(arguments)
    if (given.a is None) != (given.stored or given.store):
        parser.error("name one or two commits, or say --stored or --store")
    began = time.monotonic()
    names = [n for n in known if not given.only or n in given.only]
    a, b = ("stored", ".") if given.a is None else (given.a, given.b)
    for where in {given.a, given.b} - {None, "."}:  # a typing error is answered at once
        hash_of(where)
    new = results(b, names, given.cache.resolve(), given.jobs) if given.a is None else {}
    if given.store:
        size = sum(store(n, new[n]).stat().st_size for n in names)
        print(f"{len(names)} tables of {size / 1000:.0f} kB in {STORED.relative_to(ROOT)}")
        return 0
    if given.stored:
        found = {n: compare(n, stored(n), numbers(n, new[n]), near) for n in names}
    else:
        sides = [results(where, names, given.cache.resolve(), given.jobs) for where in (a, b)]
        found = {n: compare(n, sides[0][n], sides[1][n]) for n in names}
    count = tell(found, given.allow)
    verdict = f"{count} difference{'s' if count != 1 else ''}" if count else "the same"
    print(
        f"{a} and {b}, {len(names)} recipe{'s' if len(names) != 1 else ''}: {verdict}; {time.monotonic() - began:.0f} s"
    )
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
