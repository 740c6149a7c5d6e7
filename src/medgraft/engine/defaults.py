"""What a recipe without models compares: a sensible set by kind of data and device, said aloud."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medgraft import config
from medgraft.config import ArmConfig, Recipe
from medgraft.datasets import Dataset
from medgraft.engine import fields
from medgraft.engine.device import device_type
from medgraft.engine.fields import Field
from medgraft.engine.plan import usable_rows
from medgraft.tasks.choose import describe, make

CUBE_RATE, FLAT_RATE = 2e-2, 1e-3  # peak learning rates of the networks that learn masks


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
    task = make(describe(dataset, recipe.task, recipe.target, recipe.classes))
    if task.joins == "field":
        learned = fields.plan(dataset, usable_rows(dataset, task), quick=quick)
        arms = [_field_arm(learned, recipe)]
        for line in learned.lines:
            say(line)
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


def _field_arm(learned: Field, recipe: Recipe) -> dict[str, Any]:
    """The arm that learns masks by these defaults; what the recipe says of window and training stays as it is said."""
    depth, *sides = learned.patch
    window: dict[str, Any] = {"size": sides[0]} if learned.flat else {"kind": "cubes", "length": depth, "size": sides}
    rate = FLAT_RATE if learned.flat else CUBE_RATE
    train = {"iterations": learned.steps, "batch_size": learned.batch, "learning_rate": rate}
    said = (recipe.window.model_fields_set, recipe.train.model_fields_set)
    if said[1] & {"iterations", "epochs"}:
        train.pop("iterations")
    return {
        "model": "smp:unet-resnet18" if learned.flat else "unet3d",
        "start": "random",
        "window": {key: value for key, value in window.items() if key not in said[0]},
        "train": {key: value for key, value in train.items() if key not in said[1]},
    }
