"""Real studies at full width with three seeds, on a GPU: what the defaults for a laptop leave on the table.

    python bench/bench_device_real.py data=FOLDER             all three, under 8 minutes on one GPU
    python bench/bench_device_real.py data=FOLDER only=xrays  one of xrays, adrenal, hippocampus
    python bench/bench_device_real.py data=FOLDER small=1     on a CPU, a few steps each, to see that it runs

FOLDER holds ``nih_cxr_pneumonia``, ``medmnist_adrenal3d`` and ``msd_hippocampus`` as they were published, with their
label tables. Each is scanned, run by a recipe below and told by its leaderboard: the primary measure with its interval,
wall seconds, the device. The rows are kept in bench/results/device_real.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from medgraft import api

RESULTS = Path(__file__).parent / "results" / "device_real.json"
LITE = "efficientnet_lite0"

#: name -> (folder, keys of the scan, keys of the run)
JOBS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "xrays": (
        "nih_cxr_pneumonia",
        {"labels": "labels.csv", "patient": "patient", "target": "label", "positive": "pneumonia", "identity": "keep"},
        {
            "models": [
                {"model": LITE, "train": {"epochs": 12, "learning_rate": 3e-4}},
                {"model": LITE, "start": "random", "train": {"epochs": 40, "learning_rate": 1e-3}},
            ]
        },
    ),
    "adrenal": (
        "medmnist_adrenal3d",
        {
            "labels": "labels.csv",
            "patient": "none",
            "split": "official_split",
            "target": "label",
            "positive": "hyperplasia",
            "identity": "keep",
        },
        {
            "split": {"kind": "column", "column": "official_split"},
            "models": [
                {
                    "model": "resnet3d_18",
                    "start": "random",
                    "window": {"size": 64, "length": 64},
                    "train": {"epochs": 40, "learning_rate": 1e-3},
                }
            ],
        },
    ),
    "hippocampus": (
        "msd_hippocampus",
        {
            "labels": "cases.csv",
            "masks": "label",
            "patient": "none",
            "structures": {1: "anterior", 2: "posterior"},
            "identity": "keep",
        },
        {
            "models": [
                {
                    "model": "unet3d",
                    "start": "random",
                    "window": {"kind": "cubes", "length": 32, "size": [48, 32]},
                    "train": {"iterations": 2000, "batch_size": 4, "learning_rate": 1e-2},
                }
            ]
        },
    ),
}
SMALL = {"epochs": 1, "iterations": 2, "batch_size": 2}


def shrunk(run: dict[str, Any]) -> dict[str, Any]:
    """The same recipe for a few steps of small windows."""
    models = []
    for model in run["models"]:
        train = {k: SMALL.get(k, v) for k, v in model["train"].items()}
        window = {"size": 32} if "window" not in model else {**model["window"], "size": 16, "length": 16}
        models.append({**model, "train": train, "window": window})
    return {"split": {"folds": 2}, **run, "models": models, "seeds": [0]}


def measure(raw: Path, scan: dict[str, Any], run: dict[str, Any], work: Path) -> list[dict[str, Any]]:
    """Scan and run one set below ``work``; a row a model."""
    data = api.scan(raw, out=work / "data", progress=False, quiet=True, **scan)
    began = time.perf_counter()
    result = api.run(data=data, out=work / "runs", report=False, quiet=True, **run)
    seconds = time.perf_counter() - began
    primary = result.summary["run"]["primary_metric"]
    rows = []
    for model in result.summary["models"]:
        found = model.get("metrics", {}).get(primary)
        if found is not None:
            interval = {k: found.get(k) for k in ("value", "low", "high")}
            rows.append({"model": model["id"], "measure": primary, **interval, "seconds_of_all": round(seconds, 1)})
    return rows


def main(words: list[str]) -> None:
    asked = dict(word.split("=", 1) for word in words)
    if strange := set(asked) - {"data", "only", "small"} or "data" not in asked:
        raise SystemExit(f"takes data=FOLDER, only=NAME and small=1 ({strange})")
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for name, (folder, scan, run) in JOBS.items():
        if asked.get("only", name) != name:
            continue
        with tempfile.TemporaryDirectory() as work:
            small = bool(int(asked.get("small", "0")))
            rows = measure(Path(asked["data"]) / folder, scan, shrunk(run) if small else run, Path(work))
        for row in rows:
            known = row["low"] is not None
            between = f" ({row['low']:.3f} to {row['high']:.3f})" if known else ", too few patients for an interval"
            print(f"{name:12} {row['model']:45} {row['value']:.3f}{between}", end=" ")
            print(f"{row['measure']}, {row['seconds_of_all']:.0f} s, {device}")
        if not small:
            kept.setdefault(device, {})[name] = rows
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
