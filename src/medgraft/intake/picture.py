"""PNG and JPEG, 8 and 16 bit, by Pillow. Also the one luminance formula of the package."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from medgraft.intake.read import Limits, Study, Unreadable


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Grey of an ``(..., 3)`` uint8 array by ITU-R BT.601, rounded as Pillow does. Equal channels stay as they are."""
    red, green, blue = (rgb[..., i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


def channels_first(pixels: np.ndarray, colour: bool) -> np.ndarray:
    """``(H, W)`` or ``(H, W, 3)`` to ``(C, H, W)`` with C = 3 under ``colour``, else 1."""
    if pixels.ndim == 2:
        return np.ascontiguousarray(np.broadcast_to(pixels, (3 if colour else 1, *pixels.shape)))
    if colour:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return luminance(pixels)[None]


def read_picture(path: Path, limits: Limits) -> Study:
    """One picture: uint8 (display) or uint16 (raw), grey unless colour is asked for. EXIF rotation is applied."""
    with warnings.catch_warnings():
        # The size is checked below, against our own limit, before any pixel is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(path, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            raise _bomb(limits) from error
    if picture.width * picture.height > limits.pixels:
        picture.close()
        raise _bomb(limits, picture.width, picture.height)
    notes: list[str] = []
    deep = picture.mode.startswith("I")
    return Study("image", _pixels(picture, limits, notes), value_unit="raw" if deep else "display", time_source=["none"], notes=notes)


def _bomb(limits: Limits, width: int = 0, height: int = 0) -> Unreadable:
    size = f"{width}x{height} pixels are" if width else "it declares"
    return Unreadable(f"{size} more than {limits.pixels} pixels (decompression bomb?)", fix="allow more with max_pixels=N if the file is trusted")


def _pixels(picture: Image.Image, limits: Limits, notes: list[str]) -> Iterator[np.ndarray]:
    with picture:
        picture.load()  # raises on truncated files: Pillow's tolerance for them is off by default
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            pixels = np.asarray(upright)
            yield channels_first(pixels.astype(np.uint16), limits.colour)
            return
        if upright.mode in ("L", "1"):
            pixels = np.asarray(upright.convert("L"))
        else:
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                notes.append("transparency dropped")
            pixels = np.asarray(upright.convert("RGB"))
        yield channels_first(pixels, limits.colour)
