"""Patch, batch and steps where masks are learned: a function of the data alone, with the reasons in words.

The anchor is nnU-Net's planner (Isensee et al., Nature Methods 2021): the patch follows the median shape and what the
network can halve, a batch is two patches, training is counted in steps. Where this departs from it, docs/defaults.md
says why, with the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.data import spacing as spacings
from medgraft.datasets import Dataset

HALVED = 8  # sides of a patch are multiples of it: the U-Nets halve three times
LEAST = 16  # shortest side of a patch
THIN = 16  # volumes with fewer slices than this are learned slice by slice
PATCH_VOXELS = {"cpu": 48 * 48 * 48, "gpu": 96 * 96 * 96}
PICTURE_SIDE = {"cpu": 128, "gpu": 256}
STEPS = {"cpu": (800, 2000), "gpu": (2000, 10000)}  # for few cases, and at most
STEPS_A_CASE = 20
BATCH = {"volume": 2, "picture": 8}
ALIKE = 0.01  # spacings that differ by no more than this share are one spacing
UNEVEN = 3  # slices are thick where they are more than so many times the pixels


@dataclass(frozen=True)
class Field:
    """How masks of a data set are learned by default: ``patch`` (D, H, W), windows in a batch, optimiser steps, and
    why.

    ``flat``: slice by slice, by a 2D network.
    """

    flat: bool
    patch: tuple[int, int, int]
    batch: int
    steps: int
    lines: tuple[str, ...]


def plan(
    dataset: Dataset, rows: Sequence[int], *, quick: bool, target: tuple[float, float, float] | None = None
) -> Field:
    """The defaults for the cases (manifest rows) that have masks. ``quick`` where there is no GPU. ``target`` is the
    spacing (mm) that volumes are resampled to, None where they stay as they are.
    """
    manifest, place = dataset.manifest[list(rows)], "cpu" if quick else "gpu"
    shapes = np.array(manifest["shape"].to_list())[:, 1:]
    flat = manifest["kind"][0] != "volume" or np.floor(np.median(shapes, axis=0))[0] < THIN
    if target is not None and not flat:
        own = [spacings.usable(s) or target for s in manifest["spacing"].to_list()]
        shapes = np.array([spacings.grid_of(n, s, target) for n, s in zip(shapes.tolist(), own)])
    median = tuple(int(n) for n in np.floor(np.median(shapes, axis=0)))
    cases, least_steps, most_steps = len(shapes), *STEPS[place]
    steps = min(max(least_steps, STEPS_A_CASE * cases), most_steps)
    told = f"{cases} cases of {'x'.join(map(str, median))} {'voxels' if manifest['kind'][0] == 'volume' else 'pixels'}"
    if flat:
        side = min(PICTURE_SIDE[place], max(32, math.ceil(max(median[1:]) / 32) * 32))
        patch, batch = (1, side, side), BATCH["picture"]
        lines = [f"{told} in the middle: whole pictures of {side}x{side}, the longer side brought to multiples of 32"]
        if manifest["kind"][0] == "volume":
            lines[0] += f" (fewer than {THIN} slices: slice by slice)"
    else:
        spacing = target or _spacing(manifest["spacing"].to_list())
        patch, batch = _patch(median, spacing or (1.0, 1.0, 1.0), PATCH_VOXELS[place]), BATCH["volume"]
        unit = f"{' x '.join(f'{s:.3g}' for s in spacing)} mm" if spacing else "unknown size, taken as cubes"
        lines = [
            f"{told} in the middle, voxels of {unit}: patches of {'x'.join(map(str, patch))}, multiples of {HALVED} "
            f"within that shape and {PATCH_VOXELS[place]} voxels"
        ]
    lines.append(
        f"{steps} steps of {batch} windows: {STEPS_A_CASE} a case, at least {least_steps}, at most {most_steps}"
    )
    return Field(flat, patch, batch, steps, tuple(lines))


def _spacing(known: Sequence[Sequence[float | None] | None]) -> tuple[float, float, float] | None:
    """Median spacing (d, h, w) in mm of the cases that have one; None where none has."""
    usable = [s for s in map(spacings.usable, known) if s is not None]
    if not usable:
        return None
    d, h, w = np.median(np.array(usable), axis=0).tolist()
    return d, h, w


@dataclass(frozen=True)
class Common:
    """The spacing (d, h, w) in mm that volumes are brought to, None where they stay as they are; and why, where there
    is something to say.
    """

    target: tuple[float, float, float] | None = None
    told: str = ""


def common_spacing(dataset: Dataset, rows: Sequence[int], learns: Sequence[int]) -> Common:
    """What ``window.spacing=auto`` means for the cases (manifest rows) that are learned from or judged on.

    Where all spacings are known and differ by more than ``ALIKE``, volumes are brought to the median of those that
    train (``learns``). As in nnU-Net, thick slices give way where the median spacing of one axis exceeds the others
    more than ``UNEVEN`` times and so do their voxels: there the 10th percentile of that axis is taken, no finer than
    the coarser of the other axes. Where one case's spacing is unknown or absurd nothing is resampled, and it is named.
    """
    said, shapes = dataset.manifest["spacing"].to_list(), dataset.manifest["shape"].to_list()
    known = {row: spacings.usable(said[row]) for row in rows}
    unknown = [row for row, found in known.items() if found is None]
    if unknown:
        given = [said[row] for row in unknown]
        absurd = any(s is not None and any(v is not None for v in s) for s in given)
        if len(unknown) == len(known) and not absurd:
            return Common()  # nobody knows any: the line of the patch says it
        first = next((k for k, s in enumerate(given) if s is not None and any(v is not None for v in s)), 0)
        return Common(
            None,
            f"spacings are unknown or absurd for {len(unknown)} of {len(known)} cases, such as "
            f"{dataset.manifest['case_id'][unknown[first]]} ({spacings.told(given[first])}), so nothing is resampled "
            "and all voxels count alike: mend the headers and scan again, or leave those cases out",
        )
    table = np.array([known[row] for row in rows])
    low, high = table.min(0), table.max(0)
    if (high <= low * (1 + ALIKE)).all():
        return Common()
    own = np.array([known[row] for row in learns])
    target = np.median(own, axis=0)
    sizes = np.median(np.array([shapes[row][1:] for row in learns]), axis=0)
    thick = int(np.argmax(target))
    others = [k for k in range(3) if k != thick]
    if target[thick] > UNEVEN * target[others].max() and sizes[thick] * UNEVEN < sizes[others].min():
        target[thick] = max(np.percentile(own[:, thick], 10), target[others].max())
    d, h, w = target.tolist()
    least = " x ".join(f"{a:.3g} to {b:.3g}" if b > a * (1 + ALIKE) else f"{a:.3g}" for a, b in zip(low, high))
    return Common(
        (d, h, w),
        f"spacings differ: {least} mm; resampled to {spacings.told((d, h, w))}, answers brought back to the source "
        "(window.spacing=none leaves them)",
    )


def _patch(shape: Sequence[int], spacing: Sequence[float], most: int) -> tuple[int, int, int]:
    """Sides (d, h, w): the shape rounded down to multiples of ``HALVED``, then the longest in mm shortened until at
    most ``most`` voxels are left.

    No side falls below ``LEAST``: a volume that is thinner stands in the middle of black that counts nowhere.
    """
    sides = [max(LEAST, n // HALVED * HALVED) for n in shape]
    while math.prod(sides) > most:
        long = max((k for k in range(3) if sides[k] > LEAST), key=lambda k: sides[k] * spacing[k], default=None)
        if long is None:
            break
        sides[long] -= HALVED
    return sides[0], sides[1], sides[2]
