"""PNG, JPEG, BMP and TIFF by Pillow, one picture a file or one a page.

Also the one luminance formula of the package.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """One picture: uint8 (display), else its own type (raw), grey unless colour is asked for.

    EXIF rotation is applied.
    """
    picture = _opened(path, ("PNG", "JPEG", "BMP"), limits)
    notes: list[str] = []
    deep = picture.mode.startswith("I")
    return Study(
        "image",
        _pixels(picture, limits, notes),
        value_unit="raw" if deep else "display",
        time_source=["none"],
        notes=notes,
    )


def read_tiff(path: Path, limits: Limits) -> Study:
    """One TIFF: a picture, or with several pages a volume; a video where ImageJ wrote that its pages are frames.

    8, 16 and 32 bit, whole numbers and floats. Spacing is known only where ImageJ states it: the resolution
    of other writers speaks of print.
    """
    picture = _opened(path, ("TIFF",), limits)
    notes: list[str] = []
    says = _imagej(picture)
    several = getattr(picture, "n_frames", 1) > 1
    kind = "image" if not several else "video" if int(says.get("frames", 1)) > 1 else "volume"
    unit = (
        "display"
        if picture.mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA", "LAB", "RGBX")
        else "raw"
    )
    study = Study(kind, _pages(picture, limits, notes), value_unit=unit, time_source=["none"], notes=notes)
    if kind == "volume":
        notes.append("pages taken as slices; no orientation in the file")
        if says.get("unit") in ("mm", "micron", "um", "\\u00B5m") and says.get("spacing", 0) > 0:
            study.spacing[0] = says["spacing"] / (1 if says["unit"] == "mm" else 1000)
    elif kind == "video" and says.get("finterval", 0) > 0:
        object.__setattr__(study, "frames", _timed(study.frames, study, says["finterval"]))
    return study


def read_frames(paths: list[Path], limits: Limits) -> Study:
    """Pictures as the frames of one video, in the order given. Nothing says their times."""
    notes: list[str] = []
    first = _opened(paths[0], _PICTURES, limits)
    unit = "raw" if first.mode.startswith(("I", "F")) else "display"
    first.close()

    def frames() -> Iterator[np.ndarray]:
        for path in paths:
            picture = _opened(path, _PICTURES, limits)
            own: list[str] = []
            yield from _pages(picture, limits, own) if picture.format == "TIFF" else _pixels(picture, limits, own)
            notes.extend(n for n in own if n not in notes)

    return Study("video", frames(), value_unit=unit, time_source=["none"], notes=notes)


_PICTURES = ("PNG", "JPEG", "BMP", "TIFF")


def _opened(path: Path, formats: tuple[str, ...], limits: Limits) -> Image.Image:
    """A picture whose declared size was checked; nothing is decoded yet."""
    with warnings.catch_warnings():
        # The size is checked below, against our own limit, before any pixel is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(path, formats=formats)
        except Image.DecompressionBombError as error:
            raise _bomb(limits) from error
    if picture.width * picture.height > limits.pixels:
        picture.close()
        raise _bomb(limits, picture.width, picture.height)
    return picture


def _imagej(picture: Image.Image) -> dict[str, Any]:
    """What ImageJ wrote about a stack: frames, slices, spacing, unit, finterval; empty for other files."""
    text = picture.tag_v2.get(270, "") if hasattr(picture, "tag_v2") else ""
    if not isinstance(text, str) or not text.startswith("ImageJ="):
        return {}
    says: dict[str, Any] = dict(line.split("=", 1) for line in text[:4096].splitlines() if "=" in line)
    for name in ("frames", "slices", "spacing", "finterval"):
        try:
            says[name] = float(says[name]) if name in says else 0.0
        except ValueError:
            says[name] = 0.0
    return says


def _timed(frames: Iterator[np.ndarray], study: Study, step: float) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        study.times.append(index * step)
        yield frame
    study.time_source[:] = ["header"]
    study.spacing[0] = step


def _pages(picture: Image.Image, limits: Limits, notes: list[str]) -> Iterator[np.ndarray]:
    """Every page of a TIFF, each checked against the limit before it is decoded."""
    with picture:
        for page in itertools.count():
            try:
                picture.seek(page)
            except EOFError:
                return
            if picture.width * picture.height > limits.pixels:
                raise _bomb(limits, picture.width, picture.height)
            yield _upright(picture, limits, notes)


def _bomb(limits: Limits, width: int = 0, height: int = 0) -> Unreadable:
    size = f"{width}x{height} pixels are" if width else "it declares"
    return Unreadable(
        f"{size} more than {limits.pixels} pixels (decompression bomb?)",
        fix="allow more with max_pixels=N if the file is trusted",
    )


def _pixels(picture: Image.Image, limits: Limits, notes: list[str]) -> Iterator[np.ndarray]:
    with picture:
        yield _upright(picture, limits, notes)


def _upright(picture: Image.Image, limits: Limits, notes: list[str]) -> np.ndarray:
    """The pixels as a screen shows them, ``(C, H, W)``: uint8, or the file's own type where it holds more than 8
    bits.
    """
    picture.load()  # raises on truncated files: Pillow's tolerance for them is off by default
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        pixels = np.asarray(upright)
        if upright.mode.startswith("I") and (picture.format == "PNG" or "16" in upright.mode):
            pixels = pixels.astype(np.uint16)
        return channels_first(pixels, limits.colour)
    if upright.mode in ("L", "1"):
        pixels = np.asarray(upright.convert("L"))
    else:
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            notes.append("transparency dropped")
        pixels = np.asarray(upright.convert("RGB"))
    return channels_first(pixels, limits.colour)
