"""The network of an arm: built, normalised, saved, brought back as it was judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medgraft.data import loader
from medgraft.data.dataset import CaseDataset
from medgraft.engine import checkpoint
from medgraft.engine.plan import STILL, Arm, Plan, Setting
from medgraft.engine.session import Session
from medgraft.errors import UserError
from medgraft.files import sha256
from medgraft.models import weights
from medgraft.models.model import Model, make_model
from medgraft.models.weights import LoadReport
from medgraft.tasks.task import Task

FITTED = 128  # cases on which mean and deviation are measured (EchoNet-Dynamic's number)


def build(
    plan: Plan, arm: Arm, setting: Setting, task: Task, *, seed: int, load_weights: bool = True
) -> tuple[Model, LoadReport | None]:
    """The model of an arm. Raises ``WeightsAbsent`` when its start is not on this machine."""
    model, report = make_model(
        arm.model,
        start=arm.start,
        outputs=task.outputs,
        dense=task.joins == "field",
        channels=plan.channels,
        size=(setting.window.length, *setting.window.sides),
        dropout=setting.train.dropout,
        join=arm.head.join,
        folders=[Path(folder) for folder in plan.means.weights],
        download=plan.means.download,
        seed=seed,
        load_weights=load_weights,
        options=arm.options,
        hidden=arm.head.hidden,
        auxiliary=setting.train.auxiliary_weight > 0 and arm.strategy not in STILL,
    )
    if model.info.dims == 2:  # the layout in which convolutions of images are fastest, on CPUs and GPUs alike
        model.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, report


@torch.inference_mode()
def fit_normalise(model: Model, samples: CaseDataset) -> None:
    """Mean and deviation of each input channel, over one window of each of the first ``FITTED`` cases of a training
    part.

    They take the place of the card's and are kept in the checkpoint; padding of a window is black before it.
    """
    first: dict[int, Any] = {}
    for window in samples.eval_windows():
        first.setdefault(window.case, window)
    total = square = torch.zeros(model.card.channels, dtype=torch.float64)
    count = 0
    for _, batch in loader.eval_batches(samples, 16, windows=list(first.values())[:FITTED]):
        x = model.scaled(batch["x"], batch["value_range"]).double()
        total, square = total + x.sum((0, 2, 3, 4)), square + x.square().sum((0, 2, 3, 4))
        count += x.numel() // x.shape[1]
    mean = total / count
    deviation = (square / count - mean.square()).clamp(min=0).sqrt()
    model.normalise(mean.float(), torch.where(deviation > 0, deviation, torch.ones_like(deviation)).float())


def _head_alone(arm: Arm, task: Task) -> bool:
    """Whether a checkpoint holds the head alone: the body stays as its card has it."""
    return arm.strategy in STILL and arm.start != "random" and task.joins == "case"


def save_model(folder: Path, model: Model, task: Task, arm: Arm, setting: Setting) -> None:
    """``best.ckpt``: weights (only the head where the body is frozen and comes from a card), and what was fitted
    on data.
    """
    state = model.state_dict()
    if _head_alone(arm, task):
        state = {k: v for k, v in state.items() if k.startswith("head.")}
    kept: dict[str, Any] = {
        "model": {k: v.detach().cpu().clone() for k, v in state.items()},
        "task": {k: torch.as_tensor(v) for k, v in task.state().items()},
    }
    if setting.normalise.kind == "data":
        kept["normalise"] = {"mean": model.mean.flatten().cpu(), "std": model.std.flatten().cpu()}
    checkpoint.save(folder / "best.ckpt", kept)


def load_model(session: Session, arm: Arm, record: dict[str, Any]) -> tuple[Model, Task, Setting]:
    """The network, task and setting of a finished refit cell, as they were judged."""
    plan, setting = session.plan, Setting.from_json(record["setting"])
    task = plan.make_task(setting, largest=cleaned(record))
    alone = _head_alone(arm, task)
    model, _ = build(plan, arm, setting, task, seed=record["seed"], load_weights=alone)  # a head needs its card's body
    path = session.root / "cells" / record["hash"] / "best.ckpt"
    if not path.is_file():
        raise UserError("its checkpoint best.ckpt is missing", case=record["hash"], fix="run the recipe again")
    if record.get("weights") and sha256(path) != record["weights"]:
        raise UserError(
            "its checkpoint best.ckpt was altered", case=record["hash"], fix="delete the cell and run again"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(state["model"], strict=False)
    if unexpected or any(not m.startswith("body.") for m in missing) or (missing and not alone):
        raise UserError(
            "its checkpoint does not fit the model", case=record["hash"], fix="run the recipe again with this version"
        )
    task.load({key: value.numpy() for key, value in state["task"].items()})
    if "normalise" in state:
        model.normalise(state["normalise"]["mean"], state["normalise"]["std"])
    session.fabric.to_device(model)
    model.eval()
    return model, task, setting


def cleaned(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The structures of which a finished refit cell calls the largest component alone."""
    return tuple(record.get("context", {}).get("task", {}).get("largest", ()))


def load_facts(model: Model, report: LoadReport) -> dict[str, Any]:
    """What ``cell.json`` keeps of a load: how much, from which card, what its authors reached on their own data."""
    facts: dict[str, Any] = {"loaded": len(report.loaded), "share": report.share_of_parameters, "card": report.card}
    if (card := model.weight_card) is not None:
        facts |= {"source": card.source_data, "accuracy": weights.source_accuracy(card)}
    return facts
