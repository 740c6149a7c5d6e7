"""A first answer: from raw pictures to the page, and what of it is not the networks themselves.

    python bench/bench_quick.py

Simulates 200 chest X-rays of 256 px, runs ``medgraft quick`` on them in a process of its own with every start that is
here, then the same networks' bare forward passes over the same number of 224 px pictures in the same blocks. Prints
the whole in wall seconds (bar 120 on two quiet cores), the share of the features' time that a bare loop takes (bar
.90), the rest (imports, scan, heads, statistics, page; bar 45 s), and what choosing and fitting the heads takes of the
features' time (bar .2). Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from medgraft.datasets import load_dataset
from medgraft.engine import compare, features
from medgraft.engine import plan as planning
from medgraft.engine.build import build
from medgraft.simulate import chest_xray

WORDS = ("layout=rsna", "target=pneumonia", "patient=patient_id", "identity=keep", "progress=false")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="a folder with more starts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        chest_xray.simulate(root / "raw", patients=options.patients, images_per_patient=1, size=256, seed=1)
        words = [*WORDS, f"threads={options.threads}", f"out={root / 'runs'}", f"data={root / 'data'}"]
        words += [f"weights={options.weights}"] if options.weights else []
        command = [sys.executable, "-m", "medgraft", "quick", str(root / "raw"), *words]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - began
        run = root / "runs" / "data"
        plan = planning.read(run)
        cells = [json.loads((cell / "cell.json").read_text("utf-8")) for cell in (run / "cells").iterdir()]
        recipe = compare.config.load_recipe(run / "recipe.yaml", [])
        session, _ = compare.prepare(recipe, load_dataset(root / "data"))
        bare, ours = 0.0, 0.0
        for arm in plan.arms:
            model, _ = build(plan, arm, arm.settings[0], session.task, seed=0)
            model.eval()
            samples = session.samples(session.rows(), arm.settings[0])
            batch = samples.batch(samples.eval_windows()[: features.IMAGES])
            rounds = -(-options.patients // features.IMAGES)
            with torch.inference_mode():
                model.features(batch)
                began = time.perf_counter()
                for _ in range(rounds):
                    model.features(batch)
                bare += time.perf_counter() - began
            began = time.perf_counter()
            features.compute(session.fabric, model, samples)
            ours += time.perf_counter() - began
    heads = sorted(cell["seconds"] for cell in cells)
    heads = heads[: len(heads) - len(plan.arms)]  # the first cell of each arm holds its features
    spent = sum(heads) * len(cells) / len(heads)
    print(f"{len(plan.arms)} arms, {options.patients} pictures, {plan.threads} threads")
    print(f"the whole {whole:.1f} s (bar 120)")
    print(f"features {ours:.1f} s, bare forward passes {bare:.1f} s: {bare / ours:.2f} (bar .90)")
    print(f"all else {whole - ours:.1f} s (bar 45)")
    print(f"heads {spent:.1f} s, {spent / ours:.2f} of the features (bar .20)")
    return int(whole > 120 or bare / ours < 0.9 or whole - ours > 45 or spent / ours > 0.2)


if __name__ == "__main__":
    sys.exit(main())
