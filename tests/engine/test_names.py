"""What makes a number is in its name: every option and every column changes a cell's hash, is refused, or is known to
change no number; and the last plan of a run alone has a say.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import polars as pl
import pytest
from pydantic import BaseModel

from conftest import MODEL, quiet
from factory import make_dataset
from medgraft import config, flow, runs, serve, tables
from medgraft.config import ArmConfig, Recipe, SelectConfig, SplitConfig, TrainConfig, WindowConfig
from medgraft.data import transforms
from medgraft.datasets import Dataset, load_dataset
from medgraft.engine.plan import Arm, Plan, Setting, resolve, selection_key
from medgraft.errors import UserError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Clips with masks of single frames, two targets, a split column: something for every option to act on."""
    root = tmp_path_factory.mktemp("names")
    made = make_dataset(root / "data", "video", cases=12, patients=12, masks=True, traced="ends", multilabel=True)
    parts = pl.Series("split.part", ["train"] * 8 + ["test"] * 4)
    tables.write(made.manifest.with_columns(parts), root / "data" / "manifest.parquet", "manifest")
    return load_dataset(root / "data")


BASE: dict[str, Any] = {
    "target": "finding",
    "seeds": [0],
    "threads": 1,
    "device": "cpu",
    "split": {"folds": 2, "test_share": 0.5, "select_share": 0.5},
    "window": {"length": 4, "size": 32, "kind": "dense"},
    "train": {"epochs": 2, "batch_size": 4, "augment": "light"},
    "models": [{"model": MODEL, "start": "random"}],
}

#: Values that differ from the base where another of the field's kind does not come by itself.
OTHER: dict[str, Any] = {
    "train.augment": "xray",
    "train.mirror": False,  # left open, it holds here
    "train.warmup": 0.5,
    "train.warmup_epochs": 1.0,
    "train.iterations": 3,
    "train.positive_weight": 2.0,
    "train.label_center": 3.0,
    "train.label_scale": 2.0,
    "train.l2sp": 0.1,
    "train.layer_decay": 0.5,
    "window.hu_window": (-10.0, 10.0),
    "window.size": 40,
    "window.kind": "tsn",
    "window.overlap": 0.25,
    "window.spacing": [1.0, 1.0, 1.0],  # of videos it is refused; of masks of volumes: test_spacing.py
    "split.kind": "holdout",
    "split.column": "nowhere",
    "split.test": "elsewhere",
    "arm.model": "efficientnet_lite0",
    "arm.start": "no_such_start",
    "arm.window": {"length": 2},
    "arm.train": {"epochs": 7},
    "arm.select": {"max_per_second": 1},
    "arm.grid": {"learning_rate": [1e-3, 1e-5]},
    "arm.options": {"width": 2},
    "arm.label": "another name",
    "arm.normalise": "data",
    "recipe.stage": "fast",
    "recipe.task": "segment",
    "recipe.target": "a",
    "recipe.classes": ["class0"],
    "recipe.grid": {"learning_rate": [1e-3, 1e-5]},
    "recipe.seeds": [1],
    "recipe.negatives": "b",
    "recipe.explain": 2,
    "recipe.device": "abacus",
    "recipe.precision": "bf16",
    "recipe.threads": 2,
    "recipe.compat": ["split_80_20"],
    "select.max_per_second": 1,
}

#: What else must be said for an option to act.
BESIDE: dict[str, dict[str, Any]] = {
    "split.test_share": {"kind": "holdout"},
    "split.column": {"kind": "column", "column": "part", "inner": 0},
}

