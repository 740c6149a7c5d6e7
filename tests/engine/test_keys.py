"""What makes a number is in its name: each part of a cell's hash, a feature cache's key and a case's digest counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch

from factory import make_dataset
from medgraft import config, runs, tables
from medgraft.data.dataset import TargetSpec
from medgraft.engine import compare, fit


@pytest.fixture
def prepared(recipe: Callable[..., config.Recipe]) -> tuple[Any, runs.Run, config.ArmConfig]:
    """A context, its run and its only arm, with nothing trained."""
    made = recipe()
    context, run = compare.prepare(made, tables.load_dataset(made.data))
    return context, run, made.models[0]


def test_every_part_of_a_cell_changes_its_hash(prepared) -> None:
    context, _, arm = prepared
    setting = context.recipe.train

    def name(context: Any = context, arm: config.ArmConfig = arm, **changes: Any) -> str:
        facts = {"setting": setting, "outer": 0, "inner": 0, "seed": 0, "steps": None, **changes}
        return context.cell(arm, facts.pop("setting"), **facts).hash

    def arms(**changes: Any) -> str:
        return name(arm=config.ArmConfig(**{**arm.model_dump(), "label": "same", **changes}))

    def recipes(**changes: Any) -> str:
        return name(replace(context, recipe=context.recipe.model_copy(update=changes)))

    plain, labelled, on_zero = name(), arms(), name(replace(context, threads=0))
    there = SimpleNamespace(device=torch.device("cuda"))
    others = {
        "outer": name(outer=1),
        "inner": name(inner=1),
        "seed": name(seed=1),
        "steps": name(steps=7),
        "setting": name(setting=setting.model_copy(update={"learning_rate": 0.5})),
        "data": name(replace(context, data_hash="other")),
        "split": name(replace(context, split_hash="other")),
        "task": name(replace(context, task_name="regress")),
        "targets": name(replace(context, targets=[TargetSpec("other", "binary", ("a", "b"), "b")])),
        "threads": on_zero,
        "window": recipes(window=context.recipe.window.model_copy(update={"size": 48})),
        "precision": recipes(precision="bf16"),
        "classes": recipes(classes=["class0", "class1"]),
        "compat": recipes(compat=["split_80_20"]),
    }
    assert [k for k, v in others.items() if v == plain] == [] and len(set(others.values())) == len(others)
    assert name(replace(context, threads=0, fabric=there)) != on_zero  # a GPU gives other numbers
    assert recipes(explain=4) == plain and name(
        replace(context, recipe=context.recipe.model_copy(update={"explain": 4})), inner=-1
    ) != name(inner=-1)
    ways = {
        "model": arms(model="timm:test_resnet"),
        "start": arms(start="imagenet"),
        "strategy": arms(strategy="frozen"),
        "label": plain,
        "join": arms(join="bert"),
        "options": arms(options={"width": 4}),
        "hidden": arms(hidden=20),
    }
    assert [k for k, v in ways.items() if v == labelled] == [] and len(set(ways.values())) == len(ways)
    assert name() == plain  # asked again it is the same


def test_every_part_of_a_feature_cache_changes_its_key(prepared) -> None:
    context, run, arm = prepared
    model, other = (fit.build(context, arm, context.make_task(), context.recipe.train, seed=seed)[0] for seed in (0, 1))

    def ask(context: Any = context, arm: config.ArmConfig = arm, model: Any = model) -> int:
        """How many caches there are once this one was asked for."""
        fit.feature_cache(context, run, arm, model, None)
        return len(context.features)

    assert ask() == ask() == 1
    changes: dict[str, Callable[[], int]] = {
        "body": lambda: ask(model=other),
        "window": lambda: ask(arm=arm.model_copy(update={"window": {"size": 48}})),
        "model": lambda: ask(arm=arm.model_copy(update={"model": "timm:test_resnet"})),
        "data": lambda: ask(replace(context, data_hash="other")),
        "threads": lambda: ask(replace(context, threads=2)),
        "options": lambda: ask(arm=arm.model_copy(update={"options": {"width": 4}})),
        "join": lambda: ask(arm=arm.model_copy(update={"join": "bert"})),
    }
    for count, (what, change) in enumerate(changes.items(), 2):
        assert change() == count, what
    assert len(list((run.root / "features").glob("*.npz"))) == len(changes) + 1


def test_every_column_that_training_reads_changes_the_digest_of_its_case(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", "image", cases=4, masks=True, multilabel=True)
    targets = ["finding", "a"]
    before = runs.case_digests(dataset, targets)
    assert len(set(before.values())) == 4
    first = pl.col("case_id") == "c000"
    size = pl.lit([1.0, 9.0, 9.0], dtype=pl.List(pl.Float64))
    nine = pl.lit([float(k) for k in range(9)], dtype=pl.List(pl.Float64))
    changed = {
        "patient_id": pl.lit("other"),
        "array_id": pl.lit("other"),
        "mask_id": pl.lit("other"),
        "view_center": size,
        "view_size": size,
        "view_direction": nine,
        "label.finding": pl.lit("other"),
        "label.a": pl.lit("other"),
    }
    for column, value in changed.items():
        manifest = dataset.manifest.with_columns(pl.when(first).then(value).otherwise(pl.col(column)).alias(column))
        after = runs.case_digests(replace(dataset, manifest=manifest), targets)
        assert [case for case in before if after[case] != before[case]] == ["c000"], column
    untouched = dataset.manifest.with_columns(pl.lit("other").alias("device"))
    assert runs.case_digests(replace(dataset, manifest=untouched), targets) == before
