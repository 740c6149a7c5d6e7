"""A first answer in minutes, the estimate before a run, and seconds turned into steps once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import MODEL, quiet
from factory import make_dataset
from medgraft import config, firstlook, flow, runs, verbs
from medgraft.config import Recipe
from medgraft.datasets import load_dataset
from medgraft.engine import compare, pace
from medgraft.engine import defaults as chosen
from medgraft.engine import plan as planning
from medgraft.engine.defaults import starts_here, with_defaults
from medgraft.engine.pace import Pace
from medgraft.errors import UserError
from medgraft.models import catalogue, registry, weights


@pytest.fixture
def two_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with two weight files: each start more would cost the tests seconds and show nothing new."""
    known = starts_here

    def here(recipe: Recipe, kind: str) -> list[weights.WeightCard]:
        return [c for c in known(recipe, kind) if c.backbone in ("efficientnet_lite0", "efficientnet_lite1")]

    monkeypatch.setattr(chosen, "starts_here", here)


def options(**values: object) -> object:
    return verbs.options("quick", {"threads": 1, **values})


def folder(tmp_path: Path) -> Path:
    """Raw pictures: bright squares are yes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    rows = ["file,patient,finding"]
    (tmp_path / "raw").mkdir()
    for k in range(24):
        picture = generator.integers(0, 90, (40, 40)).astype(np.uint8)
        picture[10:30, 10:30] += 120 * (k % 2)
        Image.fromarray(picture).save(tmp_path / "raw" / f"a{k:02d}.png")
        rows.append(f"a{k:02d}.png,p{k // 2 * 2 + k % 2},{'yes' if k % 2 else 'no'}")
    (tmp_path / "raw" / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "raw"


def test_raw_pictures_to_a_page_and_a_longer_run_that_grows_it(tmp_path: Path, monkeypatch, two_starts) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    asked = options(labels="labels.csv", patient="patient", target="finding", identity="keep", progress=False)
    root = firstlook.quick(folder(tmp_path), asked, say=said.append)
    assert root.resolve() == tmp_path / "runs" / "raw" and (root / "report.html").is_file()
    plan = planning.read(root)
    assert [(a.model, a.start, a.strategy) for a in plan.arms] == [
        ("efficientnet_lite0", "imagenet", "frozen_logistic"),
        ("efficientnet_lite1", "imagenet", "frozen_logistic"),
        ("efficientnet_lite0", "random", "frozen_logistic"),
    ]
    estimate = next(k for k, line in enumerate(said) if line.startswith("the whole takes about"))
    first = next(k for k, line in enumerate(said) if line.startswith("[1/"))
    assert estimate < first and all(any(a.id in line for line in said[estimate:first]) for a in plan.arms)
    assert said[-1].startswith(f"next: medgraft run {root}/next.yaml (about ") and "· finetune" in said[-1]
    done = {cell.name: (cell / "DONE").stat().st_mtime_ns for cell in (root / "cells").iterdir()}

    more = config.load_recipe(root / "next.yaml", ["window.size=32", "train.epochs=1"])
    assert more.models == []
    more = with_defaults(config.load_recipe(root / "next.yaml", []), load_dataset(more.data), quiet)
    assert {arm.id for arm in plan.arms} < {arm.id for arm in more.models}
    grown, run = compare.prepare(more, load_dataset(more.data))
    kept = {cell.hash for cell in grown.plan.inner_cells} & set(done)
    assert len(kept) == len(plan.arms) * 5  # no search of the first look is trained anew
    left = pace.measure(grown, run)
    assert [p.cells for p in left] == [0, 0, 0, 10, 10]  # nor a refit


def test_a_data_set_is_taken_as_it_is_and_a_knob_of_a_scan_refused(tmp_path: Path, monkeypatch, two_starts) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", "image", cases=24, patients=16)
    for key, value in (("labels", "x.csv"), ("data", "elsewhere"), ("patient", "p")):
        with pytest.raises(UserError, match=f"{key} is for a scan"):
            firstlook.quick(tmp_path / "data", options(**{key: value}), say=quiet)
    root = firstlook.quick(
        tmp_path / "data", options(target="finding", out="elsewhere", run="mine", lang="zh"), say=quiet
    )
    assert root == Path("elsewhere/mine") and next(root.glob("report*.html")).name == "report.zh.html"


def test_masks_get_one_fit_of_a_minute_on_a_holdout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", "volume", cases=8, patients=8, masks=True, unit="raw")
    monkeypatch.setattr(chosen, "FIRST_FIT", "2s")
    said: list[str] = []
    root = firstlook.quick(tmp_path / "data", options(task="segment"), say=said.append)
    plan = planning.read(root)
    assert len(plan.arms) == 1 and len(plan.folds) == 1 and plan.seeds == (0,)
    steps = plan.arms[0].settings[0].train.iterations
    assert plan.budget["seconds"] == 2 and list(plan.budget["steps"].values()) == [steps] and steps
    assert "_full" in (root / "next.yaml").read_text("utf-8") and "5 folds and all its steps" in said[-1]


def test_starts_that_are_here_are_those_whose_file_is(tmp_path: Path) -> None:
    recipe = config.build(Recipe, {"data": tmp_path})
    found = {card.name for card in starts_here(recipe, "image")}
    every = [c for n in registry.names() for c in weights.cards(n)]
    assert "efficientnet_lite0.imagenet" in found
    for card in every:
        here = catalogue.here(card) is not None
        fits = here and not registry.info(card.backbone).dense and registry.info(card.backbone).dims == 2
        assert (card.name in found) == fits, card.name
    clips = {card.name for card in starts_here(recipe, "video")}
    assert found <= clips
    assert all(registry.info(c.backbone).dims == 2 for c in starts_here(recipe, "image"))


def paces(*rows: tuple[str, float, float, float, int, int, int]) -> dict[str, Pace]:
    return {row[0]: Pace(*row) for row in rows}


def test_seconds_become_steps_by_hand() -> None:
    """Two arms that train share what features and predictions leave: 600 - 40 - 10 x .5 x 2 = 550 s, 275 s each."""
    recipe = config.build(Recipe, {"data": "x", "budget": "10min"})
    plan = type("P", (), {"arms": (1, 2, 3)})()
    known = paces(("f", 40, 0, 0, 0, 9, 5), ("a", 0, 0.5, 0.5, 999, 10, 5), ("b", 0, 2.0, 0.5, 999, 10, 5))
    assert pace.within(recipe, plan, known, 600) == {"a": 110, "b": 27}
    with pytest.raises(UserError, match="too small for one step: about 63 s are needed"):
        pace.within(recipe, plan, known, 55)
    assert pace.within(recipe, plan, paces(("f", 40, 0, 0, 0, 9, 5)), 10) == {}
    whole = pace.told(list(known.values()))
    assert whole[0].startswith("the whole takes about 42 min")  # 40 + 5 + 499.5 + 5 + 1998 s
    assert whole[1] == "  f: about 40 s, 5 trainings" and len(whole) == 4
    assert pace.told(list(paces(("f", 0, 0, 0, 0, 0, 0)).values())) == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5h", 5400), ("2 h", 7200), (45, 45), ("3m", 180)]
)
def test_a_budget_is_a_time(text: object, seconds: float) -> None:
    assert config.build(Recipe, {"data": "x", "budget": text}).seconds == seconds


@pytest.mark.parametrize("text", ["soon", "-5min", "0s", "10 days", "1e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a time; write 90s, 10min or 2h"):
        config.build(Recipe, {"data": "x", "budget": text})


@pytest.mark.parametrize(
    "more",
    [
        {"train": {"epochs": 3}},
        {"train": {"iterations": 3}},
        {"models": [{"model": "resnet18", "train": {"epochs": 3}}]},
        {"grid": {"epochs": [1, 2]}},
    ],
)
def test_two_words_about_how_long_to_train_are_refused(more: dict) -> None:
    with pytest.raises(UserError, match="says how long to train, and so does"):
        config.build(Recipe, {"data": "x", "budget": "5min", **more})


def test_a_budget_is_frozen_in_the_plan_and_measured_once(recipe, monkeypatch) -> None:
    made = recipe("budget=4s", "train={batch_size: 8, learning_rate: 1e-3, evaluations: 2}")
    said: list[str] = []
    root = flow.run(made, say=said.append)
    plan = planning.read(root)
    (steps,) = plan.budget["steps"].values()
    assert plan.arms[0].settings[0].train.iterations == steps >= 1
    assert any(f"{steps} steps a training" in line and "measured here" in line for line in said)
    the_run = runs.Run.open(root)
    assert {r["horizon"] for r in the_run.records()} == {steps}
    first = set(the_run.info["cells"])

    def never(*_: object) -> None:
        raise AssertionError("measured anew")

    monkeypatch.setattr(pace, "measure", never)
    shutil.rmtree(next(iter((root / "cells").iterdir())))  # as after a kill
    said.clear()
    flow.run(made, say=said.append)
    assert set(runs.Run.open(root).info["cells"]) == first
    assert any("steps as this run began" in line for line in said)
    with pytest.raises(AssertionError, match="measured anew"):  # another budget is another plan
        compare.prepare(made.model_copy(update={"budget": "5s"}), load_dataset(made.data))
    with pytest.raises(AssertionError, match="measured anew"):  # and so is another question
        compare.prepare(made.model_copy(update={"seeds": [1]}), load_dataset(made.data))


def test_other_steps_are_other_cells(recipe) -> None:
    made = recipe("train={batch_size: 8}")
    data = load_dataset(made.data)

    def cells(steps: int) -> set[str]:
        models = [made.models[0].model_copy(update={"train": {"iterations": steps}})]
        return {c.hash for c in planning.resolve(made.model_copy(update={"models": models}), data).inner_cells}

    assert not cells(5) & cells(6)


def test_a_budget_too_small_for_one_step_says_what_is_needed(recipe) -> None:
    made = recipe("budget=0.01s", "train={batch_size: 8}")
    with pytest.raises(UserError, match=r"budget=0.01s: too small for one step|too small for one step: about"):
        flow.run(made, say=quiet)
    assert not (made.out / made.name / "cells").exists()


def test_defaults_under_a_budget_name_no_epochs(recipe) -> None:
    made = recipe("models=[]", "window.size=0", "budget=5min", "train={batch_size: 8}")
    full = with_defaults(made, load_dataset(made.data), quiet)
    assert len(full.models) >= 4 and not any({"epochs", "iterations"} & set(arm.train) for arm in full.models)


def test_what_is_left_is_counted_cell_by_cell(recipe) -> None:
    made = recipe("seeds=[0, 1]", "split.inner=2", "grid={learning_rate: [1e-3, 1e-2]}")
    session, run = compare.prepare(made, load_dataset(made.data))
    arm = session.plan.arms[0]
    steps, cases, cells = pace._left(session, arm, run)
    assert cells == session.plan.size == 2 * (2 * 2 + 2)
    want_steps = want_cases = 0
    for fold in session.plan.folds:
        for part in fold.inner.values():
            want_steps += 2 * int(np.ceil(4 * len(session.rows(part.train)) / 8))
            want_cases += 2 * 2 * len(session.rows(part.select))  # two settings, two looks
        want_steps += 2 * int(np.ceil(4 * len(session.rows(fold.learns)) / 8))
        want_cases += 2 * len(session.rows(fold.test))
    assert (steps, cases) == (want_steps, want_cases)
    flow.run(made, say=quiet)
    assert pace._left(session, arm, runs.Run.open(run.root))[2] == 0


def test_measuring_leaves_no_trace_in_the_numbers(recipe) -> None:
    """The same predictions whether an estimate was made before or not, and nothing of it in the run folder."""
    frozen = f"{{model: '{MODEL}', start: random, strategy: frozen_logistic}}"
    both = f"models=[{{model: '{MODEL}', start: random}}, {frozen}]"
    made = recipe(both, "name=a")
    session, run = compare.prepare(made, load_dataset(made.data))
    before = sorted(os.listdir(run.root))
    found = pace.measure(session, run)
    assert sorted(os.listdir(run.root)) == before and [p.cells for p in found] == [4, 4]
    assert found[0].step > 0 and found[0].case > 0 and found[1].once > 0 and found[1].step == 0
    from conftest import predictions

    said: list[str] = []
    told = [row[2:] for row in predictions(flow.run(made, say=said.append, estimate=True))]
    assert any(line.startswith("the whole takes about") for line in said)
    plain = [row[2:] for row in predictions(flow.run(recipe(both, "name=b"), say=said.append))]
    assert sorted(map(str, told)) == sorted(map(str, plain))


def test_a_first_look_trains_no_body_and_knows_its_kind(recipe, monkeypatch, two_starts) -> None:
    made = recipe("models=[]", "window.size=0", "train={batch_size: 8}")
    data = load_dataset(made.data)
    arms = with_defaults(made, data, quiet, first=True).models
    assert {arm.strategy for arm in arms} == {"frozen_logistic"} and {a.start for a in arms} == {"imagenet", "random"}
    every = with_defaults(made, data, quiet).models
    assert every[: len(arms)] == arms and [a.strategy for a in every[len(arms) :]] == ["finetune", "finetune"]

    names = {"": ["efficientnet_lite0", "r3d_18", "unet3d"], "torchvision": []}
    monkeypatch.setattr(registry, "names", lambda kind="": names[kind])
    monkeypatch.setattr(catalogue, "here", lambda card, folders=(): Path("x"))
    for kind, want in (("image", {"efficientnet_lite0"}), ("video", {"efficientnet_lite0", "r3d_18"})):
        assert {c.backbone for c in starts_here(made, kind)} == want
