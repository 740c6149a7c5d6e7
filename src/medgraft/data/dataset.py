"""Cases of a data set as batches: which case and window a step sees, with its labels and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from medgraft import store
from medgraft.data import spacing, transforms
from medgraft.data.batch import Batch, Sample, collate
from medgraft.data.cases import traced_rows
from medgraft.data.random import balanced_index, generator, stream_index
from medgraft.data.transforms import Augment
from medgraft.data.windows import Window, WindowSpec, draw_window, eval_windows, foreground_turn
from medgraft.datasets import Dataset
from medgraft.errors import UserError

FOREGROUND = 2000  # places of a structure in a case that windows are drawn about


@dataclass(frozen=True)
class TargetSpec:
    """A label column and how it becomes a number.

    ``binary``: 1 where the label is ``positive`` (else the last of ``classes``), ``classes``: index into ``classes``,
    ``regress``: the value. A missing label is NaN.
    """

    name: str
    kind: Literal["binary", "classes", "regress"] = "binary"
    classes: tuple[str, ...] = ()
    positive: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))
        if self.kind not in ("binary", "classes", "regress"):
            raise UserError(
                f"target kind {self.kind!r} is unknown", case=self.name, fix="use binary, classes or regress"
            )
        if self.kind == "classes" and len(self.classes) < 2:
            raise UserError("a target of kind classes needs at least two classes", case=self.name)
        if self.kind == "binary" and self.positive is None:
            if not self.classes:
                raise UserError("a binary target needs its positive class", case=self.name, fix="set positive=CLASS")
            object.__setattr__(self, "positive", self.classes[-1])


@dataclass(frozen=True)
class _Case:
    """What a batch needs to know of a case, as plain values: workers never touch the tables."""

    row: int
    case_id: str
    array_id: str
    mask_id: str | None
    shape: tuple[int, int, int, int]
    value_range: tuple[float, float] | None  # None = display values: the limits of the stored type
    corner: tuple[int, int, int]  # d, h, w of the view in the array
    extent: tuple[int, int, int, int]  # C, D, H, W of the view, after frame selection
    kept: np.ndarray | None  # array frames that take part; None = all
    mask_rows: dict[int, int]  # array frame -> row of the mask; traced frames only
    grid: spacing.Shape | None = None  # of the whole array at the window's spacing, where that is another one

    @property
    def cut(self) -> tuple[tuple[int, int, int], tuple[int, int, int, int]]:
        """Corner and extent of the view as windows count: in the array, or in its grid at the window's spacing."""
        if self.grid is None:
            return self.corner, self.extent
        ends = [
            (spacing.edge_of(c, n, m), spacing.edge_of(c + e, n, m))
            for c, e, n, m in zip(self.corner, self.extent[1:], self.shape[1:], self.grid)
        ]
        d, h, w = (min(low, m - 1) for (low, _), m in zip(ends, self.grid))
        deep, tall, wide = (max(1, high - low) for low, high in ends)
        return (d, h, w), (self.extent[0], deep, tall, wide)

    def array_frame(self, frame: int) -> int:
        """Array index of a frame of the view; beyond the view (cubes of a small case) it stays beyond the array."""
        if self.kept is None:
            return frame + self.corner[0]
        return int(self.kept[frame]) if 0 <= frame < len(self.kept) else -1 if frame < 0 else self.shape[1]

    @property
    def traced(self) -> list[int]:
        """Traced frames of the view."""
        if self.kept is None:
            first, last = self.corner[0], self.corner[0] + self.extent[1]
            return sorted(f - first for f in self.mask_rows if first <= f < last)
        return [place for place, frame in enumerate(self.kept) if int(frame) in self.mask_rows]


