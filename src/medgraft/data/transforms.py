"""Augmentation: drawn first (``draw``), then applied (``cut``, ``apply``).

One ``Draw`` holds for a whole clip or volume, so all frames move together. Geometry, crop and resize
are one resampling from the stored array to the window's size: an antialiased resize of a box where
nothing rotates, else one affine grid, oversampled where it shrinks. Masks follow by the nearest label;
what lies outside the array is the black of the value range in images and 255 (ignore) in masks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medgraft.data.windows import Window
from medgraft.errors import UserError
from medgraft.store import IGNORE


@dataclass(frozen=True)
class Augment:
    """What may happen to a window. Zero (and ``scale=(1, 1)``) switches a part off.

    flip_lr      probability of a left-right mirror image
    flip_axes    axes of a volume, of ``d``, ``h`` and ``w``, each reversed with probability one half
    rotate       degrees, uniform in -rotate .. rotate, about the depth axis
    scale        magnification, log-uniform between the two
    translate    shift, uniform in -translate .. translate of the box's sides
    crop         pixels of the output: pad all sides by ``crop``, take a random window of the old size
    brightness   added, uniform in -brightness .. brightness of the value range
    contrast     factor about the window's mean, uniform in 1 - contrast .. 1 + contrast
    gamma        exponent on values scaled to the value range, log-uniform in 1/(1+gamma) .. 1+gamma
    noise        standard deviation of Gaussian noise, uniform in 0 .. noise of the value range
    erase        probability that one rectangle is filled with random values
    erase_area   its share of the window; its aspect is log-uniform in 0.3 .. 3.3
    """

    flip_lr: float = 0.0
    flip_axes: str = ""
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    crop: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    erase_area: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1]):
            raise UserError(f"augment scale must be two positive factors, low then high, not {self.scale}")
        if set(self.flip_axes) - set("dhw"):
            raise UserError(f"augment flip_axes holds letters of d, h and w, not {self.flip_axes!r}")
        for name in ("flip_lr", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment {name} is a probability, not {getattr(self, name)}")
        for name in ("rotate", "translate", "crop", "brightness", "contrast", "gamma", "noise", "erase_area"):
            if getattr(self, name) < 0:
                raise UserError(f"augment {name} must not be negative, not {getattr(self, name)}")

    @property
    def idle(self) -> bool:
        """True when every window stays as it is (so that features may be cached)."""
        return self == replace(Augment(), erase_area=self.erase_area)


#: ``xray`` and ``ultrasound`` never turn a picture upside down; ``xray`` mirrors left and right, which
#: ``preset("xray", flip_lr=0)`` switches off where the side matters (situs, laterality).
PRESETS: dict[str, Augment] = {
    "none": Augment(),
    "light": Augment(translate=0.04, brightness=0.05, contrast=0.05),
    "xray": Augment(flip_lr=0.5, rotate=10, scale=(0.9, 1.15), translate=0.05, brightness=0.1, contrast=0.15),
    "xray_geometry": Augment(flip_lr=0.5, rotate=10, scale=(0.9, 1.1), translate=0.05),
    "ultrasound": Augment(
        flip_lr=0.5, rotate=10, scale=(0.9, 1.15), translate=0.05, brightness=0.05, contrast=0.1, gamma=0.15
    ),
    "volume": Augment(flip_axes="dhw", rotate=15, scale=(0.9, 1.1), brightness=0.05, contrast=0.1, noise=0.02),
    "natural": Augment(flip_lr=0.5, scale=(1.0, 1.4), translate=0.1, brightness=0.2, contrast=0.2, erase=0.1),
}


def preset(name: str, **changes: Any) -> Augment:
    """A preset by name, with some of its values changed. Raises ``UserError`` with the nearest name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        raise UserError(
            f"augmentation {name!r} is unknown",
            fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(PRESETS)}",
        )
    known = [f.name for f in fields(Augment)]
    for key in changes:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise UserError(
                f"augmentation has no {key!r}",
                fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}",
            )
    return replace(PRESETS[name], **changes)


