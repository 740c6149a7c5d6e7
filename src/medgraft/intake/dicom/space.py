"""Where the frames of a DICOM file lie: positions and spacing (PS3.3 C.7.6.2), slices that form a volume, ultrasound
regions (C.8.5.5).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from medgraft.datasets import Box
from medgraft.intake.dicom.header import functional, numbers
from medgraft.intake.read import Study, Unreadable
from medgraft.intake.volume import oriented

_UNITS = dict(
    enumerate(("none", "percent", "dB", "cm", "s", "Hz", "dB/s", "cm/s", "cm2", "cm2/s", "cm3", "cm3/s", "degrees"))
)
_REGION_FORMATS = {0: "none", 1: "2D", 2: "M-mode", 3: "spectral", 4: "wave form", 5: "graphics"}


def orientation(data: Dataset) -> np.ndarray:
    """Row and column direction (6,); those of an axial slice where the header has none."""
    value = data.get("ImageOrientationPatient")
    found = numbers(value) if value else np.array([1.0, 0, 0, 0, 1, 0])
    if len(found) != 6 or not np.isfinite(found).all():
        raise Unreadable("its orientation is no pair of directions", fix="leave it out")
    return found


def frame_positions(data: Dataset, frames: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """(position, orientation) of every frame of an enhanced object or dose grid, or ``None`` where frames are not
    slices.
    """
    offsets, origin = data.get("GridFrameOffsetVector"), data.get("ImagePositionPatient")
    if offsets is not None and origin is not None and frames > 1 and len(np.atleast_1d(offsets)) == frames:
        turn = orientation(data)
        normal = np.cross(turn[:3], turn[3:])
        # Relative offsets begin with 0 (PS3.3 C.8.8.3.2); otherwise they are z coordinates themselves.
        steps = numbers(offsets) - float(offsets[0])
        return [(numbers(origin) + normal * step, turn) for step in steps]
    groups = data.get("PerFrameFunctionalGroupsSequence")
    if not groups or len(groups) != frames or frames < 2:
        return None
    planes, turns = functional(data, "PlanePositionSequence"), functional(data, "PlaneOrientationSequence")
    if len(planes) != frames or not turns or any("ImagePositionPatient" not in plane for plane in planes):
        return None
    turns = turns * frames if len(turns) == 1 else turns
    found = [(numbers(plane.ImagePositionPatient), orientation(turn)) for plane, turn in zip(planes, turns)]
    return found if np.ptp(np.stack([p for p, _ in found]), axis=0).max() > 1e-6 else None


def volume_of(
    stack: list[np.ndarray],
    positions: list[tuple[np.ndarray, np.ndarray]],
    header: Dataset,
    unit: str,
    notes: list[str],
    facts: dict[str, Any],
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
    if len(order) > 1:
        way = positions[order[-1]][0] - positions[order[0]][0]
        aside = float(np.linalg.norm(way - (way @ normal) * normal)) / (len(order) - 1)
        if aside > 0.01 * gap:
            notes.append(
                f"tilted gantry: each slice lies {aside:.3g} mm aside of the last; places in space are not exact"
            )
    spacing = pixel_spacing(header, notes)
    common = np.result_type(*{frame.dtype for frame in stack})
    channels = []
    for channel in range(len(stack[0])):
        image = sitk.GetImageFromArray(np.stack([stack[i][channel].astype(common) for i in order]))
        image.SetSpacing([spacing[1] or 1.0, spacing[0] or 1.0, gap])
        image.SetOrigin([float(v) for v in positions[order[0]][0]])
        image.SetDirection([float(v) for v in np.stack([row, column, normal], axis=1).reshape(-1)])
        array, found, to_source = oriented(image)
        channels.append(array)
    known: list[float | None] = list(found) if spacing[0] else [None, None, None]
    slices = (np.stack(planes) for planes in zip(*channels))
    return Study("volume", slices, known, unit, time_source=["none"], to_source=to_source, facts=facts, notes=notes)


def pixel_spacing(header: Dataset, notes: list[str]) -> list[float | None]:
    """(h, w) in mm from PixelSpacing, functional groups, ultrasound regions or the detector."""
    value = header.get("PixelSpacing")
    if not value:
        measures = functional(header, "PixelMeasuresSequence")
        value = measures[0].get("PixelSpacing") if measures else None
    if not value:
        regions = [r for r in header.get("SequenceOfUltrasoundRegions") or [] if r.get("RegionSpatialFormat") == 1]
        steps = {
            (abs(float(r.PhysicalDeltaY)), abs(float(r.PhysicalDeltaX)))
            for r in regions
            if r.get("PhysicalUnitsXDirection") == 3
        }
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


def region_boxes(data: Dataset) -> list[dict[str, Any]]:
    """The calibrated regions of an ultrasound frame: box in pixels, what it shows, and its steps in physical units."""
    found = []
    for region in data.get("SequenceOfUltrasoundRegions") or []:
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if None in corners:
            continue
        left, top, right, bottom = (int(v) for v in corners)
        right, bottom = min(right, int(data.Columns) - 1), min(bottom, int(data.Rows) - 1)
        if not (0 <= left < right and 0 <= top < bottom):
            continue
        box: dict[str, Any] = {"x": left, "y": top, "width": right - left + 1, "height": bottom - top + 1}
        box["format"] = _REGION_FORMATS.get(int(region.get("RegionSpatialFormat") or 0), "other")
        for axis in "XY":
            delta = region.get(f"PhysicalDelta{axis}")
            if delta is not None and math.isfinite(float(delta)):
                box[f"delta_{axis.lower()}"] = float(delta)
                box[f"unit_{axis.lower()}"] = _UNITS.get(int(region.get(f"PhysicalUnits{axis}Direction") or 0), "other")
        found.append(box)
    return found


def region_around(header: Dataset) -> list[int] | None:
    """Top, left, bottom, right of the box around all ultrasound regions (PS3.3 C.8.5.5), or ``None``."""
    try:
        found = [
            Box(
                int(r.RegionLocationMinY0),
                int(r.RegionLocationMinX0),
                int(r.RegionLocationMaxY1) + 1,
                int(r.RegionLocationMaxX1) + 1,
            )
            for r in header.get("SequenceOfUltrasoundRegions") or []
            if r.get("RegionSpatialFormat") in (1, 2, 3)
        ]
    except (AttributeError, TypeError, ValueError):
        return None
    if not found:
        return None
    whole = found[0]
    for region in found[1:]:
        whole = whole.union(region)
    top, left, bottom, right = map(int, whole)
    inside = 0 <= top < bottom <= int(header.Rows) and 0 <= left < right <= int(header.Columns)
    return [top, left, bottom, right] if inside else None


def without_repeats(stack: list[np.ndarray], positions: list[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """Which slices to keep: a copy of another (one place, equal pixels) says nothing new."""
    kept: list[int] = []
    at: dict[tuple[float, ...], list[int]] = {}
    for index, (position, _) in enumerate(positions):
        same = at.setdefault(tuple(np.round(position, 3)), [])
        if not any(np.array_equal(stack[other], stack[index]) for other in same):
            kept.append(index)
            same.append(index)
    return kept
