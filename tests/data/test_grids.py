"""One spacing for volumes of several: the same space, the same values whatever the region, and the way back."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from factory import make_dataset
from medgraft import store
from medgraft.data import spacing, transforms
from medgraft.data.dataset import CaseDataset
from medgraft.data.windows import WindowSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError

TARGET = (2.0, 1.0, 0.5)


def spaced(made: Dataset, spacings: list[tuple[float | None, ...] | None]) -> Dataset:
    """The same volumes under other spacings."""
    column = pl.Series("spacing", spacings, dtype=pl.List(pl.Float64))
    return Dataset(made.root, made.info, made.manifest.with_columns(column), made.frames)


def cubes(side: tuple[int, int, int], target: tuple[float, float, float] | None = TARGET, **more: float) -> WindowSpec:
    return WindowSpec("cubes", side[0], side[1:], spacing=target, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 3, 8, 13])
@pytest.mark.parametrize("m", [1, 2, 8, 29])
def test_weights_of_a_voxel_sum_to_one_and_lie_about_its_own_place(n, m) -> None:
    index, weight = spacing.taps(n, m, 0, m)
    assert np.allclose(weight.sum(1), 1, atol=1e-6) and index.min() >= 0 and index.max() < n
    line = np.arange(n, dtype=np.float32) + 0.5  # a ramp is what resampling keeps, but at the ends
    found = (line[index] * weight).sum(1) / n
    wanted = (np.arange(m) + 0.5) / m
    inner = (wanted * n > max(1, n / m)) & (wanted * n < n - max(1, n / m))
    assert np.allclose(found[inner], wanted[inner], atol=1e-5 if m >= n else 0.05 / m)  # a kernel on whole voxels
    assert (np.diff(found) > 0).all() if 1 < m <= n else (np.diff(found) >= 0).all()


def test_larger_voxels_are_averages_and_smaller_ones_lie_between() -> None:
    fine = np.zeros((1, 1, 1, 8), np.float32)
    fine[..., 3] = 1
    coarse = spacing.resampled(fine, (1, 1, 2))
    assert coarse.shape == (1, 1, 1, 2) and 0 < coarse[0, 0, 0, 1] < coarse[0, 0, 0, 0] < 0.3  # nothing is skipped
    step = np.array([0.0, 1.0], np.float32).reshape(1, 1, 1, 2)
    assert spacing.resampled(step, (1, 1, 4)).ravel().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_the_grid_covers_the_same_space_on_each_axis() -> None:
    assert spacing.grid_of((10, 20, 30), (5.0, 0.7, 1.4), (1.0, 1.0, 0.7)) == (50, 14, 60)
    assert spacing.grid_of((3, 4, 5), (1.0, 1.0, 1.0), (10.0, 1.0, 1.0)) == (1, 4, 5)
    for n, m in ((10, 25), (25, 10), (7, 7), (3, 16)):
        there = [spacing.place_of(i, n, m) for i in range(n)]
        assert there == [math.floor((i + 0.5) / n * m) for i in range(n)]
        assert [spacing.edge_of(e, n, m) for e in (0, n)] == [0, m]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        *((None, None, None), (None, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, math.nan, 1.0), (1.0, 1.0, -1.0)),
        *((1000.0, 1.0, 1.0), (1.0, math.inf, 1.0), (1e-9, 1.0, 1.0)),
    ],
)
def test_a_case_without_a_usable_spacing_is_refused_by_name(tmp_path, wrong) -> None:
    made = spaced(make_dataset(tmp_path, "volume", cases=2), [(1.0, 1.0, 1.0), wrong])
    assert spacing.usable(wrong) is None
    with pytest.raises(UserError, match=r"c001: the size of its voxels is unknown or absurd") as error:
        CaseDataset(made, [0, 1], window=cubes((4, 8, 8)))
    assert "window.spacing=none" in str(error.value) and "\n" not in str(error.value)
    assert len(CaseDataset(made, [0, 1], window=cubes((4, 8, 8), None)).eval_windows()) > 2


def test_a_grid_beyond_all_measure_is_refused_by_name(tmp_path) -> None:
    made = spaced(make_dataset(tmp_path, "volume", cases=1, shape=(1, 60, 60, 60)), [(90.0, 90.0, 90.0)])
    with pytest.raises(UserError, match=r"c000: its 60x60x60 voxels of 90 x 90 x 90 mm become 2700x5400x10800"):
        CaseDataset(made, [0], window=cubes((4, 8, 8)))


@pytest.mark.parametrize("own", [(5.0, 0.7, 0.7), (0.8, 2.0, 0.5), (2.0, 1.0, 3.1)])
def test_a_window_is_its_part_of_the_whole(tmp_path, own) -> None:
    """Every evaluation window holds what the whole volume, resampled at once, holds there; outside it is black."""
    made = spaced(make_dataset(tmp_path, "volume", cases=1, masks=True, shape=(1, 12, 17, 14), unit="HU"), [own])
    samples = CaseDataset(made, [0], window=cubes((6, 10, 12)), dense=True, hu_window=(-500.0, 500.0))
    grid = spacing.grid_of((12, 17, 14), own, TARGET)
    assert samples.grid(0) == grid != (12, 17, 14)
    stored = np.asarray(store.open_array(made.root, made.manifest["array_id"][0]))
    mask = np.asarray(store.open_mask(made.root, made.manifest["mask_id"][0])).swapaxes(0, 1)
    whole = spacing.resampled(stored.astype(np.float32), grid)
    nearest = [np.array([spacing.place_of(j, m, n) for j in range(m)]) for n, m in zip(mask.shape[1:], grid)]
    labels = mask[np.ix_(range(len(mask)), *nearest)]
    seen = np.zeros(grid, bool)
    for window in samples.eval_windows():
        batch = samples.batch([window])
        ranges = [np.arange(a, a + n) for a, n in zip(window.start, window.size)]
        inside = np.ix_(*[(r >= 0) & (r < m) for r, m in zip(ranges, grid)])
        there = np.ix_(*[r[(r >= 0) & (r < m)] for r, m in zip(ranges, grid)])
        seen[there] = True
        x, y = batch["x"][0, 0].numpy(), batch["mask"][0].numpy()
        np.testing.assert_array_equal(x[inside], whole[0][there])
        np.testing.assert_array_equal(y[0][inside], labels[0][there])
        outside = np.ones(window.size, bool)
        outside[inside] = False
        assert (x[outside] == -500).all() and (y[0][outside] == store.IGNORE).all()
    assert seen.all()


def test_a_turned_and_scaled_window_sees_what_it_would_in_the_whole(tmp_path) -> None:
    """Augmentation works on the grid: the part that is read is never too small."""
    made = spaced(
        make_dataset(tmp_path, "volume", cases=1, masks=True, shape=(1, 12, 17, 14), unit="HU"), [(4, 0.6, 1)]
    )
    augment = transforms.Augment(rotate=40, scale=(0.6, 1.5), translate=0.3, flip_axes="dhw")
    samples = CaseDataset(made, [0], window=cubes((6, 8, 8)), dense=True, augment=augment)
    grid = samples.grid(0)
    stored = np.asarray(store.open_array(made.root, made.manifest["array_id"][0]))
    mask = np.asarray(store.open_mask(made.root, made.manifest["mask_id"][0])).swapaxes(0, 1)
    whole = spacing.resampled(stored.astype(np.float32), grid)
    nearest = [np.array([spacing.place_of(j, m, n) for j in range(m)]) for n, m in zip(mask.shape[1:], grid)]
    labels = mask[np.ix_(range(len(mask)), *nearest)].swapaxes(0, 1)
    windows = samples.eval_windows()
    for number in range(60):
        window = windows[number % len(windows)]
        drawn = transforms.draw(augment, np.random.default_rng(number))
        rows = [f if 0 <= f < grid[0] else -1 for f in window.frames]
        kept = {"value_range": (-1000.0, 1000.0)}
        x, y = transforms.cut(whole, window, drawn, mask=labels, mask_rows=rows, **kept)
        sample = samples._sample(0, window, drawn)
        np.testing.assert_allclose(sample["x"].numpy(), x.numpy(), atol=0.05)  # HU
        assert (sample["mask"].numpy() != y.numpy()).mean() < 0.01  # a place on the edge of a voxel may fall either way


def test_equal_spacing_changes_no_bit_and_no_type(tmp_path) -> None:
    made = make_dataset(tmp_path, "volume", cases=3, masks=True, unit="HU")
    plain, same = (
        CaseDataset(made, [0, 1, 2], window=cubes((4, 8, 8), t), dense=True) for t in (None, (1.0, 1.0, 1.0))
    )
    for step in range(3):
        one, two = plain.train_batch(0, step, 3), same.train_batch(0, step, 3)
        assert all((one[k] == two[k]).all() and one[k].dtype == two[k].dtype for k in one)  # type: ignore[literal-required]
    assert plain.eval_windows() == same.eval_windows()


def test_foreground_is_found_on_the_grid(tmp_path) -> None:
    made = make_dataset(tmp_path, "volume", cases=1, masks=True, shape=(1, 10, 20, 30))
    mask = np.zeros((10, 1, 20, 30), np.uint8)
    mask[7, 0, 4:6, 25] = 1  # rows become twice as large: one alone may lie between them
    manifest = made.manifest.with_columns(pl.lit(store.write_mask(tmp_path, mask).array_id).alias("mask_id"))
    made = spaced(Dataset(made.root, made.info, manifest, made.frames), [(6.0, 0.5, 1.0)])
    samples = CaseDataset(made, [0], window=cubes((8, 4, 8), foreground=1.0), dense=True)
    for step in range(6):
        assert (pickle.loads(pickle.dumps(samples)).train_batch(0, step, 2)["mask"] == 1).any((1, 2, 3, 4)).all()


def test_a_view_keeps_its_place_on_the_grid(tmp_path) -> None:
    made = make_dataset(tmp_path, "volume", cases=1, shape=(1, 12, 16, 16))
    lists = pl.List(pl.Float64)
    manifest = made.manifest.with_columns(
        pl.lit([6.0, 8.0, 4.0], dtype=lists).alias("view_center"),
        pl.lit([4.0, 8.0, 8.0], dtype=lists).alias("view_size"),
    )
    made = spaced(Dataset(made.root, made.info, manifest, made.frames), [(4.0, 2.0, 0.5)])
    samples = CaseDataset(made, [0], window=cubes((4, 8, 8)))
    assert samples.grid(0) == (24, 32, 16)
    seen = np.zeros((24, 32, 16), bool)
    for window in samples.eval_windows():
        seen[tuple(slice(a, a + n) for a, n in zip(window.start, window.size))] = True
    where = np.argwhere(seen)
    assert where.min(0).tolist() == [8, 8, 0] and where.max(0).tolist() == [15, 23, 7]  # 4..8, 4..12, 0..8 of the array
    field, there = samples.back(0, np.where(seen, np.float32(0.75), np.float32("nan"))[None], seen)
    assert there.shape == (12, 16, 16) and there[4:8, 4:12, :8].all() and there.sum() == 4 * 8 * 8
    assert np.allclose(field[0][there], 0.75) and np.isnan(field[0][~there]).all()  # nothing leaks in from outside


@pytest.mark.parametrize("own", [(5.0, 0.7, 0.7), (0.8, 2.0, 0.3)])
def test_probabilities_come_back_between_the_voxels_and_to_the_source(tmp_path, own) -> None:
    """A ramp over the patient on the grid is the same ramp on the source: linear, at the right place, on each axis."""
    made = spaced(make_dataset(tmp_path, "volume", cases=1, shape=(1, 12, 17, 14)), [own])
    samples = CaseDataset(made, [0], window=cubes((4, 8, 8)))
    grid, shape = samples.grid(0), (12, 17, 14)
    for axis in range(3):
        sides = [-1 if k == axis else 1 for k in range(3)]
        ramp = [((np.arange(n) + 0.5) / n).astype(np.float32).reshape(sides) for n in (grid[axis], shape[axis])]
        field = np.broadcast_to(ramp[0], (2, *grid))
        found, covered = samples.back(0, field, np.ones(grid, bool))
        assert found.shape == (2, *shape) and covered.all()
        rim = max(1 / grid[axis], 1 / shape[axis])
        inner = np.broadcast_to((ramp[1] > rim) & (ramp[1] < 1 - rim), shape)
        np.testing.assert_allclose(found[0][inner], np.broadcast_to(ramp[1], shape)[inner], atol=0.02 / shape[axis])


def test_only_the_part_that_a_window_needs_is_read(tmp_path: Path) -> None:
    class Counting(np.ndarray):
        asked = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            found = np.asarray(super().__getitem__(key))
            Counting.asked += found.size
            return found

    array = np.zeros((1, 40, 200, 200), np.int16).view(Counting)
    made = spacing.region(array, (80, 100, 100), (10, 20, 30), (26, 36, 46))
    assert made.shape == (1, 16, 16, 16) and made.dtype == np.float32
    assert Counting.asked <= 12 * 36 * 36
    with pytest.raises(UserError, match="frames cannot be selected"):
        CaseDataset(make_dataset(tmp_path, "volume", cases=1), [0], window=cubes((4, 8, 8)), kept={"x": np.arange(3)})
    with pytest.raises(UserError, match="windows of kind whole are brought to their size"):
        WindowSpec("whole", 4, 8, spacing=TARGET)
