"""An option that is accepted has an effect: each one is set away from its default and looked for where it matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml

from conftest import MODEL
from factory import make_dataset
from medgraft import config, flow, store, tables
from medgraft.data import transforms
from medgraft.engine import compare, fit, loop
from medgraft.errors import UserError


def prepared(recipe: Callable[..., config.Recipe], *words: str, **facts: Any) -> Any:
    """The context of a recipe, nothing trained."""
    made = recipe(*words, **facts)
    return compare.prepare(made, tables.load_dataset(made.data))[0]


def test_every_option_of_windows_reaches_what_is_cut(recipe) -> None:
    words = "window={kind: dense, length: 3, size: [24, 20], stride: 2, overlap: 0.25, views: 2, join: vote}"
    context = prepared(recipe, words, kind="video")
    spec = context.window(context.recipe.models[0])
    assert (spec.kind, spec.length, spec.sides, spec.stride, spec.overlap) == ("dense", 3, (24, 20), 2, 0.25)
    assert (spec.max_windows, spec.join) == (2, "vote")
    over = f"models=[{{model: '{MODEL}', start: random, window: {{length: 2}}}}]"
    arm = prepared(recipe, words, over, "name=arm", kind="video")
    assert arm.window(arm.recipe.models[0]).length == 2


def test_the_hounsfield_window_reaches_the_batches(recipe) -> None:
    context = prepared(recipe, "window.hu_window=[-160, 240]", unit="HU")
    arm = context.recipe.models[0]
    samples = context.samples([0, 1], context.window(arm), "none", context.recipe.arm_window(arm).hu_window)
    assert samples.train_batch(0, 0, 2)["value_range"].tolist() == [[-160.0, 240.0]] * 2


def test_every_option_of_splits_reaches_the_split(recipe, tmp_path: Path) -> None:
    def roles(name: str, *words: str) -> dict[tuple[int, int], dict[str, int]]:
        """(fold, inner part) -> how many patients train, select and are tested."""
        prepared(recipe, f"name={name}", *words)
        found: dict[tuple[int, int], dict[str, int]] = {}
        for row in json.loads((tmp_path / "runs" / name / "splits.json").read_text())["rows"]:
            part = found.setdefault((row["outer"], row["inner"]), {})
            part[row["role"]] = part.get(row["role"], 0) + 1
        return found

    def tested(name: str) -> set[str]:
        rows = json.loads((tmp_path / "runs" / name / "splits.json").read_text())["rows"]
        return {row["patient_id"] for row in rows if row["role"] == "test" and row["outer"] == 0}

    four = roles("four", "split.folds=4", "split.inner=3")
    assert {outer for outer, _ in four} == {0, 1, 2, 3} and {inner for _, inner in four} == {-1, 0, 1, 2}
    half = roles("half", "split.kind=holdout", "split.test_share=0.5", "split.select_share=0.5")
    assert half == {(0, -1): {"test": 8}, (0, 0): {"train": 4, "select": 4}}
    roles("seed", "split.folds=4", "split.inner=3", "split.seed=5")
    assert tested("seed") != tested("four")
    path = tmp_path / "data" / "manifest.parquet"
    manifest = tables.read(path, "manifest")
    patients = manifest["patient_id"].to_list()
    marks = ["test" if p < "p004" else "val" if p < "p008" else "train" for p in patients]
    tables.write(manifest.with_columns(pl.Series("split.mine", marks)), path, "manifest")
    assert roles("column", "split.kind=column", "split.column=mine") == {
        (0, -1): {"test": 4},
        (0, 0): {"train": 8, "select": 4},
    }


def test_augmentation_follows_kind_preset_and_mirror(recipe) -> None:
    context = prepared(recipe)
    setting = context.recipe.train
    assert context.augment(setting) == transforms.preset("light")
    xray = setting.model_copy(update={"augment": "xray"})
    assert context.augment(xray) == transforms.preset("xray") and transforms.preset("xray").flip_lr > 0
    assert context.augment(xray.model_copy(update={"mirror": False})).flip_lr == 0


def test_every_option_of_an_arm_reaches_its_network(recipe) -> None:
    arm = (
        "{model: efficientnet_lite0, start: random, strategy: frozen, join: bert, hidden: 20, label: mine, "
        "window: {length: 4}, train: {dropout: 0.25, epochs: 3}, grid: {learning_rate: [1e-3, 1e-4]}}"
    )
    unet = "{model: genesis_encoder3d, start: random, options: {bn_mode: batch}}"
    made = recipe(f"models=[{arm}, {{model: efficientnet_lite0, start: random}}]", kind="video")
    context, _ = compare.prepare(made, tables.load_dataset(made.data))
    first, plain = made.models
    assert first.id == "efficientnet_lite0 · random · mine" and plain.id == "efficientnet_lite0 · random · finetune"
    settings = made.arm_settings(first)
    assert [s.learning_rate for s in settings] == [1e-3, 1e-4] and {s.epochs for s in settings} == {3}
    assert context.window(first).length == 4 and context.window(plain).length == 8
    model, report = fit.build(context, first, context.make_task(), settings[0], seed=0)
    assert report is None  # a random start reads no file
    assert model.head[0].bert.config.hidden_size == 20 and model.head[1].dropout.p == 0.25
    published, read = fit.build(
        context, plain.model_copy(update={"start": "imagenet"}), context.make_task(), settings[0], seed=0
    )
    assert read is not None and published.weight_card is not None
    hidden, _ = fit.build(
        context, config.ArmConfig(model=MODEL, start="random", hidden=12), context.make_task(), settings[0], seed=0
    )
    assert hidden.head.hidden.out_features == 12
    batch = config.build(config.ArmConfig, yaml.safe_load(unet))
    body = config.build(config.ArmConfig, {"model": "genesis_encoder3d", "start": "random"})
    kinds = {type(m).__name__ for m in fit.build(context, batch, context.make_task(), settings[0], seed=0)[0].modules()}
    usual = {type(m).__name__ for m in fit.build(context, body, context.make_task(), settings[0], seed=0)[0].modules()}
    assert "BatchStatistics" in kinds - usual
    assert not fit.on_features(plain, settings[0], context.make_task()) and fit.on_features(
        first, settings[0], context.make_task()
    )


def test_the_options_of_a_run_reach_its_folder(recipe, tmp_path: Path) -> None:
    words = [
        "name=mine",
        f"out={tmp_path / 'elsewhere'}",
        "seeds=[3, 4]",
        "stats={resamples: 150, confidence: 0.8, seed: 9}",
        "report=true",
        "lang=zh",
        "keep_windows=true",
        "split.inner=1",
        "window.size=40",
        "train={epochs: 1, batch_size: 8, evaluations: 1}",
        "grid={learning_rate: [1e-3, 1e-4]}",
        f"models=[{{model: '{MODEL}', start: random}}]",
        "claims=[{text: a sentence, source: page 7, published: '0.91', better: {model: none}}]",
    ]
    root = flow.run(recipe(*words), say=lambda line: None)
    assert root == tmp_path / "elsewhere" / "mine" and (root / "report.zh.html").is_file()
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    facts = summary["run"]
    assert (facts["resamples"], facts["confidence"], facts["stats_seed"]) == (150, 0.8, 9)
    assert sorted(facts["seeds"]) == [3, 4] and facts["folds"] == 2
    assert [m["model"] for m in summary["models"]] == [MODEL]
    assert (summary["claims"][0]["source"], summary["claims"][0]["published"]) == ("page 7", "0.91")
    cells = tables.read(root / "cells.parquet", "cells")
    refits = cells.filter(cells["inner"] == -1)
    assert sorted(refits["seed"].unique()) == [3, 4] and len(cells) == 2 * (
        2 + 2
    )  # two settings searched, two seeds refitted
    rates = {json.loads(s)["learning_rate"] for s in cells["setting"]}
    assert rates == {1e-3, 1e-4} and {json.loads(s)["epochs"] for s in cells["setting"]} == {1.0}
    window = json.loads((root / "cells" / refits["hash"][0] / "cell.json").read_text())["context"]["window"]
    assert window["size"] == 40 and (root / "cells" / refits["hash"][0] / "windows.parquet").is_file()
    other = flow.run(recipe(*words, "name=other", "report=false", "stats.seed=10"), say=lambda line: None)
    assert not (other / "report.zh.html").exists()
    first, second = (json.loads((r / "summary.json").read_text())["models"][0]["metrics"] for r in (root, other))
    assert (
        first["case.brier"]["value"] == second["case.brier"]["value"]
        and first["case.brier"]["low"] != second["case.brier"]["low"]
    )


def test_what_a_recipe_asks_of_data_and_machine_is_heard(recipe, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", "image", cases=24, patients=16, classes=3, regress=True, masks=True)
    three, two = prepared(recipe), prepared(recipe, "name=two", "classes=[class0, class2]")
    assert [t.classes for t in (three.targets[0], two.targets[0])] == [
        ("class0", "class1", "class2"),
        ("class0", "class2"),
    ]
    assert len(two.rows_of(None)) < len(three.rows_of(None)) == 24
    size = prepared(recipe, "name=size", "target=size")
    assert (size.task_name, size.targets[0].name) == ("regress", "size")
    masks = prepared(recipe, "name=masks", "task=segment", "target=null", "models=[{model: unet2d, start: random}]")
    assert masks.task_name == "segment" and masks.structures == ["structure0"]
    many = prepared(recipe, "name=many", "threads=2", "precision=bf16")
    assert many.threads == 2 and "bf16" in str(many.fabric.strategy.precision.precision)
    torch.set_num_threads(1)
    with pytest.raises(UserError, match="no device 'abacus'"):
        prepared(recipe, "name=device", "device=abacus")
    arm = three.recipe.models[0]
    samples = three.samples([0, 1], three.window(arm), "none", (-1000.0, 1000.0))
    tight = three.recipe.model_copy(update={"memory_gb": 1e-6})
    with pytest.raises(UserError, match="the budget is 1e-06 GB"):
        fit.memory_plan(type(three)(**{**vars(three), "recipe": tight}), samples, three.recipe.train)
    staged = prepared(recipe, "name=staged", f"stage={tmp_path / 'fast'}")
    array = staged.dataset.manifest["array_id"][0]
    assert store.path_of(tmp_path / "fast", array).is_file() and staged.store_root == tmp_path / "fast"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mobilenet_v2_imagenet_fp16.pth").write_bytes(b"not a weights file")
    folded = config.ArmConfig(model="mobilenet_v2_folded", start="imagenet")
    given = prepared(recipe, "name=given", f"weights=[{tmp_path / 'files'}]")
    with pytest.raises(UserError, match=r"fp16\.pth has 18 bytes, the card says"):  # found there, and not the real one
        fit.build(given, folded, given.make_task(), given.recipe.train, seed=0)


def test_workers_are_as_many_as_asked_for(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = loop.train

    def heard(*args: Any, loading: loop.Loading, **rest: Any) -> Any:
        asked.append(loading.workers)
        return original(*args, loading=loop.Loading(0, 1), **rest)

    monkeypatch.setattr(loop, "train", heard)
    flow.run(recipe("workers=0", "train.epochs=1", "split.inner=0", "train.augment=light"), say=lambda line: None)
    assert asked == [0, 0]  # without the wish the memory plan would give a worker
