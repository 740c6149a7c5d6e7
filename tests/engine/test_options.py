"""An option that is accepted has an effect: each one is set away from its default and looked for where it matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from conftest import MODEL
from factory import make_dataset
from medgraft import config, flow, serve, store, tables
from medgraft.data import transforms
from medgraft.datasets import load_dataset
from medgraft.engine import build, compare, fit, loop
from medgraft.engine.session import Session
from medgraft.errors import UserError
from medgraft.models.model import fingerprint, make_model
from medgraft.models.records import Source
from medgraft.models.weights.publish import Facts, publish


def prepared(recipe: Callable[..., config.Recipe], *words: str, **facts: Any) -> Session:
    """The session of a recipe, nothing trained."""
    made = recipe(*words, **facts)
    return compare.prepare(made, load_dataset(made.data))[0]


def test_every_option_of_windows_reaches_what_is_cut(recipe) -> None:
    words = "window={kind: dense, length: 3, size: [24, 20], stride: 2, overlap: 0.25, views: 2, join: vote}"
    short = f"{{model: '{MODEL}', start: random, window: {{length: 2}}, label: short}}"
    networks = f"models=[{{model: '{MODEL}', start: random}}, {short}]"
    session = prepared(recipe, words, networks, kind="video", masks=True, traced="ends")
    first, second = (arm.settings[0].window for arm in session.plan.arms)
    assert (first.kind, first.length, first.sides, first.stride, first.overlap) == ("dense", 3, (24, 20), 2, 0.25)
    assert (first.max_windows, first.join) == (2, "vote") and second.length == 2
    about = ["name=marks", "task=segment", "target=null", "models=[{model: unet2d, start: random}]"]
    marks = prepared(recipe, *about, "window={kind: marked, together: true, length: 3}")
    window = marks.plan.arms[0].settings[0].window
    cut = marks.samples([0], marks.plan.arms[0].settings[0]).eval_windows()
    assert (window.kind, window.together) == ("marked", True) and [len(w.frames) for w in cut] == [6]  # of two marks


def test_the_hounsfield_window_reaches_the_batches(recipe) -> None:
    session = prepared(recipe, "window.hu_window=[-160, 240]", unit="HU")
    samples = session.samples([0, 1], session.plan.arms[0].settings[0])
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
    def augment(*words: str) -> transforms.Augment:
        return prepared(recipe, *words).plan.arms[0].settings[0].augment

    assert augment() == transforms.preset("light")
    assert augment("name=xray", "train.augment=xray") == transforms.preset("xray")
    assert transforms.preset("xray").flip_lr > 0
    assert augment("name=sided", "train.augment=xray", "train.mirror=false").flip_lr == 0


def test_every_option_of_an_arm_reaches_its_network(recipe) -> None:
    arm = (
        "{model: efficientnet_lite0, start: random, strategy: frozen, join: bert, hidden: 20, label: mine, "
        "window: {length: 4}, train: {dropout: 0.25, epochs: 3, augment: none}, grid: {learning_rate: [1e-3, 1e-4]}}"
    )
    plain = "{model: efficientnet_lite0, start: imagenet}"
    wide = f"{{model: '{MODEL}', start: random, hidden: 12, select: {{max_per_second: 3}}}}"
    session = prepared(recipe, f"models=[{arm}, {plain}, {wide}]", kind="video")
    first, second, third = session.plan.arms
    assert first.id == "efficientnet_lite0 · random · mine" and second.id == "efficientnet_lite0 · imagenet · finetune"
    assert [s.train.learning_rate for s in first.settings] == [1e-3, 1e-4]
    assert {s.train.epochs for s in first.settings} == {3} and third.settings[0].select.max_per_second == 3
    assert first.settings[0].window.length == 4 and second.settings[0].window.length == 8
    task = session.plan.make_task()
    built = [build.build(session.plan, a, a.settings[0], task, seed=0) for a in session.plan.arms]
    (bert, none), (published, read), (hidden, _) = built
    assert none is None and read is not None and published.weight_card is not None
    assert bert.head[0].bert.config.hidden_size == 20 and bert.head[1].dropout.p == 0.25
    assert hidden.head.hidden.out_features == 12
    assert first.on_features(first.settings[0], task) and not second.on_features(second.settings[0], task)
    genesis = "models=[{model: genesis_encoder3d, start: random, options: {bn_mode: batch}}]"
    other = prepared(recipe, genesis, "name=options", "window={size: 16, length: 16}")
    body, _ = build.build(other.plan, other.plan.arms[0], other.plan.arms[0].settings[0], task, seed=0)
    assert "BatchStatistics" in {type(m).__name__ for m in body.modules()}


def test_normalisation_is_of_the_recipe_the_arm_or_the_setting(recipe) -> None:
    def kinds(name: str, arm: str, *words: str) -> list[str]:
        made = prepared(recipe, f"name={name}", f"models=[{{model: '{MODEL}', start: random{arm}}}]", *words)
        return [setting.normalise.kind for setting in made.plan.arms[0].settings]

    assert kinds("untold", "") == ["card"]
    assert kinds("recipe", "", "normalise=data") == ["data"]
    assert kinds("arm", ", normalise: data") == ["data"]
    assert kinds("other", ", normalise: card", "normalise=data") == ["card"]
    assert kinds("grid", ", grid: {normalise: [card, data]}") == ["card", "data"]


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
    settings = [json.loads(text)["train"] for text in cells["setting"]]
    assert {s["learning_rate"] for s in settings} == {1e-3, 1e-4} and {s["epochs"] for s in settings} == {1.0}
    window = json.loads((root / "cells" / refits["hash"][0] / "cell.json").read_text())["setting"]["window"]
    assert window["size"] == 40 and (root / "cells" / refits["hash"][0] / "windows.parquet").is_file()
    other = flow.run(recipe(*words, "name=other", "report=false", "stats.seed=10"), say=lambda line: None)
    assert not (other / "report.zh.html").exists()
    first, second = (json.loads((r / "summary.json").read_text())["models"][0]["metrics"] for r in (root, other))
    assert (
        first["case.brier"]["value"] == second["case.brier"]["value"]
        and first["case.ece"]["low"] != second["case.ece"]["low"]  # what is drawn follows the seed
    )


def test_what_a_recipe_asks_of_data_and_machine_is_heard(recipe, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", "image", cases=24, patients=16, classes=3, regress=True, masks=True)
    three, two = prepared(recipe), prepared(recipe, "name=two", "classes=[class0, class2]")
    classes = [session.plan.task.targets[0].classes for session in (three, two)]
    assert classes == [("class0", "class1", "class2"), ("class0", "class2")]
    assert len(two.plan.cases) < len(three.plan.cases) == 24
    size = prepared(recipe, "name=size", "target=size").plan.task
    assert (size.name, size.targets[0].name) == ("regress", "size")
    masks = prepared(recipe, "name=masks", "task=segment", "target=null", "models=[{model: unet2d, start: random}]")
    assert (masks.plan.task.name, masks.plan.task.structures) == ("segment", ("structure0",))
    many = prepared(recipe, "name=many", "threads=3", "precision=bf16")
    assert torch.get_num_threads() == 3 and "bf16" in str(many.fabric.strategy.precision.precision)
    torch.set_num_threads(1)
    with pytest.raises(UserError, match="no device 'abacus'"):
        prepared(recipe, "name=device", "device=abacus")
    tight = prepared(recipe, "name=tight", "memory_gb=1e-6")
    with pytest.raises(UserError, match="the budget is 1e-06 GB"):
        fit.memory_plan(tight, tight.samples([0, 1], tight.plan.arms[0].settings[0]), 8)
    staged = prepared(recipe, "name=staged", f"stage={tmp_path / 'fast'}")
    array = staged.dataset.manifest["array_id"][0]
    assert store.path_of(tmp_path / "fast", array).is_file() and staged.store_root == tmp_path / "fast"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mobilenet_v2_imagenet_fp16.pth").write_bytes(b"not a weights file")
    folded = "models=[{model: mobilenet_v2_folded, start: imagenet}]"
    given = prepared(recipe, "name=given", f"weights=[{tmp_path / 'files'}]", folded)
    arm = given.plan.arms[0]
    with pytest.raises(UserError, match=r"fp16\.pth has 18 bytes, the card says"):  # found there, and not the real one
        build.build(given.plan, arm, arm.settings[0], given.plan.make_task(), seed=0)


def test_a_start_whose_card_lies_in_a_weights_folder_is_trained_and_served(recipe, tmp_path: Path) -> None:
    """A network is published, a run starts from it and answers a study, by ``weights`` alone."""
    body = make_model(MODEL, outputs=1, channels=1, body_channels=1, seed=3)[0]
    with torch.no_grad():
        for tensor in body.network.state_dict().values():
            tensor.add_(1)
    facts = Facts(MODEL, "chest_v1", (32, 32), 1, "a test", "CC0-1.0", (Source("nowhere"),), "nothing")
    published = publish(body.network.state_dict(), facts, tmp_path / "starts")
    start = f"models=[{{model: '{MODEL}', start: chest_v1, strategy: frozen}}]"
    with pytest.raises(UserError, match="chest_v1"):
        prepared(recipe, "name=without", start)
    words = (f"weights=[{tmp_path / 'starts'}]", "train.epochs=1", "split.inner=0", start)
    session = prepared(recipe, "name=mine", *words)
    assert session.plan.arms[0].card["sha256"] == published.sha256
    root = flow.run(recipe("name=mine", *words), say=lambda line: None)
    arm = session.plan.arms[0]
    trained = build.build(session.plan, arm, arm.settings[0], session.plan.make_task(), seed=0)[0]
    assert fingerprint(trained.network) == fingerprint(body.network)
    study = tmp_path / "study.npy"
    np.save(study, store.open_array(tmp_path / "data", session.dataset.manifest["array_id"][0])[0, 0])
    served = serve.predict(root, [study], model=MODEL).rows
    (tmp_path / "starts").rename(tmp_path / "moved")  # the body of a frozen arm is that of the file
    with pytest.raises(UserError, match="chest_v1"):
        serve.predict(root, [study], model=MODEL)
    assert serve.predict(root, [study], model=MODEL, weights=[tmp_path / "moved"]).rows == served


def test_workers_are_as_many_as_asked_for(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = loop.train

    def heard(*args: Any, loading: loop.Loading, **rest: Any) -> Any:
        asked.append(loading.workers)
        return original(*args, loading=loop.Loading(0, 1), **rest)

    monkeypatch.setattr(loop, "train", heard)
    flow.run(recipe("workers=0", "train.epochs=1", "split.inner=0", "train.augment=light"), say=lambda line: None)
    assert asked == [0, 0]  # without the wish the memory plan would give a worker
