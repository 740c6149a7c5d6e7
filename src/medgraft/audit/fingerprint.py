"""Fingerprints: what a picture looks like, small enough to compare every case of a data set with every other.

A case gives one *part* (an image, a whole volume) or several (frames of a video). Of each part is kept a small
grey picture (``SIDE`` x ``SIDE``; ``SLABS`` of them for a volume) and a hash of its values freed from scale and
offset. They are appended to ``audit.fingerprints`` in the data set folder, by array and view, so an audit that was
stopped goes on and a second one reads no array.

Pictures are compared in the frequencies of the cosine transform (the features of pHash, Zauner 2010), with the mean
of the data set taken off and each frequency scaled to its spread there: what all chest X-rays share does not count,
what tells two of them apart does.

    likeness(a, b) = 2 a.b / (a.a + b.b)        1 = the same, about 0 = two unrelated cases

Candidates are found by the signs of the 64 slowest frequencies (one 64-bit word a part, exclusive or and bit count).
The closest are then fitted: margins of either picture (up to a tenth of a side and a little more) are cut off, or it is
moved, until the two agree best, so a small crop or another aspect costs little. A mirrored picture needs no work of its
own: mirroring changes the sign of every odd horizontal frequency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from medgraft import store
from medgraft.datasets import Dataset
from medgraft.errors import UserError
from medgraft.files import disk_error

SIDE, SLABS, FRAMES, SLICES = 48, 12, 16, 48
DEEP, FINE = 6, 16  # frequencies kept: along the depth of a volume, along either side
BITS, COARSE = 64, {2: 99, 3: 199}  # of the slowest frequencies: in the word, in the first likeness
VERSION = 1  # raise when the same array would give another record
CACHE = "audit.fingerprints"
BLANK = 0.02  # a part whose grey values span less of black to white shows nothing
RECORD = np.dtype(
    [
        ("key", "S32"),
        ("part", "<i2"),
        ("parts", "<i2"),
        ("place", "<i4"),
        ("hash", "S32"),
        ("span", "<f4"),
        ("grey", "u1", (SIDE, SIDE)),
    ]
)


# ------------------------------------------------------------------------------------------ reading


def key_of(row: dict[str, Any]) -> str:
    """What a fingerprint depends on: the array, the view and how its values are shown."""
    facts = (VERSION, row["array_id"], row["view_center"], row["view_size"], row["kind"], row["value_unit"])
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def read_records(array: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """Records (n,) of one case: array (C, D, H, W) and its row of the manifest.

    At most ``SLICES`` frames or slices are looked at.
    """
    (first, last), (top, bottom), (left, right) = (_range(row, axis, size) for axis, size in enumerate(array.shape[1:]))
    most = FRAMES if row["kind"] == "video" else SLICES
    places = sorted({round(v) for v in np.linspace(first, last - 1, min(most, last - first))})
    low, high = row["p005"] or 0.0, row["p995"] if row["p995"] is not None else 1.0
    if (
        row["value_unit"] == "display" and array.dtype == np.uint8 and high - low >= 8
    ):  # else a mask or the like, black on black
        low, high = 0.0, 255.0
    grey, marks = [], []
    for place in places:
        plane = np.asarray(array[:, place, top:bottom, left:right])
        plane = plane[0] if len(plane) == 1 else plane.mean(axis=0)
        marks.append(_mark(plane))
        mean = np.asarray(Image.fromarray(plane.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX))
        grey.append(np.clip((np.nan_to_num(mean) - low) / max(high - low, 1e-6), 0, 1))
    small = np.stack(grey)
    if row["kind"] == "volume":
        small, place = np.einsum("sd,dhw->shw", _areas(len(small), SLABS, 0.0, 1.0), small), places[len(places) // 2]
        spans, marks = [float(np.ptp(small))] * SLABS, ["".join(marks)] * SLABS
        scaled = [(s - small.min()) / max(spans[0], 1e-6) for s in small]
        places = [place] * SLABS
    else:
        spans = [float(np.ptp(s)) for s in small]
        scaled = [(s - s.min()) / max(span, 1e-6) for s, span in zip(small, spans)]
    records = np.zeros(len(scaled), RECORD)
    records["key"], records["part"], records["parts"], records["place"] = (
        key_of(row).encode(),
        np.arange(len(scaled)),
        len(scaled),
        places,
    )
    records["hash"] = [hashlib.blake2b(m.encode(), digest_size=16).hexdigest().encode() for m in marks]
    records["span"], records["grey"] = spans, np.round(np.stack(scaled) * 255)
    return records


def _range(row: dict[str, Any], axis: int, size: int) -> tuple[int, int]:
    """First and one past the last voxel of the case's view along an axis."""
    if not row["view_center"] or not row["view_size"]:
        return 0, size
    low = int(np.clip(round(row["view_center"][axis] - row["view_size"][axis] / 2), 0, size - 1))
    return low, int(np.clip(round(row["view_center"][axis] + row["view_size"][axis] / 2), low + 1, size))


