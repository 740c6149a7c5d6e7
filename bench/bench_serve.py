#!/usr/bin/env python3
"""Serving X-rays with the networks of a run, against a bare forward pass of the same networks on batches that are
ready.

    python bench/bench_serve.py                  500 X-rays of 256 px, two networks: the bar of 85 %, and memory
    python bench/bench_serve.py --studies 60     small, to see it run

Both contestants run in one process, one after the other, with the same threads. The first answers studies that have
been scanned, from arrays on disk to rows of a table; the second only multiplies. Scanning is told apart. Memory is the
peak of a process that serves a fifth of the studies and of one that serves all.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_clips import write_data_set
from PIL import Image

from medgraft import config, flow, runs, serve
from medgraft.data import loader
from medgraft.engine import plan as planning
from medgraft.engine.build import load_model
from medgraft.files import write_json
from medgraft.intake.studies import read_like

BAR = 0.85
SIDE = 256


def picture(index: int) -> np.ndarray:
    """A soft random picture (SIDE, SIDE) uint8."""
    coarse = np.random.default_rng(index).integers(0, 255, (16, 16), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def made_run(root: Path, cases: int = 24) -> Path:
    """A run of one fine-tuned network over two folds, on pictures of its own."""
    data = root / "data"
    data.mkdir(parents=True)
    write_data_set(data, (picture(10_000 + k)[None] for k in range(cases)), "image")
    target = {"type": "classify", "classes": ["0", "1"], "positive": "1", "unit": None}
    write_json(
        data / "dataset.json", {"name": "bench", "channels": 1, "targets": {"finding": target}, "patient": "column"}
    )
    words = [f"data={data}", f"out={root / 'runs'}", "split.folds=2", "seeds=[0]", "workers=0", "report=false"]
    words += [
        "window.size=224",
        "train={iterations: 1, evaluations: 1}",
        "stats.resamples=100",
        "models=[efficientnet_lite0]",
    ]
    return flow.run(config.load_recipe(None, words), say=lambda line: None)


def studies(root: Path, number: int) -> Path:
    folder = root / f"new{number}"
    folder.mkdir()
    for k in range(number):
        Image.fromarray(picture(k)).save(folder / f"x{k:04d}.png")
    return folder


def served(run_root: Path, folder: Path, scratch: Path) -> tuple[serve.Serving, list[dict], float]:
    """What is needed to answer, the members, and the seconds that reading took."""
    run, plan = runs.Run.open(run_root), planning.read(run_root)
    arm = serve.choose(run, plan, None)
    began = time.perf_counter()
    dataset, _ = read_like([folder], scratch, serve.stored_with(run.info))
    seconds = time.perf_counter() - began
    return serve.Serving(run, plan, arm, serve.Studies(dataset, {})), serve.members_of(run, plan, arm), seconds


def ratio(run_root: Path, folder: Path, root: Path) -> None:
    answering, members, reading = served(run_root, folder, Path(tempfile.mkdtemp(dir=root)))
    number = answering.session.dataset.manifest.height
    networks = [load_model(answering.session, answering.arm, record) for record in members]
    setting = networks[0][2]
    ready = [
        b for _, b in loader.eval_batches(answering.session.samples(range(number), setting), setting.train.batch_size)
    ]
    times: list[list[float]] = [[], []]
    for repeat in range(3):
        for contestant in (0, 1) if repeat % 2 else (1, 0):
            began = time.perf_counter()
            if contestant:
                with torch.inference_mode():
                    for model, task, _ in networks:
                        for batch in ready:
                            task.scores(model(batch)).numpy()
            else:
                rows = list(serve.write_answers(answering, members, None))
                assert len(rows) == number
            times[contestant].append(time.perf_counter() - began)
    ours, bare = min(times[0]), min(times[1])
    share = bare / ours
    print(
        f"{number} X-rays, {len(networks)} networks: read in {reading:.1f} s, answered in {ours:.2f} s, bare "
        f"{bare:.2f} s"
    )
    print(
        f"serving runs at {share:.0%} of the bare forward pass (bar {BAR:.0%}): {'met' if share >= BAR else 'MISSED'}"
    )


def peak(run_root: Path, folder: Path) -> float:
    """MiB at the peak of a process that serves a folder."""
    call = [sys.executable, __file__, "--one", str(run_root), str(folder)]
    return float(subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--one", nargs=2, metavar=("RUN", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        serve.predict(Path(asked.one[0]), [Path(asked.one[1])], out=Path(asked.one[1]) / "out.csv")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        run_root, folder = made_run(root), studies(root, asked.studies)
        ratio(run_root, folder, root)
        few, all_ = peak(run_root, studies(root, asked.studies // 5)), peak(run_root, folder)
        print(
            f"memory: {few:.0f} MiB for {asked.studies // 5} studies, {all_:.0f} MiB for {asked.studies}: "
            f"{all_ / few:.2f} times"
        )


if __name__ == "__main__":
    main()
