"""Simulated frontal chest radiographs with known answers, in the format of the RSNA Pneumonia Detection Challenge.

A radiograph is drawn as a map of attenuation (body, lungs, heart, vessels, ribs, clavicles, spine, devices), findings
are added to it, then it is exposed, made noisy and written as 8-bit DICOM. Every draw is a function of (seed, purpose,
patient, image), so one image can be drawn again alone and its anatomy does not depend on the size in pixels.

What must not give the class away does not: mean and standard deviation of an image, sex, age and view are drawn without
a look at the class, and all images of a set share one size.

The format: Shih et al., "Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations
of Possible Pneumonia", Radiology: Artificial Intelligence 2019. One row a box in the label file, three classes in the
other.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from medgraft.errors import UserError
from medgraft.files import disk_error, write_text

Class = Literal["Lung Opacity", "Normal", "No Lung Opacity / Not Normal"]
OPACITY: Class = "Lung Opacity"
NORMAL: Class = "Normal"
OTHER: Class = "No Lung Opacity / Not Normal"
CLASSES: tuple[Class, ...] = (NORMAL, OTHER, OPACITY)
_OTHER_AMONG_NEGATIVES = 11_821 / (11_821 + 8_851)  # as in stage 2 of the challenge
_PURPOSES = ("patient", "image", "texture", "noise", "class", "exposure", "identity")
_EDGE = 0.012  # softness of an anatomical edge in units of half the image width


@dataclass(frozen=True)
class Box:
    """A box in pixels: upper-left corner, width and height, as in ``stage_2_train_labels.csv``."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Finding:
    """One planted thing: ``kind`` is opacity, large heart, effusion or nodule; ``contrast`` the attenuation added at
    its peak.
    """

    kind: str
    side: str  # left or right of the patient, or middle
    box: Box
    contrast: float


@dataclass(frozen=True)
class Radiograph:
    """A drawn radiograph: ``pixels`` (H, W) uint8, bright where dense, and the truth behind it.

    ``opacity`` (H, W) float32 is the attenuation that pneumonia added (0 elsewhere).
    """

    pixels: np.ndarray
    opacity: np.ndarray
    findings: tuple[Finding, ...]
    sex: str
    age: int
    view: str


