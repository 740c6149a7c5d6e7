"""Thumbnails of cases, read from the store: one frame of an image, five of a video or a volume.

Every page takes its pictures from here, and they fail closed: until the text pass has cleared a case (or its data
set was said to be public), only the image region that the header names is shown, without the boxes in which text
was found; without a region nothing is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from medgraft import store, tables
from medgraft.datasets import Dataset
from medgraft.errors import UserError

SIDE, STRIP_SIDE, FRAMES = 240, 128, 5
CLEARED = ("clear", "blacked", "public")  # states of pixel_text in which the whole frame may be seen
#: Colours of reference contours, one a structure: yellow, sky blue, orange (apart under colour blindness, bright on
# grey).
CONTOURS = np.array([[240, 228, 66], [86, 180, 233], [230, 159, 0], [204, 121, 167]], dtype=np.uint8)


class Gallery:
    """Opens cases of a data set by id; a data set that is not at hand gives no pictures and no error."""

    def __init__(self, dataset: Dataset | None, *, contours: bool = False) -> None:
        self.dataset, self.contours = dataset, contours
        self.rows: dict[str, dict[str, Any]] = {}
        self.traced: dict[str, list[tuple[int, int]]] = {}
        self.texts: dict[str, list[tuple[int, int, int, int]]] = {}  # boxes with text of arrays that are not cleared

    def prepare(self, case_ids: list[str]) -> None:
        """Look the cases up at once, so that a large manifest is walked once."""
        if self.dataset is None:
            return
        import polars as pl

        found = self.dataset.manifest.filter(pl.col("case_id").is_in(case_ids))
        self.rows = {row["case_id"]: row for row in found.iter_rows(named=True)}
        if (self.dataset.root / "text.parquet").is_file():
            arrays = [row["array_id"] for row in self.rows.values() if row["pixel_text"] not in CLEARED]
            boxes = tables.read(self.dataset.root / "text.parquet", "text").filter(pl.col("array_id").is_in(arrays))
            for array, *box in boxes.select("array_id", "top", "left", "bottom", "right").iter_rows():
                self.texts.setdefault(array, []).append((box[0], box[1], box[2], box[3]))
        if self.contours:
            arrays = [row["array_id"] for row in self.rows.values() if row["mask_id"]]
            frames = self.dataset.frames.filter(pl.col("array_id").is_in(arrays) & (pl.col("mask_index") >= 0)).sort(
                "frame"
            )
            for row in frames.iter_rows(named=True):
                self.traced.setdefault(row["array_id"], []).append((row["frame"], row["mask_index"]))

    def masked(self, case_id: str) -> bool:
        """Whether nothing of this case may be shown, for its pixels were not cleared and no header names the image
        region.
        """
        row = self.rows.get(case_id)
        return row is not None and row["pixel_text"] not in CLEARED and row["region"] is None

    def picture(
        self,
        case_id: str,
        *,
        frame: int | None = None,
        side: int | None = None,
        over: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, Any] | None:
        """``{data, width, height, strip}`` with the JPEG in base64; None where the case or its array is not at hand, or
        may not be seen.

        ``frame`` shows that one alone (-1 = the middle), ``side`` sets the height, ``over`` draws on each frame (h, w,
        3) uint8.
        """
        row = self.rows.get(case_id)
        if row is None or self.dataset is None or self.masked(case_id):
            return None
        try:
            array = store.open_array(self.dataset.root, row["array_id"])
            mask = store.open_mask(self.dataset.root, row["mask_id"]) if self.contours and row["mask_id"] else None
        except UserError:
            return None
        depth = array.shape[1]
        chosen = (
            self._frames(array, mask, row)
            if frame is None
            else [(min(frame, depth - 1) if frame >= 0 else depth // 2, -1)]
        )
        side = side or (STRIP_SIDE if len(chosen) > 1 else SIDE)
        tiles = [self._tile(array, mask, number, index, row, side) for number, index in chosen]
        if over is not None:
            tiles = [over(tile) for tile in tiles]
        gap = np.full((tiles[0].shape[0], 2, 3), 0, np.uint8)
        parts = [part for tile in tiles for part in (gap, tile)][1:]
        picture = Image.fromarray(np.concatenate(parts, axis=1))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=82, optimize=True)
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        return {"data": data, "width": picture.width, "height": picture.height, "strip": len(tiles) > 1}

    def _frames(self, array: np.ndarray, mask: np.ndarray | None, row: dict[str, Any]) -> list[tuple[int, int]]:
        """(frame, mask index or -1) of the frames shown: where contours are asked for those that hold a structure, else
        evenly spread.
        """
        depth = array.shape[1]
        traced = [(f, m) for f, m in self.traced.get(row["array_id"], []) if f < depth]
        if mask is not None:
            drawn = [(f, m) for f, m in traced if (mask[m] == 1).any()]
            traced = drawn or traced
        if traced:
            return [
                traced[i] for i in sorted({round(v) for v in np.linspace(0, len(traced) - 1, min(FRAMES, len(traced)))})
            ]
        low, high = 0.0, float(depth - 1)
        if row["view_center"] and row["view_size"]:
            low = max(low, row["view_center"][0] - row["view_size"][0] / 2)
            high = min(high, row["view_center"][0] + row["view_size"][0] / 2)
        if row["kind"] == "volume":
            low, high = _filled(array, int(low), int(high))
        return [(i, -1) for i in sorted({round(v) for v in np.linspace(low, high, min(FRAMES, depth))})]

    def _tile(
        self, array: np.ndarray, mask: np.ndarray | None, frame: int, index: int, row: dict[str, Any], side: int
    ) -> np.ndarray:
        """One frame as (h, w, 3) uint8 of height ``side``, cut to the case's view and true in aspect."""
        height, width = array.shape[2:]
        top, left, bottom, right = 0, 0, height, width
        if row["view_center"] and row["view_size"]:
            top, bottom = _bounds(row["view_center"][1], row["view_size"][1], height)
            left, right = _bounds(row["view_center"][2], row["view_size"][2], width)
        picture = np.asarray(array[:, frame, top:bottom, left:right], dtype=np.float32)
        display = row["value_unit"] == "display" and array.dtype == np.uint8
        low, high = (0.0, 255.0) if display else (row["p005"] or 0.0, row["p995"] or 1.0)
        scaled = np.clip((np.nan_to_num(picture) - low) / max(high - low, 1e-6), 0, 1) * 255
        self._hide(scaled, row, top, left)
        colour = scaled[:3] if scaled.shape[0] >= 3 else np.repeat(scaled[:1], 3, axis=0)
        spacing = row["spacing"] or [None, None, None]
        aspect = (spacing[2] / spacing[1]) if spacing[1] and spacing[2] else 1.0
        shape = (max(1, min(round(side * (right - left) * aspect / (bottom - top)), 2 * side)), side)
        tile = np.asarray(
            Image.fromarray(colour.astype(np.uint8).transpose(1, 2, 0)).resize(shape, Image.Resampling.BILINEAR)
        ).copy()
        if mask is not None and index >= 0:
            for number, layer in enumerate(mask[index, :, top:bottom, left:right] == 1):
                grown = (
                    np.asarray(Image.fromarray(layer.astype(np.uint8) * 255).resize(shape, Image.Resampling.BILINEAR))
                    > 127
                )
                tile[_edge(grown)] = CONTOURS[number % len(CONTOURS)]
        return tile

    def _hide(self, scaled: np.ndarray, row: dict[str, Any], top: int, left: int) -> None:
        """Blacken what may carry a name in a cut (C, h, w) whose corner lies at (top, left) of the frame."""
        if row["pixel_text"] in CLEARED:
            return
        above, before, below, behind = row["region"]
        inside = np.zeros(scaled.shape[1:], bool)
        inside[max(0, above - top) : max(0, below - top), max(0, before - left) : max(0, behind - left)] = True
        for above, before, below, behind in self.texts.get(row["array_id"], []):
            more = 2 + (below - above) // 4  # the edges of letters lie outside
            inside[
                max(0, above - more - top) : max(0, below + more - top),
                max(0, before - more - left) : max(0, behind + more - left),
            ] = False
        scaled[:, ~inside] = 0


def _filled(array: np.ndarray, first: int, last: int) -> tuple[float, float]:
    """Slices between which something is to be seen: those that hold at least a tenth of what the fullest slice holds
    above the darkest value.

    The outer tenth on either side is left out, where an organ begins and ends.
    """
    planes = np.asarray(array[:, first : last + 1, ::2, ::2], dtype=np.float32)
    planes = np.nan_to_num(planes, nan=0.0)
    filled = (planes - planes.min()).sum(axis=(0, 2, 3))
    kept = np.flatnonzero(filled >= 0.1 * filled.max())
    low, high = first + float(kept[0]), first + float(kept[-1])
    return low + 0.1 * (high - low), high - 0.1 * (high - low)


def _bounds(centre: float, size: float, most: int) -> tuple[int, int]:
    low = int(np.clip(round(centre - size / 2), 0, most - 1))
    return low, int(np.clip(round(centre + size / 2), low + 1, most))


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch its outside."""
    inner = np.pad(mask, 1)
    return mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])
