"""Structures that exclude each other and those that overlap: found, learned, counted and served by one rule."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import SimpleITK
import torch
from torch.nn import functional

from factory import make_dataset
from medgraft import config, flow, serve, store, tables
from medgraft.data import cases as data_cases
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine import mirror
from medgraft.engine import plan as planning
from medgraft.files import read_json
from medgraft.intake import scan as act
from medgraft.intake.options import ScanOptions
from medgraft.tasks.choose import describe
from medgraft.tasks.segment import Segment
from medgraft.tasks.task import TaskSpec


def label_maps(root: Path, cases: int = 6, shape: tuple[int, int, int] = (10, 18, 16)) -> Path:
    """Volumes with a ball whose front half is structure 1 and whose back half is 2, and a table: raw, to be scanned."""
    (root / "labels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    for number in range(cases):
        centre = np.array(shape) / 2 + rng.uniform(-1, 1, 3)
        ball = (((places - centre[:, None, None, None]) / np.array([3, 5, 5])[:, None, None, None]) ** 2).sum(0) <= 1
        label = np.where(ball, np.where(places[1] < centre[1], 1, 2), 0).astype(np.uint8)
        values = rng.normal(0, 10, shape) + 60 * (label == 1) + 120 * (label == 2)
        for folder, array in (("", values.astype(np.float32)), ("labels", label)):
            image = SimpleITK.GetImageFromArray(array)
            image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
            SimpleITK.WriteImage(image, str(root / folder / f"v{number}.nii.gz"))
    with open(root / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        rows = [{"image": f"v{n}.nii.gz", "label": f"labels/v{n}.nii.gz"} for n in range(cases)]
        writer = csv.DictWriter(stream, ["image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The scanned balls."""
    root = tmp_path_factory.mktemp("halves")
    options: dict[str, Any] = {"labels": "cases.csv", "masks": "label", "patient": "none", "out": root / "data"}
    options["structures"] = {1: "front", 2: "back"}
    act.scan(label_maps(root / "raw"), config.build(ScanOptions, options))
    return load_dataset(root / "data")


def words(data: Path, out: Path, *more: str) -> list[str]:
    """A recipe of seconds."""
    base = [f"data={data}", f"out={out}", "task=segment", "split.folds=2", "seeds=[0]", "threads=1", "workers=0"]
    base += ["report=false", "stats.resamples=100", "window={kind: cubes, length: 8, size: 16}"]
    base += ["train={iterations: 40, batch_size: 2, learning_rate: 1e-2, augment: none}"]
    return [*base, "models=[{model: unet3d, start: random}]", *more]


# ------------------------------------------------------------------ found


def test_a_scan_records_that_values_of_a_label_map_exclude_each_other(halves) -> None:
    assert halves.info["exclusive"] is True and halves.info["structures"] == ["front", "back"]
    assert describe(halves, "auto", None, None) == TaskSpec("segment", (), ("front", "back"), (), True)


def test_without_a_record_the_masks_are_asked(halves, tmp_path, monkeypatch) -> None:
    bare = replace(halves, info={k: v for k, v in halves.info.items() if k != "exclusive"})
    assert data_cases.exclusive_masks(bare)
    said_no = replace(halves, info={**halves.info, "exclusive": False})
    assert not data_cases.exclusive_masks(said_no)  # a record is believed
    nested = make_dataset(tmp_path / "nested", "volume", cases=3, masks=True, structures=2)
    assert not data_cases.exclusive_masks(nested) and not describe(nested, "segment", None, None).exclusive
    monkeypatch.setattr(data_cases, "MOST_READ", 100)
    assert not data_cases.exclusive_masks(bare)  # too large to be read


def test_one_structure_is_one_output_and_ignored_voxels_are_no_overlap(tmp_path) -> None:
    alone = make_dataset(tmp_path / "alone", "image", cases=3, masks=True)
    spec = describe(alone, "segment", None, None)
    assert not spec.exclusive and Segment(["a"], exclusive=True).outputs == 1
    two = make_dataset(tmp_path / "two", "image", cases=1, masks=True, structures=2)
    apart = np.full((1, 2, 32, 32), store.IGNORE, np.uint8)
    apart[..., :16] = 0
    apart[:, 0, :4, :4], apart[:, 1, 8:, :4] = 1, 1
    mask = store.write_mask(tmp_path / "two", apart).array_id
    manifest = two.manifest.with_columns(pl.lit(mask).alias("mask_id"))
    assert data_cases.exclusive_masks(replace(two, manifest=manifest))