@dataclass(frozen=True)
class SimulationReport:
    """What ``simulate`` wrote. ``facts`` (n, 4) are height, width, mean and standard deviation of each image as
    displayed; ``target`` (n,) is 1 for Lung Opacity; ``patient`` (n,) names the patient."""

    out: Path
    images: int
    patients: int
    counts: dict[str, int]
    boxes: int
    facts: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)
    patient: np.ndarray = field(repr=False)

    def text(self) -> str:
        """What was written and where, for a person."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{self.images} radiographs of {self.patients} patients ({counts}; {self.boxes} boxes) in {self.out}"


def simulate(
    out: str | os.PathLike[str],
    *,
    patients: int = 100,
    images_per_patient: int | tuple[int, int] = (1, 3),
    size: int = 256,
    difficulty: float = 0.3,
    prevalence: float = 0.225,
    seed: int = 0,
    encoding: Literal["jpeg", "raw"] = "jpeg",
) -> SimulationReport:
    """Write a simulated set of chest radiographs in the RSNA layout.

    ``out`` gets ``stage_2_train_images/<patientId>.dcm``, ``stage_2_train_labels.csv`` (one row a box),
    ``stage_2_detailed_class_info.csv`` (a row repeated for each box), ``patient_mapping.csv`` (image id to patient,
    since the format's patientId names an image), ``labels.csv`` (one row an image: what a scan wants) and ``truth.csv``
    (one row a planted finding).

    ``images_per_patient`` is a number or an inclusive range; images of one patient share anatomy and often the class.
    ``size`` is the side in pixels (the challenge has 1024). ``difficulty`` 0..1 lowers contrast and size of the
    opacities and raises the clutter of the lungs. ``prevalence`` is the exact share of images with Lung Opacity
    (rounded to whole images). ``encoding`` is JPEG (as in the challenge) or uncompressed. About one image in ten is
    MONOCHROME1.

    Raises ``UserError`` on impossible arguments, on a folder that already holds such a set, and when the disk refuses.
    """
    low, high = (images_per_patient, images_per_patient) if isinstance(images_per_patient, int) else images_per_patient
    _check(
        patients=patients,
        low=low,
        high=high,
        size=size,
        difficulty=difficulty,
        prevalence=prevalence,
        seed=seed,
        encoding=encoding,
    )
    out = Path(out)
    finished = out / "stage_2_train_images"
    folder = out / ".stage_2_train_images.incoming"  # renamed last, so a killed run leaves nothing that looks whole
    if finished.exists():
        raise UserError("already holds a simulated set", case=str(out), fix="choose another folder with out=DIR")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise disk_error(error, out) from error

    images = [(p, i) for p in range(patients) for i in range(int(_random(seed, "class", p).integers(low, high + 1)))]
    classes = _draw_classes(images, prevalence, seed)
    label_rows: list[Sequence[Any]] = []
    class_rows: list[Sequence[Any]] = []
    truth_rows: list[Sequence[Any]] = []
    mapping: list[Sequence[Any]] = []
    collapsed: list[Sequence[Any]] = []
    facts = np.zeros((len(images), 4))
    exposures = _exposures(np.array([name == OPACITY for name in classes]), seed)
    for row, ((patient, image), finding) in enumerate(zip(images, classes)):
        shot = radiograph(
            seed,
            patient,
            image,
            finding,
            size=size,
            difficulty=difficulty,
            exposure=(float(exposures[row, 0]), float(exposures[row, 1])),
        )
        identity = _random(seed, "identity", patient, image)
        image_id = str(uuid.UUID(bytes=identity.bytes(16), version=4))
        inverted = bool(identity.random() < 0.1)
        try:
            _write_dicom(folder / f"{image_id}.dcm", shot, image_id, inverted=inverted, encoding=encoding)
        except OSError as error:
            raise disk_error(error, folder) from error
        boxes = [f.box for f in shot.findings if f.kind == "opacity"]
        target = int(finding == OPACITY)
        cells: list[tuple[Any, ...]] = [(box.x, box.y, box.width, box.height) for box in boxes] or [("", "", "", "")]
        label_rows += [(image_id, *four, target) for four in cells]
        class_rows += [(image_id, finding) for _ in cells]
        truth_rows += [
            (image_id, f.kind, f.side, f.box.x, f.box.y, f.box.width, f.box.height, f"{f.contrast:.4f}")
            for f in shot.findings
        ]
        mapping.append((image_id, _patient_name(patient)))
        collapsed.append(
            (
                image_id,
                _patient_name(patient),
                "pneumonia" if target else "no pneumonia",
                finding,
                shot.sex,
                shot.age,
                shot.view,
            )
        )
        facts[row] = size, size, shot.pixels.mean(), shot.pixels.std()

    _write_csv(out / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), label_rows)
    _write_csv(out / "stage_2_detailed_class_info.csv", ("patientId", "class"), class_rows)
    _write_csv(out / "patient_mapping.csv", ("patientId", "patient"), mapping)
    _write_csv(out / "labels.csv", ("patientId", "patient", "pneumonia", "finding", "sex", "age", "view"), collapsed)
    _write_csv(out / "truth.csv", ("patientId", "kind", "side", "x", "y", "width", "height", "contrast"), truth_rows)
    try:
        os.replace(folder, finished)
    except OSError as error:
        raise disk_error(error, out) from error
    return SimulationReport(
        out=out,
        images=len(images),
        patients=patients,
        counts={name: classes.count(name) for name in CLASSES},
        boxes=sum(row[1] != "" for row in label_rows),
        facts=facts,
        target=np.array([name == OPACITY for name in classes], np.int64),
        patient=np.array([_patient_name(patient) for patient, _ in images]),
    )


def _check(
    *, patients: int, low: int, high: int, size: int, difficulty: float, prevalence: float, seed: int, encoding: str
) -> None:
    faults = [
        (patients < 1, "patients must be at least 1"),
        (not 1 <= low <= high, "images_per_patient must be a number or a range from 1 on"),
        (not 64 <= size <= 4096, "size must be from 64 to 4096 pixels"),
        (not 0 <= difficulty <= 1, "difficulty must be from 0 to 1"),
        (not 0 <= prevalence <= 1, "prevalence must be from 0 to 1"),
        (seed < 0, "seed must not be negative"),
        (encoding not in ("jpeg", "raw"), "encoding must be jpeg or raw"),
    ]
    for wrong, message in faults:
        if wrong:
            raise UserError(message, case="simulated chest radiographs")


def _random(seed: int, purpose: str, *counter: int) -> np.random.Generator:
    """A generator whose stream is a function of its arguments alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _PURPOSES.index(purpose), *counter])))