class CaseDataset:
    """The chosen cases of a data set, cut into windows.

    What a training batch holds is a function of (seed, step) and the arguments given here; no state is
    kept between calls, so batches may be asked for in any order and by any process. The object pickles
    small (no tables, no open files) and opens arrays when first needed.

    ``cases`` are rows of the manifest. ``augment`` holds for training batches and for the views of ``seen``. ``dense``
    adds the masks, and lets a share of the training windows (``window.foreground``) be drawn about a structure.
    ``store_root`` is where the arrays lie (default: the data set; else a ``stage`` folder).
    ``hu_window`` is black and white for cases in Hounsfield units. ``kept`` maps array ids to the frames
    that take part (``select.select``).

    With ``window.spacing`` windows are cut from each case's grid at that spacing, of which no more than a window is
    ever made; ``back`` brings what was predicted there to the array's own grid.

    Raises ``UserError`` naming the case or target when a label does not fit its target, a view is
    oblique, a spacing is asked of a case that has none, or ``marked`` windows are asked of cases none of which is
    traced.
    """

    def __init__(
        self,
        dataset: Dataset,
        cases: Sequence[int],
        *,
        window: WindowSpec,
        augment: Augment | str = "none",
        targets: Sequence[TargetSpec] = (),
        dense: bool = False,
        store_root: Path | None = None,
        hu_window: tuple[float, float] = (-1000.0, 1000.0),
        kept: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.window, self.dense, self.targets = window, dense, tuple(targets)
        self.augment = transforms.preset(augment) if isinstance(augment, str) else augment
        self.view = 0
        self.store_root = Path(store_root or dataset.root)
        self.cases = np.asarray(cases, np.int64)
        if window.spacing is not None and kept:
            raise UserError("frames cannot be selected where volumes are resampled", fix="leave out select")
        if not len(self.cases):
            raise UserError("no case is left to read", fix="check the split and the labels")
        part = dataset.manifest[self.cases.tolist()]
        self.structures = len(dataset.info.get("structures") or []) or 1
        self._labels = _labels(part, self.targets)
        self._cases = _cases(part, self.cases, dataset.frames, hu_window, kept or {}, window.spacing)
        self._place = {case.row: place for place, case in enumerate(self._cases)}
        self._groups = self._class_groups()
        self._drawn: dict[int, list[np.ndarray]] = {}  # case -> places of each structure that it has
        if window.kind == "marked" and not any(case.mask_rows for case in self._cases):
            raise UserError(
                "marked windows need marked frames (traced ones) and no case has any",
                fix="scan with masks or use another window kind",
            )

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def channels(self) -> int:
        """C of the arrays."""
        return self._cases[0].shape[0]

    def labels(self) -> np.ndarray:
        """(n, T) float32 in the order of ``cases``; NaN = missing."""
        return self._labels.copy()

    def case_ids(self) -> list[str]:
        return [case.case_id for case in self._cases]

    def train_batch(self, seed: int, step: int, batch_size: int, balanced: bool = False) -> Batch:
        """The batch of a step. Sample j is element ``step * batch_size + j`` of the stream of cases.

        ``balanced`` draws every class of the first target equally often; cases without that label are left out.
        """
        samples = []
        for j in range(batch_size):
            n = step * batch_size + j
            place = balanced_index(seed, n, self._need_groups()) if balanced else stream_index(seed, n, len(self))
            case = self._cases[place]
            try:
                about = None
                if self.dense and foreground_turn(n, self.window.foreground):
                    about = self._foreground(case, generator(seed, "foreground", step, j))
                window = draw_window(
                    self.window,
                    case.cut[1],
                    generator(seed, "window", step, j),
                    self._traced(case),
                    case=case.row,
                    about=about,
                )
            except UserError as error:
                raise UserError(error.cause, case=case.case_id, fix=error.fix) from error
            drawn = transforms.draw(self.augment, generator(seed, "augment", step, j))
            samples.append(self._sample(place, _in_array(window, case), drawn))
        return self._finish(samples)

    def eval_windows(self) -> list[Window]:
        """All evaluation windows in the order of ``cases``, in array coordinates."""
        return [
            _in_array(window, case)
            for case in self._cases
            for window in eval_windows(self.window, case.cut[1], self._traced(case), case=case.row)
        ]

    def seen(self, view: int) -> CaseDataset:
        """The same cases as another view sees them (test-time augmentation).

        View 0 is the window as it is. View v > 0 is augmented by draws that depend on v and on the pixels that the
        window lies in, so every network, every run and a served study sees the same.
        """
        other = copy(self)
        other.view = view
        return other

    def batch(self, windows: Sequence[Window]) -> Batch:
        """The batch of given windows (array coordinates, as ``eval_windows`` gives them), as ``view`` sees them."""
        return self._finish([self._sample(self._place[window.case], window, self._still(window)) for window in windows])

    def _still(self, window: Window) -> transforms.Draw:
        if not self.view:
            return transforms.STILL
        case = self._cases[self._place[window.case]]
        place = f"view {case.array_id} {case.corner}"
        return transforms.draw(self.augment, generator(0, place, self.view, window.index))

    def grid(self, row: int) -> tuple[int, int, int]:
        """(D, H, W) that ``DenseJoin`` fills: the array a manifest row looks at, or its grid at the window's
        spacing.
        """
        case = self._cases[self._place[row]]
        return case.grid or case.shape[1:]

    def back(self, row: int, field: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A joined field (K, D, H, W) and where windows fell (D, H, W), on the array's own grid."""
        case = self._cases[self._place[row]]
        return (field, covered) if case.grid is None else spacing.back(field, covered, case.shape[1:])

    def _traced(self, case: _Case) -> list[int] | None:
        return case.traced if self.window.kind == "marked" else None

    def _foreground(self, case: _Case, rng: np.random.Generator) -> tuple[int, int, int] | None:
        """A voxel (d, h, w) of the view: any structure that the case has, then any of its voxels. None without one."""
        if case.row not in self._drawn:
            self._drawn[case.row] = [found for k in range(self.structures) if len(found := self._voxels(case, k))]
        there = self._drawn[case.row]
        if not there:
            return None
        chosen = there[int(rng.integers(len(there)))]
        d, h, w = chosen[int(rng.integers(len(chosen)))].tolist()
        if case.grid is not None:  # places count in the view of the array, windows in that of its grid
            sides = zip((d, h, w), case.corner, case.cut[0], case.shape[1:], case.grid)
            d, h, w = (spacing.place_of(p + c, n, m) - first for p, c, first, n, m in sides)
        return d, h, w

    def _voxels(self, case: _Case, structure: int) -> np.ndarray:
        """Places (n, 3) of a structure in the view, at most ``FOREGROUND`` of them, evenly spread over all."""
        mask, (_, top, left), (_, _, height, width) = self._mask(case), case.corner, case.extent
        frames = np.array(case.traced, np.int64)
        parts = [
            np.flatnonzero(
                mask[case.mask_rows[case.array_frame(f)], structure, top : top + height, left : left + width] == 1
            )
            for f in frames.tolist()
        ]
        total = sum(map(len, parts))
        kept = (np.arange(min(total, FOREGROUND)) * total) // max(1, min(total, FOREGROUND))
        places = np.concatenate([*parts, np.empty(0, np.int64)])[kept]
        depth = np.repeat(frames, [len(p) for p in parts])[kept]
        return np.column_stack([depth, places // width, places % width]).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drawn": {}}  # found again where it is needed: the object pickles small

    def _sample(self, place: int, window: Window, drawn: transforms.Draw) -> Sample:
        case = self._cases[place]
        try:
            array = store.open_array(self.store_root, case.array_id)
            if array.shape != case.shape:
                raise UserError(
                    f"stored array has shape {array.shape}, the manifest says {case.shape}",
                    fix="run `medgraft scan` again",
                )
            mask = self._mask(case) if self.dense else None
            value_range = case.value_range or _display_range(array.dtype)
            source, traced = window, case.mask_rows
            if case.grid is not None:
                source, array, mask, traced = _at_spacing(case, window, drawn, array, mask)
            rows = [traced.get(frame, -1) for frame in source.frames]
            x, labels = transforms.cut(array, source, drawn, value_range=value_range, mask=mask, mask_rows=rows)
        except UserError as error:
            raise UserError(error.cause, case=case.case_id, fix=error.fix) from error
        sample = Sample(
            x=x,
            value_range=torch.tensor(value_range, dtype=torch.float32),
            y=torch.from_numpy(self._labels[place].copy()),
            case=case.row,
            window=window.index,
            start=window.start,
        )
        if labels is not None:
            sample["mask"] = labels
        return sample

    def _mask(self, case: _Case) -> np.ndarray:
        """The mask (N, K, H, W) of a case; without one, N = 0 and every frame is ignored."""
        if case.mask_id is None:
            return np.empty((0, self.structures, *case.shape[2:]), np.uint8)
        mask = store.open_mask(self.store_root, case.mask_id)
        if mask.dtype != np.uint8 or mask.shape[1:] != (self.structures, *case.shape[2:]):
            raise UserError(
                f"stored mask is {mask.dtype} {mask.shape}, expected {self.structures} structures of {case.shape[2:]}",
                fix="run `medgraft scan` again",
            )
        return mask

    def _finish(self, samples: list[Sample]) -> Batch:
        batch = collate(samples)
        for sample in samples:
            case = self._cases[self._place[sample["case"]]]
            store.release(self.store_root, case.array_id)
            if self.dense and case.mask_id is not None:
                store.release(self.store_root, case.mask_id)
        return batch

    def _class_groups(self) -> list[np.ndarray]:
        if not self.targets or self.targets[0].kind == "regress":
            return []
        first = self._labels[:, 0]
        return [np.flatnonzero(first == value) for value in np.unique(first[~np.isnan(first)])]

    def _need_groups(self) -> list[np.ndarray]:
        if not self._groups:
            raise UserError("balanced sampling needs a first target with classes", fix="set balanced=false")
        return self._groups


def _in_array(window: Window, case: _Case) -> Window:
    """A window of a view as a window of the array."""
    corner = case.cut[0]
    if case.kept is None and corner == (0, 0, 0):
        return window
    top, left, height, width = window.box
    box = (top + corner[1], left + corner[2], height, width)
    frames = (f + corner[0] if case.kept is None else case.array_frame(f) for f in window.frames)
    return replace(window, frames=tuple(frames), box=box)


def _at_spacing(
    case: _Case, window: Window, drawn: transforms.Draw, array: np.ndarray, mask: np.ndarray | None
) -> tuple[Window, np.ndarray, np.ndarray | None, dict[int, int]]:
    """The part of a case's grid that a window needs, made from its array and mask: the window in that part, values
    (C, d, h, w) float32, labels (d, K, h, w), and the row of the labels of each slice.
    """
    assert case.grid is not None
    low, high = spacing.needed(window, drawn, case.grid)
    shape = (case.shape[1], case.shape[2], case.shape[3])
    values = spacing.region(array, case.grid, low, high)
    labels = None if mask is None else spacing.region_labels(mask, case.mask_rows, shape, case.grid, low, high)
    return spacing.moved(window, low), values, labels, {k: k for k in range(high[0] - low[0])}


def _labels(part: pl.DataFrame, targets: Sequence[TargetSpec]) -> np.ndarray:
    out = np.full((part.height, len(targets)), np.nan, np.float32)
    for column, target in enumerate(targets):
        name = f"label.{target.name}"
        if name not in part.columns:
            have = [c.removeprefix("label.") for c in part.columns if c.startswith("label.")]
            raise UserError("no such label", case=target.name, fix=f"labels are {', '.join(have) or 'absent'}")
        known = {c: float(i) for i, c in enumerate(target.classes)}
        for row, (case_id, value) in enumerate(zip(part["case_id"], part[name])):
            if value is None or value != value:
                continue
            if target.kind == "regress":
                if isinstance(value, str):
                    raise UserError(f"label {target.name} is the text {value!r}, not a quantity", case=case_id)
                out[row, column] = float(value)
                continue
            text = _class_name(value)
            if target.classes and text not in known:
                raise UserError(
                    f"label {target.name} is {text!r}, not one of {', '.join(target.classes)}", case=case_id
                )
            out[row, column] = known[text] if target.kind == "classes" else float(text == target.positive)
    return out


def _class_name(value: Any) -> str:
    """Text of a class; 1.0 in a float column is class '1'."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _cases(
    part: pl.DataFrame,
    rows: np.ndarray,
    frames: pl.DataFrame,
    hu_window: tuple[float, float],
    kept: Mapping[str, np.ndarray],
    target: tuple[float, float, float] | None,
) -> list[_Case]:
    traced = traced_rows(frames, part["array_id"])
    lines = zip(rows.tolist(), part.iter_rows(named=True))
    return [_case(row, line, traced, hu_window, kept, target) for row, line in lines]


def _case(
    row: int,
    line: dict[str, Any],
    traced: dict[str, dict[int, int]],
    hu_window: tuple[float, float],
    kept: Mapping[str, np.ndarray],
    target: tuple[float, float, float] | None,
) -> _Case:
    shape = tuple(int(n) for n in line["shape"])
    corner, extent = _view(line, shape)
    chosen = kept.get(line["array_id"])
    if chosen is not None:
        chosen = np.asarray([f for f in chosen if corner[0] <= f < corner[0] + extent[1]], np.int64)
        if not len(chosen):
            raise UserError("frame selection left no frame", case=line["case_id"])
        extent = (extent[0], len(chosen), *extent[2:])
    return _Case(
        row=row,
        case_id=line["case_id"],
        array_id=line["array_id"],
        mask_id=line["mask_id"],
        shape=shape,  # type: ignore[arg-type]
        value_range=_value_range(line, hu_window),
        corner=corner,
        extent=extent,
        kept=chosen,
        mask_rows=traced.get(line["array_id"], {}) if line["mask_id"] is not None else {},
        grid=None if target is None else spacing.grid_for(line["case_id"], shape[1:], line["spacing"], target),
    )


def _view(line: dict[str, Any], shape: tuple[int, ...]) -> tuple[tuple[int, int, int], tuple[int, int, int, int]]:
    """Corner and extent of a case's view, rounded to voxels and held within the array."""
    centre, size, direction = line["view_center"], line["view_size"], line["view_direction"]
    if centre is None or size is None:
        return (0, 0, 0), shape  # type: ignore[return-value]
    if direction is not None and not np.allclose(np.reshape(direction, (3, 3)), np.eye(3)):
        raise UserError(
            "oblique views cannot be cut", case=line["case_id"], fix="resample the array or leave out view_direction"
        )
    low = [max(0, round(c - s / 2)) for c, s in zip(centre, size)]
    high = [min(n, round(c + s / 2)) for c, s, n in zip(centre, size, shape[1:])]
    if any(h <= b for b, h in zip(low, high)):
        raise UserError("view lies outside its array", case=line["case_id"])
    return (low[0], low[1], low[2]), (shape[0], high[0] - low[0], high[1] - low[1], high[2] - low[2])


def _value_range(line: dict[str, Any], hu_window: tuple[float, float]) -> tuple[float, float] | None:
    """Black and white: ``hu_window`` for Hounsfield units, p005 and p995 for raw values, None for display values."""
    unit, low, high = line["value_unit"], line["p005"], line["p995"]
    if unit == "display":
        return None
    if unit == "HU":
        return float(hu_window[0]), float(hu_window[1])
    if low is None or high is None:
        raise UserError(
            "manifest has no percentiles for raw values", case=line["case_id"], fix="run `medgraft scan` again"
        )
    # A constant picture has no contrast; any range of one shows it as black.
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def _display_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """0 and the largest value of the stored type; 0 and 1 for real numbers."""
    return 0.0, 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
