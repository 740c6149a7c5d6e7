"""Volumes (NIfTI, MetaImage, NRRD) by SimpleITK, brought to one orientation.

The array is (1, D, H, W) with axes (z, y, x) of RAS: d grows to superior, h to anterior, w to the
patient's right-to-left axis in the RAS sense (towards right). ``to_source`` maps (d, h, w, 1) to
DICOM's patient coordinates (LPS, mm), the coordinates SimpleITK uses for every format.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgraft.intake.read import Limits, Study, Unreadable, sniff, suffix_of

_IO = {"nifti": "NiftiImageIO", "metaimage": "MetaImageIO", "nrrd": "NrrdImageIO"}
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # faults are raised; ITK's console chatter holds paths


def read_volume(path: Path, limits: Limits) -> Study:
    """One volume, loaded whole after its declared size was checked. 4D files with one time step are 3D."""
    image, spacing_known, notes = load_image(path, limits)
    array, spacing, to_source = oriented(image)
    if not spacing_known:
        spacing = [None, None, None]
        notes.append("no spacing in the header")
    return Study("volume", _slices(array), spacing=spacing, value_unit="raw", time_source=["none"], to_source=to_source, notes=notes)


def load_image(path: Path, limits: Limits) -> tuple[sitk.Image, bool, list[str]]:
    """A scalar 3D SimpleITK image, whether its spacing is known, and notes."""
    reader_line = sniff(path)
    assert reader_line is not None
    notes: list[str] = []
    known = _inspect_header(path, reader_line.name, limits, notes)
    with tempfile.TemporaryDirectory(prefix="medgraft-") as folder:
        named = _with_right_suffix(path, reader_line.name, reader_line.suffixes, Path(folder))
        reader = sitk.ImageFileReader()
        reader.SetImageIO(_IO[reader_line.name])
        reader.SetFileName(str(named))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise Unreadable(f"not a whole {reader_line.name} header", fix="copy the file again from its source") from error
        size = list(reader.GetSize())
        bytes_declared = math.prod(size) * reader.GetNumberOfComponents() * 8
        if bytes_declared > limits.bytes:
            raise Unreadable(
                f"declares {'x'.join(map(str, size))} voxels, more than {limits.bytes >> 20} MiB", fix="allow more with max_mib=N or crop it"
            )
        if reader.GetNumberOfComponents() != 1:
            raise Unreadable(f"{reader.GetNumberOfComponents()} values a voxel (colour or vector)", fix="store one scalar volume a file")
        if len(size) == 4 and size[3] > 1:
            raise Unreadable(f"holds {size[3]} time steps", fix="store one volume a file")
        if len(size) not in (2, 3, 4):
            raise Unreadable(f"has {len(size)} dimensions", fix="store one 3D volume a file")
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise Unreadable(
                "the voxels are fewer than the header declares: truncated or damaged", fix="copy the file again from its source"
            ) from error
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    return image, known, notes


def oriented(image: sitk.Image) -> tuple[np.ndarray, list[float | None], tuple[float, ...]]:
    """Array (D, H, W) in RAS order reversed to (z, y, x), spacing (d, h, w) and the affine to LPS."""
    image = sitk.DICOMOrient(image, "RAS")
    array = sitk.GetArrayFromImage(image)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    spacing_xyz = np.array(image.GetSpacing())
    columns = direction * spacing_xyz  # columns: steps along x, y, z
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]  # our index order is (d, h, w) = (z, y, x)
    affine[:3, 3] = image.GetOrigin()
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    elif array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise Unreadable("integers beyond 32 bit", fix="store 16 or 32 bit values")
        array = array.astype(np.int32)
    return array, [float(s) for s in spacing_xyz[::-1]], tuple(float(v) for v in affine.reshape(-1))


def _slices(array: np.ndarray) -> Iterator[np.ndarray]:
    for index in range(array.shape[0]):
        yield array[index][None]


def _with_right_suffix(path: Path, kind: str, suffixes: tuple[str, ...], folder: Path) -> Path:
    """ITK insists on suffixes; a file with a wrong one is read through a link with the right one."""
    with open(path, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    right = {"nifti": ".nii.gz" if zipped else ".nii", "metaimage": ".mha", "nrrd": ".nrrd"}[kind]
    if suffix_of(path) == right or (kind != "nifti" and suffix_of(path) in suffixes):
        return path
    link = folder / f"study{right}"
    try:
        os.symlink(path.resolve(), link)
    except OSError:  # Windows without the right to make links
        import shutil

        shutil.copyfile(path, link)
    return link


def _inspect_header(path: Path, kind: str, limits: Limits, notes: list[str]) -> bool:
    """Refuse detached headers; say whether the file states its spacing (ITK would invent 1 mm)."""
    if kind == "nifti":
        return _inspect_nifti(path, limits, notes)
    with open(path, "rb") as stream:
        text = stream.read(65536)
    if kind == "metaimage":
        data = re.search(rb"^ElementDataFile\s*=\s*(.*?)\s*$", text, re.MULTILINE)
        if data is None or data.group(1) != b"LOCAL":
            raise Unreadable("its voxels lie in another file (detached header)", fix="convert it to .mha, one file")
        return re.search(rb"^Element(Spacing|Size)\s*=", text, re.MULTILINE) is not None
    header = text.split(b"\n\n")[0].replace(b"\r", b"")
    if re.search(rb"^data ?file:", header, re.MULTILINE | re.IGNORECASE):
        raise Unreadable("its voxels lie in another file (detached header)", fix="convert it to .nrrd, one file")
    return re.search(rb"^(spacings|space directions):", header, re.MULTILINE) is not None


def _inspect_nifti(path: Path, limits: Limits, notes: list[str]) -> bool:
    """Whether the spacing is stated. ITK fills a truncated file with zeros and turns NaN into 0, both without
    a word, so bytes and non-finite values are counted here, in a stream."""
    with open(path, "rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if zipped else open(path, "rb") as stream:
            header = _NiftiHeader.parse(stream.read(540))
            if header.size > limits.bytes:
                sides = "x".join(map(str, header.extent))
                raise Unreadable(f"declares {sides} voxels, more than {limits.bytes >> 20} MiB", fix="allow more with max_mib=N or crop it")
            stream.seek(header.start)
            left, bad = header.size, 0
            while left and (block := stream.read(min(left, 1 << 20))):
                left -= len(block)
                if header.floats is not None:
                    whole = len(block) - len(block) % header.floats.itemsize
                    bad += int((~np.isfinite(np.frombuffer(block[:whole], header.floats))).sum())
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable("the compressed stream is damaged or truncated", fix="copy the file again from its source") from error
    if left:
        raise Unreadable(f"truncated: {left} of {header.size} bytes of voxels are missing", fix="copy the file again from its source")
    if bad:
        raise Unreadable(f"holds {bad} NaN or infinite values", fix="replace them by the background value and scan again")
    if not header.oriented:
        notes.append("no orientation in the header; axes taken as stored")
    return header.spaced


@dataclass(frozen=True)
class _NiftiHeader:
    """What of a NIfTI-1 or -2 header is checked before ITK sees the file; ``size`` is the bytes of its voxels."""

    extent: list[int]
    start: int
    size: int
    floats: np.dtype[Any] | None
    spaced: bool
    oriented: bool

    @classmethod
    def parse(cls, head: bytes) -> _NiftiHeader:
        if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
            raise Unreadable("its voxels lie in another file (detached header)", fix="convert it to .nii, one file")
        second = head[4:8] == b"n+2\0"
        if len(head) < (540 if second else 348):
            raise Unreadable("not a whole nifti header: truncated", fix="copy the file again from its source")
        order = "<" if int.from_bytes(head[:4], "little") in (348, 540) else ">"

        def field(kind: str, count: int, first: int, later: tuple[str, int]) -> np.ndarray:
            kind, at = later if second else (kind, first)
            return np.frombuffer(head, np.dtype(f"{order}{kind}"), count, at)

        sides = field("i2", 8, 40, ("i8", 16))
        extent = [int(v) for v in sides[1 : 1 + min(7, max(0, int(sides[0])))]]
        kind, bits = int(field("i2", 1, 70, ("i2", 12))[0]), int(field("i2", 1, 72, ("i2", 14))[0])
        pixdim = field("f4", 8, 76, ("f8", 104))
        return cls(
            extent=extent,
            start=max(0, int(field("f4", 1, 108, ("i8", 168))[0])),
            size=math.prod(extent) * bits // 8,
            floats={16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}.get(kind),
            spaced=bool(np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()),
            oriented=bool(field("i2", 2, 252, ("i4", 344)).any()),
        )