def _patient_name(patient: int) -> str:
    return f"sim-{patient:05d}"


def _draw_classes(images: Sequence[tuple[int, int]], prevalence: float, seed: int) -> list[Class]:
    """Exact class counts; the images of a patient resemble each other because they share part of the latent score."""
    scores = np.array(
        [
            0.8 * _random(seed, "class", p, 0).normal(size=2) + 0.6 * _random(seed, "class", p, 1 + i).normal(size=2)
            for p, i in images
        ]
    )
    positives = round(prevalence * len(images))
    order = np.argsort(-scores[:, 0], kind="stable")
    negatives = order[positives:]
    others = negatives[np.argsort(-scores[negatives, 1], kind="stable")][
        : round(_OTHER_AMONG_NEGATIVES * len(negatives))
    ]
    classes: list[Class] = [NORMAL] * len(images)
    for row in order[:positives]:
        classes[row] = OPACITY
    for row in others:
        classes[row] = OTHER
    return classes


def _exposures(positive: np.ndarray, seed: int) -> np.ndarray:
    """Mean and standard deviation (grey levels) of every image (n, 2), drawn without a look at the class.

    In a small set even honest draws may tell the class by accident. So the first of up to 64 draws is taken in which
    neither moment, nor its distance from the middle, separates the classes (AUC from .43 to .57); else the best of
    them.
    """
    best, least = np.zeros((positive.size, 2)), math.inf
    for attempt in range(64):
        u = _random(seed, "exposure", attempt).random((positive.size, 2))
        facts = np.hstack([u, np.abs(u - 0.5)])
        above = (
            (facts[positive][:, None] > facts[~positive][None]).mean(axis=(0, 1))
            if 0 < positive.sum() < positive.size
            else np.full(4, 0.5)
        )
        worst = float(np.abs(above - 0.5).max())
        if worst < least:
            best, least = u, worst
        if worst <= 0.07:
            break
    return np.array([108.0, 46.0]) + best * np.array([44.0, 20.0])


# ---------------------------------------------------------------------------------------------- drawing


