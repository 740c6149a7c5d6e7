"""Facts of cases that outlive their windows: names, kinds, and masks on the array's own grid."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from medgraft import store
from medgraft.datasets import Dataset


def traced_rows(frames: pl.DataFrame, array_ids: Iterable[str]) -> dict[str, dict[int, int]]:
    """Of each array that is traced: frame -> row of the mask."""
    wanted = frames.filter((pl.col("mask_index") >= 0) & pl.col("array_id").is_in(list(set(array_ids))))
    found: dict[str, dict[int, int]] = {}
    for array_id, frame, row in wanted.select("array_id", "frame", "mask_index").iter_rows():
        found.setdefault(array_id, {})[frame] = row
    return found


MOST_READ = 2 << 30  # bytes of stored masks that are read to find whether structures overlap


def exclusive_masks(dataset: Dataset) -> bool:
    """Whether no voxel of the data set's masks is two structures at once.

    A scan records it. Where it is not recorded the stored masks are read, up to ``MOST_READ`` bytes in all; masks that
    are larger together are taken to overlap, which costs nothing but learning speed.
    """
    recorded = dataset.info.get("exclusive")
    if recorded is not None:
        return bool(recorded)
    masks = [store.open_mask(dataset.root, name) for name in sorted(set(dataset.manifest["mask_id"].drop_nulls()))]
    if sum(mask.size for mask in masks) > MOST_READ:
        return False
    return not any(((mask[row] == 1).sum(0) > 1).any() for mask in masks for row in range(len(mask)))


class Cases:
    """Facts of the cases of a data set by manifest row: ids, kinds, and masks on the array's own grid."""

    def __init__(self, dataset: Dataset, store_root: Path | None = None) -> None:
        manifest = dataset.manifest
        self.ids: list[str] = manifest["case_id"].to_list()
        self.patients: list[str] = manifest["patient_id"].to_list()
        self.kinds: list[str] = manifest["kind"].to_list()
        self.shapes: list[list[int]] = manifest["shape"].to_list()
        self._arrays, self._masks = manifest["array_id"].to_list(), manifest["mask_id"].to_list()
        self._frames, self._root = dataset.frames, store_root or dataset.root

    @cached_property
    def _traced(self) -> dict[str, dict[int, int]]:
        return traced_rows(self._frames, self._arrays)

    def mask(self, row: int) -> np.ndarray | None:
        """Mask (K, D, H, W) uint8 of a case; frames that nobody traced are 255. None where there is no mask."""
        if self._masks[row] is None:
            return None
        stored = store.open_mask(self._root, self._masks[row])
        mask = np.full((stored.shape[1], *self.shapes[row][1:]), store.IGNORE, np.uint8)
        for frame, index in self._traced.get(self._arrays[row], {}).items():
            mask[:, frame] = stored[index]
        return mask
