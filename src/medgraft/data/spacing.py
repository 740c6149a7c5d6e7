"""One spacing for volumes whose voxels differ in size: a grid that covers the same space, read a region at a time.

The grid of an axis of n voxels of s mm at a target of t mm has m = n * s / t voxels, rounded, at least one, from edge
to edge of the source: voxel j lies about source place (j + 1/2) * n / m - 1/2. Values and probabilities are resampled
linearly, one axis after the other, and averaged by the widened (triangular) kernel where the new voxels are larger;
edges are held. Labels are those of the nearest source voxel: a thick slice is what its reader drew, and 255 stays 255.

What a voxel of the grid becomes does not depend on the region that is asked for: a window equals its part of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medgraft.data.transforms import Draw, reach
from medgraft.data.windows import Window
from medgraft.errors import UserError
from medgraft.store import IGNORE

Shape = tuple[int, int, int]
LEAST_MM, MOST_MM = 1e-4, 100.0  # sides of a voxel beyond these are taken for a fault of the header
MOST_VOXELS = 1 << 30  # of a case at the common spacing


def told(spacing: Sequence[float | None] | None) -> str:
    """A spacing (d, h, w) in words."""
    if spacing is None or all(s is None for s in spacing):
        return "unknown"
    return f"{' x '.join('?' if s is None else f'{s:.3g}' for s in spacing)} mm"


def usable(spacing: Sequence[float | None] | None) -> tuple[float, float, float] | None:
    """A spacing (d, h, w) in mm that can be worked with, else None: unknown, not finite, zero, negative, absurd."""
    if spacing is None or len(spacing) != 3 or any(s is None for s in spacing):
        return None
    d, h, w = (float(s) for s in spacing if s is not None)
    return (d, h, w) if all(math.isfinite(s) and LEAST_MM <= s <= MOST_MM for s in (d, h, w)) else None


def grid_of(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Shape:
    """Voxels (D, H, W) of the grid at ``target`` mm that covers ``shape`` (D, H, W) voxels of ``spacing`` mm."""
    d, h, w = (max(1, math.floor(n * s / t + 0.5)) for n, s, t in zip(shape, spacing, target))
    return d, h, w


def grid_for(
    case_id: str, shape: Sequence[int], spacing: Sequence[float | None] | None, target: Sequence[float]
) -> Shape | None:
    """The grid of a case at ``target`` mm; None where that is its own.

    Raises ``UserError`` where its spacing is not usable, or the grid is beyond ``MOST_VOXELS``.
    """
    own = usable(spacing)
    if own is None:
        raise UserError(
            f"the size of its voxels is unknown or absurd ({told(spacing)}), so it cannot be brought to {told(target)}",
            case=case_id,
            fix="mend the file's header and scan again, leave the case out, or set window.spacing=none",
        )
    grid = grid_of(shape, own, target)
    if math.prod(grid) > MOST_VOXELS:
        raise UserError(
            f"its {'x'.join(map(str, shape))} voxels of {told(own)} become {'x'.join(map(str, grid))} at "
            f"{told(target)}",
            case=case_id,
            fix="look at its header, or set a coarser window.spacing",
        )
    return None if grid == tuple(shape) else grid


def place_of(index: int, n: int, m: int) -> int:
    """The voxel of ``m`` that holds the centre of voxel ``index`` of ``n`` on the same axis."""
    return ((2 * index + 1) * m) // (2 * n)


def edge_of(edge: int, n: int, m: int) -> int:
    """The edge between voxels of ``m`` that lies nearest to edge ``edge`` (0 .. n) of ``n``."""
    return (2 * edge * m + n) // (2 * n)


def taps(n: int, m: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """How voxels ``low`` .. ``high`` of ``m`` are made of ``n``: source indices and weights, each (high - low, taps).

    Weights of a voxel sum to one.
    """
    scale = max(1.0, n / m)
    centre = (np.arange(low, high) + 0.5) * (n / m) - 0.5
    first = np.ceil(centre - scale).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(2 * scale) + 1)
    weight = np.maximum(0.0, 1 - np.abs(index - centre[:, None]) / scale)
    weight[(index < 0) | (index >= n)] = 0
    weight /= weight.sum(1, keepdims=True)
    return np.clip(index, 0, n - 1), weight.astype(np.float32)


def along(values: np.ndarray, axis: int, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted sums of float32 ``values`` along an axis; in one order of addition, whatever the region."""
    shape = (-1, *[1] * (values.ndim - axis - 1))
    made = np.take(values, index[:, 0], axis) * weight[:, 0].reshape(shape)
    for tap in range(1, index.shape[1]):
        if weight[:, tap].any():
            made += np.take(values, index[:, tap], axis) * weight[:, tap].reshape(shape)
    return made