def radiograph(
    seed: int,
    patient: int,
    image: int,
    finding: Class,
    *,
    size: int = 256,
    difficulty: float = 0.3,
    exposure: tuple[float, float] = (128.0, 56.0),
) -> Radiograph:
    """Draw one radiograph. ``exposure`` is the mean and the standard deviation of the grey levels.

    Coordinates inside: x from -1 (the patient's right, at the left of the image) to 1, y from -1 (top) to 1.
    """
    body = _random(seed, "patient", patient)
    pose = _random(seed, "image", patient, image)
    texture = _random(seed, "texture", patient, image)

    sex = "F" if body.random() < 0.45 else "M"
    age = int(np.clip(body.normal(50, 17), 18, 92)) + image
    view = "AP" if pose.random() < 0.45 else "PA"
    build = [float(v) for v in body.normal(size=8)]  # Python floats keep float32 arrays float32
    findings = _plan(finding, difficulty, pose)

    x, y = _grid(size, pose)
    r = np.abs(x)
    left = x > 0
    heart_scale = (1.10 if view == "AP" else 1.0) * (1 + 0.07 * build[0]) * (1.32 if findings["large heart"] else 1.0)
    apex, width = -0.76 + 0.035 * build[1], 0.70 + 0.035 * build[2]
    dome = np.where(left, 0.52, 0.46).astype(np.float32) + np.float32(
        0.04 * build[3] + pose.normal() * 0.02 - (0.05 if view == "AP" else 0.0)
    )

    # outlines: the lung is what lies inside the rib cage, outside the mediastinum and above the diaphragm
    outer = 0.12 + width * _superellipse((y - 0.40) / (0.40 - apex), 2.4)
    floor = dome + 0.17 * ((r - 0.36) / 0.42) ** 2
    for side in findings["effusion"]:
        floor = floor - 0.40 * np.clip((side * x - 0.10) / 0.66, 0, 1.2) ** 3.2  # a meniscus, highest at the chest wall
    mediastinum = (
        0.15
        + 0.015 * build[4]
        + 0.05 * np.exp(-(((y + 0.72) / 0.20) ** 2))
        + 0.03 * np.exp(-(((y - 0.02) / 0.10) ** 2))
    )
    cage = _inside(outer - r, 2 * _EDGE)
    above = _inside(floor - y, 1.5 * _EDGE)
    lung = cage * above * _inside(r - mediastinum, 2 * _EDGE)

    # body: thick in the middle, shoulders, neck, the film's dark margin
    shoulder = -0.90 + 0.55 * np.clip(r - 0.22, 0, None) ** 1.6 - 0.5 * _inside(0.20 - r, 0.03)
    flank = 0.965 + 0.05 * build[5] - 0.05 * y
    trunk = _inside(y - shoulder, 0.02) * _inside(flank - r, 0.015)
    a = trunk * (0.80 + 0.22 * np.sqrt(np.clip(1 - (r / 1.15) ** 2, 0, 1)) + 0.05 * y)
    a += 0.16 * trunk * (1 - above) * _inside(outer + 0.12 - r, 0.04)
    a -= trunk * lung * (0.62 + 0.05 * y)
    if sex == "F":
        a += 0.10 * _blob(r, y, 0.46, 0.36 + 0.05 * build[6], 0.30, 0.26, 0.05) * trunk

    # mediastinum, heart, great vessels, spine, trachea and gastric bubble
    heart = np.maximum(
        _blob(
            x, y, 0.13 + 0.04 * (heart_scale - 1), 0.30, 0.35 * heart_scale, 0.27 * heart_scale**0.5, 0.035, tilt=0.45
        ),
        _blob(x, y, -0.08, 0.26, 0.20 * heart_scale, 0.27, 0.035),
    )
    knob = _blob(x, y, 0.12, -0.30, 0.115 + 0.0006 * (age - 50), 0.11, 0.03)
    a += lung * (0.46 * heart + 0.40 * knob * (1 - heart))
    a += 0.10 * heart * trunk + 0.05 * knob
    spine = _inside(0.085 - r, 0.02) * (0.75 + 0.25 * np.cos(2 * np.pi * (y / 0.165 + build[7])))
    a += 0.085 * spine * trunk
    trachea = _inside(0.036 - np.abs(x - 0.012), 0.012) * _inside(-0.20 - y, 0.03)
    bronchi = _inside(0.026 - np.abs(y + 0.20 - 0.75 * r), 0.014) * _inside(0.17 - r, 0.03)
    a -= 0.17 * np.maximum(trachea, 0.7 * bronchi) * trunk
    a -= 0.22 * _blob(x, y, 0.40, 0.72 + 0.03 * pose.normal(), 0.15, 0.075, 0.02) * (1 - above)

    # vessels and fine lung texture
    a += lung * (1 - 0.8 * heart) * _vessels(x, y, body)
    clutter = (0.018 + 0.065 * difficulty) * _smooth_noise(texture, size, 9) + (
        0.010 + 0.022 * difficulty
    ) * _smooth_noise(texture, size, 28)
    a += (0.25 + 0.75 * lung) * trunk * clutter

    # bones
    a += trunk * _ribs(r, y, outer, pose, 0.4 * build[0] + build[1])
    clavicle = -0.66 - 0.05 * (view == "AP") + 0.015 * build[3] - 0.10 * r + 0.035 * np.sin(5.2 * r)
    a += 0.21 * trunk * _tube(y - clavicle, 0.034 - 0.008 * r) * _inside(r - 0.09, 0.015) * _inside(0.86 - r, 0.03)
    blade = _inside((r - 0.60) + 0.16 * (y + 0.30), 0.02) * _inside(0.30 - np.abs(y + 0.30), 0.05)
    a += (0.075 if view == "AP" else 0.05) * blade * trunk

    # findings
    grids = (x, y, r, lung)
    planted: list[Finding] = []
    opacity = np.zeros((size, size), np.float32)
    for side, height, span, contrast in findings["opacity"]:
        patch = _consolidation(grids, texture, side, height, span, apex, mediastinum, outer, floor) * np.float32(
            contrast
        )
        patch *= 1 - 0.6 * heart  # behind the heart there is less lung to fill
        opacity = np.maximum(opacity, patch)
        planted.append(Finding("opacity", _side(side), _box(patch, 0.1), contrast))
    a += opacity
    for side, height, depth, radius, contrast in findings["nodule"]:
        centre = _place(grids, side, height, depth, apex, mediastinum, outer, floor)
        spot = _blob(x, y, *centre, radius, radius, 0.012) * lung * np.float32(contrast)
        a += spot
        planted.append(Finding("nodule", _side(side), _box(spot, 0.3), contrast))
    if findings["large heart"]:
        planted.append(Finding("large heart", "middle", _box(heart, 0.5), 0.5))
    for side in findings["effusion"]:
        planted.append(
            Finding("effusion", _side(side), _box(cage * (1 - above) * ((x > 0) == (side > 0)) * (y > 0.1), 0.5), 0.6)
        )

    # devices and the side marker, without a look at the class
    if view == "AP":
        a += _wires(size, pose)
    a += _marker(x, y, pose)
    pixels = _expose(a, exposure, size, _random(seed, "noise", patient, image))
    return Radiograph(pixels, opacity, tuple(planted), sex, age, view)