def _mark(plane: np.ndarray) -> str:
    """Hash of a plane's values in 256 steps from its least to its greatest, so that a rescaled or widened copy has the
    same.
    """
    low, high = float(np.nanmin(plane)), float(np.nanmax(plane))
    factor = 255.0 / (high - low) if high > low else 0.0
    if (
        plane.dtype.kind in "ui" and plane.dtype.itemsize <= 2
    ):  # few possible values: a table of them is faster than arithmetic
        span = np.arange(int(low), int(high) + 1)
        table = np.round((span - low) * factor).astype(np.uint8)
        levels = (
            np.take(np.concatenate([np.zeros(int(low), np.uint8), table]), plane)
            if low >= 0
            else table[plane.astype(np.int32) - int(low)]
        )
    else:
        levels = np.round((np.nan_to_num(plane.astype(np.float64), nan=low) - low) * factor).astype(np.uint8)
    return hashlib.sha256(repr(plane.shape).encode() + levels.tobytes()).hexdigest()[:32]


class Cache:
    """Records on disk, append-only. A torn end (a kill) is dropped; records of one case are written together."""

    def __init__(self, root: Path) -> None:
        self.path = root / CACHE
        self.size = self.path.stat().st_size if self.path.is_file() else 0
        self.rows: dict[str, tuple[int, int]] = {}
        self.count = self.size // RECORD.itemsize
        if self.count:
            table = np.memmap(self.path, RECORD, mode="r", shape=(self.count,))
            starts = np.flatnonzero(table["part"] == 0)
            for start in starts.tolist():
                parts = int(table["parts"][start])
                if start + parts <= self.count:
                    self.rows[table["key"][start].decode("latin-1")] = (start, parts)
                else:
                    self.count = start

    def add(self, batch: list[np.ndarray]) -> None:
        """Append the records of several cases.

        Raises ``UserError`` when another audit appends too, or the disk refuses.
        """
        if (self.path.stat().st_size if self.path.is_file() else 0) != self.size:
            raise UserError(
                "another audit is at work on this data set",
                case=str(self.path.parent),
                fix="wait for it, then audit again",
            )
        try:
            with open(self.path, "ab") as stream:
                stream.truncate(self.count * RECORD.itemsize)
                for records in batch:
                    stream.write(records.tobytes())
                    self.rows[records["key"][0].decode()] = (self.count, len(records))
                    self.count += len(records)
            self.size = self.count * RECORD.itemsize
        except OSError as error:
            raise disk_error(error, self.path.parent) from error

    def records(self, keys: list[str]) -> np.ndarray:
        """Records of cases, in order, as one table (copied: a few kilobytes a case)."""
        if not keys:
            return np.zeros(0, RECORD)
        table = np.memmap(self.path, RECORD, mode="r", shape=(self.count,))
        where = np.concatenate([np.arange(s, s + n) for s, n in (self.rows[k] for k in keys)])
        return np.asarray(table[where])


def fingerprints(dataset: Dataset, advance: Callable[[int], None] = lambda _: None) -> np.ndarray:
    """Records of all cases of a data set in the order of its manifest; only what is not in the cache is read.

    Raises ``UserError`` that names the case whose array is missing or broken, or when the folder cannot be written.
    """
    cache, batch = Cache(dataset.root), []
    columns = ["case_id", "array_id", "view_center", "view_size", "kind", "value_unit", "p005", "p995"]
    keys = []
    pending: set[str] = set()
    for row in dataset.manifest.select(columns).iter_rows(named=True):
        key = key_of(row)
        keys.append(key)
        if key not in cache.rows and key not in pending:
            try:
                batch.append(read_records(store.open_array(dataset.root, row["array_id"]), row))
            except UserError as error:
                raise UserError(error.cause, case=row["case_id"], fix=error.fix) from error
            store.release(dataset.root, row["array_id"])
            pending.add(key)
            if len(batch) >= 64:
                cache.add(batch)
                batch = []
        advance(1)
    if batch:
        cache.add(batch)
    return cache.records(keys)


