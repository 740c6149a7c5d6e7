"""Every network learns from real studies, on one and three channels, and resumes to the bit.

The slow run takes all networks of the zoo and a few of the libraries; the normal run a light one of each kind.
Names come from the registry, so a newcomer is trained without being named here.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgraft import config
from medgraft.config import TrainConfig
from medgraft.data.dataset import CaseDataset, TargetSpec
from medgraft.data.windows import WindowSpec
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine import loop
from medgraft.engine.bench import FixedSamples
from medgraft.engine.device import make_fabric
from medgraft.intake import scan
from medgraft.models import registry
from medgraft.models.model import Model, make_model
from medgraft.tasks.classify import Classify
from medgraft.tasks.segment import Segment
from medgraft.tasks.task import Task

STEPS = 20
LIGHT = ["efficientnet_lite0", "unet2d", "tsm_mobilenet_v2"]
LIBRARIES = [
    "torchvision:resnet34",
    "torchvision:mobilenet_v2",
    "torchvision:alexnet",
    "timm:vit_tiny_patch16_224",
    "monai:segresnet",
    "smp:unet-resnet18",
]
EVERY = [*registry.names(), *LIBRARIES, "torchvision:alexnet + bert", "efficientnet_lite0 + bert"]
CASES = 4


@pytest.fixture(scope="module")
def studies(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Dataset]:
    """Four ultrasound videos with their labels, two of each of two classes, and four volumes with their masks."""
    root = tmp_path_factory.mktemp("studies")
    options: dict[str, dict[str, Any]] = {
        "lung_pocus_video": {"labels": "labels.csv", "patient": "patient", "target": "label"},
        "msd_hippocampus": {
            "labels": "cases.csv",
            "masks": "label",
            "patient": "none",
            "structures": {1: "anterior", 2: "posterior"},
        },
    }
    found = {}
    for name, words in options.items():
        if not (shared_data / name).is_dir():
            pytest.skip(f"{name} is absent")
        some = root / "some" / name
        few(shared_data / name, some, words["labels"], "label" if name == "lung_pocus_video" else "")
        scan.scan(some, config.build(scan.ScanOptions, {**words, "identity": "keep", "out": root / name, "workers": 1}))
        found[name] = load_dataset(root / name)
    return found


def few(source: Path, target: Path, table: str, label: str) -> None:
    """A folder with four of a set's cases (two of each of the first two classes where a label is named)."""
    with open(source / table, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if label:
        classes = sorted({row[label] for row in rows})[:2]
        rows = [row for c in classes for row in [r for r in rows if r[label] == c][: CASES // 2]]
    target.mkdir(parents=True)
    with open(target / table, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:CASES])
    for value in {v for row in rows[:CASES] for v in row.values() if v and (source / v).is_file()}:
        (target / value).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / value, target / value)


def window_of(facts: registry.BackboneInfo) -> WindowSpec:
    """A small window that the network takes, the same at every step."""
    if facts.dims == 2:
        side = facts.default_size[-1] if facts.fixed_size else max(48, facts.min_size[-1])
        return WindowSpec("centre", 1 if facts.dense else 2, side)
    if facts.name in ("timesformer_base", "videomae_base", "videomae_small"):  # built for the window
        return WindowSpec("centre", 4, 32)
    if facts.fixed_size:
        return WindowSpec("centre", facts.default_size[0], facts.default_size[-1])
    if facts.dense:
        return WindowSpec("whole", max(16, facts.min_size[0]), max(16, facts.min_size[-1]))
    return WindowSpec("uniform", max(8, facts.min_size[0]), max(32, facts.min_size[-1]))


def task_and_batch(
    facts: registry.BackboneInfo, studies: Mapping[str, Dataset]
) -> tuple[Task, Mapping[str, Any], WindowSpec]:
    """Four real cases as one batch."""
    window = window_of(facts)
    if facts.dense:
        data = studies["msd_hippocampus"]
        task: Task = Segment(data.info["structures"])
        samples = CaseDataset(data, list(range(CASES)), window=window, dense=True)
    else:
        data = studies["lung_pocus_video"]
        target = TargetSpec("label", "binary", tuple(sorted(set(data.manifest["label.label"]))))
        task = Classify([target], logits=2)
        samples = CaseDataset(data, list(range(CASES)), window=window, targets=[target])
    return task, samples.batch([w for w in samples.eval_windows() if w.index == 0]), window


def built(name: str, facts: registry.BackboneInfo, task: Task, window: WindowSpec, channels: int) -> Model:
    bare, _, join = name.partition(" + ")
    return make_model(
        bare,
        outputs=task.outputs,
        dense=facts.dense,
        body_channels=channels,
        size=(window.length, *window.sides) if not facts.dense else None,
        join=join or "mean",
        seed=3,
    )[0]


class Killed(Exception):
    pass


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in LIGHT else pytest.mark.slow) for n in EVERY])
def test_every_network_learns_and_resumes(name: str, studies: Mapping[str, Dataset], tmp_path: Path) -> None:
    """20 steps on four cases: the loss falls by a tenth at least; a run killed at step 3 goes on as if it had not
    been.
    """
    facts = registry.info(name.partition(" + ")[0])
    task, batch, window = task_and_batch(facts, studies)
    fabric = make_fabric("cpu", "32", torch.get_num_threads())
    setting = TrainConfig(
        iterations=STEPS,
        batch_size=CASES,
        evaluations=STEPS,
        learning_rate=1e-2 if facts.dense else 3e-4,
        clip_gradient=1.0,
        warmup=0.1,
    )
    samples = FixedSamples([batch])

    def fit(channels: int, stop: int = STEPS, **options: Any) -> list[float]:
        network = built(name, facts, task, window, channels)
        history, _ = loop.train(
            fabric,
            network,
            task,
            samples,
            setting,
            seed=1,
            horizon=STEPS,
            stop=stop,
            evaluate=lambda model: (0.0, None),
            **options,
        )
        return [row["train_loss"] for row in history.rows]

    for channels in (1, 3):
        losses = fit(channels)
        first, last = float(np.mean(losses[:3])), float(np.mean(losses[-3:]))
        print(f"{name} | {channels} | {first:.3f} | {last:.3f}")
        assert len(losses) == STEPS and np.isfinite(losses).all()
        assert last < 0.9 * first, f"{name} with {channels} channels: {first:.3f} to {last:.3f}"

    def kill(step: int, steps: int, said: dict[str, float]) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        fit(3, folder=tmp_path, checkpoint_seconds=0, progress=kill)
    assert (tmp_path / "last.ckpt").is_file()
    again = fit(3, stop=6, folder=tmp_path, checkpoint_seconds=3600)
    assert again[-1] == losses[5], "a resumed run differs"