def _plan(finding: Class, difficulty: float, random: np.random.Generator) -> dict[str, list[Any]]:
    """Which findings an image holds. Every class draws the same numbers, so anatomy does not hang on the class."""
    sides = random.permutation([-1, 1])
    second, third = random.random(2)
    u = random.random((3, 5)).tolist()
    kinds = random.permutation(3).tolist()
    more = random.random(4).tolist()
    plan: dict[str, list[Any]] = {"opacity": [], "nodule": [], "large heart": [], "effusion": []}
    if finding == OPACITY:
        for k in range(1 + (second < 0.45) + (second < 0.10)):
            contrast = (0.65 - 0.46 * difficulty) * (0.85 + 0.3 * u[k][0])
            span = (0.27 - 0.08 * difficulty) * (0.75 + 0.5 * u[k][1])
            plan["opacity"].append((int(sides[k % 2]), 0.30 + 0.55 * u[k][2], span, contrast))
    chosen = (
        set(kinds[: 1 + (third < 0.35)])
        if finding == OTHER
        else set(kinds[:1])
        if finding == OPACITY and third < 0.25
        else set()
    )
    if 0 in chosen:
        plan["large heart"].append(True)
    if 1 in chosen:
        plan["effusion"] = [-1, 1] if more[0] < 0.3 else [int(sides[0])]
    if 2 in chosen:
        for k in range(1 + int(3 * more[1])):
            plan["nodule"].append(
                (
                    int(sides[k % 2]),
                    0.15 + 0.65 * u[k][3],
                    0.2 + 0.6 * u[k][4],
                    0.025 + 0.035 * u[k][0],
                    0.22 + 0.15 * u[k][1],
                )
            )
    return plan