# ------------------------------------------------------------------------------------------ features


@cache
def _cosines(size: int, frequencies: int) -> np.ndarray:
    """Rows of the orthonormal cosine transform (frequencies, size)."""
    at = (np.arange(size) + 0.5) * np.pi / size
    rows = np.cos(np.arange(frequencies)[:, None] * at) * np.sqrt(2.0 / size)
    rows[0] /= np.sqrt(2.0)
    return rows


@cache
def _areas(size: int, cells: int, low: float, high: float) -> np.ndarray:
    """Averaging of ``size`` values over ``cells`` equal cells between the shares ``low`` and ``high`` of their extent:
    (cells, size).

    Beyond the ends (shares below 0 or above 1) the outermost value goes on.
    """
    edges = np.linspace(low * size, high * size, cells + 1)
    beyond = max(0, int(np.ceil(-edges[0])), int(np.ceil(edges[-1] - size)))
    places = np.arange(-beyond, size + beyond)
    covered = np.clip(np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places), 0, None)
    found = covered[:, beyond : beyond + size].copy()
    found[:, 0] += covered[:, :beyond].sum(axis=1)
    found[:, -1] += covered[:, beyond + size :].sum(axis=1)
    return found / found.sum(axis=1, keepdims=True)


@cache
def _cut(size: int, frequencies: int, low: float, high: float) -> np.ndarray:
    """Cut the shares ``low`` and ``high`` off either end, then the cosine transform: (frequencies, size) float32."""
    cells = min(size, 2 * frequencies)
    return (_cosines(cells, frequencies) @ _areas(size, cells, low, 1.0 - high)).astype(np.float32)


@dataclass(frozen=True)
class _Layout:
    """Frequencies of a picture (2) or a volume (3), slowest first, the mean left out."""

    order: np.ndarray  # places in the flattened transform
    sign: np.ndarray  # of each when the picture is mirrored left to right
    prior: np.ndarray  # spread expected before anything is seen


@cache
def _layout(dimensions: int) -> _Layout:
    d, v, h = np.meshgrid(np.arange(DEEP if dimensions == 3 else 1), np.arange(FINE), np.arange(FINE), indexing="ij")
    radius = np.sqrt((d.astype(float) ** 2 + v**2 + h**2).reshape(-1))
    order = np.argsort(radius, kind="stable")[1:]
    prior = 1.0 / (1.0 + radius[order] ** 2)
    return _Layout(
        order, np.where(h.reshape(-1)[order] % 2, -1, 1).astype(np.float32), prior / np.sqrt(2 * (prior**2).sum())
    )


def _transform(grey: np.ndarray, operators: tuple[np.ndarray, ...]) -> np.ndarray:
    """Cosine transform of grey pictures (n, d, h, w) freed from brightness and contrast, unit length: (n, frequencies)
    float32.
    """
    layout = _layout(2 if grey.shape[1] == 1 else 3)
    centred = grey - grey.mean(axis=(1, 2, 3), keepdims=True)
    found = np.einsum("ndhw,ad,bh,cw->nabc", centred, *operators, optimize=True).reshape(len(grey), -1)[:, layout.order]
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9), np.float32)


def _whole(dimensions: int) -> tuple[np.ndarray, ...]:
    side = _cut(SIDE, FINE, 0.0, 0.0)
    return (_cut(SLABS, DEEP, 0.0, 0.0) if dimensions == 3 else np.ones((1, 1), np.float32)), side, side