#: Options that change no number of a trained network, and why. A change of the name would be a fault here.
SILENT = {
    "arm.label": "a name",
    "recipe.name": "where the run lies",
    "recipe.out": "where the run lies",
    "recipe.data": "where the data lie; what they are is hashed case by case",
    "recipe.negatives": "judging: which negatives are told apart",
    "recipe.claims": "judging: which sentences are tested",
    "recipe.stats": "judging: how sure can I be",
    "recipe.weights": "where files lie; the card's hash says what they hold",
    "recipe.download": "where files come from; the card's hash says what they hold",
    "recipe.memory_gb": "how batches are fetched (tests/engine/test_run.py: loader processes change no number)",
    "recipe.workers": "how batches are fetched (tests/engine/test_run.py: loader processes change no number)",
    "recipe.stage": "where arrays are read from; their names are hashes of what they hold",
    "recipe.checkpoint_seconds": "how often progress is kept (tests/engine/test_run.py: a killed run resumes)",
    "recipe.keep_windows": "what else is written",
    "recipe.report": "whether a page is written",
    "recipe.lang": "the page's language",
    "window.foreground": "labels: windows fall where they fall (masks: the test below)",
    "split.test": "which external data set is joined (kind=external); what it holds is hashed case by case",
}
SILENT_COLUMNS = {
    "study_id": "a name",
    "case_id": "a name: cases are known by what they hold and where they stand",
    "spacing": "read where masks are cut at a common spacing (test_spacing.py); a served study's is flagged",
    "to_source": "the way back to the source, for masks that are served",
    "site": "a fact for the audit",
    "device": "a fact for the audit",
    "day": "a fact for the audit",
    "region": "what a page may show",
    "pixel_text": "what a page may show",
    "split.part": "read where split.kind=column only (the roles stand in the split)",
    "label.a": "another target",
    "label.b": "another target",
}


def recipe_of(dataset: Dataset, values: dict[str, Any]) -> Recipe:
    return config.build(Recipe, {"data": dataset.root, **values})


def names(plan: Plan) -> list[str]:
    """Hashes of everything that a plan can train, in order."""
    refits = [
        plan.cell(arm, setting, outer=fold.outer, inner=-1, seed=seed, steps=1000)
        for arm in plan.arms
        for setting in arm.settings
        for fold in plan.folds
        for seed in plan.seeds
    ]
    return [cell.hash for cell in (*plan.inner_cells, *refits)]


def another(section: type[BaseModel], name: str, key: str, now: Any) -> Any:
    """A value that differs from ``now`` and that the field takes."""
    if key in OTHER:
        return OTHER[key]
    kinds = [section.model_fields[name].annotation, *get_args(section.model_fields[name].annotation)]
    choices = [c for k in kinds if get_origin(k) is Literal for c in get_args(k)]
    if choices:
        return next(c for c in choices if c != now)
    if isinstance(now, bool):
        return not now
    if isinstance(now, int):
        return now + 1
    if isinstance(now, float):
        return now / 2 if now else 0.5
    if now is None:
        return 2
    if isinstance(now, Path):
        return now / "other"
    return f"{now}x" if isinstance(now, str) else now


SECTIONS = {"train": TrainConfig, "window": WindowConfig, "select": SelectConfig, "split": SplitConfig}
KEYS = [
    *(f"{section}.{name}" for section, kind in SECTIONS.items() for name in kind.model_fields),
    *(f"arm.{name}" for name in ArmConfig.model_fields),
    *(f"recipe.{name}" for name in Recipe.model_fields if name not in (*SECTIONS, "models")),
]