def test_the_rule_is_part_of_the_plan_and_of_the_name_of_a_cell(halves, tmp_path) -> None:
    made = planning.resolve(config.load_recipe(None, words(halves.root, tmp_path)), halves)
    assert planning.Plan.from_json(made.to_json()) == made and made.task.exclusive
    setting = made.arms[0].settings[0]
    other = replace(made, task=replace(made.task, exclusive=False))
    one, two = (p.cell(p.arms[0], setting, outer=0, inner=-1, seed=0).hash for p in (made, other))
    assert one != two
    old = TaskSpec("segment", (), ("a", "b"))
    assert "exclusive" not in old.to_json() and TaskSpec.from_json(old.to_json()) == old  # older plans are read


# ------------------------------------------------------------------ learned and counted


def test_exclusive_structures_share_one_probability_with_background() -> None:
    task = Segment(["a", "b"], exclusive=True)
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, 3, 1, 3, 4, generator=generator)
    label = torch.randint(0, 3, (2, 1, 3, 4), generator=generator)
    mask = torch.stack([label == 1, label == 2], 1).to(torch.uint8)
    mask[0, :, :, 0], mask[1, 1, :, 2] = 255, 255  # not known at all; not known for one
    known = (mask != 255).all(1)
    entropy = functional.cross_entropy(logits.movedim(1, -1)[known], label[known])
    p, dice = logits.softmax(1), []
    for k in (1, 2):  # over the whole batch, a structure at a time
        common = p[:, k][known][label[known] == k].sum()
        dice.append((2 * common + 1) / (p[:, k][known].sum() + (label[known] == k).sum() + 1))
    found = task.loss(logits, {"mask": mask})
    torch.testing.assert_close(found["loss"], entropy + 1 - torch.stack(dice).mean())
    assert task.outputs == 3
    torch.testing.assert_close(task.scores(logits), p[:, 1:])


def test_an_exclusive_voxel_is_what_is_likeliest_and_an_overlapping_one_what_is_likely() -> None:
    scores = np.array([[0.4, 0.3, 0.1, 0.55, np.nan], [0.3, 0.45, 0.2, 0.25, np.nan]], np.float32)[:, None, None]
    one, several = Segment(["a", "b"], exclusive=True), Segment(["a", "b"])
    assert one.said(scores)[:, 0, 0].tolist() == [[True, False, False, True, False], [False, True, False, False, False]]
    assert several.said(scores)[:, 0, 0].tolist() == [[False, False, False, True, False], [False] * 5]
    truth = np.array([[1, 1, 0, 255, 0], [0, 0, 0, 255, 1]], np.uint8)[:, None, None]
    counts = {name: values.tolist() for name, values in one.count(truth, scores).items()}
    assert counts == {"tp": [1, 0], "fp": [0, 1], "fn": [1, 1]}
    answer = one.answer(scores, {"case_id": "x", "kind": "image"}, threshold=None)
    assert answer.labels is not None and answer.labels[0, 0].tolist() == [1, 2, 0, 1, 0]
    assert (answer.columns["a voxels"], answer.columns["b voxels"]) == (2, 1)


def test_softmax_masks_are_judged_and_served_by_the_same_rule(halves, tmp_path) -> None:
    said: list[str] = []
    root = flow.run(config.load_recipe(None, words(halves.root, tmp_path / "runs")), say=said.append)
    assert any("front, back exclude each other" in line and "softmax" in line for line in said)
    facts = next(iter(read_json(root / "run.json")["cell_facts"].values()))
    assert facts["horizon"] == 40 and facts["body_trains"] and 0 < facts["losses"][1] < facts["losses"][0]
    warned = [w["kind"] for w in read_json(root / "summary.json")["run"]["warnings"]]
    assert warned.count("few_steps") == 1 and "loss_stays" not in warned
    measures = tables.read(root / "measures.parquet", "measures").filter(pl.col("frame") == -1)
    study = halves.root.parent / "raw" / "v0.nii.gz"
    served = serve.predict(root, [study], as_="judged", out=tmp_path / "out.csv")
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out" / served.rows[0]["mask"])))
    truth = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(study.parent / "labels" / "v0.nii.gz")))
    case = next(c for c, m in zip(halves.manifest["case_id"], halves.manifest["mask_id"]) if _is(halves, m, truth))
    for value, name in ((1, "front"), (2, "back")):
        own = measures.filter((pl.col("case_id") == case) & pl.col("name").str.ends_with(f".{name}"))
        counted = dict(own.select("name", "value").iter_rows())
        assert counted[f"tp.{name}"] == ((mask == value) & (truth == value)).sum() > 0
        assert counted[f"fp.{name}"] == ((mask == value) & (truth != value)).sum()
        assert served.rows[0][f"{name} voxels"] == (mask == value).sum()
    assert read_json(root / "plan.json")["task"]["exclusive"] is True


