"""Masks: label maps of whole numbers, from pictures and volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgraft.intake.read import VOLUMES, Limits, Unreadable, sniff


def read_mask(path: Path, limits: Limits) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """A label map (D, H, W) of whole numbers, and for volumes its affine to patient coordinates."""
    try:
        reader = sniff(path)
    except Unreadable as error:
        raise Unreadable(f"mask: {error.cause}", fix=error.fix) from error
    name = reader.name if reader else "unknown"
    try:
        if name in VOLUMES:
            from medgraft.intake.volume import load_image, oriented

            image, _, _ = load_image(path, limits)
            array, _, affine = oriented(image)
            return _whole(array), affine
        if name in ("png", "bmp", "tiff"):
            return _whole(_picture_labels(path, limits))[None], None
    except Unreadable as error:
        raise Unreadable(f"mask: {error.cause}", fix=error.fix) from error
    except Exception as error:
        raise Unreadable(
            f"the mask cannot be decoded ({type(error).__name__}): damaged or truncated",
            fix="copy it again from its source",
        ) from error
    raise Unreadable(f"a mask cannot be a {name} file", fix="store masks as PNG, BMP, TIFF, NIfTI, MHA or NRRD")


def _picture_labels(path: Path, limits: Limits) -> np.ndarray:
    from PIL import Image

    with Image.open(path, formats=("PNG", "BMP", "TIFF")) as picture:
        if picture.width * picture.height > limits.pixels:
            raise Unreadable(f"larger than {limits.pixels} pixels", fix="allow more with max_pixels=N")
        pixels = np.asarray(picture)  # a palette picture gives its indices: those are the labels
    if pixels.ndim == 3:
        if not (pixels[..., :1] == pixels[..., :3]).all():
            raise Unreadable("a colour picture", fix="store label numbers in one channel")
        pixels = pixels[..., 0]
    return pixels


def _whole(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise Unreadable("values are not whole numbers", fix="store label numbers")
    return array.astype(np.int64)


def mask_values(path: str, limits: Limits) -> list[int]:
    """The label values of one mask other than 0; empty when it cannot be read (the case is rejected later)."""
    try:
        labels, _ = read_mask(Path(path), limits)
    except Unreadable:
        return []
    return [int(v) for v in np.unique(labels) if v != 0]
