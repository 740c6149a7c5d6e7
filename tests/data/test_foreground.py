"""Training windows that see the foreground: how many, where they fall, and the same ones again."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from factory import make_dataset
from medgraft import store
from medgraft.data import dataset as cases
from medgraft.data.dataset import CaseDataset
from medgraft.data.windows import WindowSpec, draw_window, foreground_turn
from medgraft.datasets import Dataset
from medgraft.errors import UserError

CUBES = WindowSpec("cubes", 4, (6, 6), foreground=1.0)
SIDES = (4, 6, 6)


def speck(root: Path, places: list[list[tuple[int, int, int]]], structures: int = 2) -> Dataset:
    """Volumes of 20x30x30 with single voxels as structures: ``places[case]`` are (d, h, w), one for each structure."""
    made = make_dataset(root, "volume", cases=len(places), shape=(1, 20, 30, 30), masks=True, structures=structures)
    ids = []
    for number, spots in enumerate(places):
        mask = np.zeros((20, structures, 30, 30), np.uint8)
        mask[number % 20, :, 29, 29] = store.IGNORE  # masks that hold the same would be one
        for k, (d, h, w) in enumerate(spots):
            mask[d, k, h, w] = 1
        ids.append(store.write_mask(root, mask).array_id)
    return Dataset(made.root, made.info, made.manifest.with_columns(pl.Series("mask_id", ids)), made.frames)


@pytest.mark.parametrize("share", [0.0, 0.33, 1 / 3, 0.34, 0.5, 0.8, 1.0])
def test_at_least_the_share_of_every_beginning_is_about_the_foreground(share) -> None:
    turns = np.cumsum([foreground_turn(n, share) for n in range(3000)])
    wanted = share * np.arange(1, 3001)
    assert (turns >= wanted - 1e-6).all() and (turns < wanted + 1).all()


def test_windows_hold_the_voxel_they_are_drawn_about(tmp_path) -> None:
    made = speck(tmp_path, [[(10, 15, 15), (0, 0, 29)], [(19, 2, 8), (3, 29, 1)]])
    samples = CaseDataset(made, [0, 1], window=CUBES, dense=True)
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    for step in range(12):
        batch = samples.train_batch(0, step, 2)
        assert batch["mask"].shape[2:] == SIDES
        for case, mask, start in zip(batch["case"].tolist(), batch["mask"], batch["start"].tolist()):
            held = [k for k in range(2) if (mask[k] == 1).any()]
            assert held
            seen[case] |= set(held)
            for s, n, side in zip(start, (20, 30, 30), SIDES):  # within the volume
                assert 0 <= s <= n - side
    assert seen == {0: {0, 1}, 1: {0, 1}}  # every structure has its turn, however small
    middle = draw_window(CUBES, (1, 20, 30, 30), np.random.default_rng(0), about=(10, 15, 15))
    assert middle.start == (8, 12, 12)


def test_draws_are_the_same_again_and_the_others_stay_where_they_were(tmp_path) -> None:
    made = speck(tmp_path, [[(10, 15, 15), (0, 0, 29)], [(19, 2, 8), (3, 29, 1)], [(5, 5, 5), (9, 9, 9)]])
    some = WindowSpec("cubes", 4, (6, 6), foreground=0.34)
    first = CaseDataset(made, [0, 1, 2], window=some, dense=True)
    late = pickle.loads(pickle.dumps(first))
    starts = [first.train_batch(0, step, 2)["start"].tolist() for step in range(6)]
    assert late.train_batch(0, 5, 2)["start"].tolist() == starts[5]
    assert pickle.loads(pickle.dumps(first))._drawn == {} and len(pickle.dumps(first)) == len(pickle.dumps(late))
    assert first.train_batch(1, 5, 2)["start"].tolist() != starts[5]
    anywhere = CaseDataset(made, [0, 1, 2], window=WindowSpec("cubes", 4, (6, 6)), dense=True)
    other = np.array([anywhere.train_batch(0, step, 2)["start"].tolist() for step in range(6)]).reshape(12, 3)
    same = (np.array(starts).reshape(12, 3) == other).all(1)
    assert [n for n in range(12) if not same[n]] == [n for n in range(12) if foreground_turn(n, 0.34)]


def test_a_case_without_foreground_and_a_batch_without_masks_draw_anywhere(tmp_path) -> None:
    made = speck(tmp_path, [[], [(10, 15, 15), (3, 3, 3)]])
    samples = CaseDataset(made, [0], window=CUBES, dense=True)
    anywhere = CaseDataset(made, [0], window=WindowSpec("cubes", 4, (6, 6)), dense=True)
    assert samples.train_batch(0, 3, 4)["start"].tolist() == anywhere.train_batch(0, 3, 4)["start"].tolist()
    unmasked = [CaseDataset(made, [1], window=w) for w in (CUBES, WindowSpec("cubes", 4, (6, 6)))]
    assert unmasked[0].train_batch(0, 3, 4)["start"].tolist() == unmasked[1].train_batch(0, 3, 4)["start"].tolist()


def test_slices_and_marked_frames_are_those_of_the_foreground(tmp_path) -> None:
    made = speck(tmp_path, [[(13, 4, 4), (13, 9, 9)]])
    for spec in (WindowSpec("slices", 1, 30, foreground=1.0), WindowSpec("marked", 1, 30, foreground=1.0)):
        samples = CaseDataset(made, [0], window=spec, dense=True)
        assert {tuple(s) for step in range(5) for s in samples.train_batch(0, step, 2)["start"].tolist()} == {
            (13, 0, 0)
        }


def test_a_view_is_searched_alone_and_many_voxels_are_thinned_evenly(tmp_path, monkeypatch) -> None:
    made = speck(tmp_path, [[(2, 2, 2), (15, 20, 22)]])
    view = made.manifest.with_columns(
        pl.Series("view_center", [[15.0, 20.0, 20.0]], dtype=pl.List(pl.Float64)),
        pl.Series("view_size", [[10.0, 16.0, 16.0]], dtype=pl.List(pl.Float64)),
    )
    samples = CaseDataset(Dataset(made.root, made.info, view, made.frames), [0], window=CUBES, dense=True)
    mask = samples.train_batch(0, 0, 4)["mask"]
    assert (mask[:, 1] == 1).any((1, 2, 3)).all() and not (mask[:, 0] == 1).any()
    assert samples._drawn[0][0].tolist() == [[5, 8, 10]]  # in the view
    blob = make_dataset(tmp_path / "blob", "volume", cases=1, masks=True)
    monkeypatch.setattr(cases, "FOREGROUND", 50)
    thinned = CaseDataset(blob, [0], window=WindowSpec("cubes", 4, 8, foreground=1.0), dense=True)
    thinned.train_batch(0, 0, 1)
    kept, truth = (
        thinned._drawn[0][0],
        np.argwhere(np.asarray(store.open_mask(blob.root, blob.manifest["mask_id"][0]))[:, 0]),
    )
    assert len(kept) == 50 and {tuple(p) for p in kept.tolist()} <= {tuple(p) for p in truth.tolist()}
    assert np.abs(kept.mean(0) - truth.mean(0)).max() < 0.5


def test_a_share_outside_its_bounds_is_refused() -> None:
    with pytest.raises(UserError, match="foreground is a share"):
        WindowSpec("cubes", foreground=1.5)


def test_a_volume_thinner_than_the_window_is_centred_in_black_that_is_ignored(tmp_path) -> None:
    made = speck(tmp_path, [[(10, 15, 15), (3, 3, 3)]])
    thick = CaseDataset(made, [0], window=WindowSpec("cubes", 24, (6, 6), foreground=1.0), dense=True)
    batch = thick.train_batch(0, 0, 1)
    assert batch["start"][0, 0] == -2 and batch["x"].shape[2] == 24
    outside = [0, 1, 22, 23]
    assert (batch["mask"][0, :, outside] == store.IGNORE).all() and (batch["x"][0, :, outside] == 0).all()