# ------------------------------------------------------------------ what training sees


def test_mirror_images_are_left_out_of_masks_unless_asked_for(halves, tmp_path) -> None:
    def resolved(*more: str) -> planning.Plan:
        return planning.resolve(config.load_recipe(None, words(halves.root, tmp_path, *more)), halves)

    shown = resolved("train.augment=volume", "train.mirror=true")
    assert shown.arms[0].settings[0].augment.flip_axes == "dhw"
    for more in (["train.augment=volume"], ["train.augment=volume", "train.mirror=false"], ["train.augment=xray"]):
        augment = resolved(*more).arms[0].settings[0].augment
        assert (augment.flip_axes, augment.flip_lr) == ("", 0.0) and augment.rotate > 0
    told = [
        any("no mirror images" in line for line in made.notes) for made in (shown, resolved("train.augment=volume"))
    ]
    assert told == [False, True]
    assert not any("mirror" in line for line in resolved("train.augment=none").notes)  # nothing to leave out


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("normal", "pneumonia"), ()),
        (("left lung", "heart"), ("left lung",)),
        (("LeftKidney", "kidney_Right"), ("LeftKidney", "kidney_Right")),
        (("anterior", "posterior"), ("anterior", "posterior")),
        (("links", "rechts"), ("links", "rechts")),
        (("gauche", "droite"), ("gauche", "droite")),
        (("左肺", "右肺", "心"), ("左肺", "右肺")),
        (("kidney_L", "kidney_R"), ("kidney_L", "kidney_R")),
        (("grade L", "grade M"), ()),  # a letter alone is no side
        (("bright", "leftover", "upright"), ()),
    ],
)
def test_names_that_carry_a_side(names, found) -> None:
    assert tuple(mirror.sided(names)) == found


def test_labels_with_a_side_switch_mirror_images_off(tmp_path) -> None:
    made = make_dataset(tmp_path / "data", "volume", cases=12, patients=12)
    base = [f"data={made.root}", f"out={tmp_path}", "target=finding", "split.folds=2", "window={size: 16, length: 8}"]
    base += ["models=[{model: resnet3d_18, start: random}]"]
    plain = planning.resolve(config.load_recipe(None, base), made)
    assert plain.arms[0].settings[0].augment.flip_axes == "dhw" and plain.notes == ()
    sides = made.manifest.with_columns(pl.col("label.finding").replace({"class0": "left", "class1": "right"}))
    info = {**made.info, "targets": {"finding": {**made.info["targets"]["finding"], "classes": ["left", "right"]}}}
    info["targets"]["finding"]["positive"] = "right"
    sided = planning.resolve(config.load_recipe(None, base), replace(made, manifest=sides, info=info))
    assert sided.arms[0].settings[0].augment.flip_axes == ""
    assert any("left, right carry a side" in line for line in sided.notes)
    shown = planning.resolve(
        config.load_recipe(None, [*base, "train.mirror=true"]), replace(made, manifest=sides, info=info)
    )
    assert shown.arms[0].settings[0].augment.flip_axes == "dhw" and shown.notes == ()


def test_one_way_with_one_setting_trains_no_search(halves, tmp_path) -> None:
    def cells(*more: str) -> tuple[int, int]:
        made = planning.resolve(config.load_recipe(None, words(halves.root, tmp_path, *more)), halves)
        return len(made.inner_cells), made.size

    assert cells() == (0, 2)
    assert cells("grid={learning_rate: [1e-2, 1e-3]}") == (4, 6)
    assert cells("train.patience=2") == (2, 4) and cells("train.keep_every=1") == (2, 4)
    two = "models=[{model: unet3d, start: random}, {model: unet3d, start: random, label: b, options: {width: 8}}]"
    assert cells(two) == (4, 8)
    alone, grown = (
        planning.resolve(config.load_recipe(None, words(halves.root, tmp_path, *more)), halves) for more in ((), (two,))
    )
    same = [
        p.cell(p.arms[0], p.arms[0].settings[0], outer=0, inner=-1, seed=0, steps=1000).hash for p in (alone, grown)
    ]
    assert same[0] == same[1]  # a run grows by a second way and keeps its refits


def _is(dataset: Dataset, mask_id: str, truth: np.ndarray) -> bool:
    return bool((np.asarray(store.open_mask(dataset.root, mask_id)[:, 0]) == (truth == 1)).all())