def _grid(size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates of every pixel after a small rotation, shift and scale of the patient."""
    turn, scale = 0.025 * random.normal(), 1.0 + 0.04 * random.normal()
    shift_x, shift_y = 0.03 * random.normal(size=2)
    line = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    px, py = line[None, :] * scale + shift_x, line[:, None] * scale + shift_y
    cos, sin = math.cos(turn), math.sin(turn)
    return (cos * px + sin * py).astype(np.float32), (cos * py - sin * px).astype(np.float32)


def _inside(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 where ``distance`` is positive, 0 where negative, smooth over ``edge``."""
    return 0.5 + 0.5 * np.tanh(distance * np.float32(1 / edge))


def _superellipse(t: np.ndarray, power: float) -> np.ndarray:
    return np.clip(1 - np.abs(t) ** power, 0, None) ** (1 / power)


def _blob(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float, edge: float, tilt: float = 0.0
) -> np.ndarray:
    """A filled ellipse with a soft edge."""
    dx, dy = x - cx, y - cy
    if tilt:
        dx, dy = math.cos(tilt) * dx + math.sin(tilt) * dy, math.cos(tilt) * dy - math.sin(tilt) * dx
    radius = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
    return _inside(1 - radius, edge / min(rx, ry))


def _tube(distance: np.ndarray, half: np.ndarray | float) -> np.ndarray:
    """Cross-section of a bone: a plateau whose cortex is denser than its marrow."""
    t = np.abs(distance) / half
    return _inside(1 - t, 0.22) * (0.62 + 0.38 * np.clip(t, 0, 1) ** 3)


def _ribs(r: np.ndarray, y: np.ndarray, outer: np.ndarray, random: np.random.Generator, habit: float) -> np.ndarray:
    """Posterior ribs (nearly level, dense) and anterior ribs (steep, faint), all ribs of a kind by one periodic
    formula.
    """
    spacing = 0.150 + 0.004 * habit
    phase = random.random() * 0.2
    reach = _inside(outer + 0.045 - r, 0.02)
    back = y - (
        0.02
        - 0.09 * np.sin(np.clip(r, 0, 0.9) * 4.2)
        + 0.10 * r
        + 0.42 * np.clip(r - 0.38, 0, None) ** 2
        + phase * spacing
    )
    front = y - (0.03 + 0.42 * (0.80 - r) - 0.30 * np.clip(0.45 - r, 0, None) + (phase + 0.45) * spacing)
    level = _inside(r - 0.07, 0.015) * _inside(0.62 - y, 0.06) * _inside(y + 0.86, 0.04)
    steep = _inside(r - 0.30, 0.05) * _inside(0.50 - y, 0.06) * _inside(y + 0.55, 0.05)
    posterior = _tube((back / spacing - np.round(back / spacing)) * spacing, 0.031) * level
    anterior = _tube((front / (spacing * 1.15) - np.round(front / (spacing * 1.15))) * spacing * 1.15, 0.030) * steep
    return reach * (0.17 * posterior + 0.085 * anterior)


def _vessels(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Vessels branching from both hila, thick ones first, drawn on a 256-pixel map as dense points and blurred by
    calibre.
    """
    coarse, roots, steps = 256, 15, 80
    side = np.repeat([-1.0, 1.0], roots)
    angle = np.tile(np.linspace(-1.3, 1.35, roots), 2) + random.normal(
        0, 0.09, 2 * roots
    )  # 0 points to the side, positive downwards
    start = np.stack([side * 0.16, 0.10 * np.sin(angle)])
    length = random.uniform(0.22, 0.42, 2 * roots)
    total = np.zeros((coarse, coarse), np.float32)
    for sigma, gain in ((2.3, 1.5), (1.3, 0.62), (0.8, 0.26)):
        bend = np.cumsum(random.normal(0, 0.035, (steps, side.size)), axis=0) + angle
        xs = start[0] + side * np.cumsum(np.cos(bend), axis=0) * length / steps
        ys = start[1] + np.cumsum(np.sin(bend), axis=0) * length / steps
        column = np.clip((xs + 1) / 2 * coarse, 0, coarse - 1).astype(np.intp)
        line = np.clip((ys + 1) / 2 * coarse, 0, coarse - 1).astype(np.intp)
        taper = np.linspace(1.0, 0.55, steps)[:, None] * length * (coarse / 1.6 / steps)
        points = np.bincount(
            (line * coarse + column).ravel(), np.broadcast_to(taper, line.shape).ravel(), coarse * coarse
        )
        total += gain * ndimage.gaussian_filter(points.reshape(coarse, coarse).astype(np.float32), sigma)
        fork = random.uniform(0.2, 0.6, (2, side.size)) * np.array([[-1.0], [1.0]])
        start = np.tile(np.stack([xs[-1], ys[-1]]), 2)
        angle = (bend[-1] + fork).ravel()
        side, length = np.tile(side, 2), np.tile(length, 2) * random.uniform(0.5, 0.8, 2 * side.size)
    places = np.stack([(y + 1) / 2 * coarse - 0.5, (x + 1) / 2 * coarse - 0.5])
    return 0.27 * np.tanh(ndimage.map_coordinates(total, places, order=1, mode="nearest") / 0.8)


def _smooth_noise(random: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Noise of about unit variance with about ``cells`` bumps across the image, by cubic B-splines on a random grid."""
    spline = _splines(size, cells)
    return spline @ random.normal(size=(cells + 3, cells + 3)).astype(np.float32) @ spline.T


@functools.lru_cache(maxsize=16)
def _splines(size: int, cells: int) -> np.ndarray:
    """(size, cells + 3) values of the uniform cubic B-splines, scaled so that white coefficients give unit variance."""
    t = (np.arange(size) + 0.5) * cells / size
    distance = np.abs(t[:, None] - (np.arange(cells + 3) - 1.0))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return (weights / np.sqrt((weights**2).sum(axis=1).mean())).astype(np.float32)


def _place(
    grids: tuple[np.ndarray, ...],
    side: int,
    height: float,
    depth: float,
    apex: float,
    mediastinum: np.ndarray,
    outer: np.ndarray,
    floor: np.ndarray,
) -> tuple[float, float]:
    """A point inside one lung: ``height`` 0 at the apex, 1 at the diaphragm; ``depth`` 0 at the hilum, 1 at the chest
    wall.
    """
    x, y, _, _ = grids
    cy = apex + height * (0.44 - apex)
    near = np.unravel_index(np.argmin((y - cy) ** 2 + (x - side * 0.4) ** 2), y.shape)
    inner, wall = float(mediastinum[near]), float(outer[near])
    return side * (inner + depth * (wall - inner)), cy


def _consolidation(
    grids: tuple[np.ndarray, ...],
    random: np.random.Generator,
    side: int,
    height: float,
    span: float,
    apex: float,
    mediastinum: np.ndarray,
    outer: np.ndarray,
    floor: np.ndarray,
) -> np.ndarray:
    """Patchy airspace disease: an irregular cloud inside one lung, mottled, crossed by darker air-filled bronchi; peak
    1.
    """
    x, y, _, lung = grids
    size = x.shape[0]
    cx, cy = _place(grids, side, height, 0.30 + 0.35 * random.random(), apex, mediastinum, outer, floor)
    ragged = _smooth_noise(random, size, 12)
    mottle = _smooth_noise(random, size, 36)
    radius = np.sqrt(((x - cx) / span) ** 2 + ((y - cy) / (span * (0.9 + 0.5 * random.random()))) ** 2)
    cloud = np.clip(0.45 + 0.85 * (1 - radius) + 0.36 * ragged, 0, 1) * (radius < 1.7)
    cloud = cloud * cloud * (3 - 2 * cloud)
    # bronchi run from the hilum through the cloud
    hx, hy = side * 0.17, 0.0
    along = np.arctan2(y - hy, np.abs(x - hx) + 1e-3)
    reach = np.hypot(x - hx, y - hy)
    spokes = np.cos(along * 17 + 3.0 * random.random() + 0.5 * ragged)
    air = np.clip(spokes - 0.80, 0, None) / 0.20 * np.clip(reach / 0.1, 0, 1) * np.clip(1.6 - reach / 0.45, 0, 1)
    patch = cloud * (0.74 + 0.16 * mottle - 0.14 * air) * ((x > 0) == (side > 0)) * lung
    patch = np.clip(patch, 0, None)
    return (patch / max(float(patch.max()), 1e-6)).astype(np.float32)


def _wires(size: int, random: np.random.Generator) -> np.ndarray:
    """Leads of a monitor: thin dense curves with round electrodes."""
    coarse = np.zeros((size, size), np.float32)
    t = np.linspace(0, 1, 3 * size, dtype=np.float32)[:, None]
    for _ in range(int(random.integers(0, 3))):
        ends = random.uniform(-0.75, 0.75, (4, 2))
        ends[0, 1] = -0.95
        path = (1 - t) ** 3 * ends[0] + 3 * t * (1 - t) ** 2 * ends[1] + 3 * t**2 * (1 - t) * ends[2] + t**3 * ends[3]
        column, line = np.clip(((path.T + 1) / 2 * size).astype(int), 0, size - 1)
        coarse[line, column] = 1
        coarse = np.maximum(coarse, _disc(size, line[-1], column[-1], 0.022))
    return 0.16 * np.clip(1.6 * ndimage.gaussian_filter(coarse, size / 420), 0, 1)


def _disc(size: int, line: int, column: int, radius: float) -> np.ndarray:
    rows = np.arange(size, dtype=np.float32)
    return (np.hypot(rows[:, None] - line, rows[None, :] - column) < radius * size / 2).astype(np.float32)


def _marker(x: np.ndarray, y: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A lead letter L in the corner on the patient's left."""
    cx, cy = 0.80 + 0.05 * random.random(), -0.80 + 0.05 * random.random()
    stem = (np.abs(x - cx) < 0.011) & (np.abs(y - cy) < 0.05)
    foot = (np.abs(x - cx - 0.02) < 0.031) & (np.abs(y - cy - 0.04) < 0.011)
    return 0.75 * (stem | foot).astype(np.float32)


def _expose(
    attenuation: np.ndarray, exposure: tuple[float, float], size: int, random: np.random.Generator
) -> np.ndarray:
    """Blur by the detector, add quantum noise (stronger where less light came through), set mean and spread, make
    8-bit.
    """
    a = ndimage.gaussian_filter(attenuation.astype(np.float32), size / 256 * 0.55)
    noise = random.normal(size=(size, size)).astype(np.float32)
    a = a + (0.010 + 0.012 * np.clip(a, 0, 1.2)) * noise
    mean, spread = exposure
    z = (a - a.mean()) / max(float(a.std()), 1e-6)
    gain, offset = spread, mean
    for _ in range(5):  # clipping moves both moments a little; a few corrections bring them back
        shown = np.clip(offset + gain * z, 0, 255)
        gain *= spread / max(float(shown.std()), 1e-6)
        offset += mean - float(shown.mean())
    return np.round(np.clip(offset + gain * z, 0, 255)).astype(np.uint8)


def _side(side: int) -> str:
    return "left" if side > 0 else "right"


def _box(patch: np.ndarray, share: float) -> Box:
    """The box around everything above ``share`` of the peak."""
    inside = patch > share * patch.max()
    lines, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return Box(float(columns[0]), float(lines[0]), float(columns[-1] - columns[0] + 1), float(lines[-1] - lines[0] + 1))


# ---------------------------------------------------------------------------------------------- files


def _write_dicom(path: Path, shot: Radiograph, image_id: str, *, inverted: bool, encoding: str) -> None:
    """One secondary-capture DICOM file, JPEG baseline or uncompressed, with identifiers derived from the image id."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

    number = uuid.UUID(image_id).int
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{number}")
    meta.TransferSyntaxUID = JPEGBaseline8Bit if encoding == "jpeg" else ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = f"2.25.{number ^ 1}", f"2.25.{number ^ 2}"
    file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "19010101", "000000", "", ""
    file.ReferringPhysicianName, file.PatientBirthDate, file.SeriesNumber, file.InstanceNumber = "", "", 1, 1
    file.PatientID = file.PatientName = image_id
    file.PatientSex, file.PatientAge, file.ViewPosition = shot.sex, f"{shot.age:03d}Y", shot.view
    file.Modality, file.ConversionType, file.BodyPartExamined, file.PatientOrientation = (
        "CR",
        "WSD",
        "CHEST",
        ["L", "F"],
    )
    file.SeriesDescription = f"view: {shot.view} (simulated)"
    pixels = 255 - shot.pixels if inverted else shot.pixels
    file.Rows, file.Columns = pixels.shape
    file.PixelSpacing = [f"{0.143 * 1024 / side:.6f}" for side in pixels.shape]
    file.SamplesPerPixel, file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 8, 8, 7, 0
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    if encoding == "jpeg":
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=92)
        file.PixelData = encapsulate([stream.getvalue()])
        file["PixelData"].VR = "OB"
        file.LossyImageCompression, file.LossyImageCompressionMethod = "01", "ISO_10918_1"
        file.LossyImageCompressionRatio = f"{pixels.size / max(1, stream.tell()):.3f}"
    else:
        data = pixels.tobytes()
        file.PixelData = data + b"\0" * (len(data) % 2)
        file["PixelData"].VR = "OB"
    file.save_as(path, enforce_file_format=True)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, stream.getvalue())
