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

from medgraft.datasets import Dataset

HALVED = 8  # sides of a patch are multiples of it: the U-Nets halve three times
LEAST = 16  # shortest side of a patch
THIN = 16  # volumes with fewer slices than this are learned slice by slice
PATCH_VOXELS = {"cpu": 48 * 48 * 48, "gpu": 96 * 96 * 96}
PICTURE_SIDE = {"cpu": 128, "gpu": 256}
STEPS = {"cpu": (800, 2000), "gpu": (2000, 10000)}  # for few cases, and at most
STEPS_A_CASE = 20
BATCH = {"volume": 2, "picture": 8}


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


def plan(dataset: Dataset, rows: Sequence[int], *, quick: bool) -> Field:
    """The defaults for the cases (manifest rows) that have masks. ``quick`` where there is no GPU."""
    manifest, place = dataset.manifest[list(rows)], "cpu" if quick else "gpu"
    shapes = np.array(manifest["shape"].to_list())[:, 1:]
    median = tuple(int(n) for n in np.floor(np.median(shapes, axis=0)))
    cases, least_steps, most_steps = len(shapes), *STEPS[place]
    steps = min(max(least_steps, STEPS_A_CASE * cases), most_steps)
    flat = manifest["kind"][0] != "volume" or median[0] < THIN
    told = f"{cases} cases of {'x'.join(map(str, median))} {'voxels' if manifest['kind'][0] == 'volume' else 'pixels'}"
    if flat:
        side = min(PICTURE_SIDE[place], max(32, math.ceil(max(median[1:]) / 32) * 32))
        patch, batch = (1, side, side), BATCH["picture"]
        lines = [f"{told} in the middle: whole pictures of {side}x{side}, the longer side brought to multiples of 32"]
        if manifest["kind"][0] == "volume":
            lines[0] += f" (fewer than {THIN} slices: slice by slice)"
    else:
        spacing = _spacing(manifest["spacing"].to_list())
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
    whole = [[float(v) for v in s if v is not None] for s in known if s is not None and None not in s]
    usable = [s for s in whole if all(math.isfinite(v) and v > 0 for v in s)]
    if not usable:
        return None
    d, h, w = np.median(np.array(usable), axis=0).tolist()
    return d, h, w


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
