"""What the chest X-ray recipes ask for: rates, views, weights, side heads, kept checkpoints, boxes, claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from conftest import MODEL, quiet
from factory import make_dataset
from medgraft import config, flow, runs, serve, splits, store, tables
from medgraft.config import TrainConfig
from medgraft.data import transforms
from medgraft.data.dataset import TargetSpec
from medgraft.data.windows import Window
from medgraft.datasets import Box, load_dataset
from medgraft.engine import fit, loop, optim
from medgraft.engine.build import build
from medgraft.engine.device import make_fabric
from medgraft.engine.evaluators import explain
from medgraft.engine.plan import resolve
from medgraft.errors import UserError
from medgraft.models import registry, weights
from medgraft.models.model import make_model
from medgraft.tasks.classify import Classify

OTHER = "timm:test_resnet.r160_in1k"


def summary(root: Path) -> dict:
    return json.loads((root / "summary.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------- rates and weights


def test_the_rate_warms_up_for_one_epoch_and_ends_where_it_is_told() -> None:
    """30 epochs, peak 1e-3, end 1e-4: one thirtieth rises, the last step is at 1e-4, halfway lies the mean of both."""
    setting = TrainConfig(epochs=30, learning_rate=1e-3, end_rate=1e-4, warmup_epochs=1)
    rates = [setting.learning_rate * optim.rate_factor(setting, step, 3000) for step in range(3001)]
    assert np.allclose(rates[:100], np.linspace(1e-5, 1e-3, 100))
    assert rates[100] == pytest.approx(1e-3) and rates[3000] == pytest.approx(1e-4)
    assert rates[100 + 1450] == pytest.approx(5.5e-4)
    assert optim.rate_factor(TrainConfig(learning_rate=1e-3, warmup=0), 3000, 3000) == pytest.approx(
        0.01
    )  # untold: 1 % of the peak
    with pytest.raises(UserError, match="warmup_epochs needs epochs"):
        optim.rate_factor(TrainConfig(iterations=10, warmup_epochs=1), 0, 10)


def test_positive_cases_weigh_as_told_or_as_the_classes_stand() -> None:
    target = TargetSpec("x", "binary", ("no", "yes"), "yes")
    task = Classify([target], weight="balanced")
    output, batch = (
        torch.tensor([[0.3], [-1.2], [0.8], [0.0]]),
        {"y": torch.tensor([[1.0], [0.0], [0.0], [float("nan")]])},
    )
    plain = torch.nn.functional.binary_cross_entropy_with_logits(output[:3], batch["y"][:3], reduction="none")
    assert task.loss(output, batch)["loss"] == pytest.approx(float(plain.mean()))
    task.fit(np.array([[1.0], [0.0], [0.0], [0.0], [np.nan]]))
    assert task.positive_weight == pytest.approx([3.0])
    assert task.loss(output, batch)["loss"] == pytest.approx(
        float((plain * torch.tensor([[3.0], [1.0], [1.0]])).mean())
    )
    task.fit(np.array([[1.0], [1.0]]))
    assert task.positive_weight == pytest.approx([1.0])  # one class alone says nothing
    task = Classify([target], weight=2.5)
    task.fit(np.zeros((0, 1)))
    assert task.positive_weight == pytest.approx([2.5])


def test_balance_reaches_the_loss_and_the_sampler_through_the_engine(recipe) -> None:
    words = ["train={epochs: 8, batch_size: 8, learning_rate: 1e-2, evaluations: 1}", "split.inner=0"]
    found = {}
    for name, extra in {
        "plain": [],
        "weight": ["train.positive_weight=8.0"],
        "sampler": ["train.balanced=true"],
    }.items():
        root = flow.run(recipe(f"name={name}", *words, *extra, signal=0.0), say=quiet)
        found[name] = tables.read(root / "predictions.parquet", "predictions")["y_pred"].mean()
    assert found["weight"] > found["plain"] + 0.05  # a heavy positive class draws every score up
    assert found["sampler"] != found["plain"]


def test_a_weight_for_positives_needs_yes_or_no(recipe) -> None:
    with pytest.raises(UserError, match="positive_weight is for yes/no targets"):
        flow.run(recipe("train.positive_weight=2", classes=3), say=quiet)


def test_the_geometry_preset_and_the_mirror_switch() -> None:
    preset = transforms.preset("xray_geometry")
    assert (preset.scale, preset.rotate, preset.flip_lr) == ((0.9, 1.1), 10, 0.5) and not (
        preset.brightness or preset.contrast
    )
    draws = [transforms.draw(preset, np.random.default_rng(k)) for k in range(200)]
    assert any(d.flips[2] for d in draws) and not any(
        d.flips[0] or d.flips[1] for d in draws
    )  # left-right only, never upside down
    assert 9 < max(np.degrees(d.angle) for d in draws) <= 10 and -10 <= min(np.degrees(d.angle) for d in draws) < -9
    assert 0.9 <= min(d.scale for d in draws) < 0.91 and 1.09 < max(d.scale for d in draws) <= 1.1
    for axis in (0, 1):  # the crop wanders by a twentieth of each side
        assert 0.045 < max(d.shift[axis] for d in draws) <= 0.05 and -0.05 <= min(d.shift[axis] for d in draws) < -0.045
    picture = np.zeros((1, 1, 40, 40), np.uint8)
    picture[..., 10:20, 22:30] = 200
    seen = [transforms.apply(d, picture)[0].numpy() for d in draws[:8]]
    assert all(not np.array_equal(view, picture) for view in seen)  # what was drawn is applied
    plain = transforms.without_mirror(preset)
    assert not any(transforms.draw(plain, np.random.default_rng(k)).flips[2] for k in range(200))
    assert transforms.without_mirror(transforms.preset("volume")).flip_axes == ""


# ---------------------------------------------------------------------------------------- Inception's side head


def test_inceptions_side_head_trains_and_is_never_heard_when_judging() -> None:
    """One step at 299 px: the loss is the main one plus .4 of the side one, and every part of the tower moves."""
    model, _ = make_model("torchvision:inception_v3", outputs=1, channels=1, auxiliary=True, seed=0)
    assert model.auxiliary is not None and sum(len(ps) for _, ps in model.groups()) == len(list(model.parameters()))
    x = torch.rand(2, 1, 1, 299, 299, generator=torch.Generator().manual_seed(0))
    batch = {"x": x, "value_range": torch.tensor([[0.0, 1.0]] * 2), "y": torch.tensor([[1.0], [0.0]])}
    side = {n: p.detach().clone() for n, p in model.named_parameters() if "AuxLogits" in n or n.startswith("auxiliary")}
    task = Classify([TargetSpec("x", "binary", ("no", "yes"), "yes")])
    losses: list[float] = []
    original = task.loss

    def heard(output: torch.Tensor, batch: dict) -> dict:
        found = original(output, batch)
        losses.append(float(found["loss"].detach()))
        return found

    task.loss = heard  # type: ignore[method-assign]

    class Samples:
        def __len__(self) -> int:
            return 2

        def train_batch(self, seed: int, step: int, batch_size: int, balanced: bool = False) -> dict:
            return batch

    fabric = make_fabric("cpu", "32", 1)
    setting = TrainConfig(iterations=1, learning_rate=1e-2, weight_decay=0.0, warmup=0, evaluations=1)
    history, _ = loop.train(fabric, model, task, Samples(), setting, seed=0, horizon=1)
    assert len(losses) == 2 and history.rows[0]["train_loss"] == pytest.approx(losses[0] + 0.4 * losses[1])
    assert len(side) > 6 and all(not torch.equal(side[n], p) for n, p in model.named_parameters() if n in side)
    model.eval()
    with torch.no_grad():
        assert model(batch).shape == (2, 1) and model.auxiliary.answer is None
    with pytest.raises(UserError, match="smaller than the network takes"):
        model({**batch, "x": x[..., :200, :200]})
    # Other networks, and a still body, have no side head.
    assert make_model("torchvision:resnet18", outputs=1, auxiliary=True)[0].auxiliary is None


def test_inceptions_published_file_fills_the_tower_but_not_its_classifier(tmp_path: Path) -> None:
    from torchvision.models import Inception_V3_Weights, inception_v3

    name = Inception_V3_Weights.DEFAULT.url.rsplit("/", 1)[1]
    torch.manual_seed(3)
    official = inception_v3(weights=None, init_weights=False, aux_logits=True)
    torch.save(official.state_dict(), tmp_path / name)
    card = weights.find_card("torchvision:inception_v3", "imagenet")
    assert card is not None
    body = registry.build_body("torchvision:inception_v3", options={"auxiliary": True})
    report = weights.load(body, card, tmp_path / name)
    assert report.share_of_parameters == 1 and set(report.head) == {
        "AuxLogits.fc.weight",
        "AuxLogits.fc.bias",
        "fc.weight",
        "fc.bias",
    }
    assert torch.equal(body.AuxLogits.conv0.conv.weight, official.AuxLogits.conv0.conv.weight)


def test_the_side_head_is_for_training_strategies_alone(recipe) -> None:
    words = [
        "window.size=80",
        "models=[{model: 'torchvision:inception_v3', start: random, strategy: frozen}]",
        "train.epochs=1",
    ]
    made = recipe(*words)
    plan = resolve(made, load_dataset(made.data))
    arm, task = plan.arms[0], plan.make_task()
    setting = arm.settings[0]
    assert build(plan, arm, setting, task, seed=0)[0].auxiliary is None
    tuned = replace(arm, strategy="finetune")
    assert build(plan, tuned, setting, task, seed=0)[0].auxiliary is not None
    off = replace(setting, train=setting.train.model_copy(update={"auxiliary_weight": 0.0}))
    assert build(plan, tuned, off, task, seed=0)[0].auxiliary is None


# ---------------------------------------------------------------------------------------- views and kept weights


def test_views_are_averaged_with_the_clean_one_which_stands_beside(recipe, tmp_path) -> None:
    words = ["train.augment=xray", "train.learning_rate=1e-2"]
    plain = flow.run(recipe("name=plain", *words), say=quiet)
    root = flow.run(recipe("name=views", "train.tta=3", "report=true", *words), say=quiet)
    again = flow.run(recipe("name=again", "train.tta=3", *words), say=quiet)

    def test_rows(where: Path) -> pl.DataFrame:
        return (
            tables.read(where / "predictions.parquet", "predictions")
            .filter(pl.col("split") == "test")
            .sort("case_id", "view")
        )

    views = test_rows(root)
    assert (
        sorted(views["view"].unique()) == [0, 1, 2, 3]
        and views["y_pred"].to_list() == test_rows(again)["y_pred"].to_list()
    )
    clean = views.filter(pl.col("view") == 0)
    assert clean["y_pred"].to_list() == test_rows(plain)["y_pred"].to_list()  # the same training: only judging differs
    assert views.filter(pl.col("view") == 1)["y_pred"].to_list() != clean["y_pred"].to_list()
    model = summary(root)["models"][0]
    alone = summary(plain)["models"][0]["metrics"]
    for metric in ("auc", "brier"):
        assert model["clean"]["metrics"][metric]["value"] == pytest.approx(alone[f"case.{metric}"]["value"])
    assert alone["case.brier"]["value"] != pytest.approx(model["metrics"]["case.brier"]["value"])  # views do change it
    assert "clean" not in summary(plain)["models"][0]
    assert "With and without test-time augmentation" in (root / "report.html").read_text(encoding="utf-8")
    # Serving sees the same views: the mean over members of each study's mean over views.
    study = tmp_path / "one.png"
    array = store.open_array(
        tmp_path / "data", tables.read(tmp_path / "data" / "manifest.parquet", "manifest")["array_id"][1]
    )
    Image.fromarray(np.asarray(array[0, 0])).save(study)
    served = [serve.predict(where, [study]).rows[0]["p(class1)"] for where in (root, again, plain)]
    assert served[0] == served[1] != served[2]


def test_views_are_not_for_masks(tmp_path) -> None:
    make_dataset(tmp_path / "data", "image", masks=True)
    words = [
        f"data={tmp_path / 'data'}",
        f"out={tmp_path / 'runs'}",
        "task=segment",
        "models=[{model: unet2d, start: random}]",
        "train.tta=2",
    ]
    with pytest.raises(UserError, match="not for masks"):
        flow.run(config.load_recipe(None, words), say=quiet)


def test_the_best_so_far_is_kept_every_few_epochs(recipe) -> None:
    words = "train={epochs: 6, batch_size: 8, learning_rate: 3e-3, evaluations: 6, keep_every: 2}"
    root = flow.run(
        recipe(words, "split.folds=2", "split.select_share=0.5", signal=0.0), say=quiet
    )  # nothing to learn: scores go up and down
    falls = 0
    cells = tables.read(root / "cells.parquet", "cells")
    for row in cells.iter_rows(named=True):
        folder = root / "cells" / row["hash"]
        kept = sorted(p.name for p in folder.glob("best-*.ckpt"))
        if row["inner"] < 0:
            assert kept == []  # a refit has no part to choose by
            continue
        assert kept == ["best-002.ckpt", "best-004.ckpt", "best-006.ckpt", "best-overall.ckpt"]
        log = fit.read_log(folder / "log.csv")
        falls += log[-1]["select_score"] < max(r["select_score"] for r in log)
        for name in kept:
            state = torch.load(folder / name, weights_only=True)
            last = {"best-002.ckpt": 2, "best-004.ckpt": 4}.get(name, 6) * log[-1]["step"] / 6
            assert state["score"] == pytest.approx(max(r["select_score"] for r in log if r["step"] <= last + 1e-6))
            assert {k.split(".")[0] for k in state["model"]} >= {"body", "head"}
    assert falls  # in some fit the last weights are not the best


# ---------------------------------------------------------------------------------------- the fault of a split


def test_split_80_20_chooses_on_the_part_it_reports_and_says_so(recipe) -> None:
    words = ["split.kind=holdout", "split.inner=1", "grid={learning_rate: [1e-3, 1e-4]}", "report=true"]
    honest = flow.run(recipe("name=honest", *words), say=quiet)
    rows = json.loads((honest / "splits.json").read_text())["rows"]
    roles = {role: {r["patient_id"] for r in rows if r["role"] == role} for role in ("train", "select", "test")}
    assert not roles["test"] & (roles["train"] | roles["select"])
    shares = [len(roles[r]) / 16 for r in ("train", "select", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.08)  # 70/10/20, as far as 16 patients divide
    root = flow.run(recipe("name=fault", "compat=[split_80_20]", *words), say=quiet)
    rows = json.loads((root / "splits.json").read_text())["rows"]
    roles = {role: {r["patient_id"] for r in rows if r["role"] == role} for role in ("train", "select", "test")}
    assert roles["select"] == roles["test"] and not roles["train"] & roles["test"]
    looks = json.loads((root / "run.json").read_text())["looks"]
    assert len(looks) == 3  # two settings looked at the reported part, then the refit
    said = "compat split_80_20: the part held out chose the settings and is reported too"
    assert said in (root / "report.html").read_text(encoding="utf-8") and said not in (
        honest / "report.html"
    ).read_text(encoding="utf-8")
    with pytest.raises(UserError, match="tested and trained"):
        splits.check(
            [*rows, {**next(r for r in rows if r["role"] == "test"), "inner": 1, "role": "train"}],
            compat=("split_80_20",),
        )
    with pytest.raises(UserError, match="split_80_20 goes with"):
        recipe("compat=[split_80_20]")
    with pytest.raises(UserError, match="did you mean 'split_80_20'"):
        recipe("compat=[split_8020]")


# ---------------------------------------------------------------------------------------- negatives, boxes, claims


def with_kinds_and_boxes(root: Path) -> None:
    """Two kinds of negatives, which are the larger class, and a box around the blob of every positive."""
    manifest = tables.read(root / "manifest.parquet", "manifest")
    fewer = pl.when(pl.col("patient_id") == "p001").then(pl.lit("class0")).otherwise(pl.col("label.finding"))
    manifest = manifest.with_columns(fewer.alias("label.finding"))
    kinds = [
        "sick" if y == "class1" else "healthy" if k % 3 else "other disease"
        for k, y in enumerate(manifest["label.finding"])
    ]
    tables.write(manifest.with_columns(pl.Series("label.kind", kinds)), root / "manifest.parquet", "manifest")
    positive = manifest.filter(pl.col("label.finding") == "class1")["case_id"].to_list()
    rows = [
        {
            "case_id": c,
            "frame": 0,
            "kind": "box",
            "geometry": json.dumps({"x": 6, "y": 6, "width": 20, "height": 20}),
            "author": "labels",
        }
        for c in positive
    ]
    tables.write(pl.DataFrame(rows), root / "annotations.parquet", "annotations")


def test_each_kind_of_negative_and_every_box_is_judged_apart(recipe, tmp_path) -> None:
    recipe()
    with_kinds_and_boxes(tmp_path / "data")
    root = flow.run(recipe("negatives=kind", "explain=4", "report=true", "train.epochs=8"), say=quiet)
    found = summary(root)
    model = found["models"][0]
    assert set(model["against"]) == {"healthy", "other disease"}
    truth = tables.read(tmp_path / "data" / "manifest.parquet", "manifest")
    counts = dict(truth.filter(pl.col("label.finding") == "class0").group_by("label.kind").len().iter_rows())
    assert {k: v["auc"]["negatives"] for k, v in model["against"].items()} == counts
    # The AUC of all negatives is the mean of the parts, weighted by their number of pairs within folds.
    tested = json.loads((root / "splits.json").read_text())["rows"]
    fold = {r["patient_id"]: r["outer"] for r in tested if r["role"] == "test"}
    placed = truth.with_columns(pl.col("patient_id").replace_strict(fold).alias("fold"))
    ones = dict(placed.filter(pl.col("label.finding") == "class1").group_by("fold").len().iter_rows())
    zeros = placed.filter(pl.col("label.finding") == "class0").group_by("label.kind", "fold").len()
    pairs: dict[str, int] = {}
    for kind, where, n in zeros.iter_rows():
        pairs[kind] = pairs.get(kind, 0) + n * ones.get(where, 0)
    parts = [(v["auc"]["value"], pairs[kind]) for kind, v in model["against"].items()]
    assert model["metrics"]["case.auc"]["value"] == pytest.approx(
        sum(a * n for a, n in parts) / sum(n for _, n in parts)
    )
    assert found["run"]["majority"] == pytest.approx(max(truth["label.finding"].value_counts()["count"]) / 24)
    looked = model["looks_at"]
    assert (
        looked["hit"]["n"] == 8 and looked["chance"] == pytest.approx(400 / 1024) and 0 <= looked["hit"]["value"] <= 1
    )
    page = (root / "report.html").read_text(encoding="utf-8")
    assert (
        "Against each kind of negative" in page
        and "Where the network looks" in page
        and "always naming the larger class" in page
    )
    assert len(list((root / "cells").glob("*/explain.npz"))) == 2
    with pytest.raises(UserError, match="no label column 'nothing'"):
        flow.run(recipe("name=n", "negatives=nothing"), say=quiet)


def test_grad_cam_is_the_weighted_sum_of_the_last_map_and_pointing_counts_boxes() -> None:
    model, _ = make_model("torchvision:resnet18", outputs=1, channels=1, seed=1)
    model.eval()
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)  # a frozen body is looked through all the same
    batch = {
        "x": torch.randint(0, 255, (2, 1, 1, 64, 64), dtype=torch.uint8),
        "value_range": torch.tensor([[0.0, 255.0]] * 2),
    }
    layer = explain.last_map(model, batch)
    assert layer is model.body.body.layer4
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda m, i, o: kept.append(o.detach().requires_grad_()) or kept[-1])
    try:
        output = model(batch)
        gradient = torch.autograd.grad(output.sum(), kept[0])[0]
    finally:
        hook.remove()
    expected = torch.relu((gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1))
    top = expected.amax((1, 2), keepdim=True)
    assert top.max() > 0 and expected.shape == (2, 2, 2)
    assert torch.allclose(explain.grad_cam(model, batch), expected / top.clamp(min=1e-12), atol=1e-5)
    cam = np.zeros((8, 8))
    cam[2, 6] = 1  # row 2, column 6 of a window that covers the left upper quarter of a 64 x 64 picture
    window = Window(0, (0,), (0, 0, 32, 32), (1, 8, 8))
    assert explain.pointing(cam, window, [Box.from_xywh(25, 9, 4, 4)], (64, 64)) == (1.0, 16 / 4096)
    assert explain.pointing(cam, window, [Box.from_xywh(9, 25, 4, 4)], (64, 64)) == (0.0, 16 / 4096)  # x is the column
    assert explain.pointing(np.zeros((8, 8)), window, [Box.from_xywh(0, 0, 64, 64)], (64, 64)) == (0.0, 1.0)


def test_claims_get_a_verdict_and_absent_weights_are_not_a_result(recipe) -> None:
    models = (
        f"models=[{{model: '{MODEL}', start: random, label: good, train: {{epochs: 12, learning_rate: 3e-3}}}}, "
        f"{{model: '{MODEL}', start: random, label: lazy, train: {{epochs: 1, learning_rate: 1e-7}}}}, "
        f"{{model: '{OTHER}', start: random, label: lazy, train: {{epochs: 1, learning_rate: 1e-7}}}}, "
        f"{{model: 'torchvision:vgg19', strategy: frozen}}]"
    )
    claims = (
        f"claims=[{{text: training helps, better: {{strategy: good}}, than: {{model: '{MODEL}', strategy: lazy}}, "
        "metrics: [auc, accuracy]}, "
        "{text: idleness helps, better: {strategy: lazy}, than: {strategy: good}}, {text: VGG helps, better: {model: "
        "'torchvision:vgg19'}}, {text: chance helps, better: {strategy: lazy}, than: {strategy: lazy}, "
        "metrics: [auc]}, "
        "{text: same network, better: {strategy: good}, within: [model]}, {text: all, better: {strategy: good}, "
        "than: {strategy: lazy}}, {text: nobody, better: {model: none}}]"
    )
    root = flow.run(recipe(models, claims, "report=true", "lang=zh", cases=40, patients=40, signal=1.5), say=quiet)
    found = {c["text"]: c for c in summary(root)["claims"]}
    assert found["training helps"]["verdict"] == "supported" and [
        c["metric"] for c in found["training helps"]["comparisons"]
    ] == ["auc", "accuracy"]
    assert all(c["b"].startswith("timm:test_efficientnet") for c in found["training helps"]["comparisons"])
    assert found["chance helps"]["reason"][0]["kind"] == "no_such_arms"  # of the chosen, none is left to stand against
    assert (
        found["idleness helps"]["verdict"] == "contradicted"
        and min(c["difference"] for c in found["idleness helps"]["comparisons"]) < 0
    )
    assert found["VGG helps"]["verdict"] == "not run"
    assert "weights absent" in found["VGG helps"]["reason"][0]["values"]["state"]
    assert len(found["same network"]["comparisons"]) == 1 and len(found["all"]["comparisons"]) == 2
    assert found["nobody"]["reason"][0]["kind"] == "no_such_arms"
    record = next(r for r in runs.Run.open(root).records() if "vgg19" in r["model"])
    assert record["state"] == "not run: weights absent"
    page = (root / "report.zh.html").read_text(encoding="utf-8")
    assert "对来源论断的检验" in page and "无发表数值" in page and "缺少权重文件" in page


# ---------------------------------------------------------------------------------------- recipes and figures

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_the_recipe_says_what_the_rows_say() -> None:
    """Adam with decoupled decay from 1e-3 to 1e-4, one epoch of warm-up, 30 epochs with early stopping, best kept every
    10; all four networks.
    """
    made = config.load_recipe(RECIPES / "rsna_pneumonia.yaml")
    train = made.train
    assert (train.optimizer, train.learning_rate, train.end_rate, train.weight_decay) == ("adamw", 1e-3, 1e-4, 1e-4)
    assert (train.epochs, train.warmup_epochs, train.keep_every, train.tta, train.augment) == (
        30,
        1,
        10,
        8,
        "xray_geometry",
    ) and train.patience
    assert made.split.kind == "holdout" and (made.split.test_share, made.split.selects) == (0.2, 0.125)
    arms = {arm.id: arm for arm in made.models}
    for bare in ("vgg19", "resnet50", "densenet121", "inception_v3"):
        frozen = made.arm_settings(arms[f"torchvision:{bare} · imagenet · frozen"])[0].train
        assert frozen.augment == "none" and f"torchvision:{bare} · imagenet · finetune" in arms
    source = made.arm_settings(arms["torchvision:inception_v3 · imagenet · frozen at the source's rate"])[0].train
    assert (source.learning_rate, source.epochs, source.schedule) == (1e-5, 10, "constant")
    assert made.arm_settings(arms["torchvision:inception_v3 · imagenet · finetune"])[0].window.size == 299
    for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenet_v2_folded"):
        assert {f"{name} · imagenet · {way}" for way in ("finetune", "frozen", "frozen at the source's rate")} <= set(
            arms
        )


def test_a_score_beats_another_in_the_direction_of_its_measure() -> None:
    nothing = float("nan")
    assert loop.best_is(0.8, 0.7, True) and not loop.best_is(0.7, 0.8, True)
    assert loop.best_is(0.7, 0.8, False) and not loop.best_is(0.8, 0.7, False)
    assert not loop.best_is(0.7, 0.7, True) and not loop.best_is(0.7, 0.7, False)  # the first of equals stays
    assert loop.best_is(0.7, nothing, True) and not loop.best_is(nothing, 0.7, True)


def test_early_stopping_ends_a_fit_and_the_refit_takes_its_best_step(recipe) -> None:
    words = "train={epochs: 30, batch_size: 8, learning_rate: 3e-3, evaluations: 30, patience: 2}"
    root = flow.run(recipe(words, signal=0.0), say=quiet)
    records = runs.Run.open(root).records()
    inner = [r for r in records if r["inner"] >= 0]
    refits = [r for r in records if r["inner"] < 0]
    assert inner and all(r["best_step"] < r["horizon"] for r in inner)
    for record in inner:
        log = fit.read_log(root / "cells" / record["hash"] / "log.csv")
        assert len(log) < 30 and log[-1]["step"] < record["horizon"]  # it stopped
        best = max(log, key=lambda row: row["select_score"])
        assert record["best_step"] == best["step"]
        twin = next(r for r in refits if r["outer"] == record["outer"])
        share = record["best_step"] / record["horizon"]
        assert twin["best_step"] / twin["horizon"] == pytest.approx(share, abs=0.02)


def test_ways_of_one_network_stand_side_by_side(recipe) -> None:
    models = (
        f"models=[{{model: '{MODEL}', start: random}}, {{model: '{MODEL}', start: random, strategy: frozen}}, "
        "{model: 'timm:test_resnet', start: random}]"
    )
    root = flow.run(recipe(models, "report=true", "train.epochs=2"), say=quiet)
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "Fine-tuning or frozen features" in page
    drawn = (root / "figures" / "ways.svg").read_text(encoding="utf-8")
    assert (
        "test_efficientnet" in drawn and "test_resnet" not in drawn
    )  # a network used in one way has nothing to stand beside
    alone = flow.run(recipe("name=alone", "report=true", "train.epochs=2"), say=quiet)
    assert not (alone / "figures" / "ways.svg").exists()
    assert "Fine-tuning or frozen features" not in (alone / "report.html").read_text(encoding="utf-8")
