"""Windows: what part of a case a network sees. The cutter and the joiner are neighbours.

A window names frames (or slices), a box in array pixels and the side lengths it is resized to. All
windows of one ``WindowSpec`` have one size, whatever the case's length.

Short videos: the segment kinds (``uniform``, ``tsn``, ``centre``) repeat frames in order, ``dense``
and ``all`` wrap to the first frame, ``slices`` and ``marked`` repeat the first or last frame.
Only ``cubes`` reach beyond an array that is smaller than the block; what lies outside is the black of
the value range and is ignored in masks. Nothing is padded after normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medgraft.errors import UserError

Join = Literal["mean", "vote"]
Kind = Literal["uniform", "tsn", "dense", "centre", "all", "slices", "cubes", "whole", "marked"]
KINDS: tuple[str, ...] = ("uniform", "tsn", "dense", "centre", "all", "slices", "cubes", "whole", "marked")


@dataclass(frozen=True)
class WindowSpec:
    """How windows are cut from a case.

    ``length`` is the depth D and ``size`` the height and width of what the network receives.

    kind      training                                              evaluation
    uniform   one frame a segment, the same relative place (S01)    segment centres; ``max_windows`` = n: n even offsets
    tsn       one frame a segment, independent places (S02)         as ``uniform``
    dense     ``length`` frames ``stride`` apart, random start (S03) centre start; ``max_windows`` = n: n even starts
    centre    segment centres (S04)                                 the same
    all       as ``dense``, any start whose last frame exists       every start
    slices    ``length`` slices about a random one                  about every slice
    cubes     a (length, size) block of voxels, not resized         a grid with ``overlap`` that covers every voxel
    whole     everything, depth resampled to ``length``             the same
    marked    ``length`` frames about a random marked one           about every marked one; with ``together``, in both,
              one window that holds the frames about every mark of the case, in order

    ``stride``: frames between neighbours (dense, all, slices, marked). ``overlap``: share of a cube
    that neighbours have in common. ``max_windows`` caps the evaluation windows of a case, evenly
    spread; it does not touch ``cubes`` and ``marked``, where each window counts. ``join`` says how the
    windows of a case become one answer: ``mean`` (``join_scores``), or ``vote`` besides (``join_votes``).
    ``foreground``: share of the training windows that are drawn about a voxel of a structure (cubes, slices, marked;
    0 = none, everywhere else it has no meaning).
    ``spacing``: mm (d, h, w) of the voxels that cubes are cut from (``data.spacing``); None: those that are stored.
    """

    kind: Kind = "uniform"
    length: int = 1
    size: int | tuple[int, int] = 224
    stride: int = 1
    overlap: float = 0.5
    max_windows: int | None = None
    join: Join = "mean"
    together: bool = False
    foreground: float = 0.0
    spacing: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"window kind {self.kind!r} is unknown", fix=f"use one of {', '.join(KINDS)}")
        if self.length < 1 or self.stride < 1 or min(self.sides) < 1:
            raise UserError(
                f"window length, size and stride must be at least 1, not {self.length}, {self.size}, {self.stride}"
            )
        if not 0 <= self.overlap < 1:
            raise UserError(f"window overlap must lie in 0 .. 1 (1 excluded), not {self.overlap}")
        if self.max_windows is not None and self.max_windows < 1:
            raise UserError(f"max_windows must be at least 1, not {self.max_windows}")
        if not 0 <= self.foreground <= 1:
            raise UserError(f"window foreground is a share, not {self.foreground}")
        if self.spacing is not None and self.kind != "cubes":
            raise UserError(
                f"windows of kind {self.kind} are brought to their size whatever the spacing",
                fix="leave out window.spacing, or cut window.kind=cubes",
            )
        if self.join not in ("mean", "vote"):
            raise UserError(f"windows cannot be joined by {self.join!r}", fix="use mean or vote")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the output."""
        return (self.size, self.size) if isinstance(self.size, int) else (int(self.size[0]), int(self.size[1]))


@dataclass(frozen=True)
class Window:
    """One cut: ``case`` (row of the manifest), ``frames`` (array indices), ``box`` (top, left, height,
    width in array pixels), ``size`` (D, H, W it is resampled to), ``index`` (number among the case's
    evaluation windows; -1 for a random one). With ``WindowSpec.spacing`` indices and pixels are those of the grid at
    that spacing.

    ``frames`` has ``size[0]`` entries but for kind ``whole``, whose depth is resampled. Indices and
    boxes may reach beyond the array (cubes of a small case).
    """

    case: int
    frames: tuple[int, ...]
    box: tuple[int, int, int, int]
    size: tuple[int, int, int]
    index: int = -1

    @property
    def start(self) -> tuple[int, int, int]:
        """First frame, top and left in the array."""
        return self.frames[0], self.box[0], self.box[1]


