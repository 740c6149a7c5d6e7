"""Optimisers and learning-rate schedules, by the names of a recipe."""

from __future__ import annotations

import math
from typing import Any

import torch

from medgraft.config import TrainConfig
from medgraft.errors import UserError
from medgraft.models import strategy
from medgraft.models.model import Model


def make_optimizer(model: Model, setting: TrainConfig) -> torch.optim.Optimizer:
    """Optimiser over the parameters that train. Each group's own rate is kept in ``base_lr``."""
    groups = strategy.parameter_groups(
        model,
        setting.learning_rate,
        setting.weight_decay,
        layer_decay=setting.layer_decay,
    )
    for group in groups:
        if setting.head_learning_rate is not None and group["name"].split(",")[0] == "head":
            group["lr"] = setting.head_learning_rate
    kinds: dict[str, Any] = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=setting.learning_rate),
        "adam": lambda: torch.optim.Adam(groups, lr=setting.learning_rate),
        "sgd": lambda: torch.optim.SGD(groups, lr=setting.learning_rate, momentum=setting.momentum),
    }
    optimizer: torch.optim.Optimizer = kinds[setting.optimizer]()
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def rate_factor(setting: TrainConfig, step: int, horizon: int) -> float:
    """Factor on the learning rate at ``step`` of ``horizon``: linear warm-up, then the schedule.

    cosine and linear end at ``end_rate`` (by default 1 % of the peak), for all groups by the same factor; step divides
    by 10 at 1/2 and at 3/4 of the way.
    """
    warm = round(warm_share(setting) * horizon)
    floor = 0.01 if setting.end_rate is None else min(1.0, setting.end_rate / setting.learning_rate)
    if step < warm:
        return (step + 1) / warm
    way = (step - warm) / max(1, horizon - warm)
    if setting.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * way))
    if setting.schedule == "linear":
        return floor + (1 - floor) * (1 - way)
    if setting.schedule == "step":
        return 0.1 ** ((way >= 0.5) + (way >= 0.75))
    return 1.0


def warm_share(setting: TrainConfig) -> float:
    """Share of the steps with a rising rate."""
    if setting.warmup_epochs is None:
        return setting.warmup
    if setting.iterations is not None:
        raise UserError(
            "warmup_epochs needs epochs, and the fit runs by iterations", fix="set train.warmup, a share of the steps"
        )
    return min(1.0, setting.warmup_epochs / setting.epochs)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its own peak rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def steps_for(setting: TrainConfig, n: int) -> int:
    """Optimiser steps of a fit on ``n`` cases."""
    if setting.iterations is not None:
        return setting.iterations
    return max(1, math.ceil(setting.epochs * n / setting.batch_size))
