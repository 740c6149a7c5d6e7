"""Cases as batches: the same bits from any worker and after any stop, labels and masks that never lie."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from factory import make_dataset
from medgraft import store
from medgraft.data.batch import Batch, collate, to_device
from medgraft.data.dataset import CaseDataset, TargetSpec
from medgraft.data.loader import eval_batches, plan_memory, train_batches
from medgraft.data.select import Rules, select
from medgraft.data.windows import DenseJoin, WindowSpec, join_scores
from medgraft.datasets import Dataset
from medgraft.errors import UserError

FINDING = TargetSpec("finding", "binary", ("class0", "class1"), "class1")


def same(a: Batch, b: Batch) -> bool:
    """Bit equality of two batches; NaN equals NaN."""
    return a.keys() == b.keys() and all(np.array_equal(a[k].numpy(), b[k].numpy(), equal_nan=k == "y") for k in a)  # type: ignore[literal-required]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(
        tmp_path_factory.mktemp("video"),
        "video",
        cases=7,
        masks=True,
        structures=2,
        traced="ends",
        vary_length=True,
        missing=0.3,
    )


def clips(dataset: Dataset, **changes: Any) -> CaseDataset:
    options: dict[str, Any] = {
        "window": WindowSpec("uniform", 4, 24),
        "augment": "ultrasound",
        "targets": [FINDING],
        "dense": True,
    }
    return CaseDataset(dataset, range(dataset.manifest.height), **(options | changes))


def test_number_of_workers_changes_no_bit_and_resume_is_a_first_step(video: Dataset) -> None:
    alone = list(train_batches(clips(video), seed=3, steps=6, batch_size=3))
    assert [step for step, _ in alone] == list(range(6))
    assert alone[0][1]["x"].shape == (3, 1, 4, 24, 24) and alone[0][1]["mask"].shape == (3, 2, 4, 24, 24)
    before = torch.get_rng_state()
    two = list(train_batches(clips(video), seed=3, steps=6, batch_size=3, workers=2))
    assert torch.equal(before, torch.get_rng_state())  # dropout's generator is left alone
    resumed = list(train_batches(clips(video), seed=3, first_step=4, steps=2, batch_size=3, workers=1))
    assert all(s == t and same(a, b) for (s, a), (t, b) in zip(alone, two, strict=True))
    assert all(s == t and same(a, b) for (s, a), (t, b) in zip(alone[4:], resumed, strict=True))
    other = next(train_batches(clips(video), seed=4, steps=1, batch_size=3))[1]
    assert not same(alone[0][1], other)


def test_spawned_workers_give_the_same_bits(video: Dataset) -> None:
    alone = list(train_batches(clips(video), seed=3, steps=2, batch_size=2))
    spawned = list(train_batches(clips(video), seed=3, steps=2, batch_size=2, workers=1, context="spawn"))
    assert all(same(a, b) for (_, a), (_, b) in zip(alone, spawned, strict=True))
    assert len(pickle.dumps(clips(video))) < 10_000  # no tables, no arrays


def test_batches_are_full_and_every_epoch_sees_every_case(video: Dataset) -> None:
    seen = [int(c) for _, batch in train_batches(clips(video), seed=0, steps=14, batch_size=3) for c in batch["case"]]
    assert len(seen) == 42
    assert all(sorted(seen[i : i + 7]) == list(range(7)) for i in range(0, 42, 7))


def test_the_same_case_looks_different_in_every_sample(video: Dataset) -> None:
    still = CaseDataset(video, [1], window=WindowSpec("centre", 4, 24), augment="ultrasound")
    views = [
        x.numpy().tobytes() for _, batch in train_batches(still, seed=0, steps=3, batch_size=3) for x in batch["x"]
    ]
    assert len(set(views)) == 9


def test_balanced_batches_hold_both_classes_equally(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "image", cases=9, classes=2)
    rare = CaseDataset(dataset, [0, 2, 4, 6, 8, 1], window=WindowSpec("uniform", 1, 16), targets=[FINDING])
    for _, batch in train_batches(rare, seed=0, steps=5, batch_size=4, balanced=True):
        assert batch["y"].sum() == 2
    with pytest.raises(UserError, match="balanced"):
        CaseDataset(dataset, [0], window=WindowSpec()).train_batch(0, 0, 2, balanced=True)


def test_labels_become_numbers_and_missing_ones_stay_missing(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "image", cases=12, classes=3, missing=0.3, regress=True, multilabel=True)
    targets = [
        TargetSpec("finding", "classes", ("class2", "class0", "class1")),
        TargetSpec("finding", "binary", ("class0", "class1", "class2"), "class0"),
        TargetSpec("size", "regress"),
        TargetSpec("a", "binary", ("0", "1")),
    ]
    rows = [5, 3, 4, 11, 0]
    labels = CaseDataset(dataset, rows, window=WindowSpec(size=8), targets=targets).labels()
    for got, row in zip(labels, dataset.manifest[rows].iter_rows(named=True), strict=True):
        text = row["label.finding"]
        expected = (
            [np.nan, np.nan] if text is None else [("class2", "class0", "class1").index(text), float(text == "class0")]
        )
        np.testing.assert_array_equal(got, np.array([*expected, row["label.size"], float(row["label.a"])], np.float32))
    assert np.isnan(labels).any()
    with pytest.raises(UserError, match=r"c00\d.*class2.*not one of"):
        CaseDataset(dataset, range(12), window=WindowSpec(), targets=[FINDING])
    with pytest.raises(UserError, match="no such label"):
        CaseDataset(dataset, [0], window=WindowSpec(), targets=[TargetSpec("findings", "regress")])


def test_untraced_frames_and_cases_are_ignored_and_never_background(video: Dataset) -> None:
    manifest = video.manifest.with_columns(
        mask_id=pl.when(pl.col("case_id") == "c002").then(None).otherwise(pl.col("mask_id"))
    )
    dataset = clips(replace(video, manifest=manifest), augment="none", window=WindowSpec("all", 4, 32))
    traced = 0
    for _, batch in eval_batches(dataset, 5):
        for case, start, mask in zip(batch["case"].tolist(), batch["start"].tolist(), batch["mask"]):
            depth = manifest["shape"][case][1]
            for place in range(4):
                frame = (start[0] + place) % depth
                if case != 2 and frame in (0, depth - 1):
                    assert set(mask[:, place].unique().tolist()) == {0, 1}
                    traced += 1
                else:
                    assert (mask[:, place] == 255).all()
    assert traced == 12


def test_marked_windows_show_each_tracing_with_its_own_frame(video: Dataset) -> None:
    dataset = clips(video, augment="none", window=WindowSpec("marked", 1, 32))
    windows = dataset.eval_windows()
    assert len(windows) == 14
    batch = dataset.batch(windows)
    for window, x, mask in zip(windows, batch["x"], batch["mask"]):
        line = video.manifest.row(window.case, named=True)
        np.testing.assert_array_equal(x[:, 0], store.open_array(video.root, line["array_id"])[:, window.frames[0]])
        index = video.frames.filter((pl.col("array_id") == line["array_id"]) & (pl.col("frame") == window.frames[0]))[
            "mask_index"
        ][0]
        np.testing.assert_array_equal(mask[:, 0], store.open_mask(video.root, line["mask_id"])[index])
    for _, trained in train_batches(clips(video, window=WindowSpec("marked", 1, 32)), seed=0, steps=5, batch_size=4):
        assert ((trained["mask"] != 255).flatten(1).float().mean(1) > 0.5).all()
    with pytest.raises(UserError, match=r"c002.*no marked frame"):
        manifest = video.manifest.with_columns(
            mask_id=pl.when(pl.col("case_id") == "c002").then(None).otherwise(pl.col("mask_id"))
        )
        list(
            train_batches(
                clips(replace(video, manifest=manifest), window=WindowSpec("marked", 1, 32)),
                seed=0,
                steps=5,
                batch_size=4,
            )
        )


def test_value_range_says_what_is_black_and_white(tmp_path: Path) -> None:
    for unit in ("display", "raw", "HU"):
        dataset = make_dataset(tmp_path / unit, "image", cases=2, unit=unit)
        batch = CaseDataset(dataset, [0, 1], window=WindowSpec(size=32), hu_window=(-150, 250)).train_batch(0, 0, 2)
        stored = dataset.manifest.select("p005", "p995").rows()
        expected = {
            "display": [(0, 255)] * 2,
            "HU": [(-150, 250)] * 2,
            "raw": [stored[c] for c in batch["case"].tolist()],
        }[unit]
        np.testing.assert_allclose(batch["value_range"], np.array(expected, np.float32))
        assert batch["x"].dtype == {"display": torch.uint8, "raw": torch.uint16, "HU": torch.int16}[unit]
    wide = make_dataset(tmp_path / "wide", "image", cases=1, unit="raw")
    manifest = wide.manifest.with_columns(value_unit=pl.lit("display"))
    assert CaseDataset(replace(wide, manifest=manifest), [0], window=WindowSpec()).train_batch(0, 0, 1)[
        "value_range"
    ].tolist() == [[0, 65535]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_array_stops_the_run_and_is_named(tmp_path: Path, workers: int) -> None:
    dataset = make_dataset(tmp_path, "image", cases=4)
    cases = CaseDataset(dataset, range(4), window=WindowSpec(size=16))
    store.close_all()
    path = store.path_of(tmp_path, dataset.manifest["array_id"][2])
    content = path.read_bytes()
    for broken, message in (
        (content[:200], "c002: stored array cannot be read"),
        (None, "c002: stored array is missing"),
    ):
        path.write_bytes(broken) if broken else path.unlink()
        with pytest.raises(UserError, match=message) as caught:
            list(train_batches(cases, seed=0, steps=2, batch_size=4, workers=workers))
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    manifest = dataset.manifest.with_columns(
        array_id=pl.lit(dataset.manifest["array_id"][0]), shape=pl.lit([1, 1, 8, 8])
    )
    with pytest.raises(UserError, match="c001: stored array has shape"):
        CaseDataset(replace(dataset, manifest=manifest), [1], window=WindowSpec()).train_batch(0, 0, 1)


def test_a_case_is_a_view_of_an_array(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "volume", cases=1, masks=True)
    view = {"view_center": [6.0, 5.0, 8.0], "view_size": [4.0, 6.0, 8.0]}
    manifest = dataset.manifest.with_columns(**{name: pl.Series([value]) for name, value in view.items()})
    cases = CaseDataset(replace(dataset, manifest=manifest), [0], window=WindowSpec("slices", 1, (6, 8)), dense=True)
    windows = cases.eval_windows()
    assert [w.start for w in windows] == [(d, 2, 4) for d in range(4, 8)]
    array = store.open_array(tmp_path, manifest["array_id"][0])
    np.testing.assert_array_equal(cases.batch(windows)["x"][:, 0, 0], array[0, 4:8, 2:8, 4:12])
    mask = store.open_mask(tmp_path, manifest["mask_id"][0])
    np.testing.assert_array_equal(cases.batch(windows)["mask"][:, 0, 0], mask[4:8, 0, 2:8, 4:12])
    oblique = manifest.with_columns(view_direction=pl.Series([[0.0, 1, 0, 1, 0, 0, 0, 0, 1]]))
    with pytest.raises(UserError, match="c000: oblique"):
        CaseDataset(replace(dataset, manifest=oblique), [0], window=WindowSpec())


def test_cubes_of_every_case_join_to_the_stored_volume_and_mask(tmp_path: Path) -> None:
    dataset = make_dataset(
        tmp_path, "volume", cases=3, masks=True, structures=2, vary_length=True, shape=(1, 7, 13, 18)
    )
    cases = CaseDataset(dataset, [2, 0, 1], window=WindowSpec("cubes", 6, (16, 8), overlap=0.3), dense=True)
    joins = {row: (DenseJoin((1, *cases.grid(row))), DenseJoin((2, *cases.grid(row)))) for row in range(3)}
    windows, at = cases.eval_windows(), 0
    assert [w.case for w in windows] == sorted((w.case for w in windows), key=[2, 0, 1].index)
    for _, batch in eval_batches(cases, 4):
        for x, mask, row, index in zip(batch["x"], batch["mask"], batch["case"].tolist(), batch["window"].tolist()):
            assert (windows[at].case, windows[at].index) == (row, index)
            joins[row][0].add(windows[at], x.numpy())
            joins[row][1].add(windows[at], mask.numpy())
            at += 1
    assert at == len(windows)
    for row, (image, labels) in joins.items():
        line = dataset.manifest.row(row, named=True)
        np.testing.assert_array_equal(image.result(), store.open_array(tmp_path, line["array_id"]))
        np.testing.assert_array_equal(labels.result(), store.open_mask(tmp_path, line["mask_id"]).swapaxes(0, 1))


def test_scores_of_windows_join_to_their_cases(video: Dataset) -> None:
    dataset = clips(video, window=WindowSpec("all", 2, 8), augment="none")
    parts = [
        (b["x"].float().mean((1, 2, 3, 4)).numpy(), b["case"].numpy()) for _, b in eval_batches(dataset, 3, workers=1)
    ]
    rows, means = join_scores(*(np.concatenate(p) for p in zip(*parts)))
    assert rows.tolist() == list(range(7))
    pairs = [(i, j) for i in range(video.manifest["shape"][3][1] - 1) for j in (i, i + 1)]
    array = store.open_array(video.root, video.manifest["array_id"][3])
    assert abs(means[3] - np.mean([array[0, j].mean() for _, j in pairs])) < 1.0


def test_selected_frames_are_the_only_ones_seen(video: Dataset) -> None:
    kept = select(video.frames, "train", 5, Rules(max_per_second=4))
    dataset = clips(video, window=WindowSpec("uniform", 3, 8), augment="none", kept=kept)
    for window in dataset.eval_windows():
        assert set(window.frames) <= set(kept[video.manifest["array_id"][window.case]].tolist())
    traced = clips(video, window=WindowSpec("marked", 1, 8), augment="none", kept={a: np.arange(1, 3) for a in kept})
    assert traced.eval_windows() == []


def test_frame_rate_cap_keeps_what_it_says_for_each_array_alone() -> None:
    times = np.concatenate([np.linspace(0, 0.99, 20), np.linspace(1, 1.9, 3), np.linspace(5, 5.99, 9)])
    frames = pl.DataFrame({"array_id": ["a"] * 32 + ["b"] * 32, "frame": [*range(32)] * 2, "time_s": [*times] * 2})
    kept = select(frames, "train", 1, Rules(max_per_second=7))
    for index in kept.values():
        assert np.all(np.diff(index) > 0)
        assert np.bincount(np.floor(times[index]).astype(int)).tolist() == [7, 3, 0, 0, 0, 7]
    assert kept["a"].tolist() != kept["b"].tolist()
    alone = select(frames.filter(pl.col("array_id") == "b").reverse(), "train", 1, Rules(max_per_second=7))
    assert alone["b"].tolist() == kept["b"].tolist()
    assert select(frames, "train", 2, Rules(max_per_second=7))["a"].tolist() != kept["a"].tolist()
    for role, rules in (("test", Rules(max_per_second=7)), ("train", Rules())):
        assert select(frames, role, 1, rules)["a"].tolist() == list(range(32))
    with pytest.raises(UserError, match="no times"):
        select(frames.with_columns(time_s=pl.lit(None, pl.Float64)), "train", 1, Rules(max_per_second=7))


def test_collating_keeps_types_and_refuses_different_shapes(video: Dataset) -> None:
    dataset = clips(video, augment="none")
    sample: Any = {k: v[0] for k, v in dataset.train_batch(0, 0, 1).items()} | {"start": (0, 0, 0)}  # type: ignore[attr-defined]
    mixed = collate([sample, sample | {"x": sample["x"].to(torch.int16)}])
    assert mixed["x"].dtype == torch.float32 and torch.equal(mixed["x"][0], mixed["x"][1])
    with pytest.raises(UserError, match="different shapes"):
        collate([sample, sample | {"x": sample["x"][:, :2]}])
    batch = collate([sample])
    assert to_device(batch, "cpu") is batch
    assert to_device(batch, "meta")["x"].shape == batch["x"].shape


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's memory maps")
def test_pages_that_were_read_are_handed_back(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, "video", cases=3, shape=(1, 60, 64, 64))

    def resident() -> int:
        total, counting = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split(" ")[0]:
                counting = str(tmp_path) in line
            total += int(line.split()[1]) if counting and line.startswith("Rss:") else 0
        return total

    store.open_array(tmp_path, dataset.manifest["array_id"][0]).sum()
    assert resident() > 0
    CaseDataset(dataset, range(3), window=WindowSpec("uniform", 30, 64)).train_batch(0, 0, 3)
    assert resident() == 0


def test_time_spent_waiting_is_told(video: Dataset) -> None:
    loading = train_batches(clips(video), seed=0, steps=4, batch_size=2)
    assert loading.waiting_share == 0
    for _ in loading:
        time.sleep(0.05)
    assert 0 < loading.waiting_share < 0.6 and loading.elapsed >= 0.2
    for _ in (hurried := train_batches(clips(video), seed=0, steps=4, batch_size=2)):
        pass
    assert hurried.waiting_share > loading.waiting_share


def test_memory_plan_follows_the_budget_and_refuses_the_impossible(video: Dataset) -> None:
    dataset = clips(video, window=WindowSpec("uniform", 8, 256), dense=False)
    roomy, tight = (
        plan_memory(dataset, 4, 16, cores=9, context="fork"),
        plan_memory(dataset, 4, 1, cores=9, context="fork"),
    )
    batch = dataset.train_batch(0, 0, 4)
    assert roomy.bytes_per_batch == sum(v.numel() * v.element_size() for v in batch.values())  # type: ignore[attr-defined]
    assert roomy.workers == 8 and roomy.prefetch == 4 and "8 workers" in roomy.text
    assert 0 < tight.workers < 8 and roomy.block > tight.block >= 4  # eight workers alone take more than 1 GB
    assert plan_memory(dataset, 4, 1, cores=9, context="spawn").workers == 2
    assert plan_memory(dataset, 4, 0.1, cores=3).workers == 0
    with pytest.raises(UserError, match="lower batch_size to"):
        plan_memory(dataset, 1000, 0.5, cores=3)
    # One batch counts five times over: in use, thrice in the making, and its values once more as float32 (four bytes).
    each = sum(v.numel() * v.element_size() for v in dataset.train_batch(0, 0, 1).values())  # type: ignore[attr-defined]
    alone = 4 * (4 * each + 4 * batch["x"][0].numel()) / 2**30
    assert plan_memory(dataset, 4, alone * 1.001, cores=1).block == 4
    with pytest.raises(UserError, match="lower batch_size to 3"):
        plan_memory(dataset, 4, alone * 0.999, cores=1)


def test_no_case_is_an_error(video: Dataset) -> None:
    with pytest.raises(UserError, match="no case"):
        CaseDataset(video, [], window=WindowSpec())
