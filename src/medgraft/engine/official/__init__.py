"""Our networks against the official projects, where these are on the machine: outputs and speed.

One file a project. It has ``PROJECT`` (``owner/name``, or ``pypi/name`` for an installed package) and
``networks(root) -> list[Official]``, which imports the project from ``root`` (on ``sys.path`` while it runs).
Nothing of a project is kept here but the calls that build its networks and feed them; each project gets a
process of its own, for their modules share names.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.errors import UserError


@dataclass(frozen=True)
class Official:
    """One official network and how ours is compared with it.

    ``input`` is the shape of our body's input; ``run`` feeds the official module with it and gives what our
    body gives after ``head``. ``file_name_of`` turns a name of the module's state dict into the name that the
    published file has (Caffe2), None leaves the tensor out of the file.
    """

    golden: str
    network: str
    input: tuple[int, ...]
    build: Callable[[], nn.Module]
    run: Callable[[nn.Module, Tensor], Tensor]
    head: tuple[str, ...] = ()
    card: str = ""
    name_map: str = ""
    gain: float = math.sqrt(2)
    options: Mapping[str, Any] = field(default_factory=dict)
    structures: int | None = None
    pixels: bool = False  # the network wants values k/255, as pictures have
    idle: tuple[str, ...] = ()  # parameters that reach no output in the official network either
    file_name_of: Callable[[str], str | None] | None = None


def families() -> dict[str, str]:
    """Adapter -> project, without importing a project."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return {name: importlib.import_module(f"{__name__}.{name}").PROJECT for name in names}


def find(folder: Path, project: str) -> Path | None:
    """The checkout of a project: ``folder`` itself or one of its folders, by the project's name; or where a package is
    installed.
    """
    owner, name = project.split("/")
    if owner == "pypi":
        try:
            return Path(str(importlib.metadata.distribution(name).locate_file("")))
        except importlib.metadata.PackageNotFoundError:
            return None
    for path in (folder / name, folder / f"{owner}+{name}", folder / f"{owner}_{name}", folder / owner / name, folder):
        if path.is_dir() and (path is not folder or folder.name in (name, f"{owner}+{name}")):
            return path
    return None


def compare(
    folder: Path, *, record: Path | None = None, only: str = "", repeats: int = 5, threads: int = 1
) -> list[dict[str, Any]]:
    """Compare every network whose project lies under ``folder``; ``record`` writes goldens there.

    A row has network, project, error (relative, float32), spread, ours and theirs (CPU seconds of a forward
    pass, medians of interleaved runs), ratio with a 95 % interval, and reason where it could not run.
    """
    rows: list[dict[str, Any]] = []
    for family, project in families().items():
        if only and only not in (family, project):
            continue
        root = find(folder, project)
        if root is None:
            rows.append({"network": family, "project": project, "reason": "not run: the project is absent"})
            continue
        with tempfile.TemporaryDirectory() as place:
            answer = Path(place) / "rows.json"
            words = [family, str(root), str(answer), str(record or ""), str(repeats), str(threads)]
            done = subprocess.run(
                [sys.executable, "-m", "medgraft.engine.official", *words],
                capture_output=True,
                text=True,
                env={**os.environ},
            )
            if answer.is_file():
                rows += json.loads(answer.read_text(encoding="utf-8"))
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no word"])[-1]
                rows.append({"network": family, "project": project, "reason": f"not run: {last}"})
    if not rows:
        raise UserError("no such project", case=only, fix=f"choose one of {', '.join(families())}")
    return rows


def run_family(family: str, root: Path, *, record: Path | None, repeats: int, threads: int) -> list[dict[str, Any]]:
    """All networks of one project, in this process."""
    torch.set_num_threads(threads)
    adapter = importlib.import_module(f"{__name__}.{family}")
    sys.path.insert(0, str(root))
    rows = []
    for entry in adapter.networks(root):
        row = one(entry, adapter.PROJECT, root, record, repeats)
        rows.append(row)
        print(text([row]), flush=True)
    return rows


def one(entry: Official, project: str, root: Path, record: Path | None, repeats: int) -> dict[str, Any]:
    """Fill, run, compare, and time one network."""
    from medgraft.models import parity

    theirs = entry.build()
    theirs.eval()  # not chained: some projects' own train() returns nothing
    own_names = parity.shapes(theirs)
    rename = entry.file_name_of or (lambda name: name)
    file_names = {name: target for name in own_names if (target := rename(name)) is not None}
    tensors = {target: own_names[name] for name, target in file_names.items()}
    state = parity.fill(tensors, entry.gain)
    theirs.load_state_dict(
        {name: state[target] for name, target in file_names.items()}, strict=entry.file_name_of is None
    )
    x = parity.input_of({"input": entry.input, "pixels": entry.pixels})
    with torch.no_grad():
        expected = entry.run(theirs, x)
    golden: dict[str, Any] = {
        "network": entry.network,
        "official": f"{project}@{_commit(project, root)}",
        **({"card": entry.card} if entry.card else {"name_map": entry.name_map or "identity"}),
        "input": list(entry.input),
        "gain": entry.gain,
        "options": dict(entry.options),
        "structures": entry.structures,
        "head": list(entry.head),
        "idle": list(entry.idle),
        **({"pixels": True} if entry.pixels else {}),
        "tensors": tensors,
        "output": [float(f"{v:.8g}") for v in parity.sample(expected).tolist()],
    }
    if record is not None:
        record.mkdir(parents=True, exist_ok=True)
        (record / f"{entry.golden}.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")
    body, filled, _ = parity.loaded_body(golden)
    with torch.no_grad():
        found = parity.outputs(golden, body, filled, x)
        difference = float((found - expected).abs().max() / expected.abs().max())
        ours_s, theirs_s = _timed(
            lambda: parity.outputs(golden, body, filled, x), lambda: entry.run(theirs, x), repeats
        )
    ratios = ours_s / theirs_s
    draws = np.median(ratios[np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "network": entry.golden,
        "body": entry.network,
        "project": project,
        "error": difference,
        "spread": float(expected.std()),
        "ours": float(np.median(ours_s)),
        "theirs": float(np.median(theirs_s)),
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
    }


def _timed(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """CPU seconds of interleaved calls, order swapped each time, one warm-up; other work on the machine counts little
    in them.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(-1, repeats):
        for k in (0, 1) if repeat % 2 else (1, 0):
            began = time.process_time()
            (ours, theirs)[k]()
            if repeat >= 0:
                times[k].append(time.process_time() - began)
    return np.array(times[0]), np.array(times[1])


def _commit(project: str, root: Path) -> str:
    if project.startswith("pypi/"):
        return importlib.metadata.version(project.removeprefix("pypi/"))
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def text(rows: list[dict[str, Any]]) -> str:
    """The comparison as lines."""
    lines = []
    for row in rows:
        if "reason" in row:
            lines.append(f"{row['network']:<28} {row['reason']} ({row['project']})")
            continue
        bar = "" if row["error"] <= 1e-4 and row["low"] <= 1.05 else "   MISSED"
        lines.append(
            f"{row['network']:<28} error {row['error']:.1e}  spread {row['spread']:.2g}  "
            f"{row['ours'] * 1e3:8.1f} ms, official {row['theirs'] * 1e3:8.1f} ms, "
            f"ratio {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}){bar}"
        )
    return "\n".join(lines)
