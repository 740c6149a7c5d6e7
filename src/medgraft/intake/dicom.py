"""DICOM by pydicom: single pictures, cines, and series of slices that form a volume.

Nothing identifying leaves this file: the patient id and the institution appear only as keyed codes
(``medgraft.intake.keys``). Frame times come from FrameTimeVector, FrameTime, CineRate or
RecommendedDisplayFrameRate (PS3.3 C.7.6.5, C.7.6.6); positions and spacing from PS3.3 C.7.6.2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, iter_pixels, pixel_array

from medgraft.intake import deidentify
from medgraft.intake.picture import channels_first
from medgraft.intake.read import Limits, Study, Unreadable
from medgraft.intake.volume import oriented

GROUP_TAGS = ["SOPClassUID", "SeriesInstanceUID", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns", "Modality"]
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # odd header values are the norm, not a fault to print


def read_dicom(path: Path, limits: Limits) -> Study:
    """One DICOM file: a picture, a cine (video) or an enhanced multi-frame volume."""
    header = _header(path)
    frames = int(header.get("NumberOfFrames") or 1)
    _check_size(header, frames, limits)
    notes, facts = _notes(header), _facts(header)
    positions = _frame_positions(header, frames)
    if positions is not None:
        values = _Values(header, limits, notes)
        stack = [values(frame) for frame in _decoded(path)]
        return _volume(stack, positions, header, values.unit, notes, facts)
    values = _Values(header, limits, notes)
    spacing = _pixel_spacing(header, notes)
    if frames == 1:
        return Study("image", _single(path, values), [None, *spacing], values.unit, time_source=["none"], facts=facts, notes=notes)
    times, source = _times(header, frames)
    step = float(np.median(np.diff(times))) if len(times) > 1 else None
    return Study("video", map(values, _decoded(path)), [step, *spacing], values.unit, times=times, time_source=[source], facts=facts, notes=notes)


def read_series(paths: list[Path], limits: Limits) -> Study:
    """Single-frame files of one series as a volume, sorted along the slice normal."""
    headers = [_header(path) for path in paths]
    first = headers[0]
    _check_size(first, len(paths), limits)
    sizes = {(h.Rows, h.Columns) for h in headers}
    if len(sizes) > 1:
        raise Unreadable("slices of one series differ in size", fix="keep only the slices of one reconstruction in the folder")
    orientations = {tuple(round(float(v), 3) for v in h.get("ImageOrientationPatient", ())) for h in headers}
    if len(orientations) > 1:
        raise Unreadable("slices of one series differ in orientation", fix="leave the localiser out")
    notes, facts = _notes(first), _facts(first)
    stack: list[np.ndarray] = []
    unit = "raw"
    for path, header in zip(paths, headers):
        values = _Values(header, limits, [])
        stack.extend(values(frame) for frame in _decoded(path))
        unit = values.unit
    positions = [(_vector(h.ImagePositionPatient), _vector(h.get("ImageOrientationPatient", (1, 0, 0, 0, 1, 0)))) for h in headers]
    return _volume(stack, positions, first, unit, notes, facts)


def group_key(path: Path) -> tuple[str, str, bool]:
    """Series of a file, its part of the series (slices of one orientation and size), and whether it may belong to a stack.

    A localiser that shares a series with other slices is thus a part of its own.
    """
    with warnings.catch_warnings():  # the header is read again, with its warnings noted, when the study is stored
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=GROUP_TAGS, force=True)
        series = str(header.get("SeriesInstanceUID") or "")
        slice_like = bool(series) and int(header.get("NumberOfFrames") or 1) == 1 and header.get("ImagePositionPatient") is not None
        turn = [round(float(v), 2) + 0.0 for v in header.get("ImageOrientationPatient") or ()]
        return series, f"{series} {turn} {header.get('Rows')}x{header.get('Columns')}", slice_like


def _header(path: Path) -> Dataset:
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    if "Rows" not in header or "Columns" not in header:
        raise Unreadable("a DICOM object without pixels", fix="leave it out")
    return header


def _check_size(header: Dataset, frames: int, limits: Limits) -> None:
    pixels = int(header.Rows) * int(header.Columns)
    if pixels > limits.pixels:
        raise Unreadable(
            f"declares {header.Columns}x{header.Rows} pixels, more than {limits.pixels}", fix="allow more with max_pixels=N if the file is trusted"
        )
    if pixels * frames * int(header.get("SamplesPerPixel", 1)) * int(header.get("BitsAllocated", 8)) // 8 > limits.bytes:
        raise Unreadable(f"declares more than {limits.bytes >> 20} MiB of pixels", fix="allow more with max_mib=N if the file is trusted")


class _Values:
    """From decoded DICOM samples to stored values ``(C, H, W)``: colour, palette, inversion, HU. ``unit`` says what they are."""

    def __init__(self, header: Dataset, limits: Limits, notes: list[str]) -> None:
        self.header, self.colour = header, limits.colour
        self.interpretation = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        self.bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 8)
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        self.slope, self.intercept = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
        modality = str(header.get("Modality", ""))
        self.samples = int(header.get("SamplesPerPixel") or 1)
        self.rescale = modality in ("CT", "PT", "NM") or str(header.get("RescaleType", "")) == "HU"
        if self.samples == 3 or self.interpretation == "PALETTE COLOR":
            self.unit = "display"
        elif modality == "CT":
            self.unit = "HU"
        else:
            self.unit = "display" if self.bits == 8 and not self.rescale else "raw"
        if not self.rescale and (self.slope, self.intercept) != (1.0, 0.0):
            notes.append(f"rescale {self.slope:g} x + {self.intercept:g} noted, not applied")
        if self.interpretation == "MONOCHROME1" and self.unit != "HU":
            notes.append("MONOCHROME1 inverted")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self.interpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, self.header)
            if pixels.dtype == np.uint16:
                pixels = (pixels >> 8).astype(np.uint8) if pixels.max() > 255 else pixels.astype(np.uint8)
            return channels_first(pixels[..., :3], self.colour)
        if self.samples == 3:
            if pixels.dtype != np.uint8:
                pixels = (pixels >> max(0, self.bits - 8)).astype(np.uint8)
            return channels_first(pixels, self.colour)
        if self.rescale:
            return channels_first(self._rescaled(pixels), self.colour)
        if self.interpretation == "MONOCHROME1":
            signed = pixels.dtype.kind == "i"
            pixels = (-1 - pixels if signed else ((1 << self.bits) - 1) - pixels).astype(pixels.dtype)
        if self.bits == 1:
            pixels = pixels.astype(np.uint8) * 255
        return channels_first(pixels, self.colour)

    def _rescaled(self, pixels: np.ndarray) -> np.ndarray:
        if self.slope == 1 and self.intercept == int(self.intercept):
            wide = pixels.astype(np.int32) + int(self.intercept)
            return wide.astype(np.int16) if wide.min() >= -32768 and wide.max() <= 32767 and self.bits <= 16 and abs(self.intercept) < 16384 else wide
        return pixels.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def _decoded(path: Path) -> Iterator[np.ndarray]:
    """Frames as pydicom decodes them, one by one; a compression that cannot be read is named.

    pydicom's streaming fails on some whole files (deflated, mixed value representations, signed JPEG 2000 in
    unsigned headers) that it can read from memory: those are then read from memory.
    """
    count = 0
    try:
        try:
            for frame in iter_pixels(path):
                yield frame
                count += 1
        except (ValueError, AttributeError):
            if count:
                raise
            data = pydicom.dcmread(path, force=True)
            pixels = pixel_array(data)
            yield from pixels if int(data.get("NumberOfFrames") or 1) > 1 else [pixels]
    except RuntimeError as error:
        syntax = pydicom.dcmread(path, stop_before_pixels=True, force=True).file_meta.get("TransferSyntaxUID")
        kind = getattr(syntax, "name", "unknown")
        if "12-bit" in str(error):
            raise Unreadable(f"12-bit pixels in {kind} cannot be decoded", fix="decompress the file with the archive's own software") from error
        raise Unreadable(f"its pixels ({kind}) cannot be decoded: damaged or truncated", fix="copy the file again from its source") from error


def _single(path: Path, values: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    yield from map(values, _decoded(path))


def _vector(value: Any) -> np.ndarray:
    return np.array([float(v) for v in value])


def _frame_positions(header: Dataset, frames: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """(position, orientation) of every frame of an enhanced object, or ``None`` where frames are not slices."""
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups or len(groups) != frames or frames < 2:
        return None
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found = []
    for group in groups:
        plane = group.get("PlanePositionSequence")
        turn = group.get("PlaneOrientationSequence") or shared.get("PlaneOrientationSequence")
        if not plane or not turn or "ImagePositionPatient" not in plane[0]:
            return None
        found.append((_vector(plane[0].ImagePositionPatient), _vector(turn[0].ImageOrientationPatient)))
    return found if np.ptp(np.stack([p for p, _ in found]), axis=0).max() > 1e-6 else None


def _volume(
    stack: list[np.ndarray], positions: list[tuple[np.ndarray, np.ndarray]], header: Dataset, unit: str, notes: list[str], facts: dict[str, Any]
) -> Study:
    """Slices with positions as a volume in canonical orientation. Raises when two slices lie at one place."""
    row, column = positions[0][1][:3], positions[0][1][3:]
    normal = np.cross(row, column)
    along = np.array([position @ normal for position, _ in positions])
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    if len(gaps) and gaps.min() < 1e-3:
        raise Unreadable("two slices lie at one position", fix="give phases or repeats as separate series")
    gap = float(np.median(gaps)) if len(gaps) else float(header.get("SliceThickness") or 1.0)
    if len(gaps) and gaps.max() > gap * 1.01 + 1e-3:
        notes.append(f"slice gaps vary ({gaps.min():.3g} to {gaps.max():.3g} mm): missing slices?")
    spacing = _pixel_spacing(header, notes)
    values = {frame.dtype for frame in stack}
    common = np.result_type(*values)
    array = np.stack([stack[i][0].astype(common) for i in order])
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing[1] or 1.0, spacing[0] or 1.0, gap])
    image.SetOrigin([float(v) for v in positions[order[0]][0]])
    image.SetDirection([float(v) for v in np.stack([row, column, normal], axis=1).reshape(-1)])
    array, found, to_source = oriented(image)
    known: list[float | None] = list(found) if spacing[0] else [None, None, None]
    return Study("volume", (s[None] for s in array), known, unit, time_source=["none"], to_source=to_source, facts=facts, notes=notes)


def _pixel_spacing(header: Dataset, notes: list[str]) -> list[float | None]:
    """(h, w) in mm from PixelSpacing, functional groups, ultrasound regions or the detector."""
    value = header.get("PixelSpacing")
    if not value:
        shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        frame = (header.get("PerFrameFunctionalGroupsSequence") or [Dataset()])[0]
        measures = shared.get("PixelMeasuresSequence") or frame.get("PixelMeasuresSequence")
        value = measures[0].get("PixelSpacing") if measures else None
    if not value:
        regions = [r for r in header.get("SequenceOfUltrasoundRegions") or [] if r.get("RegionSpatialFormat") == 1]
        steps = {(abs(float(r.PhysicalDeltaY)), abs(float(r.PhysicalDeltaX))) for r in regions if r.get("PhysicalUnitsXDirection") == 3}
        if len(steps) == 1:
            notes.append("spacing from the ultrasound region")
            value = [10 * v for v in steps.pop()]  # cm to mm
    if not value and header.get("ImagerPixelSpacing"):
        value = header.ImagerPixelSpacing
        notes.append("spacing at the detector, not in the patient")
    if not value or len(value) != 2:
        return [None, None]
    found = [float(v) for v in value]
    return [*found] if all(math.isfinite(v) and v > 0 for v in found) else [None, None]


def _times(header: Dataset, frames: int) -> tuple[list[float], str]:
    """Seconds of every frame from 0, and where they come from."""
    vector = header.get("FrameTimeVector")
    if vector is not None and len(np.atleast_1d(vector)) == frames:
        steps = np.array([float(v) for v in np.atleast_1d(vector)]) / 1000
        times = np.cumsum(steps) - steps[0]
        if (np.diff(times) > 0).all():
            return [float(t) for t in times], "header"
    step = float(header.get("FrameTime") or 0) / 1000
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = float(header.get(name) or 0)
        step = step or (1 / rate if rate > 0 else 0)
    return ([i * step for i in range(frames)], "header") if step > 0 else ([], "none")


def _notes(header: Dataset) -> list[str]:
    notes = []
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        centre, width = np.atleast_1d(header.WindowCenter)[0], np.atleast_1d(header.WindowWidth)[0]
        notes.append(f"window centre {centre} width {width} noted, not applied")
    return notes


def _facts(header: Dataset) -> dict[str, Any]:
    """Patient, site and day in the clear, for the scan to code at once; the device as maker and model; words that name people or places."""
    device = " ".join(str(header.get(name) or "").strip() for name in ("Manufacturer", "ManufacturerModelName")).strip()
    return {
        "patient": str(header.get("PatientID") or "").strip(),
        "study": str(header.get("StudyInstanceUID") or "").strip(),
        "site": str(header.get("InstitutionName") or "").strip(),
        "device": device[:64],
        "day": deidentify.day_of(header),
        "names": deidentify.identity_words(header),
    }