def without_mirror(augment: Augment) -> Augment:
    """The same augmentation without mirror images: along whichever axis, they turn a left hand into a right one."""
    return replace(augment, flip_lr=0.0, flip_axes="")


@dataclass(frozen=True)
class Draw:
    """What happens to one window: the outcome of all dice.

    ``flips`` (d, h, w); ``angle`` in radians, counterclockwise; ``scale`` magnifies; ``shift`` (h, w) as share of the
    box, ``pixels`` (h, w) in output pixels, both moving the box; ``erase`` (top, left, height, width)
    as shares of the output; ``key`` seeds the noise and the erased patch.
    """

    flips: tuple[bool, bool, bool] = (False, False, False)
    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    pixels: tuple[int, int] = (0, 0)
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    erase: tuple[float, float, float, float] | None = None
    key: int = 0

    @property
    def changes_values(self) -> bool:
        return self.brightness != 0 or self.contrast != 1 or self.gamma != 1 or self.noise > 0 or self.erase is not None


STILL = Draw()


def draw(augment: Augment, rng: np.random.Generator) -> Draw:
    """Throw the dice once for a window.

    The same numbers are drawn whatever is switched on, so one change leaves the rest alone.
    """
    u = rng.random(16)
    key = int(rng.integers(1 << 62))
    sides = (False, False, bool(u[0] < augment.flip_lr))
    axes = tuple(axis in augment.flip_axes and bool(u[1 + i] < 0.5) for i, axis in enumerate("dhw"))
    low, high = augment.scale
    erase = None
    if u[12] < augment.erase:
        aspect = math.exp((2 * u[13] - 1) * math.log(3.3))
        tall, wide = min(1.0, math.sqrt(augment.erase_area * aspect)), min(1.0, math.sqrt(augment.erase_area / aspect))
        erase = (float(u[14] * (1 - tall)), float(u[15] * (1 - wide)), tall, wide)
    return Draw(
        flips=(axes[0], axes[1], sides[2] != axes[2]),
        angle=math.radians(augment.rotate) * float(2 * u[4] - 1),
        scale=math.exp(math.log(low) + float(u[5]) * (math.log(high) - math.log(low))),
        shift=(augment.translate * float(2 * u[6] - 1), augment.translate * float(2 * u[7] - 1)),
        pixels=tuple(int(rng.integers(-augment.crop, augment.crop + 1)) for _ in range(2)),  # type: ignore[arg-type]
        brightness=augment.brightness * float(2 * u[8] - 1),
        contrast=1 + augment.contrast * float(2 * u[9] - 1),
        gamma=math.exp(math.log1p(augment.gamma) * float(2 * u[10] - 1)),
        noise=augment.noise * float(u[11]),
        erase=erase,
        key=key,
    )


