"""Two logits for a yes/no question, and single images that vote on their case (CEUS study)."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from conftest import quiet
from medgraft import config, flow, runs, serve, tables
from medgraft.data.dataset import TargetSpec
from medgraft.datasets import load_dataset
from medgraft.engine import compare
from medgraft.engine.build import load_model
from medgraft.errors import UserError
from medgraft.tasks.classify import Classify

YES_NO = TargetSpec("finding", "binary", ("class0", "class1"), "class1")
VOTE = ["kind=video", "window={kind: uniform, length: 1, size: 32, views: 500, join: vote}"]


# ---------------------------------------------------------------------------------------- two logits


def test_two_logits_are_softmax_cross_entropy_and_one_probability() -> None:
    task = Classify([YES_NO], logits=2)
    assert (task.outputs, task.answers, task.metric.name) == (2, 1, "auc")
    logits, y = torch.randn(5, 2), torch.tensor([[1.0], [0.0], [float("nan")], [1.0], [0.0]])
    known = [0, 1, 3, 4]
    expected = functional.cross_entropy(logits[known], y[known, 0].long())  # class 1 is yes
    torch.testing.assert_close(task.loss(logits, {"y": y})["loss"], expected)
    scores = task.scores(logits)
    torch.testing.assert_close(scores, logits.softmax(1)[:, 1:])
    rows = task.rows(list("abcde"), list("abcde"), y.numpy(), scores.numpy())
    assert len(rows["y_pred"]) == 5 and set(rows["class"]) == {"class1"}
    several = Classify([YES_NO, TargetSpec("other", "binary", ("0", "1"), "1")], logits=2)
    wide, both = torch.randn(3, 4), torch.tensor([[1.0, 0.0], [0.0, float("nan")], [1.0, 1.0]])
    first, second = wide[:, :2], wide[[0, 2], 2:]
    total = functional.cross_entropy(first, both[:, 0].long(), reduction="sum") + functional.cross_entropy(
        second, both[[0, 2], 1].long(), reduction="sum"
    )
    torch.testing.assert_close(several.loss(wide, {"y": both})["loss"], total / 5)
    assert several.scores(wide).shape == (3, 2)
    assert (
        Classify([TargetSpec("finding", "classes", ("a", "b", "c"))], logits=2).outputs == 3
    )  # a multi-class target has its own


def test_two_logits_through_the_whole_run_and_serving(recipe, tmp_path) -> None:
    lite = (
        "models=[{model: efficientnet_lite0, strategy: frozen, train: {logits: %d, augment: none, epochs: 12, "
        "learning_rate: 1e-2}}]"
    )
    made = recipe(lite % 2, "report=true")
    root = flow.run(made, say=quiet)
    found = tables.read(root / "predictions.parquet", "predictions").filter(pl.col("split") == "test")
    assert len(found) == 24 and found["class"].unique().to_list() == ["class1"]
    record = next(r for r in runs.Run.open(root).records() if r["inner"] == -1)
    session, _ = compare.prepare(made, load_dataset(made.data))
    model, task, _ = load_model(session, session.plan.arms[0], record)
    assert model.head.linear.out_features == 2 == task.outputs
    summary = json.loads((root / "summary.json").read_text())
    assert summary["models"][0]["metrics"]["case.auc"]["value"] > 0.8  # the signal is easy
    assert "ImageNet-1k (top-1 75.1 %)" in (root / "report.html").read_text(encoding="utf-8")  # CEUS-E08
    one = flow.run(recipe(lite % 1, "name=one"), say=quiet)
    mine, other = (
        tables.read(r / "predictions.parquet", "predictions").sort("cell", "case_id")["y_pred"] for r in (root, one)
    )
    assert not np.allclose(mine, other)  # a start and a gradient of its own


def test_a_logistic_head_is_the_same_with_two_logits(recipe) -> None:
    words = "models=[{model: efficientnet_lite0, strategy: frozen_logistic, train: {logistic_c: 0.1, logits: %d}}]"
    one, two = (flow.run(recipe(f"name=l{k}", words % k), say=quiet) for k in (1, 2))
    assert runs.Run.open(two).records()[0]["setting"]["train"]["logits"] == 2
    a, b = (
        tables.read(r / "predictions.parquet", "predictions")
        .sort("split", "case_id", "inner", "y_pred")
        .select("case_id", "y_pred")
        for r in (one, two)
    )
    assert a["case_id"].to_list() == b["case_id"].to_list()
    np.testing.assert_allclose(a["y_pred"], b["y_pred"], rtol=1e-5)


# ---------------------------------------------------------------------------------------- votes


def test_images_vote_and_their_mean_ranks(recipe, tmp_path) -> None:
    made = recipe(
        *VOTE[1:],
        "train.logits=2",
        "train.epochs=2",
        "keep_windows=true",
        "report=true",
        kind="video",
        vary_length=True,
        signal=0.25,
    )
    root = flow.run(made, say=quiet)
    refits = [r["hash"] for r in runs.Run.open(root).records() if r["inner"] == -1]
    windows = pl.concat([tables.read(root / "cells" / h / "windows.parquet", "predictions") for h in refits])
    by_hand = windows.group_by("case_id").agg(
        pl.len().alias("n"),
        (pl.col("y_pred") > 0.5).sum().alias("yes"),
        pl.col("y_pred").mean(),
        pl.col("y_true").first(),
    )
    by_hand = by_hand.sort("case_id")
    depths = {r["case_id"]: r["shape"][1] for r in load_dataset(made.data).manifest.iter_rows(named=True)}
    assert by_hand["n"].to_list() == [
        depths[c] for c in by_hand["case_id"]
    ]  # 500 were asked for: every frame once, none twice
    measured = (
        tables.read(root / "measures.parquet", "measures")
        .pivot("name", index="case_id", values="value")
        .sort("case_id")
    )
    assert (
        measured["votes"].to_list() == by_hand["yes"].to_list()
        and measured["windows"].to_list() == by_hand["n"].to_list()
    )

    said, truth = (by_hand["yes"] / by_hand["n"] > 0.5).to_numpy(), by_hand["y_true"].to_numpy() == 1
    mean = (
        tables.read(root / "predictions.parquet", "predictions")
        .filter((pl.col("split") == "test") & (pl.col("window") == -1))
        .sort("case_id")
    )
    np.testing.assert_allclose(mean["y_pred"], by_hand["y_pred"])
    model = json.loads((root / "summary.json").read_text())["models"][0]
    metrics = {name.removeprefix("case."): entry["value"] for name, entry in model["metrics"].items()}
    assert metrics["accuracy"] == pytest.approx((said == truth).mean())
    assert metrics["sensitivity"] == pytest.approx(said[truth].mean()) and metrics["specificity"] == pytest.approx(
        (~said[~truth]).mean()
    )
    from medgraft.stats.metrics import point

    fold = {r["hash"]: r["outer"] for r in runs.Run.open(root).records()}
    strata = np.array([fold[cell] for cell in mean["cell"]])  # each fold has a network of its own
    assert metrics["auc"] == pytest.approx(
        point("auc", truth.astype(float), by_hand["y_pred"].to_numpy(), strata=strata)
    )
    assert model["threshold_rule"].startswith("majority vote") and "majority vote" in (root / "report.html").read_text(
        encoding="utf-8"
    )
    assert runs.Run.open(root).info["thresholds"] == {}


def test_the_majority_and_not_the_mean_decides() -> None:
    """Three windows of .6 and two of .01: the mean says no, the vote yes; 2 of 4 is no majority."""
    from medgraft.stats.estimates import model_metrics
    from medgraft.stats.judged import Judged
    from medgraft.stats.kinds import BINARY, Question

    votes = np.array([[0.6, 0.5, 0.2, 0.9]])
    answers = Judged(
        "m",
        np.array(list("abcd")),
        np.array(list("abcd")),
        np.array([1.0, 0, 0, 1]),
        np.array([[0.364, 0.9, 0.1, 0.8]]),
        np.zeros((1, 4)),
        ["0"],
        votes,
    )
    said, at = answers.decided(np.full(4, 0.37))
    assert said.tolist() == [[1.0, 0.0, 0.0, 1.0]] and at.tolist() == [0.5] * 4
    asked = Question(BINARY, ["t"], ["no", "yes"], [("t", "yes")])
    entries, _ = model_metrics(
        asked, answers, "case", np.full(4, 0.37), {"resamples": 100, "confidence": 0.95, "seed": 0, "unit": "patient"}
    )
    assert entries["case.accuracy"]["value"] == 1.0 and entries["case.auc"]["value"] == 0.5
    assert BINARY.wrong is not None and not BINARY.wrong(asked, answers, np.full(4, 0.37)).any()


def test_claims_and_leaderboard_take_the_same_calls() -> None:
    """The votes of one arm are right in every case although its mean scores lie below the threshold; the other arm is
    right in 33 of 40. Leaderboard, claim, kinds of negatives and clean view must say the same.
    """
    from medgraft.stats import beside, claims
    from medgraft.stats.estimates import model_metrics
    from medgraft.stats.judged import Judged
    from medgraft.stats.kinds import BINARY, Question
    from medgraft.stats.pairs import Calls

    y, codes = np.arange(40) % 2 * 1.0, np.array([f"c{i:02d}" for i in range(40)])
    right = np.where(np.arange(40) < 7, 1 - y, y)
    facts = (codes, codes, y)
    voting = Judged("voting", *facts, (0.3 + 0.1 * y)[None], np.zeros((1, 40)), ["0"], (0.1 + 0.8 * y)[None])
    scoring = Judged("scoring", *facts, (0.2 + 0.6 * right)[None], np.zeros((1, 40)), ["0"])
    asked = Question(BINARY, ["t"], ["no", "yes"], [("t", "yes")])
    options = {"resamples": 100, "confidence": 0.95, "seed": 0, "unit": "patient"}
    at = np.full(40, 0.5)
    board = {a.id: model_metrics(asked, a, "case", at, options)[0]["case.accuracy"]["value"] for a in (voting, scoring)}
    assert board == {"voting": 1.0, "scoring": pytest.approx(33 / 40)}
    calls = Calls(asked, {"voting": voting, "scoring": scoring}, {"voting": at, "scoring": at}, options)
    claim = {"text": "t", "better": {"model": "voting"}, "metrics": ["accuracy", "balanced_accuracy"]}
    entries = [{"id": n, "model": n} for n in ("voting", "scoring")]
    (found,) = claims.verdicts([claim], calls, entries)
    assert [c["difference"] for c in found["comparisons"]] == pytest.approx([7 / 40, 7 / 40], abs=0.01)
    assert found["verdict"] == "supported"
    kinds = beside.against_kinds(voting, {c: "healthy" for c, v in zip(codes, y) if not v}, at, options)
    assert kinds["healthy"]["specificity"]["value"] == 1.0
    clean = beside.clean_view(asked, voting, voting, at, options)
    assert clean["metrics"]["accuracy"]["value"] == clean["metrics"]["specificity"]["value"] == 1.0


def test_a_served_case_is_called_by_the_vote(recipe, tmp_path) -> None:
    from medgraft import store

    made = recipe(*VOTE[1:], "train.epochs=1", "split.folds=2", kind="video", signal=0.5)
    root = flow.run(made, say=quiet)
    data = load_dataset(made.data)
    import av

    array = np.asarray(store.open_array(data.root, data.manifest["array_id"][1]))[0]
    with av.open(str(tmp_path / "clip.avi"), "w") as sink:
        stream = sink.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = array.shape[2], array.shape[1], "gray"
        for frame in array:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        sink.mux(stream.encode(None))
    served = serve.predict(root, [tmp_path / "clip.avi"])
    row = served.rows[0]
    recipe_ = config.build(config.Recipe, runs.Run.open(root).info["recipe"])
    assert recipe_.window.join == "vote"
    assert (
        0 <= row["votes"] <= 1
        and row["finding"] == ("class1" if row["votes"] > 0.5 else "class0")
        and "threshold" not in row
    )


def test_votes_are_for_one_yes_no_target(recipe) -> None:
    for words in (["target=size"], ["target=[a, b]"]):
        with pytest.raises(UserError, match="vote on one yes/no target"):
            flow.run(recipe("window.join=vote", *words, regress=True, multilabel=True), say=quiet)
