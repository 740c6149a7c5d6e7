"""What masks are learned by when nobody says it: patch, batch and steps as a function of the data alone."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from conftest import quiet
from factory import make_dataset
from medgraft import config, flow
from medgraft.config import Recipe
from medgraft.datasets import Dataset
from medgraft.engine import fields
from medgraft.engine import plan as planning
from medgraft.engine.defaults import with_defaults
from medgraft.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("made") / "data", "volume", cases=4, masks=True, structures=2)


def like(made: Dataset, shapes: list[list[int]], spacing: list[list[float | None] | None]) -> Dataset:
    """The tables of other volumes; their pixels are not asked."""
    rows = pl.concat([made.manifest[:1]] * len(shapes))
    own = [
        pl.Series("shape", [[1, *s] for s in shapes], dtype=made.manifest["shape"].dtype),
        pl.Series("spacing", spacing, dtype=pl.List(pl.Float64)),
    ]
    return Dataset(made.root, made.info, rows.with_columns(own), made.frames)


def planned(made: Dataset, shape: list[int], spacing: list[float | None] | None, n: int = 3, quick: bool = True):
    data = like(made, [shape] * n, [spacing] * n)
    return fields.plan(data, range(n), quick=quick)


@pytest.mark.parametrize(
    ("shape", "spacing", "patch"),
    [
        ([35, 50, 36], [1.0, 1.0, 1.0], (32, 48, 32)),  # within the median shape, so that patches move
        ([16, 20, 18], [1.0, 1.0, 1.0], (16, 16, 16)),
        ([200, 200, 200], [1.0, 1.0, 1.0], (48, 48, 48)),
        ([24, 320, 320], [3.0, 0.6, 0.6], (16, 80, 80)),  # thick slices: a patch is about a cube in mm
        ([100, 512, 512], [None, None, None], (48, 48, 48)),
        ([100, 512, 512], None, (48, 48, 48)),
        ([100, 512, 512], [0.0, 1.0, 1.0], (48, 48, 48)),  # absurd: taken as unknown
    ],
)
def test_the_patch_follows_shape_and_spacing(made, shape, spacing, patch) -> None:
    found = planned(made, shape, spacing)
    assert found.patch == patch and not found.flat and found.batch == 2
    assert "x".join(map(str, patch)) in found.lines[0]
    known = spacing is not None and all(spacing)
    assert ("unknown size" in found.lines[0]) is not known


def test_more_room_where_there_is_a_gpu_and_more_steps_for_more_cases(made) -> None:
    big = [200, 200, 200]
    assert planned(made, big, [1.0, 1.0, 1.0], quick=False).patch == (96, 96, 96)
    steps = [planned(made, [35, 50, 36], [1.0, 1.0, 1.0], n=n).steps for n in (1, 20, 60, 500)]
    assert steps == [800, 800, 1200, 2000]
    assert planned(made, big, None, quick=False).steps == 2000
    assert "800 steps of 2 windows" in planned(made, big, None).lines[1]


def test_the_middle_of_the_shapes_counts_and_those_with_masks_alone(made) -> None:
    data = like(made, [[32, 32, 32], [35, 50, 36], [512, 512, 512]], [[1.0, 1.0, 1.0]] * 3)
    assert fields.plan(data, [0, 1, 2], quick=True).patch == (32, 48, 32)
    assert fields.plan(data, [0], quick=True).patch == (32, 32, 32)


@pytest.mark.parametrize(("shape", "side"), [([8, 64, 90], 96), ([1, 30, 20], 32), ([12, 600, 600], 128)])
def test_volumes_of_few_slices_are_learned_slice_by_slice(made, shape, side) -> None:
    found = planned(made, shape, [5.0, 1.0, 1.0])
    assert found.flat and found.patch == (1, side, side) and "slice by slice" in found.lines[0]


def test_a_recipe_without_models_takes_them_and_keeps_what_it_says(tmp_path) -> None:
    data = make_dataset(tmp_path / "data", "volume", cases=4, masks=True, shape=(1, 20, 26, 18))
    words = [f"data={data.root}", f"out={tmp_path}", "task=segment", "split.folds=2", "device=cpu"]

    def setting(*more: str) -> tuple[planning.Setting, list[str]]:
        said: list[str] = []
        recipe = with_defaults(config.load_recipe(None, [*words, *more]), data, said.append)
        again = config.load_recipe(None, {**recipe.model_dump(mode="json")})
        plans = [planning.resolve(r, data) for r in (recipe, again)]
        assert plans[0] == plans[1]  # the recipe that a run keeps says the same
        return plans[0].arms[0].settings[0], said

    found, said = setting()
    assert (found.window.kind, found.window.length, found.window.sides) == ("cubes", 16, (24, 16))
    assert (found.train.iterations, found.train.batch_size) == (800, 2) and found.window.foreground == 0.34
    assert any("patches of 16x24x16" in line for line in said) and any("800 steps" in line for line in said)
    own, _ = setting("train.iterations=5", "window.length=8", "train.batch_size=3", "window.foreground=0.5")
    assert (own.train.iterations, own.train.batch_size, own.window.length, own.window.foreground) == (5, 3, 8, 0.5)
    assert own.window.sides == (24, 16)
    epochs, _ = setting("train.epochs=2")
    assert epochs.train.iterations is None and epochs.train.epochs == 2


def test_pictures_with_masks_take_steps_too(tmp_path) -> None:
    data = make_dataset(tmp_path / "data", "image", cases=4, masks=True)
    recipe = config.load_recipe(None, [f"data={data.root}", f"out={tmp_path}", "task=segment", "device=cpu"])
    arm = with_defaults(recipe, data, quiet).models[0]
    assert (arm.model, arm.window) == ("smp:unet-resnet18", {"size": 32})
    assert (arm.train["iterations"], arm.train["batch_size"]) == (800, 8)


def run(data: Dataset, out: Path, *more: str) -> tuple[Path, list[str]]:
    said: list[str] = []
    words = [f"data={data.root}", f"out={out}", "task=segment", "split.folds=2", "threads=1", "workers=0"]
    words += ["report=false", "stats.resamples=100", "device=cpu", "train.iterations=3", *more]
    return flow.run(config.build(Recipe, config.expanded(config.parse_overrides(words))), say=said.append), said


def test_thin_volumes_one_case_and_no_spacing_have_a_clear_end(tmp_path) -> None:
    thin = make_dataset(tmp_path / "thin", "volume", cases=4, masks=True, shape=(1, 16, 10, 12))
    _, said = run(thin, tmp_path / "runs")
    assert any("16x16x16" in line for line in said) and any("case.dice" in line for line in said)
    unknown = thin.manifest.with_columns(pl.lit([None, None, None], dtype=pl.List(pl.Float64)).alias("spacing"))
    unknown.write_parquet(thin.root / "manifest.parquet")
    _, said = run(thin, tmp_path / "unknown")
    assert any("unknown size" in line for line in said) and any("case.dice" in line for line in said)
    one = make_dataset(tmp_path / "one", "volume", cases=1, masks=True)
    with pytest.raises(UserError, match="1 patients cannot make 2 outer parts"):
        run(one, tmp_path / "alone")