def resampled(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A field (K, D, H, W) on another grid over the same space: float32 (K, *shape); untouched where it fits."""
    made = np.asarray(values, np.float32)
    for axis, m in enumerate(shape, 1):
        n = made.shape[axis]
        if n != m:
            made = along(made, axis, *taps(n, m, 0, m))
    return made


def back(field: np.ndarray, covered: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A joined field (K, D, H, W) and where windows fell (D, H, W), from the grid to the source's own ``shape``.

    Probabilities are interpolated between covered voxels alone; the field is NaN where none fell.
    """
    if covered.all():
        return resampled(field, shape), np.ones(tuple(shape), bool)
    weight = resampled(covered[None].astype(np.float32), shape)
    nearest = [[place_of(i, n, m) for i in range(n)] for n, m in zip(shape, covered.shape)]
    there = covered[np.ix_(*nearest)]
    total = resampled(np.where(covered, field, np.float32(0)), shape)
    return np.where(there, total / np.where(there, weight, 1), np.float32("nan")), there


def region(array: np.ndarray, grid: Shape, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
    """Voxels ``low`` .. ``high`` (d, h, w) of the grid, from a stored array (C, D, H, W): float32 (C, d, h, w).

    Only the source voxels that they are made of are read.
    """
    plans = []
    for n, m, a, b in zip(array.shape[1:], grid, low, high):
        index, weight = taps(n, m, a, b) if n != m else (np.arange(a, b)[:, None], np.ones((b - a, 1), np.float32))
        plans.append((index, weight))
    first = [int(index.min()) for index, _ in plans]
    last = [int(index.max()) + 1 for index, _ in plans]
    made = np.asarray(array[:, first[0] : last[0], first[1] : last[1], first[2] : last[2]]).astype(np.float32)
    for axis, (start, (index, weight)) in enumerate(zip(first, plans), 1):
        if grid[axis - 1] != array.shape[axis]:
            made = along(made, axis, index - start, weight)
    return made


def region_labels(
    mask: np.ndarray, rows: dict[int, int], shape: Shape, grid: Shape, low: Sequence[int], high: Sequence[int]
) -> np.ndarray:
    """Labels of voxels ``low`` .. ``high`` of the grid from a stored mask (N, K, H, W): uint8 (d, K, h, w).

    ``rows`` says which row of the mask a source slice is; slices that nobody traced are 255 throughout.
    """
    frames, down, right = ([place_of(j, m, n) for j in range(a, b)] for n, m, a, b in zip(shape, grid, low, high))
    made = np.full((len(frames), mask.shape[1], len(down), len(right)), IGNORE, np.uint8)
    top, left = down[0], right[0]
    inner = np.ix_(np.array(down) - top, np.array(right) - left)
    for place, frame in enumerate(frames):
        if (row := rows.get(frame, -1)) >= 0:
            plane = np.asarray(mask[row, :, top : down[-1] + 1, left : right[-1] + 1])
            made[place] = plane[:, inner[0], inner[1]]
    return made


def needed(window: Window, drawn: Draw, grid: Shape) -> tuple[Shape, Shape]:
    """The part of the grid (first voxel, voxel after the last) that a window reads when it is cut as ``drawn``."""
    top, left, bottom, right = reach(window, drawn)
    lows = (min(window.frames), top, left)
    highs = (max(window.frames) + 1, bottom, right)
    pairs = []
    for low, high, m in zip(lows, highs, grid):
        a, b = max(0, low), min(m, high)
        pairs.append((a, b) if a < b else (0, 1))  # wholly outside: whatever is read is not looked at
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)  # type: ignore[return-value]


def moved(window: Window, low: Shape) -> Window:
    """A window of the grid as one of the part that begins at ``low``."""
    top, left, height, width = window.box
    frames = tuple(frame - low[0] for frame in window.frames)
    return replace(window, frames=frames, box=(top - low[1], left - low[2], height, width))
