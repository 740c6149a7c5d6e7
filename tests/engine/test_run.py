"""The main act: honest, resumable, the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from conftest import MODEL, predictions, quiet
from medgraft import config, flow, runs, store, tables
from medgraft.datasets import load_dataset
from medgraft.engine import checkpoint, compare, fit, loop, search
from medgraft.engine.build import build, load_model
from medgraft.engine.defaults import with_defaults
from medgraft.engine.plan import Fold, HeadSpec, Part
from medgraft.engine.progress import Progress
from medgraft.errors import UserError
from medgraft.models import surgery


def test_a_run_ends_in_tables_and_a_report(recipe) -> None:
    root = flow.run(recipe("report=true"), say=quiet)
    for name in (
        "recipe.yaml",
        "run.json",
        "splits.json",
        "cells.parquet",
        "predictions.parquet",
        "leaderboard.csv",
        "summary.json",
        "report.html",
    ):
        assert (root / name).is_file(), name
    cells = tables.read(root / "cells.parquet", "cells")
    assert set(cells["state"]) == {"done"} and len(cells) == 2 * (1 + 1)
    found = tables.read(root / "predictions.parquet", "predictions")
    test = found.filter(pl.col("split") == "test")
    assert sorted(test["case_id"].to_list()) == sorted(f"c{k:03d}" for k in range(24))  # each case judged exactly once
    looks = json.loads((root / "run.json").read_text())["looks"]
    assert len(looks) == 2 and {entry["cell"] for entry in looks} == set(cells.filter(pl.col("inner") == -1)["hash"])
    for cell in cells.iter_rows(named=True):
        folder = root / "cells" / cell["hash"]
        assert (folder / "DONE").is_file() and not (folder / "last.ckpt").exists()
        assert (folder / "best.ckpt").is_file() == (cell["inner"] == -1)  # weights of chosen settings only


def test_two_runs_agree_to_the_bit(recipe) -> None:
    first = predictions(flow.run(recipe("name=a", "train.dropout=0.3"), say=quiet))
    again = predictions(flow.run(recipe("name=b", "train.dropout=0.3"), say=quiet))
    other = predictions(flow.run(recipe("name=c", "train.dropout=0.3", "seeds=[5]"), say=quiet))
    assert first == again and [r[-1] for r in first] != [r[-1] for r in other]


def test_loader_processes_change_no_number(recipe) -> None:
    alone = predictions(flow.run(recipe("name=a", "train.augment=light"), say=quiet))
    helped = predictions(flow.run(recipe("name=b", "train.augment=light", "workers=2"), say=quiet))
    assert alone == helped


def test_only_missing_cells_are_trained(recipe, monkeypatch) -> None:
    flow.run(recipe(), say=quiet)
    trained: list[str] = []
    original = loop.train

    def spy(*args, **kwargs):
        trained.append("x")
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "train", spy)
    flow.run(recipe(), say=quiet)
    assert not trained
    flow.run(recipe("seeds=[0, 1]"), say=quiet)
    assert len(trained) == 2  # the new seed in both folds; the search is known
    flow.run(
        recipe(
            "seeds=[0, 1]",
            f"models=[{{model: '{MODEL}', start: random}}, {{model: '{MODEL}', start: random, label: slow, train: "
            f"{{learning_rate: 1e-5}}}}]",
        ),
        say=quiet,
    )
    assert len(trained) == 2 + 2 * 3


def test_a_changed_data_set_is_refused_and_the_difference_named(recipe, tmp_path) -> None:
    flow.run(recipe(), say=quiet)
    path = tmp_path / "data" / "manifest.parquet"
    manifest = tables.read(path, "manifest")
    flipped = (
        pl.when(pl.col("case_id") == "c003")
        .then(pl.lit("class0"))
        .otherwise(pl.col("label.finding"))
        .alias("label.finding")
    )
    tables.write(manifest.with_columns(flipped), path, "manifest")
    with pytest.raises(UserError, match=r"1 changed \(first c003\)"):
        flow.run(recipe(), say=quiet)
    tables.write(manifest.head(23), path, "manifest")
    with pytest.raises(UserError, match=r"1 gone \(first c023\)"):
        flow.run(recipe(), say=quiet)


def test_search_never_sees_the_test_part(recipe, tmp_path) -> None:
    """Spoil the labels of the first test part: the search of that fold must come out the same, the test score must
    not.
    """
    words = ["grid={learning_rate: [1e-3, 1e-5]}", "split.folds=2"]
    one = recipe("name=a", *words)
    flow.run(one, say=quiet)
    splits = json.loads((tmp_path / "runs" / "a" / "splits.json").read_text())["rows"]
    tested = {r["patient_id"] for r in splits if r["outer"] == 0 and r["role"] == "test"}
    path = tmp_path / "data" / "manifest.parquet"
    manifest = tables.read(path, "manifest")
    swap = pl.when(pl.col("label.finding") == "class0").then(pl.lit("class1")).otherwise(pl.lit("class0"))
    spoiled = (
        pl.when(pl.col("patient_id").is_in(sorted(tested)))
        .then(swap)
        .otherwise(pl.col("label.finding"))
        .alias("label.finding")
    )
    tables.write(manifest.with_columns(spoiled), path, "manifest")

    def inner(run: str) -> dict:
        records = runs.Run.open(tmp_path / "runs" / run).records()
        return {
            json.dumps(r["setting"], sort_keys=True): r["score"] for r in records if r["outer"] == 0 and r["inner"] == 0
        }

    dataset = load_dataset(one.data)
    session, the_run = compare.prepare(recipe("name=b", *words), dataset)
    # The new labels would stratify anew: put the old split back.
    first = [r for r in splits if r["outer"] == 0]
    learns, (trains, selects) = (
        tuple(sorted({r["patient_id"] for r in first if r["role"] != "test"})),
        (
            tuple(r["patient_id"] for r in first if r["inner"] == 0 and r["role"] == role)
            for role in ("train", "select")
        ),
    )
    old = Fold(0, learns, tuple(sorted(tested)), {0: Part(trains, selects)})
    session.plan = replace(session.plan, folds=(old,))
    the_run.belongs(*session.plan.inner_cells)
    compare.run_arm(session, the_run, session.plan.arms[0], Progress(session.plan, the_run, quiet))
    assert inner("b") == inner("a") and len(inner("a")) == 2
    scores = {}
    for name in "ab":
        records = runs.Run.open(tmp_path / "runs" / name).records()
        scores[name] = next(r["score"] for r in records if r["outer"] == 0 and r["inner"] == -1)
    assert scores["a"] == pytest.approx(1 - scores["b"])


def test_the_refit_trains_on_all_patients_that_are_not_tested(recipe, monkeypatch) -> None:
    seen: list[tuple[int, set[int], set[int]]] = []
    original = fit.parts_of

    def spy(session, training, task, model):
        parts = original(session, training, task, model)
        seen.append((training.cell.inner, set(parts.learns.cases.tolist()), set(parts.judged_rows)))
        return parts

    monkeypatch.setattr(fit, "parts_of", spy)
    flow.run(recipe(), say=quiet)
    refits = [(t, j) for inner, t, j in seen if inner == -1]
    searches = [(t, j) for inner, t, j in seen if inner == 0]
    assert all(t | j == set(range(24)) and not t & j for t, j in refits)
    assert all(not t & j and (t | j) == refits[k][0] for k, (t, j) in enumerate(searches))


def test_absent_weights_are_a_row_and_not_a_random_body(recipe) -> None:
    said: list[str] = []
    words = f"models=[{{model: '{MODEL}', start: random}}, {{model: mobilenet_v2_folded, start: imagenet}}]"
    root = flow.run(recipe(words, "report=true"), say=said.append)
    cells = tables.read(root / "cells.parquet", "cells")
    absent = cells.filter(pl.col("model") == "mobilenet_v2_folded")
    assert absent["state"].to_list() == ["not run: weights absent"]
    assert not len(tables.read(root / "predictions.parquet", "predictions").filter(pl.col("cell") == absent["hash"][0]))
    assert any("mobilenet_v2_imagenet_fp16.pth" in line for line in said)
    assert "weights absent" in (root / "report.html").read_text(encoding="utf-8")


def test_a_failed_cell_is_named_and_the_rest_goes_on(recipe, tmp_path) -> None:
    made = recipe()
    dataset = load_dataset(made.data)
    compare.prepare(made, dataset)
    victim = dataset.manifest["array_id"][5]
    store.close_all()
    path = store.path_of(made.data, victim)
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    said: list[str] = []
    with pytest.raises(UserError, match="no model could be judged"):
        flow.run(made, say=said.append)
    assert any("c005" in line and "cannot be read" in line for line in said)
    assert "Traceback" in (tmp_path / "runs" / "run" / "errors.log").read_text()
    store.close_all()
    path.write_bytes(kept)
    assert (flow.run(made, say=quiet) / "summary.json").is_file()  # a failed cell is tried again


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="a full disk is made with a tiny tmpfs, which needs root on Linux",
)
def test_a_disk_that_fills_up_while_training_loses_nothing(recipe, tmp_path) -> None:
    (tmp_path / "small").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "small")], capture_output=True
    ).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        said: list[str] = []
        try:
            flow.run(recipe(f"out={tmp_path / 'small'}", "seeds=[0, 1, 2]"), say=said.append)
        except UserError as error:  # no room even for the tables
            said.append(str(error))
        assert any("the disk is full" in line for line in said), said
        done = {p.parent.name for p in (tmp_path / "small").glob("run/cells/*/DONE")}
        assert done and not list((tmp_path / "small").glob("run/cells/*/*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "small")], check=True)
        root = flow.run(recipe(f"out={tmp_path / 'small'}", "seeds=[0, 1, 2]"), say=quiet)
        assert predictions(root) == predictions(flow.run(recipe("name=roomy", "seeds=[0, 1, 2]"), say=quiet))
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def _killed(root: Path, words: list[str], after: str) -> None:
    """Start a run in another process and kill it once a file of the given kind has appeared."""
    process = subprocess.Popen(
        [sys.executable, "-m", "medgraft", "run", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None and not list(root.glob(after)):
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX kill")
def test_a_killed_run_resumes_to_the_same_numbers(recipe, tmp_path) -> None:
    words = [
        "train={epochs: 60, batch_size: 8, learning_rate: 1e-3, evaluations: 3, dropout: 0.2}",
        "checkpoint_seconds=0",
    ]
    whole = flow.run(recipe("name=whole", *words), say=quiet)
    flags = [f"{k}={v}" for k, v in [("data", tmp_path / "data"), ("out", tmp_path / "runs"), ("name", "killed")]]
    (tmp_path / "r.yaml").write_text(config.dump_recipe(recipe("name=killed", *words)), encoding="utf-8")
    _killed(tmp_path / "runs" / "killed", [str(tmp_path / "r.yaml"), *flags], "cells/*/last.ckpt")
    root = tmp_path / "runs" / "killed"
    interrupted = [p.parent.name for p in root.glob("cells/*/last.ckpt")]
    assert interrupted and not (root / "summary.json").exists()
    flow.run(recipe("name=killed", *words), say=quiet)
    assert predictions(root) == predictions(whole)
    assert any(r["resumed_from"] > 0 for r in runs.Run.open(root).records() if r["hash"] in interrupted)
    for name in interrupted:
        assert (root / "cells" / name / "log.csv").read_text() == (whole / "cells" / name / "log.csv").read_text()


def test_a_torn_checkpoint_is_not_taken_for_a_whole_one(tmp_path) -> None:
    checkpoint.save(tmp_path / "last.ckpt", {"step": 3})
    assert checkpoint.load(tmp_path / "last.ckpt") == {"step": 3}
    data = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(data[: len(data) // 2])
    assert checkpoint.load(tmp_path / "last.ckpt") is None and not (tmp_path / "last.ckpt").exists()
    assert os.listdir(tmp_path) == []


def test_early_stopping_keeps_the_best_step_and_the_refit_follows_it(recipe) -> None:
    words = ["train={epochs: 40, batch_size: 8, learning_rate: 0.5, evaluations: 10, patience: 2, schedule: constant}"]
    root = flow.run(recipe(*words), say=quiet)
    records = runs.Run.open(root).records()
    inner = {r["outer"]: r for r in records if r["inner"] == 0}
    for refit in (r for r in records if r["inner"] == -1):
        found = inner[refit["outer"]]
        rows = fit.read_log(root / "cells" / found["hash"] / "log.csv")
        assert found["best_step"] == max(rows, key=lambda row: row["select_score"])["step"]
        assert found["score"] == pytest.approx(max(r["select_score"] for r in rows))
        share = found["best_step"] / found["horizon"]
        assert refit["best_step"] == max(1, round(share * refit["horizon"]))
        assert refit["context"]["steps"] == round(share * 1000)


def test_frozen_features_from_the_cache_are_those_of_the_network(recipe) -> None:
    words = (
        "models=[{model: efficientnet_lite0, strategy: frozen, train: {augment: none, epochs: 8, learning_rate: 1e-2}}]"
    )
    made = recipe(words)
    root = flow.run(made, say=quiet)
    the_run = runs.Run.open(root)
    session, _ = compare.prepare(made, load_dataset(made.data))
    record = next(r for r in the_run.records() if r["inner"] == -1 and r["outer"] == 0)
    model, task, setting = load_model(session, session.plan.arms[0], record)  # the head alone was stored
    samples = session.samples(session.rows(session.plan.places[0].test), setting)
    from medgraft.engine.predict import predict_cases

    fresh = predict_cases(session.fabric, model, task, samples, session.cases, batch_size=5).columns
    stored = tables.read(root / "cells" / record["hash"] / "predictions.parquet", "predictions")
    both = dict(zip(fresh["case_id"], fresh["y_pred"]))
    np.testing.assert_allclose([both[c] for c in stored["case_id"]], stored["y_pred"], rtol=1e-4, atol=1e-5)
    assert list((root / "features").glob("*.npz"))


def test_a_body_that_moved_to_a_device_for_its_features_still_trains(recipe) -> None:
    """Moving makes new tensors: made in inference mode they could never be trained (seen on a GPU alone)."""
    from medgraft.engine import features
    from medgraft.engine.build import build

    words = "models=[{model: efficientnet_lite0, strategy: frozen, train: {augment: none, epochs: 1}}]"
    made = recipe(words)
    session, _ = compare.prepare(made, load_dataset(made.data))
    arm = session.plan.arms[0]
    model, _ = build(session.plan, arm, arm.settings[0], session.plan.make_task(), seed=0)

    class Moves:
        """A device that is another place in memory."""

        device = torch.device("cpu")

        def to_device(self, value):
            if isinstance(value, torch.nn.Module):
                for module in value.modules():
                    for name, parameter in module.named_parameters(recurse=False):
                        setattr(module, name, torch.nn.Parameter(parameter.detach().clone()))
            return value

    samples = session.samples(session.rows(session.plan.places[0].test), arm.settings[0])
    found = features.compute(Moves(), model, samples)  # type: ignore[arg-type]
    assert len(found["features"]) == len(samples)
    assert not any(p.is_inference() for p in model.parameters())
    model.train()
    model(next(iter([samples.train_batch(0, 0, 2)]))).sum().backward()


def test_a_logistic_head_is_the_regression_it_claims_to_be(recipe) -> None:
    from sklearn.linear_model import LogisticRegression

    from medgraft.engine.features import FeatureSamples

    made = recipe("models=[{model: efficientnet_lite0, strategy: frozen_logistic, train: {logistic_c: 0.1}}]")
    root = flow.run(made, say=quiet)
    the_run = runs.Run.open(root)
    session, _ = compare.prepare(made, load_dataset(made.data))
    cache = dict(np.load(next((root / "features").glob("*.npz"))))
    fold = session.plan.places[0]
    parts = {}
    for role, patients in (("train", fold.learns), ("test", fold.test)):
        rows = session.rows(patients)
        samples = FeatureSamples(session.samples(rows, session.plan.arms[0].settings[0]), cache)
        by_hand = np.stack([cache["features"][cache["case"] == row].mean(0) for row in rows])
        np.testing.assert_array_equal(samples.case_features(), by_hand)
        parts[role] = (
            by_hand.astype(float),
            samples.labels()[:, 0],
            [session.cases.ids[r] for r in rows],
        )
    mean, spread = parts["train"][0].mean(0), parts["train"][0].std(0)
    spread[spread < 1e-8] = 1  # features that never fire
    oracle = LogisticRegression(C=0.1, max_iter=2000).fit((parts["train"][0] - mean) / spread, parts["train"][1])
    want = dict(zip(parts["test"][2], oracle.predict_proba((parts["test"][0] - mean) / spread)[:, 1]))
    record = next(r for r in the_run.records() if r["inner"] == -1 and r["outer"] == 0)
    stored = tables.read(root / "cells" / record["hash"] / "predictions.parquet", "predictions")
    np.testing.assert_allclose(stored["y_pred"].to_list(), [want[c] for c in stored["case_id"]], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "facts", "words"),
    [
        ("image", {"multilabel": True, "missing": 0.2}, ["target=[a, b]"]),
        ("image", {"classes": 3, "cases": 36, "patients": 24}, []),
        ("image", {"regress": True}, ["target=size"]),
        ("video", {}, ["models=[{model: r3d_18, start: random}]", "window={size: 32, length: 4}", "train.epochs=1"]),
        ("video", {"vary_length": True}, ["models=[{model: efficientnet_lite0, strategy: frozen_logistic}]"]),
        (
            "volume",
            {"unit": "raw"},
            [
                "models=[{model: resnet3d_10, start: random, strategy: gradual}]",
                "window={size: 16, length: 16}",
                "train.epochs=1",
            ],
        ),
    ],
    ids=["multi-label", "three classes", "regression", "video network", "lifted clips", "volume"],
)
def test_one_flow_for_every_kind(recipe, kind, facts, words) -> None:
    root = flow.run(recipe(*words, kind=kind, **facts), say=quiet)
    summary = json.loads((root / "summary.json").read_text())
    entry = summary["models"][0]["metrics"][summary["run"]["primary_metric"]]
    perfect = entry["value"] in (0.0, 1.0) and entry["low"] is None  # no interval where every resample is perfect
    assert perfect or entry["low"] <= entry["value"] <= entry["high"]


def test_a_given_center_and_scale_travel_with_the_checkpoint(recipe) -> None:
    short = "train={iterations: 1, evaluations: 1, label_center: 55.6, label_scale: 1}"
    made = recipe("task=regress", "target=size", short, "split.inner=0", regress=True)
    root = flow.run(made, say=quiet)
    record = next(r for r in runs.Run.open(root).records() if r["state"] == "done")
    scale = torch.load(root / "cells" / record["hash"] / "best.ckpt", weights_only=True)["task"]
    assert (scale["center"].tolist(), scale["scale"].tolist()) == ([pytest.approx(55.6)], [1.0])
    answers = tables.read(root / "predictions.parquet", "predictions")["y_pred"]
    assert (answers - 55.6).abs().max() < 5  # blobs of a few pixels: an untrained network answers the centre


def test_options_of_a_network_and_a_hidden_layer_reach_the_cell(recipe) -> None:
    arm = "{model: genesis_encoder3d, start: random, hidden: 8, options: {bn_mode: %s}, strategy: %s}"
    short = [
        "train={iterations: 1, batch_size: 2, evaluations: 1, augment: none}",
        "window={size: 16, length: 16}",
        "split.inner=0",
    ]
    facts = {"kind": "volume", "cases": 6, "patients": 6, "shape": (1, 16, 16, 16)}
    made = recipe(*short, f"models=[{arm % ('batch', 'finetune')}]", **facts)
    root = flow.run(made, say=quiet)
    record = next(r for r in runs.Run.open(root).records() if r["state"] == "done")
    assert record["context"]["options"] == {"bn_mode": "batch"} and record["context"]["head"]["hidden"] == 8
    stored = torch.load(root / "cells" / record["hash"] / "best.ckpt", weights_only=True)["model"]
    assert stored["head.hidden.weight"].shape == (8, 512)
    session, _ = compare.prepare(made, load_dataset(made.data))
    model, _, _ = load_model(session, session.plan.arms[0], record)
    assert surgery.mixes_cases(model)
    frozen = recipe(*short, "name=frozen", f"models=[{arm % ('batch', 'frozen')}]", **facts)
    session, the_run = compare.prepare(frozen, load_dataset(frozen.data))
    compare.run_arm(session, the_run, session.plan.arms[0], Progress(session.plan, the_run, quiet))
    assert "its features cannot be kept" in (the_run.root / "errors.log").read_text()
    with pytest.raises(UserError, match="a logistic head stands on the body itself"):
        recipe(f"models=[{arm % ('running', 'frozen_logistic')}]")


@pytest.mark.parametrize(
    ("kind", "model", "words"),
    [
        ("volume", "unet3d", ["window={size: 16, length: 8}"]),
        ("image", "unet2d", []),
        ("video", "unet2d", []),
    ],
)
def test_segmentation_learns_and_counts(recipe, kind, model, words) -> None:
    size = [] if words else ["window.size=32"]
    made = recipe(
        "task=segment",
        "target=null",
        f"models=[{{model: {model}, start: random}}]",
        "train={epochs: 25, batch_size: 8, learning_rate: 1e-2, evaluations: 1, augment: none}",
        *words,
        *size,
        kind=kind,
        masks=True,
        traced="ends" if kind == "video" else "all",
    )
    root = flow.run(made, say=quiet)
    summary = json.loads((root / "summary.json").read_text())
    assert summary["models"][0]["metrics"]["case.dice"]["value"] > 0.75
    measures = tables.read(root / "measures.parquet", "measures")
    dataset = load_dataset(made.data)
    mask = store.open_mask(dataset.root, dataset.manifest["mask_id"][0])
    refits = tables.read(root / "cells.parquet", "cells").filter(pl.col("inner") == -1)["hash"].to_list()
    mine = measures.filter((pl.col("case_id") == "c000") & (pl.col("frame") == -1) & pl.col("cell").is_in(refits))
    counts = dict(mine.select("name", "value").iter_rows())
    assert counts["tp.structure0"] + counts["fn.structure0"] == int((mask == 1).sum())  # untraced frames count nowhere


@pytest.mark.parametrize(
    ("kind", "masks"), [("image", False), ("video", False), ("volume", False), ("volume", True), ("image", True)]
)
def test_a_recipe_without_models_gets_a_sensible_set_and_says_so(recipe, kind, masks) -> None:
    said: list[str] = []
    wish = ["task=segment", "target=null"] if masks else []
    made = recipe("models=[]", "window.size=0", *wish, kind=kind, masks=masks)
    full = with_defaults(made, load_dataset(made.data), said.append)
    assert full.models and any("no models were named" in line for line in said)
    session, _ = compare.prepare(full, load_dataset(made.data))
    starts = {arm.start for arm in full.models}
    assert masks or {"imagenet", "random"} <= starts  # the from-scratch control is never left out
    for arm in session.plan.arms:
        model, _ = build(session.plan, arm, arm.settings[0], session.task, seed=0)
        window = arm.settings[0].window
        x = torch.zeros(2, 1, window.length, *window.sides)
        out = model.eval()({"x": x, "value_range": torch.tensor([[0.0, 1.0]] * 2)})
        assert out.shape[:2] == (2, 1)


def test_mixed_precision_trains_and_is_a_cell_of_its_own(recipe) -> None:
    full = predictions(flow.run(recipe("name=a"), say=quiet))
    half = predictions(flow.run(recipe("name=b", "precision=bf16"), say=quiet))
    assert not {r[0] for r in full} & {r[0] for r in half}
    assert all(np.isfinite(r[-1]) for r in half) and [r[-1] for r in half] != [r[-1] for r in full]


def test_settings_are_chosen_by_the_mean_of_inner_scores(recipe) -> None:
    made = recipe("grid={learning_rate: [1e-6, 3e-3]}", "split.inner=2", "train.epochs=8")
    flow.run(made, say=quiet)
    the_run = runs.Run.open(made.out / made.name)
    refits = [r for r in the_run.records() if r["inner"] == -1]
    session, the_run = compare.prepare(made, load_dataset(made.data))
    arm = session.plan.arms[0]
    for outer in (0, 1):
        choice = search.search(session, the_run, arm, outer, progress=None, seen=lambda cell: None)
        means = {
            s.train.learning_rate: np.mean([fit.outcome(the_run, c).score for c in cells])
            for s, cells in session.plan.searches(arm, outer)
        }
        best = max(means.values())
        assert choice.score == pytest.approx(best) and means[choice.setting.train.learning_rate] == best
        assert choice.tried == 2
    assert len(refits) == 2  # the losing setting was never refitted, so never judged


def test_the_deterministic_seed_leaves_the_global_generator_alone(recipe) -> None:
    torch.manual_seed(1)
    before = torch.initial_seed()
    made = recipe()
    session, _ = compare.prepare(made, load_dataset(made.data))
    arm = session.plan.arms[0]
    build(session.plan, arm, arm.settings[0], session.task, seed=3)
    assert torch.initial_seed() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models=[no_such_network]"], "unknown network"),
        (["target=nothing"], "no label column 'nothing'"),
        (["split.kind=column", "split.column=fold"], "no split column"),
        (["split.folds=20"], "cannot make"),
        (["grid={learning_rate: [1, 2]}", "split.inner=0"], "needs inner parts"),
        (["device=abacus"], "no device"),
        (["memory_gb=0.00001"], "the budget is 1e-05 GB"),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_trained(recipe, words, says, tmp_path) -> None:
    with pytest.raises(UserError, match=says) as error:
        flow.run(recipe(*words), say=quiet)
    assert "\n" not in str(error.value) and not list((tmp_path / "runs").glob("*/cells/*"))


def test_bert_reads_frames_through_the_whole_run_and_serving(recipe, tmp_path) -> None:
    """Join is part of the arm's name, its cells and the feature cache; a frozen network's sequences come from the
    cache.
    """
    clip = "window={length: 4, size: 32}"
    lite = (
        "{model: efficientnet_lite0, strategy: frozen, join: bert, train: {augment: none, epochs: 2, "
        "learning_rate: 1e-4, logits: 2}}"
    )
    made = recipe(
        clip,
        "split.kind=holdout",
        "split.test_share=0.4",
        f"models=[{lite}, {{model: efficientnet_lite0, strategy: frozen, train: {{augment: none, epochs: 1}}}}]",
        kind="video",
    )
    root = flow.run(made, say=quiet)
    assert [arm.id.rpartition(" · ")[2] for arm in made.models] == ["frozen+bert", "frozen"]
    the_run = runs.Run.open(root)
    session, _ = compare.prepare(made, load_dataset(made.data))
    shapes = {np.load(path)["features"].shape for path in (root / "features").glob("*.npz")}
    assert shapes == {(24, 4, 1000), (24, 1280)}
    wide = config.load_recipe(None, [f"data={made.data}", f"models=[{{model: {MODEL}, join: bert, hidden: 1280}}]"])
    assert wide.models[0].id.endswith("finetune+bert1280")
    arm = session.plan.arms[0]
    heads = [HeadSpec("bert"), HeadSpec("bert", 1280), HeadSpec("mean")]
    alike = [replace(arm, id="same", printed="same", head=head) for head in heads]
    assert len({session.plan.cell(a, arm.settings[0], outer=0, inner=-1, seed=0).hash for a in alike}) == 3
    renamed = replace(arm, id="another", printed="another")  # a name decides no number
    assert len({session.plan.cell(a, arm.settings[0], outer=0, inner=-1, seed=0).hash for a in (arm, renamed)}) == 1

    record = next(
        r for r in the_run.records() if r["inner"] == -1 and r["outer"] == 0 and r["strategy"] == "frozen+bert"
    )
    model, task, setting = load_model(session, arm, record)  # the head alone was stored, BERT in it
    samples = session.samples(session.rows(session.plan.places[0].test), setting)
    from medgraft import serve
    from medgraft.engine.predict import predict_cases

    fresh = predict_cases(session.fabric, model, task, samples, session.cases, batch_size=5).columns
    stored = tables.read(root / "cells" / record["hash"] / "predictions.parquet", "predictions")
    both = dict(zip(fresh["case_id"], fresh["y_pred"]))
    np.testing.assert_allclose([both[c] for c in stored["case_id"]], stored["y_pred"], rtol=1e-4, atol=1e-5)
    assert np.ptp(stored["y_pred"].to_numpy()) > 1e-4
    assert serve.choose(the_run, session.plan, "frozen+bert").head.join == "bert"
    with pytest.raises(UserError, match="cannot read a sequence"):
        recipe("models=[{model: efficientnet_lite0, strategy: frozen_logistic, join: bert}]")
    with pytest.raises(UserError, match="joins the frames of an image network"):
        flow.run(recipe(clip, "models=[{model: r3d_18, start: random, join: bert}]"), say=quiet)


def test_the_same_pixels_in_training_and_test_are_a_warning_on_every_page(recipe) -> None:
    from medgraft.engine import compare
    from medgraft.report.text import Text

    asked = recipe()
    session, run = compare.prepare(asked, load_dataset(asked.data))
    assert not any(w["kind"] in ("same_pixels", "two_roles") for w in run.info["warnings"])
    first, second = (session.plan.places[fold].test[0] for fold in (0, 1))
    path = asked.data / "manifest.parquet"
    manifest = tables.read(path, "manifest")
    case = manifest.filter(pl.col("patient_id") == second)["case_id"][0]
    array = manifest.filter(pl.col("patient_id") == first)["array_id"][0]
    copied = pl.when(pl.col("case_id") == case).then(pl.lit(array)).otherwise("array_id").alias("array_id")
    tables.write(manifest.with_columns(copied), path, "manifest")
    _, run = compare.prepare(recipe("name=copied"), load_dataset(asked.data))
    warning = run.info["warnings"][-1]
    assert "1 picture stands in training and test under two patients" in Text("en").say(warning)
    assert "1 幅图像分属两名患者" in Text("zh").say(warning)
