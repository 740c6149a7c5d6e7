"""Masks of volumes: the default run against nnU-Net v2 itself, with equal CPU seconds on the same cases.

    python bench/bench_nnunet.py data=FOLDER          20 cases to learn from, 30 others to be judged on
    python bench/bench_nnunet.py data=FOLDER cases=30

Needs ``nnunetv2`` (PyPI) beside medgraft. FOLDER is the hippocampus set as published. Ours is ``medgraft run`` with
nothing named but the column that says who is judged, once with all its steps and once with a quarter of them. nnU-Net
makes its own plan (3d_fullres), preprocesses, and trains by its own trainer, augmentation and loss on all of its cases,
with the polynomial rate drawn over as many steps as fit into the CPU seconds that our whole run took; its preparation
is not counted. Both use one thread; predictions of nnU-Net are not mirrored. One rule of judging: mean Dice over cases
and the two structures. The curves are kept in bench/results/nnunet.svg. Exit code 1 when nnU-Net ends above ours.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_monai import dice, ours, read, tables

LOOKS = 4
NAME = "Dataset001_Hippocampus"


def prepared(folder: Path, rows: list[dict[str, str]], work: Path) -> Path:
    """nnU-Net's folders with the cases that learn, its plan and its preprocessed cases."""
    raw = work / "raw" / NAME
    for name, key, end in (("imagesTr", "image", "_0000"), ("labelsTr", "label", "")):
        (raw / name).mkdir(parents=True)
        for n, row in enumerate(r for r in rows if r["part"] == "train"):
            shutil.copy(folder / row[key], raw / name / f"h_{n:03d}{end}.nii.gz")
    facts = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": sum(r["part"] == "train" for r in rows),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([1], num_processes=1, show_progress_bar=False, verbose=False)
    plan_experiments([1])  # asks for at least one process
    preprocess([1], configurations=["3d_fullres"], num_processes=[1], show_progress_bar=False)
    return work / "preprocessed" / NAME


def theirs(folder: Path, rows: list[dict[str, str]], seconds: float, work: Path) -> list[tuple[float, float]]:
    """(CPU seconds, Dice) along nnU-Net's training."""
    place = prepared(folder, rows, work)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans, facts = (json.loads((place / f"{n}.json").read_text("utf-8")) for n in ("nnUNetPlans", "dataset"))
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # batches are made in this process, so that their seconds count
    plans["continue_training"] = False
    trainer: Any = nnUNetTrainer(plans, "3d_fullres", "all", facts, torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    plan = plans["configurations"]["3d_fullres"]
    print(f"  nnU-Net's plan: patch {plan['patch_size']}, batch {plan['batch_size']}", flush=True)
    found, spent, steps, look, total = [], 0.0, 0, 1, 2
    while steps < total:
        trainer.network.train()
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - min(steps, total - 1) / total) ** 0.9
        began = time.process_time()
        trainer.train_step(next(trainer.dataloader_train))
        spent, steps = spent + time.process_time() - began, steps + 1
        if steps == 2:
            total = max(2, int(seconds / (spent / 2)))
            print(f"  nnU-Net: {total} steps fit into {seconds:.0f} s", flush=True)
        if steps >= total * look / LOOKS:
            predictor = nnUNetPredictor(
                use_mirroring=False, perform_everything_on_device=False, allow_tqdm=False, device=torch.device("cpu")
            )
            state = [trainer.network.state_dict()]
            trainer.set_deep_supervision_enabled(False)
            predictor.manual_initialization(
                trainer.network,
                trainer.plans_manager,
                trainer.configuration_manager,
                state,
                facts,
                "nnUNetTrainer",
                None,
            )
            values = []
            for row in (r for r in rows if r["part"] == "test"):
                image, label = read(folder / row["image"]).astype(np.float32)[None], read(folder / row["label"])
                values.append(dice(predictor.predict_single_npy_array(image, {"spacing": [1.0, 1.0, 1.0]}), label))
            trainer.set_deep_supervision_enabled(True)
            found.append((spent, float(np.mean(values))))
            print(f"  nnU-Net: {spent:.0f} s, {steps} steps, Dice {found[-1][1]:.3f}", flush=True)
            look += 1
    return found


def drawn(mine: list[tuple[float, float]], other: list[tuple[float, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2))
    for points, name in ((mine, "medgraft, default"), (other, "nnU-Net v2, own plan")):
        axes.plot(*zip(*points), marker="o", label=name)
    axes.set(xlabel="CPU seconds", ylabel="mean Dice on 30 other volumes", ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(words: list[str]) -> int:
    asked = dict(word.split("=", 1) for word in words)
    folder = Path(asked["data"]).resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for key in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{key}"] = str(work / key)
        os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
        try:
            import nnunetv2  # noqa: F401
        except ImportError:
            print("nnunetv2 is not installed: not measured")
            return 0
        table, rows = tables(folder, int(asked.get("cases", 20)), int(asked.get("judged", 30)), work)
        mine = []
        for share in (0.25, 1.0):
            value, spent = ours(folder, table, work / f"ours{share}", share)
            mine.append((spent, value))
            print(f"medgraft, default, {share:.0%} of its steps: {spent:.0f} CPU s, Dice {value:.3f}", flush=True)
        other = theirs(folder, rows, float(asked.get("seconds", mine[-1][0])), work)
    drawn(mine, other, Path(__file__).parent / "results" / "nnunet.svg")
    print(f"equal CPU seconds: medgraft {mine[-1][1]:.3f}, nnU-Net {other[-1][1]:.3f}")
    return int(other[-1][1] > mine[-1][1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