def test_every_part_of_a_cell_is_in_its_name(clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part at a time is another one; all the rest stays, also where an option would move several together."""
    plan = resolve(recipe_of(clips, BASE), clips)
    arm, setting, fold = plan.arms[0], plan.arms[0].settings[0], plan.folds[0]
    again = replace(fold, outer=1, inner={0: fold.inner[0], 1: fold.inner[0]})  # who learns what they learnt before
    plan = replace(plan, folds=(replace(again, outer=0), again), threads=0)

    def name(of: Plan = plan, way: Arm = arm, made: Setting = setting, **place: Any) -> str:
        return of.cell(way, made, **{"outer": 0, "inner": 0, "seed": 0, **place}).hash

    def altered(patient: str) -> Plan:
        """The cases of one patient hold something else."""
        return replace(plan, cases=tuple((c, p, "other" if p == patient else d) for c, p, d in plan.cases))

    task = replace(plan.task, targets=tuple(replace(t, name="b") for t in plan.task.targets))
    rate = setting.train.model_copy(update={"learning_rate": 0.5})
    found = {
        "nothing": name(),
        "model": name(way=replace(arm, model="efficientnet_lite0")),
        "start": name(way=replace(arm, start="imagenet")),
        "strategy": name(way=replace(arm, strategy="frozen")),
        "head": name(way=replace(arm, head=replace(arm.head, hidden=8))),
        "options": name(way=replace(arm, options={"width": 2})),
        "card": name(way=replace(arm, card={"name": "a", "sha256": "b"})),
        "setting": name(made=replace(setting, train=rate)),
        "task": name(replace(plan, task=task)),
        "kind": name(replace(plan, kind="volume")),
        "channels": name(replace(plan, channels=3)),
        "who trains": name(altered(fold.inner[0].train[0])),
        "who is judged": name(altered(fold.inner[0].select[0])),
        "frames": name(replace(plan, selected={selection_key(0, 0, setting.select): "c"})),
        "steps": name(steps=500),
        "device": name(replace(plan, device="cuda")),
        "precision": name(replace(plan, precision="bf16")),
        "threads": name(replace(plan, threads=1)),
        "compat": name(replace(plan, compat=("split_80_20",))),
        "fold": name(outer=1),
        "inner part": name(inner=1),
        "seed": name(seed=1),
        "refit": name(inner=-1),
        "looked through": name(replace(plan, explain=3), inner=-1),
    }
    light = transforms.PRESETS["light"]
    monkeypatch.setitem(transforms.PRESETS, "light", replace(light, rotate=light.rotate + 1))
    found["what the augmentation means"] = name()
    assert sorted(found.values()) == sorted(set(found.values())), found
    assert name(way=replace(arm, id="another", printed="another")) == name()  # names decide nothing


def test_the_pixels_of_a_case_without_a_mask_are_in_its_digest(clips) -> None:
    bare = replace(clips, manifest=clips.manifest.with_columns(pl.lit(None, dtype=pl.String).alias("mask_id")))
    first, *rest = clips.manifest["array_id"]
    other = replace(bare, manifest=bare.manifest.with_columns(pl.Series("array_id", ["f" * len(first), *rest])))
    before, after = (runs.case_digests(dataset, ["finding"]) for dataset in (bare, other))
    assert [case for case in before if before[case] != after[case]] == [clips.manifest["case_id"][0]]


@pytest.mark.parametrize("key", KEYS)
def test_every_option_is_in_the_name_refused_or_known_to_change_nothing(clips, key) -> None:
    section, _, name = key.partition(".")
    told = json.loads(json.dumps(BASE))
    told["split"] |= BESIDE.get(key, {})
    base = recipe_of(clips, told)
    kinds = {**SECTIONS, "arm": ArmConfig, "recipe": Recipe}
    at = base.models[0] if section == "arm" else base if section == "recipe" else getattr(base, section)
    value = another(kinds[section], name, key, getattr(at, name))
    changed = json.loads(json.dumps(told))
    if section == "arm":
        changed["models"][0][name] = value
    elif section == "recipe":
        changed[name] = value
    else:
        changed.setdefault(section, {})[name] = value
    before = names(resolve(base, clips))
    try:
        after = names(resolve(recipe_of(clips, changed), clips))
    except UserError as error:
        assert key not in SILENT and "\n" not in str(error)
        return
    assert (after == before) == (key in SILENT), f"{key}: {getattr(at, name)!r} -> {value!r}"


@pytest.mark.parametrize("column", [*tables.SCHEMAS["manifest"], "split.part", "label.finding", "label.a", "label.b"])
def test_every_column_that_training_reads_is_in_the_name(clips, column) -> None:
    manifest = clips.manifest
    row = manifest.row(3, named=True)
    new = {
        "patient_id": "p999",
        "kind": "volume",
        "shape": [1, 3, 32, 32],
        "value_unit": "HU",
        "view_center": [6.0, 16.0, 16.0],
        "view_size": [12.0, 16.0, 16.0],
        "view_direction": [1.0, 0, 0, 0, 0, 1.0, 0, 1.0, 0],
        "spacing": [1.0, 1.0, 1.0],
        "to_source": [2.0] * 16,
        "p005": 1.5,
        "p995": 1.5,
        "day": 3,
        "region": [0, 0, 4, 4],
        "split.part": "test",
        "label.finding": "class0" if row["label.finding"] == "class1" else "class1",
        "label.a": "0" if row["label.a"] == "1" else "1",
        "label.b": "0" if row["label.b"] == "1" else "1",
    }.get(column, "changed")
    values = manifest[column].to_list()
    values[3] = new
    changed = replace(clips, manifest=manifest.with_columns(pl.Series(column, values, dtype=manifest[column].dtype)))
    recipe = recipe_of(clips, BASE)
    before = names(resolve(recipe, clips))
    try:
        after = names(resolve(recipe, changed))
    except UserError:
        assert column not in SILENT_COLUMNS
        return
    if column in ("shape",):  # the array's own shape, which its hash names; a false one is refused when it is read
        return
    assert (after == before) == (column in SILENT_COLUMNS), f"{column}: {row[column]!r} -> {new!r}"


def test_the_frames_that_are_marked_and_their_times_are_in_the_name(clips) -> None:
    marked = {**BASE, "task": "segment", "target": None, "models": [{"model": "unet2d", "start": "random"}]}
    marked["window"] = {"kind": "marked", "length": 1, "size": 32}
    before = names(resolve(recipe_of(clips, marked), clips))
    elsewhere = {**marked, "window": {**marked["window"], "foreground": 0.5}}
    assert not set(before) & set(names(resolve(recipe_of(clips, elsewhere), clips)))
    swapped = clips.frames.with_columns(
        pl.when(pl.col("mask_index") >= 0).then(1 - pl.col("mask_index")).otherwise(-1).alias("mask_index")
    )
    assert not set(before) & set(names(resolve(recipe_of(clips, marked), replace(clips, frames=swapped))))
    capped = {**BASE, "select": {"max_per_second": 2}}
    before = names(resolve(recipe_of(clips, capped), clips))
    faster = replace(clips, frames=clips.frames.with_columns(pl.col("time_s") * 3))
    assert not set(before) & set(names(resolve(recipe_of(clips, capped), faster)))
    assert names(resolve(recipe_of(clips, BASE), clips)) == names(resolve(recipe_of(clips, BASE), faster))


def test_the_order_of_cases_is_in_the_name(clips) -> None:
    turned = replace(clips, manifest=clips.manifest.reverse())  # sample n of the stream is another case
    recipe = recipe_of(clips, BASE)
    assert names(resolve(recipe, clips)) != names(resolve(recipe, turned))


def test_meaning_of_a_label_is_in_the_name_and_a_changed_one_is_refused(recipe, tmp_path) -> None:
    """Another positive class in the same run: old networks must not speak under the new name."""
    made = recipe()
    flow.run(made, say=quiet)
    path = tmp_path / "data" / "dataset.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    old = set(names(resolve(made, load_dataset(made.data))))
    info["targets"]["finding"]["positive"] = "class0"
    path.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"positive class of finding: class1 -> class0. choose a new run with "
        r"name=NAME",
    ):
        flow.run(made, say=quiet)
    assert not old & set(names(resolve(made, load_dataset(made.data))))
    info["targets"]["finding"] |= {"positive": "class1", "classes": ["class1", "class0"]}
    path.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(UserError, match="classes of finding: class0, class1 -> class1, class0"):
        flow.run(made, say=quiet)


def test_predictions_of_another_class_are_refused(recipe) -> None:
    made = recipe()
    root = flow.run(made, say=quiet)
    refit = next(r for r in runs.Run.open(root).records() if r["inner"] < 0)
    path = root / "cells" / refit["hash"] / "predictions.parquet"
    table = tables.read(path, "predictions")
    tables.write(table.with_columns(pl.lit("class0").alias("class")), path, "predictions")
    with pytest.raises(UserError, match="holds predictions of finding 'class0', the plan asks for finding 'class1'"):
        flow.run(made, say=quiet)


def test_the_last_plan_alone_is_served_counted_and_told(recipe, tmp_path) -> None:
    """A then B under one name: predict, status and the page know B alone; A's looks are counted and said."""
    lite = "models=[{model: efficientnet_lite0, strategy: frozen_logistic, train: {logistic_c: %s}}]"
    said: list[str] = []
    flow.run(recipe(lite % 0.01, "report=true"), say=quiet)
    root = flow.run(recipe(lite % 100, "report=true"), say=said.append)
    fresh = flow.run(recipe(lite % 100, "name=fresh"), say=quiet)
    assert any("this is another plan in the same run" in line and "logistic_c: 0.01 -> 100" in line for line in said)
    from PIL import Image

    Image.new("L", (32, 32), 90).save(tmp_path / "new.png")
    served, alone = (serve.predict(r, [tmp_path / "new.png"], model="efficientnet_lite0") for r in (root, fresh))
    assert served.members == alone.members == 2 and served.rows == alone.rows  # to the bit
    status = runs.status(root)
    assert status["cells"] == {"done": 4} and status["planned"] == 4
    looks = json.loads((root / "summary.json").read_text())["run"]["looks"]
    assert len(looks) == 2 and {look["cell"] for look in looks} <= set(runs.Run.open(root).info["cells"])
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "looked at 2 times before" in page
    other = json.loads((fresh / "run.json").read_text())["looks_before"]
    assert other["looks"] == 4 and len(other["runs"]) == 1  # another run on the same parts counts as well


def test_a_run_grows_by_arms_and_seeds_without_a_word_of_another_plan(recipe) -> None:
    flow.run(recipe(), say=quiet)
    said: list[str] = []
    more = (
        f"models=[{{model: '{MODEL}', start: random}}, {{model: '{MODEL}', start: random, label: b, train: {{l2sp: "
        f"1}}}}]"
    )
    root = flow.run(recipe("seeds=[0, 1]", more), say=said.append)
    assert any("the run grows by" in line and "· b" in line for line in said)
    assert any("the run grows by seeds 1" in line for line in said)
    assert not any("another plan" in line for line in said)
    assert json.loads((root / "run.json").read_text())["looks_before"] == {"looks": 0, "runs": []}


def test_an_unfinished_model_is_not_served(recipe, tmp_path) -> None:
    root = flow.run(recipe("seeds=[0, 1]"), say=quiet)
    refit = next(r for r in runs.Run.open(root).records() if r["inner"] < 0)
    (root / "cells" / refit["hash"] / "DONE").unlink()
    from PIL import Image

    Image.new("L", (32, 32), 90).save(tmp_path / "new.png")
    with pytest.raises(UserError, match="3 of 4 networks of this model are finished"):
        serve.predict(root, [tmp_path / "new.png"])


def test_a_run_of_another_format_is_refused_in_one_line(recipe, tmp_path) -> None:
    made = recipe()
    root = flow.run(made, say=quiet)
    info = json.loads((root / "run.json").read_text())
    del info["format"]
    (root / "run.json").write_text(json.dumps(info))
    for act in (lambda: flow.run(made, say=quiet), lambda: runs.status(root), lambda: serve.predict(root, [root])):
        with pytest.raises(UserError, match=r"made by another medgraft \(format 1") as error:
            act()
        assert "\n" not in str(error.value)
    (root / "plan.json").write_text("{}")
    info["format"] = runs.FORMAT
    (root / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"plan\.json is of format None"):
        serve.predict(root, [root])


def test_arms_that_differ_by_their_label_alone_are_refused(recipe) -> None:
    twice = f"models=[{{model: '{MODEL}', start: random}}, {{model: '{MODEL}', start: random, label: b}}]"
    with pytest.raises(UserError, match="by its label alone"):
        flow.run(recipe(twice), say=quiet)
