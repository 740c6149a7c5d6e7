"""Facts of cases that outlive their windows: names, kinds, and masks on the array's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from medgraft import store
from medgraft.datasets import Dataset


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

    def mask(self, row: int) -> np.ndarray | None:
        """Mask (K, D, H, W) uint8 of a case; frames that nobody traced are 255. None where there is no mask."""
        if self._masks[row] is None:
            return None
        stored = store.open_mask(self._root, self._masks[row])
        mask = np.full((stored.shape[1], *self.shapes[row][1:]), 255, np.uint8)
        traced = self._frames.filter((pl.col("array_id") == self._arrays[row]) & (pl.col("mask_index") >= 0))
        for frame, index in traced.select("frame", "mask_index").iter_rows():
            mask[:, frame] = stored[index]
        return mask
