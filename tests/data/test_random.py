"""Counter-based draws: a function of (seed, purpose, counters) and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.data.random import balanced_index, generator, stream_index, torch_seed


def test_stream_is_a_permutation_in_every_epoch_and_needs_no_history() -> None:
    forward = [stream_index(7, n, 13) for n in range(13 * 5)]
    epochs = [tuple(forward[i : i + 13]) for i in range(0, len(forward), 13)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len(set(epochs)) == 5
    # Asked backwards and from the middle, the stream is the same: nothing depends on the order of asking.
    assert [stream_index(7, n, 13) for n in reversed(range(13 * 5))] == forward[::-1]
    assert forward != [stream_index(8, n, 13) for n in range(13 * 5)]


def test_generators_differ_by_every_argument_and_repeat_exactly() -> None:
    keys = [
        (0, "window", 1, 2),
        (1, "window", 1, 2),
        (0, "augment", 1, 2),
        (0, "window", 2, 1),
        (0, "window", 1, 3),
        (0, "window", 1),
    ]
    draws = [tuple(generator(*key).random(4)) for key in keys]
    assert len(set(draws)) == len(draws)
    assert draws == [tuple(generator(*key).random(4)) for key in keys]
    # Neighbouring counters stay apart however much is drawn: no number of one long stream opens the next.
    long = generator(0, "window", 1, 2).integers(1 << 62, size=20_000)
    assert int(generator(0, "window", 1, 3).integers(1 << 62)) not in set(long.tolist())
    with pytest.raises(ValueError, match="at most three"):
        generator(0, "window", 1, 2, 3, 4)


def test_draws_are_uniform_across_counters() -> None:
    first = np.array([generator(3, "window", step, j).random() for step in range(100) for j in range(20)])
    counts = np.histogram(first, 10, (0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi square, 9 degrees of freedom, p = .001


def test_torch_seeds_differ_and_fit() -> None:
    seeds = {torch_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000 and all(0 <= s < 1 << 63 for s in seeds)


def test_balanced_stream_gives_every_class_its_turn() -> None:
    groups = [[10, 11, 12], [20], [], [30, 31]]
    stream = [balanced_index(5, n, groups) for n in range(3 * 60)]
    for turn in range(60):
        assert {s // 10 for s in stream[3 * turn : 3 * turn + 3]} == {1, 2, 3}
    tens = [s for s in stream if s // 10 == 1]
    assert all(sorted(tens[i : i + 3]) == [10, 11, 12] for i in range(0, 60, 3))
    assert len({tuple(s // 10 for s in stream[i : i + 3]) for i in range(0, 180, 3)}) > 1  # the order of classes varies
    with pytest.raises(ValueError, match="members"):
        balanced_index(0, 0, [[], []])