class Pictures:
    """All parts of one form (pictures and frames, or volumes) as comparable features.

    ``grey`` (n, d, SIDE, SIDE) uint8, ``case`` (n,) number of the case of each part, ``place`` (n,) frame or slice.
    """

    def __init__(self, grey: np.ndarray, case: np.ndarray, place: np.ndarray) -> None:
        self.grey, self.case, self.place = grey, case, place
        self.dimensions = 2 if grey.shape[1] == 1 else 3
        self.layout = _layout(self.dimensions)
        features = np.concatenate(
            [
                _transform(grey[i : i + 512].astype(np.float32), _whole(self.dimensions))
                for i in range(0, len(grey), 512)
            ]
        )
        weights = 1.0 / np.bincount(case)[case]  # a case counts once, however many frames it has
        cases, few = weights.sum(), 8.0
        self.mean = ((weights[:, None] * features).sum(axis=0) / (cases + few)).astype(np.float32)
        centre = (weights[:, None] * features).sum(axis=0) / cases
        variance = (weights[:, None] * (features - centre) ** 2).sum(axis=0) / cases
        prior = self.layout.prior**2
        self.spread = np.sqrt((cases * variance + few * prior) / (cases + few) + 0.01 * prior).astype(np.float32)
        self.features = self._scaled(features)
        coarse = COARSE[self.dimensions]
        self.coarse = np.ascontiguousarray(self.features[:, :coarse])
        self.power = (self.coarse**2).sum(axis=1)
        self.words = _words(self.features)
        self.mirrored = _words(self.features, self._mirror_offset())

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.spread

    def _mirror_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Scaled features of a mirrored picture are ``sign * x + offset``: the mean is not mirrored with it."""
        return self.layout.sign, ((self.layout.sign - 1.0) * self.mean / self.spread).astype(np.float32)

    def mirror(self, features: np.ndarray) -> np.ndarray:
        """Scaled features of the same pictures mirrored left to right."""
        sign, offset = self._mirror_offset()
        return sign[: features.shape[1]] * features + offset[: features.shape[1]]

    def candidates(self, bits: int, least: float, most: int, block: int = 2048) -> Candidates:
        """Pairs of parts of different cases whose words differ in at most ``bits`` places and whose first likeness is
        ``least`` or more.

        Of each pair of cases (and each way, as it stands or mirrored) the closest parts are kept; at most ``most``
        pairs, the closest.
        """
        kept = Candidates(most)
        for i in range(0, len(self.words), block):
            for flipped, other in ((False, self.words), (True, self.mirrored)):
                for j in range(i, len(self.words), block):
                    apart = np.bitwise_count(self.words[i : i + block, None] ^ other[None, j : j + block])
                    left, right = np.nonzero(apart <= bits)
                    left, right = left + i, right + j
                    fair = (self.case[left] != self.case[right]) & (left < right)
                    left, right = left[fair], right[fair]
                    for k in range(0, len(left), 1 << 16):  # a block of copies must not fill the memory
                        a, b = left[k : k + (1 << 16)], right[k : k + (1 << 16)]
                        right_features = self.coarse[b]
                        if flipped:
                            right_features = self.mirror(right_features)
                        power = self.power[a] + (right_features**2).sum(axis=1)
                        score = 2 * np.einsum("nf,nf->n", self.coarse[a], right_features) / np.maximum(power, 1e-9)
                        good = score >= least
                        kept.add(self.case[a[good]], self.case[b[good]], a[good], b[good], flipped, score[good])
        kept.prune()
        return kept

    def fit(self, a: int, b: int, mirrored: bool) -> tuple[float, float]:
        """Best likeness of two parts with margins of either cut off, and the largest margin cut (share of a side)."""
        first, second = self.grey[a].astype(np.float32), self.grey[b].astype(np.float32)
        if mirrored:
            second = second[..., ::-1]
        best, margin = -1.0, 0.0
        for cut, kept in ((first, second), (second, first)):
            score, cuts = self._fit_one(cut, self._scaled(_transform(kept[None], _whole(self.dimensions)))[0])
            if score > best:
                best, margin = score, max(map(abs, cuts))
        return best, margin

    def _fit_one(self, grey: np.ndarray, target: np.ndarray) -> tuple[float, tuple[float, ...]]:
        """Cut ``grey`` so that it looks like ``target``: a coarse grid of margins, then twice a finer one around the
        best.
        """
        centred = grey - grey.mean()
        cuts: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # top, bottom, left, right
        depth = _whole(self.dimensions)[0]
        flat = np.einsum("ad,dhw->ahw", depth, centred)
        score = -1.0
        for step, coarse in ((0.035, True), (0.0175, False), (0.009, False)):
            vertical, horizontal = (_margins(step) if coarse else _around(cuts[k], cuts[k + 1], step) for k in (0, 2))
            rows, columns = (
                np.stack([_cut(SIDE, FINE, low, high) for low, high in some]) for some in (vertical, horizontal)
            )
            found = np.einsum("vbh,ahw->vabw", rows, flat, optimize=True)
            found = np.einsum("vabw,xcw->vxabc", found, columns, optimize=True).reshape(len(rows), len(columns), -1)[
                ..., self.layout.order
            ]
            found /= np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-9)
            few = COARSE[self.dimensions] if coarse else found.shape[-1]
            scaled = ((found - self.mean) / self.spread)[..., :few]
            short = target[:few]
            likeness = 2 * (scaled @ short) / np.maximum((scaled**2).sum(axis=-1) + (short**2).sum(), 1e-9)
            v, h = np.unravel_index(int(likeness.argmax()), likeness.shape)
            cuts, score = (*vertical[v], *horizontal[h]), float(likeness[v, h])
        return score, cuts


def _margins(step: float) -> list[tuple[float, float]]:
    """Pairs of margins to try first: up to three steps off either end, or moved by a step or two."""
    cuts = [(a * step, b * step) for a in range(4) for b in range(4)]
    return cuts + [(a * step, -a * step) for a in (-2, -1, 1, 2)]


def _around(low: float, high: float, step: float) -> list[tuple[float, float]]:
    """Margins one step either way of what was found."""
    return [(round(low + a * step, 4), round(high + b * step, 4)) for a in (-1, 0, 1) for b in (-1, 0, 1)]


def _words(features: np.ndarray, mirror: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Signs of the slowest frequencies as one 64-bit word a part."""
    few = features[:, :BITS]
    if mirror is not None:
        few = mirror[0][:BITS] * few + mirror[1][:BITS]
    return np.ascontiguousarray(np.packbits(few > 0, axis=1)).view(np.uint64).reshape(-1)