def cut(
    array: np.ndarray,
    window: Window,
    drawn: Draw = STILL,
    *,
    value_range: tuple[float, float] = (0.0, 255.0),
    mask: np.ndarray | None = None,
    mask_rows: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read a window of an array (C, D, H, W) and transform it: only the frames and rows it needs are touched.

    Returns x (C, D, H, W) of the window's size in the array's type, and with ``mask`` (N, K, H, W)
    its labels (K, D, H, W) uint8. ``mask_rows`` gives the mask's row for each of ``window.frames``,
    -1 where a frame is not traced: such frames are 255 throughout, never background.
    """
    depth, height, width = window.size
    if isinstance(array, np.memmap):
        array = array.view(np.ndarray)  # the subclass costs more for each slice than the slice
    box = _box(window, drawn)
    labels: np.ndarray | None = None
    if drawn.angle == 0:
        corner = tuple(round(v) for v in box[:2])
        sides = tuple(max(1, round(v)) for v in box[2:])
        region = (*corner, *sides)
        pixels = _read(array, window.frames, region, value_range[0], drawn.flips)
        x = _resize(pixels, (height, width))
        if mask is not None:
            labels = _read_labels(mask, mask_rows, region, drawn.flips)
            labels = labels[:, :, _nearest(sides[0], height)][:, :, :, _nearest(sides[1], width)]
    else:
        x, labels = _rotate(array, window, box, drawn, value_range[0], mask, mask_rows)
    if len(window.frames) != depth:
        x = _resize_depth(x, depth)
        labels = None if labels is None else labels[:, _nearest(len(window.frames), depth)]
    if drawn.changes_values:
        x = _intensity(x, drawn, value_range)
    out = _as_type(x, array.dtype)
    return out, None if labels is None else torch.from_numpy(np.ascontiguousarray(labels))


def apply(
    drawn: Draw, x: np.ndarray, mask: np.ndarray | None = None, *, value_range: tuple[float, float] = (0.0, 255.0)
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Transform a clip (C, D, H, W) and its mask (D, K, H, W) in memory, keeping their size."""
    _, depth, height, width = x.shape
    window = Window(-1, tuple(range(depth)), (0, 0, height, width), (depth, height, width))
    return cut(x, window, drawn, value_range=value_range, mask=mask, mask_rows=range(depth))


def _box(window: Window, drawn: Draw) -> tuple[float, float, float, float]:
    """The part of the array that fills the output: the window's box, shifted and shrunk about its centre."""
    top, left, height, width = window.box
    tall, wide = height / drawn.scale, width / drawn.scale
    down = drawn.shift[0] * height + drawn.pixels[0] * tall / window.size[1]
    right = drawn.shift[1] * width + drawn.pixels[1] * wide / window.size[2]
    return top + (height - tall) / 2 + down, left + (width - wide) / 2 + right, tall, wide


def reach(window: Window, drawn: Draw) -> tuple[int, int, int, int]:
    """Rows and columns (top, left, bottom, right) that ``cut`` may look at, with some to spare; they may lie outside
    the array.
    """
    top, left, tall, wide = _box(window, drawn)
    cos, sin = abs(math.cos(drawn.angle)), abs(math.sin(drawn.angle))
    half_y, half_x = (cos * tall + sin * wide) / 2 + 2, (sin * tall + cos * wide) / 2 + 2
    cy, cx = top + tall / 2, left + wide / 2
    return math.floor(cy - half_y), math.floor(cx - half_x), math.ceil(cy + half_y), math.ceil(cx + half_x)


def _read(
    array: np.ndarray, frames: Sequence[int], region: Sequence[int], fill: float, flips: Sequence[bool]
) -> np.ndarray:
    """Copy frames of a region (top, left, height, width) to (C, n, height, width), flipped on the way; outside is
    ``fill``.
    """
    channels, depth, rows, columns = array.shape
    top, left, height, width = region
    out = np.empty((channels, len(frames), height, width), array.dtype)
    view = out[:, :: -1 if flips[0] else 1, :: -1 if flips[1] else 1, :: -1 if flips[2] else 1]
    t, b, m, n = max(top, 0), min(top + height, rows), max(left, 0), min(left + width, columns)
    fill = _clip_to_type(fill, array.dtype)
    if b <= t or n <= m:
        out.fill(fill)
        return out
    if (b - t, n - m) != (height, width):
        # Only the rim lies outside; filling all of it would cost as much as reading.
        view[:, :, : t - top], view[:, :, b - top :] = fill, fill
        view[:, :, :, : m - left], view[:, :, :, n - left :] = fill, fill
    target = view[:, :, t - top : b - top, m - left : n - left]
    step = frames[1] - frames[0] if len(frames) > 1 else 1
    if (
        step > 0
        and frames[0] >= 0
        and frames[-1] < depth
        and list(frames) == list(range(frames[0], frames[-1] + 1, step))
    ):
        target[:] = array[:, frames[0] : frames[-1] + 1 : step, t:b, m:n]
        return out
    for place, frame in enumerate(frames):
        target[:, place] = array[:, frame, t:b, m:n] if 0 <= frame < depth else fill
    return out


def _read_labels(mask: np.ndarray, rows: Sequence[int], region: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    """As ``_read`` for a mask (N, K, H, W): (K, n, height, width), 255 outside and where a frame has no row."""
    return _read(mask.swapaxes(0, 1), rows, region, IGNORE, flips)


def _nearest(n: int, side: int) -> np.ndarray:
    """The source pixel whose cell holds the centre of each of ``side`` output pixels."""
    return ((2 * np.arange(side) + 1) * n) // (2 * side)


def _float(array: np.ndarray) -> torch.Tensor:
    # torch has no kernels for unsigned types wider than 8 bits, numpy has.
    if array.dtype in (np.uint8, np.int16, np.int32, np.float32):
        return torch.from_numpy(array).to(torch.float32)
    return torch.from_numpy(array.astype(np.float32))


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Antialiased bilinear resize of (C, D, H, W); untouched when the size is right already."""
    if pixels.shape[2:] == size:
        return torch.from_numpy(pixels)
    return F.interpolate(_float(pixels), size, mode="bilinear", antialias=True, align_corners=False)


def _resize_depth(x: torch.Tensor, depth: int) -> torch.Tensor:
    """Antialiased linear resampling of (C, D, H, W) along D."""
    channels, n, height, width = x.shape
    flat = (x if x.dtype == torch.float32 else _float(x.numpy())).reshape(1, channels, n, height * width)
    return F.interpolate(flat, (depth, height * width), mode="bilinear", antialias=True, align_corners=False).reshape(
        channels, depth, height, width
    )


def _rotate(
    array: np.ndarray,
    window: Window,
    box: tuple[float, float, float, float],
    drawn: Draw,
    fill: float,
    mask: np.ndarray | None,
    mask_rows: Sequence[int],
) -> tuple[torch.Tensor, np.ndarray | None]:
    """Sample a rotated box onto the output grid: one affine grid for all frames.

    Where the output is coarser than the source, the grid is refined until it is not, and the refined
    picture is brought to size with the antialiased filter that unrotated windows get; beyond a factor
    of four, pixels are first averaged in blocks, which bounds the work.
    """
    _, height, width = window.size
    top, left, tall, wide = box
    cy, cx = top + tall / 2, left + wide / 2
    cos, sin = math.cos(drawn.angle), math.sin(drawn.angle)
    half_y, half_x = (abs(cos) * tall + abs(sin) * wide) / 2, (abs(sin) * tall + abs(cos) * wide) / 2
    # One more pixel on each side gives the bilinear kernel its neighbours.
    t, b = max(0, math.floor(cy - half_y) - 1), min(array.shape[2], math.ceil(cy + half_y) + 1)
    m, n = max(0, math.floor(cx - half_x) - 1), min(array.shape[3], math.ceil(cx + half_x) + 1)
    if b <= t or n <= m:  # the box left the array
        t, b, m, n = 0, 1, 0, 1
        cy, cx = -1e6, -1e6
    region = (t, m, b - t, n - m)
    flips = (drawn.flips[0], False, False)
    pixels = _float(_read(array, window.frames, region, fill, flips))
    channels, frames = pixels.shape[:2]
    stack = (pixels - fill).reshape(1, channels * frames, b - t, n - m)

    shrink = tall / height, wide / width
    blocks = tuple(max(1, int(s // 2)) for s in shrink)
    fine = tuple(max(1, math.ceil(s / f - 1e-6)) for s, f in zip(shrink, blocks))
    if blocks != (1, 1):
        stack = F.avg_pool2d(stack, blocks, ceil_mode=True)
    extent = stack.shape[2] * blocks[0], stack.shape[3] * blocks[1]
    y, x = _places(height * fine[0], width * fine[1], (tall, wide), (cy - t, cx - m), (cos, sin), drawn.flips)
    grid = torch.empty(1, height * fine[0], width * fine[1], 2)
    for axis, (place, side) in enumerate(((x, extent[1]), (y, extent[0]))):
        # Sums of a column and a row, straight into place: a fifth of the time of F.affine_grid.
        down, right = (torch.from_numpy((2 / side * part).astype(np.float32)) for part in place)
        torch.add(down - 1, right, out=grid[0, :, :, axis])
    out = F.grid_sample(stack, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if fine != (1, 1):
        out = F.interpolate(out, (height, width), mode="bilinear", antialias=True, align_corners=False)
    out = out.reshape(channels, frames, height, width) + fill

    labels = None
    if mask is not None:
        source = _read_labels(mask, mask_rows, region, flips)
        y, x = _places(height, width, (tall, wide), (cy - t, cx - m), (cos, sin), drawn.flips)
        rows, columns = (np.floor(down + right).astype(np.int64) for down, right in (y, x))
        inside = (rows >= 0) & (rows < b - t) & (columns >= 0) & (columns < n - m)
        labels = source[:, :, np.where(inside, rows, 0), np.where(inside, columns, 0)]
        labels[:, :, ~inside] = IGNORE
    return out, labels


def _places(
    height: int,
    width: int,
    box: tuple[float, float],
    centre: tuple[float, float],
    turn: tuple[float, float],
    flips: Sequence[bool],
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Where the centres of an output grid lie in the source, in pixels counted from the region's edge.

    Vertical and horizontal place, each as a column (height, 1) and a row (1, width) whose sum it is.
    """
    v = (((np.arange(height) + 0.5) / height - 0.5) * box[0] * (-1 if flips[1] else 1))[:, None]
    u = (((np.arange(width) + 0.5) / width - 0.5) * box[1] * (-1 if flips[2] else 1))[None, :]
    cos, sin = turn
    return (centre[0] + cos * v, sin * u), (centre[1] - sin * v, cos * u)


def _intensity(x: torch.Tensor, drawn: Draw, value_range: tuple[float, float]) -> torch.Tensor:
    """Contrast, brightness, gamma, noise and the erased rectangle, on values scaled so that black is 0 and white
    is 1.
    """
    # numpy, not torch: where torch cuts an array among its threads decides which values meet the vector
    # or the scalar code of pow and fused sums, and their last bits differ. Workers have one thread.
    low, high = np.float32(value_range[0]), np.float32(value_range[1])
    v = (x if x.dtype == torch.float32 else _float(x.numpy())).numpy() - low
    v /= high - low
    if drawn.contrast != 1:
        mean = v.mean(dtype=np.float64).astype(np.float32)
        v -= mean
        v *= np.float32(drawn.contrast)
        v += mean
    if drawn.brightness:
        v += np.float32(drawn.brightness)
    if drawn.gamma != 1:
        # Only what lies between black and white bends; the rest keeps its place.
        np.power(v, np.float32(drawn.gamma), out=v, where=(v > 0) & (v < 1))
    rng = np.random.Generator(np.random.Philox(key=drawn.key))
    if drawn.noise:
        v += rng.standard_normal(v.shape, np.float32) * np.float32(drawn.noise)
    if drawn.erase is not None:
        height, width = v.shape[2:]
        t, m = int(drawn.erase[0] * height), int(drawn.erase[1] * width)
        tall, wide = max(1, round(drawn.erase[2] * height)), max(1, round(drawn.erase[3] * width))
        patch = v[:, :, t : t + tall, m : m + wide]
        patch[:] = rng.random((v.shape[0], 1, *patch.shape[2:]), np.float32)
    v *= high - low
    v += low
    return torch.from_numpy(v)


def _clip_to_type(value: float, dtype: np.dtype[Any]) -> float | int:
    if dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return int(min(max(round(value), limits.min), limits.max))


def _as_type(x: torch.Tensor, dtype: np.dtype[Any]) -> torch.Tensor:
    """Back to the stored type: rounded and held within its limits."""
    if x.dtype != torch.float32 or dtype == np.float32:
        return x
    if dtype.kind == "f":
        return torch.from_numpy(x.numpy().astype(dtype))
    limits = np.iinfo(dtype)
    # 32-bit limits are not float32 numbers; clamping one below keeps the cast defined.
    high = float(np.nextafter(np.float32(limits.max), np.float32(0))) if limits.max > 1 << 24 else float(limits.max)
    x = x.round().clamp_(float(limits.min), high)
    if dtype in (np.uint8, np.int16, np.int32):
        return x.to({"uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32}[dtype.name])
    return torch.from_numpy(x.numpy().astype(dtype))
