"""What a recipe without models compares: a sensible set by kind of data and device, said aloud."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medgraft import config
from medgraft.config import ArmConfig, Recipe
from medgraft.datasets import Dataset
from medgraft.engine.device import device_type
from medgraft.tasks.choose import describe, make


def with_defaults(recipe: Recipe, dataset: Dataset, say: Callable[[str], None]) -> Recipe:
    """A recipe without models gets a sensible set by kind of data and device, and says so.

    Without a GPU, networks that train get smaller windows and fewer epochs, and one seed stands in for
    three where the recipe leaves seeds open: more can be added later, and only their cells are computed.
    """
    if recipe.models:
        return recipe
    kind, quick = dataset.manifest["kind"][0], device_type(recipe.device) == "cpu"
    lite = "efficientnet_lite0"
    size = {"window": {"size": 128}} if quick and not recipe.window.size else {}
    arms: list[dict[str, Any]]
    if make(describe(dataset, recipe.task, recipe.target, recipe.classes)).joins == "field":
        name = "unet3d" if kind == "volume" else "smp:unet-resnet18"
        train = {"learning_rate": 1e-3, "epochs": 20 if quick else 40}
        arms = [{"model": name, "start": "random", **({} if kind == "volume" else size), "train": train}]
    else:
        epochs = {"epochs": 8} if quick else {}
        arms = [
            {"model": lite, "strategy": "frozen_logistic"},
            {"model": lite, "strategy": "finetune", **size, "train": {"learning_rate": 3e-4, **epochs}},
            {"model": lite, "start": "random", **size, "train": {"learning_rate": 1e-3, **epochs}},
        ]
        if kind != "image":
            name, side = {"video": ("r2plus1d_18", 40), "volume": ("resnet3d_18", 32)}[kind]
            small = {"size": side} if kind == "video" else {"size": side, "length": side}
            window, train = small if quick else {}, {"learning_rate": 1e-3, **epochs}
            arms[2] = {"model": name, "start": "random", "window": window, "train": train}
            if quick:  # fine-tuning every frame of every clip takes hours on a CPU
                arms[1] = {"model": lite, "strategy": "frozen", "train": {"learning_rate": 3e-3, "epochs": 30}}
    ids = ", ".join(ArmConfig(**arm).id for arm in arms)
    say(f"no models were named; taking {ids} (see recipe.yaml in the run folder)")
    changes: dict[str, Any] = {"models": arms}
    if quick and "seeds" not in recipe.model_fields_set:
        changes["seeds"] = [0]
        say("no GPU here: smaller windows, fewer epochs and one seed. seeds=[0,1,2] adds the others later")
    return config.build(Recipe, {**recipe.model_dump(exclude_unset=True), **changes})