class Candidates:
    """The closest pairs found so far, one for each two cases and way (as it stands, mirrored)."""

    def __init__(self, most: int) -> None:
        self.most, self.floor = most, -1.0
        whole = dict.fromkeys(("case_a", "case_b", "a", "b"), pl.Int64())
        self.table = pl.DataFrame(
            schema={**whole, "mirrored": pl.Boolean(), "score": pl.Float64(), "matches": pl.Int64()}
        )
        self.dropped = 0

    def add(
        self, case_a: np.ndarray, case_b: np.ndarray, a: np.ndarray, b: np.ndarray, mirrored: bool, score: np.ndarray
    ) -> None:
        kept = score > self.floor
        if not kept.any():
            self.dropped += len(a)
            return
        self.dropped += int((~kept).sum())
        case_a, case_b, a, b, score = (v[kept] for v in (case_a, case_b, a, b, score))
        swap = case_a > case_b
        new = pl.DataFrame(
            {
                "case_a": np.where(swap, case_b, case_a).astype(np.int64),
                "case_b": np.where(swap, case_a, case_b).astype(np.int64),
                "a": np.where(swap, b, a).astype(np.int64),
                "b": np.where(swap, a, b).astype(np.int64),
                "mirrored": np.full(len(a), mirrored),
                "score": score.astype(np.float64),
                "matches": np.ones(len(a), np.int64),
            }
        )
        self.table = pl.concat([self.table, new])
        if self.table.height > 4 * self.most + (1 << 16):
            self.prune()

    def prune(self) -> None:
        best = self.table.sort("score", "a", "b", descending=[True, False, False])
        best = best.group_by("case_a", "case_b", "mirrored", maintain_order=True).agg(
            pl.col("a", "b", "score").first(), pl.col("matches").sum()
        )
        self.dropped += max(0, best.height - self.most)
        self.table = best.head(self.most).select(self.table.columns)
        if self.table.height == self.most:
            self.floor = self.table["score"][-1]

    def rows(self) -> Iterator[dict[str, Any]]:
        yield from self.table.iter_rows(named=True)


def pictures(records: np.ndarray, cases: np.ndarray, volume: np.ndarray) -> list[Pictures]:
    """Comparable features of all parts that show anything: pictures and frames together, volumes apart.

    ``records`` (n,), ``cases`` (n,) the case number of each record, ``volume`` (n,) whether it is a slab of one.
    """
    shown = records["span"] >= BLANK
    found = []
    flat = np.flatnonzero(shown & ~volume)
    if len(flat):
        found.append(Pictures(records["grey"][flat][:, None], cases[flat], records["place"][flat]))
    deep = np.flatnonzero(shown & volume)
    if len(deep):
        first = deep[records["part"][deep] == 0]
        grey = records["grey"][deep].reshape(len(first), SLABS, SIDE, SIDE)
        found.append(Pictures(grey, cases[first], records["place"][first]))
    return found