def draw_window(
    spec: WindowSpec,
    shape: Sequence[int],
    rng: np.random.Generator,
    marks: Sequence[int] | None = None,
    *,
    case: int = -1,
    about: tuple[int, int, int] | None = None,
) -> Window:
    """A random window of an array of ``shape`` (C, D, H, W) for training.

    ``about`` (d, h, w) is a voxel that cubes and slices have in their middle, or as near to it as the array's edges
    allow; of marked windows it names the frame. ``marks`` lists the frames that a table names (traced ones, key frames;
    None: all are). Raises ``UserError`` when ``marked`` windows are asked of a case without one. An array with one
    frame gives that frame for every kind.
    """
    _, depth, height, width = shape
    box = (0, 0, height, width)
    if spec.kind == "cubes":
        sides = (min(spec.length, _one(depth, spec)), *spec.sides)
        if about is None:
            tops = [_random_start(rng, n, side) for n, side in zip((depth, height, width), sides)]
        else:
            tops = [_start_about(v, n, side) for v, n, side in zip(about, (depth, height, width), sides)]
        return _cube(spec, depth, (tops[0], tops[1], tops[2]), case, -1)
    if spec.kind == "marked":
        choices = range(depth) if marks is None else marks
        if not len(choices):
            raise UserError("the case has no marked frame", fix="leave it out or use another window kind")
        if spec.together:
            return replace(eval_windows(spec, shape, marks, case=case)[0], index=-1)
        if about is not None:
            return _clip(spec, _about(about[0], spec, depth), box, case, -1)
        return _clip(spec, _about(choices[int(rng.integers(len(choices)))], spec, depth), box, case, -1)
    if depth == 1:
        return _clip(spec, (0,), box, case, -1)
    if spec.kind == "uniform":
        segment = depth / spec.length
        offset = (rng.random() * depth) % segment
        frames = _at(np.arange(spec.length) * segment + offset, depth)
    elif spec.kind == "tsn":
        frames = _at((np.arange(spec.length) + rng.random(spec.length)) * (depth / spec.length), depth)
    elif spec.kind == "dense":
        frames = _run(int(rng.integers(_dense_starts(spec, depth))), spec, depth)
    elif spec.kind == "all":
        frames = _run(int(rng.integers(_all_starts(spec, depth))), spec, depth)
    elif spec.kind == "slices":
        frames = _about(int(rng.integers(depth)) if about is None else about[0], spec, depth)
    else:
        return eval_windows(spec, shape, marks, case=case)[0]
    return _clip(spec, frames, box, case, -1)


def eval_windows(
    spec: WindowSpec, shape: Sequence[int], marks: Sequence[int] | None = None, *, case: int = -1
) -> list[Window]:
    """The deterministic windows of an array of ``shape`` (C, D, H, W), numbered from 0.

    A case without marked frames has no ``marked`` windows: the list is empty.
    """
    _, depth, height, width = shape
    box = (0, 0, height, width)
    if spec.kind == "cubes":
        sides = (min(spec.length, _one(depth, spec)), *spec.sides)
        starts = [_grid(n, side, spec.overlap) for n, side in zip((depth, height, width), sides)]
        corners = [(d, h, w) for d in starts[0] for h in starts[1] for w in starts[2]]
        return [_cube(spec, depth, corner, case, index) for index, corner in enumerate(corners)]
    choices: Iterable[tuple[int, ...]]
    if spec.kind == "marked":
        choices = [_about(frame, spec, depth) for frame in (range(depth) if marks is None else marks)]
        if spec.together and choices:
            choices = [tuple(frame for about in choices for frame in about)]
    elif depth == 1:
        choices = [(0,)]
    elif spec.kind in ("uniform", "tsn"):
        choices = _uniform_views(spec, depth)
    elif spec.kind == "centre":
        choices = _uniform_views(replace(spec, max_windows=None), depth)
    elif spec.kind == "dense":
        choices = [_run(start, spec, depth) for start in _even(_dense_starts(spec, depth), spec.max_windows or 1)]
    elif spec.kind == "all":
        choices = [_run(start, spec, depth) for start in _even(_all_starts(spec, depth), spec.max_windows)]
    elif spec.kind == "slices":
        choices = [_about(frame, spec, depth) for frame in _even(depth, spec.max_windows)]
    else:  # whole
        choices = [tuple(range(depth))]
    return [_clip(spec, frames, box, case, index) for index, frames in enumerate(choices)]


