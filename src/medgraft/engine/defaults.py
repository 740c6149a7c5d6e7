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
from medgraft.engine.plan import common_spacing, usable_rows
from medgraft.models import catalogue, registry, weights
from medgraft.models.records import WeightCard
from medgraft.tasks.choose import describe, make

CUBE_RATE, FLAT_RATE = 2e-2, 1e-3  # peak learning rates of the networks that learn masks
LITE = "efficientnet_lite0"  # its weights come with the package
FIRST_FIT = "60s"  # of masks, in a first look


def with_defaults(recipe: Recipe, dataset: Dataset, say: Callable[[str], None], *, first: bool = False) -> Recipe:
    """A recipe without models gets a sensible set by kind of data and device, and says so.

    It begins with what costs least and often wins: frozen features of every start that is on this machine under a
    linear head, and of a random body as their control. Then come fine-tuning and training from scratch; ``first``
    leaves those out, and fits masks once, on a hold-out, within a minute. Without a GPU, networks that train get
    smaller windows and fewer epochs, and one seed stands in for three where the recipe leaves seeds open: more can be
    added later, and only their cells are computed.
    """
    if recipe.models:
        return recipe
    quick = device_type(recipe.device) == "cpu"
    task = make(describe(dataset, recipe.task, recipe.target, recipe.classes))
    changes: dict[str, Any] = {}
    if task.joins == "field":
        target = common_spacing(recipe, dataset, task)
        learned = fields.plan(dataset, usable_rows(dataset, task), quick=quick, target=target)
        arms = [_field_arm(learned, recipe)]
        for line in learned.lines:
            say(line)
        if first:
            arms[0]["train"].pop("iterations", None)
            changes |= {"seeds": [0], "budget": recipe.budget or FIRST_FIT}
            if recipe.split.kind == "kfold":
                changes["split"] = {**recipe.split.model_dump(exclude_unset=True), "kind": "holdout"}
    else:
        arms = _frozen_arms(recipe, dataset)
        if not first:
            arms += _trained_arms(recipe, dataset.manifest["kind"][0], quick=quick)
    if recipe.budget:
        for arm in arms:
            arm["train"] = {k: v for k, v in arm.get("train", {}).items() if k not in config.LENGTHS}
    ids = ", ".join(ArmConfig(**arm).id for arm in arms)
    say(f"no models were named; taking {ids} (see recipe.yaml in the run folder)")
    changes["models"] = arms
    if quick and not changes.get("seeds") and "seeds" not in recipe.model_fields_set:
        changes["seeds"] = [0]
        say("no GPU here: smaller windows, fewer epochs and one seed. seeds=[0,1,2] adds the others later")
    return config.build(Recipe, {**recipe.model_dump(exclude_unset=True), **changes})


def starts_here(recipe: Recipe, kind: str) -> list[WeightCard]:
    """Cards of networks that read this kind of data and whose file is on this machine, in the order of the zoo."""
    names = (*registry.names(), *registry.names("torchvision"))
    cards = [card for name in names for card in weights.cards(name)] + weights.folder_cards(recipe.weights)[0]
    found = []
    for card in cards:
        if catalogue.here(card, recipe.weights) is None:
            continue
        facts = registry.info(card.backbone)
        if not facts.dense and (facts.dims == 2 or kind != "image"):
            found.append(card)
    return found


def _frozen_arms(recipe: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    """Linear heads on what frozen bodies say: of every start that is here, and of a random one."""
    cards = starts_here(recipe, dataset.manifest["kind"][0])
    known = [(card.backbone, card.name if card.folder else card.name.split(".", 1)[-1]) for card in cards]
    if (LITE, "imagenet") not in known:
        known.insert(0, (LITE, "imagenet"))  # without its file the arm says how to get it
    return [{"model": m, "start": s, "strategy": "frozen_logistic"} for m, s in (*known, (LITE, "random"))]


def _trained_arms(recipe: Recipe, kind: str, *, quick: bool) -> list[dict[str, Any]]:
    """Fine-tuning of the first start, and a network of the data's own kind from scratch."""

    def seen(pixels: int) -> dict[str, Any]:
        return {"window": {"size": pixels}} if quick and not recipe.window.size else {}

    if kind == "image":
        epochs = {"epochs": 6} if quick else {}
        return [
            {"model": LITE, "strategy": "finetune", **seen(160), "train": {"learning_rate": 3e-4, **epochs}},
            {"model": LITE, "start": "random", **seen(128), "train": {"learning_rate": 1e-3, **epochs}},
        ]
    epochs = {"epochs": 8} if quick else {}
    name, side = {"video": ("r2plus1d_18", 40), "volume": ("resnet3d_18", 32)}[kind]
    small = {"size": side} if kind == "video" else {"size": side, "length": side}
    scratch = {"model": name, "start": "random", "window": small if quick else {}}
    scratch["train"] = {"learning_rate": 1e-3, **epochs}
    if quick:  # fine-tuning every frame of every clip takes hours on a CPU
        tuned: dict[str, Any] = {"model": LITE, "strategy": "frozen", "train": {"learning_rate": 3e-3, "epochs": 30}}
    else:
        tuned = {"model": LITE, "strategy": "finetune", "train": {"learning_rate": 3e-4}}
    return [tuned, scratch]


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
