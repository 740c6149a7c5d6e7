"""Samplers by the letter of their rows, cutting and joining."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.data.windows import DenseJoin, Window, WindowSpec, draw_window, eval_windows, join_scores, join_votes
from medgraft.errors import UserError

depths, lengths, seeds = st.integers(2, 400), st.integers(1, 64), st.integers(0, 2**32 - 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60)
@given(depths, lengths, seeds)
def test_uniform_takes_the_same_relative_place_in_every_segment(depth: int, length: int, seed: int) -> None:
    window = draw_window(WindowSpec("uniform", length, 8), (1, depth, 8, 8), rng(seed))
    # Row S01 in exact arithmetic, from the one random number that a clip may use.
    segment = Fraction(depth, length)
    place = Fraction(rng(seed).random()) * depth
    r = (place % segment) / segment
    exact = [(j + r) * segment for j in range(length)]
    for frame, real in zip(window.frames, exact):
        near = abs(real - round(real)) < Fraction(1, 10**9)  # float64 may fall on either side of a whole number
        assert frame == int(real) or (near and abs(frame - real) < 1)
    assert len(window.frames) == length and max(window.frames) < depth


@settings(deadline=None, max_examples=60)
@given(depths, lengths, seeds)
def test_tsn_takes_an_independent_place_in_every_segment(depth: int, length: int, seed: int) -> None:
    window = draw_window(WindowSpec("tsn", length, 8), (1, depth, 8, 8), rng(seed))
    for j, frame in enumerate(window.frames):
        assert int(Fraction(j * depth, length)) <= frame < Fraction((j + 1) * depth, length)


def test_tsn_and_uniform_are_different_samplers() -> None:
    def gaps(kind: str) -> set[int]:
        spec = WindowSpec(kind, 8, 8)  # type: ignore[arg-type]
        return {int(g) for seed in range(50) for g in np.diff(draw_window(spec, (1, 160, 8, 8), rng(seed)).frames)}

    assert gaps("uniform") == {20}
    assert len(gaps("tsn")) > 20


@settings(deadline=None, max_examples=60)
@given(depths, lengths)
def test_centre_clip_is_the_segment_centres(depth: int, length: int) -> None:
    expected = tuple(int((j + Fraction(1, 2)) * Fraction(depth, length)) for j in range(length))
    for kind in ("centre", "uniform", "tsn"):
        assert [w.frames for w in eval_windows(WindowSpec(kind, length, 8), (1, depth, 8, 8))] == [expected]  # type: ignore[arg-type]
    assert draw_window(WindowSpec("centre", length, 8), (1, depth, 8, 8), rng()).frames == expected


def test_dense_follows_the_64_frame_convention() -> None:
    spec, shape = WindowSpec("dense", 8, 8, stride=8), (1, 100, 8, 8)
    seen = {draw_window(spec, shape, rng(seed)).frames for seed in range(800)}
    assert {frames[0] for frames in seen} == set(range(100 - 64 + 1))  # every start 0 .. F - 64, the last one too
    assert all(np.array_equal(np.diff(frames), [8] * 7) for frames in seen)
    for depth in (64, 40):
        frames = draw_window(spec, (1, depth, 8, 8), rng(3)).frames
        assert frames == tuple(8 * j % depth for j in range(8))  # start 0, wrapping where the video is short
    assert [w.frames[0] for w in eval_windows(WindowSpec("dense", 8, 8, stride=8, max_windows=3), shape)] == [6, 18, 30]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 80), st.integers(1, 12), st.integers(1, 4))
def test_all_gives_every_start_once(depth: int, length: int, stride: int) -> None:
    windows = eval_windows(WindowSpec("all", length, 8, stride=stride), (1, depth, 8, 8))
    span = (length - 1) * stride
    assert [w.frames[0] for w in windows] == list(range(max(1, depth - span)))
    assert [w.index for w in windows] == list(range(len(windows)))
    if depth > span:
        assert windows[-1].frames[-1] == depth - 1


@settings(deadline=None, max_examples=60)
@given(depths, lengths)
def test_uniform_views_are_never_the_same_clip(depth: int, length: int) -> None:
    for wanted in (1, 3, 1000):
        clips = [w.frames for w in eval_windows(WindowSpec("uniform", length, 8, max_windows=wanted), (1, depth, 8, 8))]
        assert len(set(clips)) == len(clips) == min(wanted, max(1, depth // length))
        assert all(list(c) == sorted(c) and c[0] >= 0 and c[-1] < depth for c in clips)


def test_views_as_many_as_there_are_clips_start_once_at_every_offset() -> None:
    clips = [w.frames for w in eval_windows(WindowSpec("uniform", 8, 8, max_windows=300), (1, 100, 8, 8))]
    assert clips == [tuple(int(j * 12.5 + offset) for j in range(8)) for offset in range(12)]


def test_a_single_image_is_any_frame() -> None:
    for kind in ("uniform", "tsn"):
        drawn = [draw_window(WindowSpec(kind, 1, 8), (1, 20, 8, 8), rng(seed)).frames for seed in range(2000)]  # type: ignore[arg-type]
        counts = np.bincount(np.ravel(drawn), minlength=20)
        assert (
            counts.sum() == 2000 and len(counts) == 20 and counts.min() > 60 and counts.max() < 145
        )  # 100 each, 4 standard deviations


def test_marked_windows_hold_traced_frames_in_the_middle() -> None:
    spec, shape, traced = WindowSpec("marked", 5, 8, stride=2), (1, 30, 8, 8), [3, 29]
    assert [w.frames for w in eval_windows(spec, shape, traced)] == [(0, 1, 3, 5, 7), (25, 27, 29, 29, 29)]
    assert {draw_window(spec, shape, rng(s), traced).frames[2] for s in range(40)} == {3, 29}
    assert eval_windows(spec, shape, []) == []
    with pytest.raises(UserError, match="no marked frame"):
        draw_window(spec, shape, rng(), [])


def test_slices_go_through_a_volume() -> None:
    spec = WindowSpec("slices", 3, 8)
    assert [w.frames for w in eval_windows(spec, (1, 4, 8, 8))] == [(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)]
    assert [w.frames[1] for w in eval_windows(WindowSpec("slices", 3, 8, max_windows=2), (1, 8, 8, 8))] == [2, 6]


@pytest.mark.parametrize("kind", ["uniform", "tsn", "dense", "centre", "all", "slices", "cubes", "whole", "marked"])
def test_one_frame_is_one_frame_for_every_kind(kind: str) -> None:
    spec = WindowSpec(kind, 8, 16, stride=2)  # type: ignore[arg-type]
    for window in (draw_window(spec, (1, 1, 16, 16), rng()), *eval_windows(spec, (1, 1, 16, 16))):
        assert window.frames == (0,) and window.size == (1, 16, 16)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(2, 8), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(2, 9), st.integers(2, 7), st.integers(2, 7)),
    st.floats(0, 0.8),
    seeds,
)
def test_cubes_cover_and_join_to_the_field_they_were_cut_from(
    grid: tuple[int, int, int], block: tuple[int, int, int], overlap: float, seed: int
) -> None:
    spec = WindowSpec("cubes", block[0], block[1:], overlap=overlap)
    field = rng(seed).normal(size=(2, *grid)).astype(np.float32)
    join = DenseJoin(field.shape)
    for window in eval_windows(spec, (1, *grid)):
        assert window.size == block
        padded = np.full((2, *block), 1e6, np.float32)  # what lies outside must not reach the result
        for place, d in enumerate(window.frames):
            for h in range(block[1]):
                for w in range(block[2]):
                    y, x = window.box[0] + h, window.box[1] + w
                    if 0 <= d < grid[0] and 0 <= y < grid[1] and 0 <= x < grid[2]:
                        padded[:, place, h, w] = field[:, d, y, x]
        join.add(window, padded)
    assert join.covered.all()
    np.testing.assert_array_equal(join.result(), field)


def test_neighbouring_cubes_share_what_was_asked_for() -> None:
    starts = sorted({w.box[0] for w in eval_windows(WindowSpec("cubes", 1, (10, 8), overlap=0.5), (1, 2, 37, 8))})
    assert starts[0] == 0 and starts[-1] == 27
    assert max(np.diff(starts)) <= 5


def test_random_cubes_reach_every_corner_and_stay_inside() -> None:
    spec = WindowSpec("cubes", 3, (4, 5))
    corners = np.array([draw_window(spec, (1, 6, 7, 8), rng(s)).start for s in range(600)])
    assert corners.min(0).tolist() == [0, 0, 0] and corners.max(0).tolist() == [3, 3, 3]


def test_dense_join_weighs_the_middle_of_a_window_more() -> None:
    join = DenseJoin((1, 1, 1, 12))
    left = Window(0, (0,), (0, 0, 1, 8), (1, 1, 8))
    right = Window(0, (0,), (0, 4, 1, 8), (1, 1, 8))
    join.add(left, np.zeros((1, 1, 1, 8), np.float32))
    join.add(right, np.ones((1, 1, 1, 8), np.float32))
    out = join.result()[0, 0, 0]
    gauss = np.exp(-0.5 * (np.arange(8) - 3.5) ** 2)  # standard deviation = an eighth of 8
    expected = [gauss[i - 4] / (gauss[i - 4] + gauss[i]) for i in range(4, 8)]
    np.testing.assert_allclose(out[4:8], expected, atol=2e-3)
    assert (out[:4] == 0).all() and (out[8:] == 1).all()


def test_dense_join_brings_resized_windows_back_to_the_case() -> None:
    ramp = np.linspace(0, 1, 32, dtype=np.float32)
    join = DenseJoin((1, 4, 16, 64))
    join.add(Window(0, (0, 2), (0, 0, 16, 64), (2, 8, 32)), np.broadcast_to(ramp, (1, 2, 8, 32)))
    out = join.result()
    assert np.isnan(out[:, [1, 3]]).all() and not join.covered[1].any()
    centres = np.clip((np.arange(64) + 0.5) / 2 - 0.5, 0, 31)  # of the fine pixels, in coarse ones
    np.testing.assert_allclose(out[0, 2, 5], centres / 31, atol=1e-5)
    join = DenseJoin((1, 5, 2, 2))  # depth as well, as kind whole needs it
    join.add(eval_windows(WindowSpec("whole", 3, 2), (1, 5, 2, 2))[0], np.full((1, 3, 2, 2), 0.1, np.float32))
    assert (join.result() == np.float32(0.1)).all()


def test_join_scores_is_the_mean_of_each_case() -> None:
    scores = np.array([[0.0, 1], [0.5, 0.5], [1, 0], [0.25, 0.75]])
    cases, means = join_scores(scores, np.array([9, 2, 9, 2]))
    assert cases.tolist() == [9, 2]
    np.testing.assert_allclose(means, [[0.5, 0.5], [0.375, 0.625]])


@pytest.mark.parametrize(
    "bad", [{"kind": "cube"}, {"length": 0}, {"size": (0, 4)}, {"overlap": 1.0}, {"max_windows": 0}, {"stride": 0}]
)
def test_impossible_specs_are_refused(bad: dict) -> None:
    with pytest.raises(UserError):
        WindowSpec(**bad)


def test_a_case_of_500_images_needs_more_than_250_votes() -> None:
    scores = np.r_[np.full(250, 0.51), np.full(250, 0.1), np.full(251, 0.51), np.full(249, 0.5)]
    cases, yes, windows = join_votes(scores, np.repeat([7, 3], 500))
    assert cases.tolist() == [7, 3] and yes.tolist() == [250, 251] and windows.tolist() == [500, 500]
    assert (yes / windows > 0.5).tolist() == [False, True]
    spec = WindowSpec("uniform", length=1, max_windows=500, join="vote")
    chosen = [w.frames[0] for w in eval_windows(spec, (1, 690, 8, 8))]
    assert (
        len(chosen) == 500 == len(set(chosen)) and min(chosen) == 0 and max(chosen) == 689
    )  # spread over the video, none twice


def test_one_window_may_hold_every_mark_of_a_case() -> None:
    spec, shape = WindowSpec("marked", 1, 8, together=True), (1, 30, 8, 8)
    both = eval_windows(spec, shape, [3, 29])
    assert [w.frames for w in both] == [(3, 29)] and both[0].size == (2, 8, 8)
    assert draw_window(spec, shape, np.random.default_rng(0), [3, 29]).frames == (3, 29)
    apart = eval_windows(replace(spec, together=False), shape, [3, 29])
    assert [w.frames for w in apart] == [(3,), (29,)]
    assert eval_windows(spec, shape, []) == []
