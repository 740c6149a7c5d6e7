"""What makes a number is in its name: each part of a feature cache's key and of a case's digest counts (the parts of a
cell's hash: ``test_names``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from factory import make_dataset
from medgraft import runs
from medgraft.datasets import load_dataset
from medgraft.engine import build, compare, features
from medgraft.engine.plan import HeadSpec


def test_every_part_of_a_feature_cache_changes_its_key(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe()
    session, _ = compare.prepare(made, load_dataset(made.data))
    arm, setting = session.plan.arms[0], session.plan.arms[0].settings[0]
    task = session.plan.make_task(setting)
    model, other = (build.build(session.plan, arm, setting, task, seed=seed)[0] for seed in (0, 1))

    def key(arm: Any = arm, setting: Any = setting, model: Any = model, selected: Any = None, **plan: Any) -> str:
        known = {**vars(session.plan), "data_hash": session.plan.data_hash, **plan}
        return features.cache_key(SimpleNamespace(plan=SimpleNamespace(**known)), arm, setting, model, selected)  # type: ignore[arg-type]

    found = {
        "plain": key(),
        "body": key(model=other),
        "model": key(arm=replace(arm, model="timm:test_resnet")),
        "options": key(arm=replace(arm, options={"width": 4})),
        "join": key(arm=replace(arm, head=HeadSpec("bert"))),
        "window": key(setting=replace(setting, window=replace(setting.window, size=48))),
        "normalise": key(setting=replace(setting, normalise=replace(setting.normalise, hu_window=(0.0, 1.0)))),
        "selected": key(selected="other"),
        "data": key(data_hash="other"),
        "precision": key(precision="bf16"),
        "threads": key(threads=7),
        "device": key(device="cuda"),
    }
    assert len(set(found.values())) == len(found) and key() == found["plain"]
    assert key(threads=0) != key(threads=0, device="cuda")  # another device adds up in an order of its own
    monkeypatch.setattr(features, "IMAGES", 2 * features.IMAGES)  # the images of one forward pass
    assert key() != found["plain"]


def test_every_column_that_training_reads_changes_the_digest_of_its_case(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", "image", cases=4, masks=True, multilabel=True)
    targets = ["finding", "a"]
    before = runs.case_digests(dataset, targets)
    assert len(set(before.values())) == 4
    first = pl.col("case_id") == "c000"
    size = pl.lit([1.0, 9.0, 9.0], dtype=pl.List(pl.Float64))
    nine = pl.lit([float(k) for k in range(9)], dtype=pl.List(pl.Float64))
    changed = {
        **dict.fromkeys(["patient_id", "array_id", "mask_id", "label.finding", "label.a"], pl.lit("other")),
        **{"kind": pl.lit("volume"), "value_unit": pl.lit("HU"), "p005": pl.lit(-7.0), "p995": pl.lit(999.0)},
        **{"view_center": size, "view_size": size, "view_direction": nine},
    }
    for column, value in changed.items():
        manifest = dataset.manifest.with_columns(pl.when(first).then(value).otherwise(pl.col(column)).alias(column))
        after = runs.case_digests(replace(dataset, manifest=manifest), targets)
        assert [case for case in before if after[case] != before[case]] == ["c000"], column
    untouched = dataset.manifest.with_columns(pl.lit("other").alias("device"))
    assert runs.case_digests(replace(dataset, manifest=untouched), targets) == before