def _clip(spec: WindowSpec, frames: tuple[int, ...], box: tuple[int, int, int, int], case: int, index: int) -> Window:
    depth = spec.length if spec.kind == "whole" and len(frames) > 1 else len(frames)
    return Window(case, frames, box, (depth, *spec.sides), index)


def _cube(spec: WindowSpec, depth: int, corner: tuple[int, int, int], case: int, index: int) -> Window:
    length = min(spec.length, _one(depth, spec))
    frames = tuple(range(corner[0], corner[0] + length))
    return Window(case, frames, (corner[1], corner[2], *spec.sides), (length, *spec.sides), index)


def _one(depth: int, spec: WindowSpec) -> int:
    """Depth of a cube: an image has one frame, whatever length is asked for."""
    return 1 if depth == 1 else spec.length


def _at(places: np.ndarray, depth: int) -> tuple[int, ...]:
    # The last place lies below depth on paper; rounding in float64 may reach it.
    return tuple(int(k) for k in np.minimum(np.floor(places).astype(np.int64), depth - 1))


def _uniform_views(spec: WindowSpec, depth: int) -> list[tuple[int, ...]]:
    """Segment clips at even offsets, in whole numbers: k_j = floor((j + r) F / T), r = (i + 1/2) / n.

    A video holds only about F / T different clips (at integer offsets 0 .. floor(F / T) - 1), so more
    than these are never made.
    """
    length, most = spec.length, max(1, depth // spec.length)
    wanted = spec.max_windows or 1
    if wanted >= most and most > 1:
        return [
            tuple(min((j * depth + offset * length) // length, depth - 1) for j in range(length))
            for offset in range(most)
        ]
    views = min(wanted, most)
    return [
        tuple(((2 * views * j + 2 * i + 1) * depth) // (2 * views * length) for j in range(length))
        for i in range(views)
    ]


def _dense_starts(spec: WindowSpec, depth: int) -> int:
    """Starts 0 ..

    F - length * stride (the Kinetics convention: a window of 64 frames has stride 64 / T); one when the video is short.
    """
    return max(1, depth - spec.length * spec.stride + 1)


def _all_starts(spec: WindowSpec, depth: int) -> int:
    """Every start whose last frame exists; one when the video is short."""
    return max(1, depth - (spec.length - 1) * spec.stride)


def _run(start: int, spec: WindowSpec, depth: int) -> tuple[int, ...]:
    return tuple((start + j * spec.stride) % depth for j in range(spec.length))


def _about(frame: int, spec: WindowSpec, depth: int) -> tuple[int, ...]:
    """``length`` frames with ``frame`` in the middle (place length // 2), held at the ends."""
    if depth == 1:
        return (0,)
    first = frame - (spec.length // 2) * spec.stride
    return tuple(min(max(first + j * spec.stride, 0), depth - 1) for j in range(spec.length))


def _even(count: int, wanted: int | None) -> list[int]:
    """``wanted`` of ``count`` positions, evenly spread about the middle; all when None or too many."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [((2 * i + 1) * count) // (2 * wanted) for i in range(wanted)]


def _random_start(rng: np.random.Generator, n: int, side: int) -> int:
    return int(rng.integers(n - side + 1)) if n > side else -((side - n) // 2)


def _start_about(place: int, n: int, side: int) -> int:
    """The start of a side with ``place`` in its middle that stays within 0 .. n; centred where the side is longer."""
    return min(max(place - side // 2, 0), n - side) if n > side else -((side - n) // 2)


def foreground_turn(number: int, share: float) -> bool:
    """Whether element ``number`` of the stream of samples is drawn about the foreground.

    Of the first n elements these are the least whole number that is not below ``share`` of n, for every n.
    """
    return math.ceil((number + 1) * share - 1e-9) > math.ceil(number * share - 1e-9)


def _grid(n: int, side: int, overlap: float) -> list[int]:
    """Even starts from 0 to n - side, neighbours sharing at least ``overlap`` of a side; one centred start when n <=
    side.
    """
    if n <= side:
        return [-((side - n) // 2)]
    step = max(1, int(side * (1 - overlap)))
    steps = -(-(n - side) // step)
    return [(i * (n - side)) // steps for i in range(steps + 1)]


def join_scores(scores: np.ndarray, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of window outputs (N, ...) over the windows of each case.

    ``cases`` (N,) says whose window a row is. Returns the cases in order of first appearance and their
    means in float64.
    """
    unique, total, count = _sums(np.asarray(scores, np.float64), cases)
    return unique, total / count.reshape(-1, *[1] * (total.ndim - 1))


def join_votes(scores: np.ndarray, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hard votes of windows on a yes/no question.

    Every window says 0 or 1 by itself: 1 where its probability, ``scores (N,)``, exceeds one half. Returns
    the cases in order of first appearance, how many of their windows said 1, and how many there are (int64).
    The case is positive where more than half of its windows say 1 (with 500 images: more than 250).
    """
    return _sums((np.asarray(scores) > 0.5).astype(np.int64), cases)


def _sums(values: np.ndarray, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cases in order of first appearance, the sum of ``values`` (N, ...) over each, and its number of windows."""
    unique, first, inverse = np.unique(np.asarray(cases), return_index=True, return_inverse=True)
    total = np.zeros((len(unique), *values.shape[1:]), values.dtype)
    np.add.at(total, inverse.reshape(-1), values)
    count = np.bincount(inverse.reshape(-1), minlength=len(unique))
    order = np.argsort(first, kind="stable")
    return unique[order], total[order], count[order]


class DenseJoin:
    """Overlap-weighted join of dense window outputs on the grid of one case.

    Windows weigh by a Gaussian about their centre (standard deviation an eighth of the side, as usual
    for sliding windows). A running weighted mean is kept, not a sum: where all windows agree, the
    result is their value to the bit. Memory is that of one case: (K + 1) float32 grids.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        """``shape`` is (K, D, H, W): outputs and the case's own grid."""
        self._mean = np.zeros(tuple(shape), np.float32)
        self._weight = np.zeros(tuple(shape[1:]), np.float32)

    def add(self, window: Window, values: np.ndarray) -> None:
        """Add one window's output (K, D, H, W) of the window's ``size``; it is resampled linearly to its box."""
        top, left, height, width = window.box
        values = np.asarray(values, np.float32)
        if values.shape != (self._mean.shape[0], *window.size):
            raise ValueError(
                f"output {values.shape} does not fit a window of size {window.size} with {self._mean.shape[0]} channels"
            )
        for axis, side in ((1, len(window.frames)), (2, height), (3, width)):
            values = _resample(values, axis, side)
        weight = _gaussian(len(window.frames))[:, None, None] * _gaussian(height)[:, None] * _gaussian(width)
        inside = [
            _inside(start, side, n)
            for start, side, n in ((top, height, self._mean.shape[2]), (left, width, self._mean.shape[3]))
        ]
        (rows, rows_in), (columns, columns_in) = inside
        for place, frame in enumerate(window.frames):
            if not 0 <= frame < self._mean.shape[1]:
                continue
            mean, total = self._mean[:, frame, rows, columns], self._weight[frame, rows, columns]
            mine = weight[place, rows_in, columns_in]
            total += mine
            mean += (mine / total) * (values[:, place, rows_in, columns_in] - mean)

    @property
    def covered(self) -> np.ndarray:
        """(D, H, W) True where at least one window fell."""
        return self._weight > 0

    def result(self) -> np.ndarray:
        """The joined outputs (K, D, H, W) float32; NaN where no window fell."""
        return np.where(self.covered, self._mean, np.float32("nan"))


def _inside(start: int, side: int, n: int) -> tuple[slice, slice]:
    """The part of start .. start + side within 0 .. n, in the grid's and in the window's indices."""
    low, high = max(start, 0), max(max(start, 0), min(start + side, n))
    return slice(low, high), slice(low - start, high - start)


def _gaussian(side: int) -> np.ndarray:
    place = np.arange(side) - (side - 1) / 2
    weight = np.exp(-0.5 * (place / max(side / 8, 1e-6)) ** 2)
    # Far corners of long sides underflow; a floor keeps every covered voxel's weight above zero.
    return np.maximum(weight, 1e-3).astype(np.float32)


def _resample(values: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Linear resampling along one axis (pixel centres, edges held)."""
    n = values.shape[axis]
    if n == side:
        return values
    place = np.clip((np.arange(side) + 0.5) * (n / side) - 0.5, 0, n - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, n - 1)
    share = (place - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - axis - 1))
    first, second = np.take(values, low, axis), np.take(values, high, axis)
    return first + share * (second - first)
