"""Small raw studies and recipes for ``same.py``: each task on images, clips and volumes, written without medgraft.

Everything is drawn from fixed seeds and written with fixed times of change, so that two commits (and two machines)
read the same bytes. Sides are about 32 pixels; a training takes two or three steps: enough to show a changed number,
too few for rounding to grow, as long as a step is proportional to its gradient. Adam's is not: its first steps divide a
gradient by its size, rounding included; nor is batch norm over a handful of values. So most recipes take SGD and none
normalises a single voxel; one that does either is ``rough``.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MODIFIED = 1_600_000_000  # time of change of every raw file, in seconds since 1970
LITE, TINY, CUBIC = "efficientnet_lite0", "timm:test_resnet", "resnet3d_10"
COLUMNS = ("file", "patient", "finding", "kind", "size", "a", "b", "site", "probe", "part", "mask")


@dataclass(frozen=True)
class Recipe:
    """One way through the command line: how its raw studies are written, words of the verbs, fields of the recipe."""

    name: str
    studies: Callable[[Path], None]
    scan: Sequence[str]
    run: dict[str, Any]
    predict: Sequence[Sequence[str]] = (("studies/new",),)
    heavy: Sequence[str] = ()  # third-party modules that its networks bring
    rough: bool = False  # rounding grows in it: on another processor its predictions lie near, its verdicts may not

    def whole(self) -> dict[str, Any]:
        """The recipe that ``medgraft run`` reads: two folds, one seed, two steps, one thread, then its own fields."""
        train = {"iterations": 2, "batch_size": 6, "evaluations": 1, "optimizer": "sgd", "learning_rate": 0.01}
        train |= self.run.get("train", {})
        split = {"kind": "kfold", "folds": 2, "inner": 1, "select_share": 0.4, **self.run.get("split", {})}
        return {
            "name": "run",
            "data": "data",
            "seeds": [0],
            "threads": 1,
            "workers": 0,
            "device": "cpu",
            "stats": {"resamples": 100},
            **self.run,
            "train": train,
            "split": split,
        }


# ------------------------------------------------------------------------------------------ raw studies


def labels(number: int, patients: int, size: float) -> dict[str, Any]:
    """The labels of case ``number``: ill or well, three kinds (two of them well), a quantity, two yes/no columns."""
    patient = number % patients
    ill = patient % 2
    return {
        "patient": f"p{patient:02d}",
        "finding": "ill" if ill else "well",
        "kind": "tumour" if ill else ("cyst", "normal")[patient // 2 % 2],
        "size": round(size, 2),
        "a": ill,
        "b": int(number % 3 == 0),
        "site": f"site{patient % 3}",
        "probe": ("linear", "convex")[number // 2 % 2],
        "part": ("train", "train", "val", "test")[patient // 2 % 4],
    }


def write_labels(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """``labels.csv``: one row a case."""
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def blob(number: int, shape: tuple[int, int, int], patients: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Values 0..1 (D, H, W) of a bright ball on noise, its label map (1 = ball, 2 = core) and its radius in pixels.

    An ill patient's ball is larger and brighter; it beats along D.
    """
    rng = np.random.default_rng([7, number])
    depth, height, width = shape
    ill = number % patients % 2
    radius = float(min(height, width) * (rng.uniform(0.16, 0.22) + 0.08 * ill))
    centre = np.array([height, width]) / 2 + rng.uniform(-3, 3, 2)
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    beat = radius * (1 + 0.2 * np.sin(2 * np.pi * np.arange(depth) / 8 + number))[:, None, None]
    label = np.where(distance <= 0.5 * beat, 2, np.where(distance <= beat, 1, 0)).astype(np.uint8)
    values = rng.uniform(0, 0.35, shape) + (0.3 + 0.2 * ill) * (label > 0) + 0.1 * (label == 2)
    return values, label, radius


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """One grey PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def byte(values: np.ndarray) -> np.ndarray:
    """Values 0..1 as 8-bit grey."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def pictures(folder: Path, *, masks: bool = False, twin: bool = False, broken: bool = False) -> None:
    """24 PNG of 12 patients, 36x32; two more in ``new``. ``twin``: one picture stands under two patients."""
    rows = []
    for number in range(24):
        values, label, radius = blob(number - 5 if twin and number == 20 else number, (1, 36, 32), 12)
        write_picture(folder / "cases" / f"image{number:02d}.png", byte(values[0]))
        row = {"file": f"image{number:02d}.png", **labels(number, 12, radius)}
        if masks:
            write_picture(folder / "masks" / f"outline{number:02d}.png", label[0])
            row["mask"] = f"masks/outline{number:02d}.png"
        rows.append(row)
    if broken:
        whole = (folder / "cases" / "image00.png").read_bytes()
        (folder / "cases" / "torn.png").write_bytes(whole[: len(whole) // 2])
        rows.append({"file": "torn.png", **labels(0, 12, 5)})
        rows.append({"file": "never_there.png", **labels(1, 12, 5)})
    write_labels(folder / "cases", rows)
    if masks:
        os.rename(folder / "masks", folder / "cases" / "masks")
    for number in range(2):
        write_picture(folder / "new" / f"new{number}.png", byte(blob(100 + number, (1, 36, 32), 12)[0][0]))


def write_clip(path: Path, pixels: np.ndarray) -> None:
    """An AVI, lossless and grey, 20 frames a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(20), options={"flags": "+bitexact"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:], "gray"
        stream.codec_context.thread_count = 1
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def clips(folder: Path) -> None:
    """12 AVI of 12 patients, 32x32, 10 to 13 frames; one more in ``new``."""
    rows = []
    for number in range(12):
        values, _, radius = blob(number, (10 + number % 4, 32, 32), 12)
        write_clip(folder / "cases" / f"clip{number:02d}.avi", byte(values))
        rows.append({"file": f"clip{number:02d}.avi", **labels(number, 12, radius)})
    write_labels(folder / "cases", rows)
    write_clip(folder / "new" / "new0.avi", byte(blob(100, (11, 32, 32), 12)[0]))


def frame_folders(folder: Path) -> None:
    """8 clips as folders of PNG frames, 8 frames of 32x32, each with a NIfTI of outlines; one more in ``new``.

    In every second clip only the first and the last frame were judged: the others hold 255.
    """
    rows = []
    for number in range(8):
        values, label, radius = blob(number, (8, 32, 32), 8)
        for index, frame in enumerate(byte(values)):
            write_picture(folder / "cases" / f"clip{number}" / f"frame_{index:03d}.png", frame)
        if number % 2:
            label[1:-1] = 255
        write_volume(folder / "cases" / "outlines" / f"clip{number}.nii.gz", label, (1.0, 1.0, 1.0))
        rows.append({"file": f"clip{number}", **labels(number, 8, radius), "mask": f"outlines/clip{number}.nii.gz"})
    write_labels(folder / "cases", rows)
    for index, frame in enumerate(byte(blob(100, (8, 32, 32), 8)[0])):
        write_picture(folder / "new" / "new0" / f"frame_{index:03d}.png", frame)


def write_volume(path: Path, values: np.ndarray, spacing: tuple[float, float, float], *, turned: bool = False) -> None:
    """A NIfTI of (D, H, W), spacing (d, h, w) in mm, its axes as medgraft stores them, or ``turned`` in the plane."""
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((10.0, -20.0, 5.0))
    sign = 1.0 if turned else -1.0
    image.SetDirection((sign, 0, 0, 0, sign, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))


def volumes(folder: Path, *, masks: bool = False) -> None:
    """12 NIfTI of 12 patients in Hounsfield units, 14 to 16 x 22 x 20, every third one turned; one more in ``new``."""
    rows = []
    for number in range(12):
        values, label, radius = blob(number, (14 + number % 3, 22, 20), 12)
        spacing, turned = (2.0, 1.0 + 0.1 * (number % 2), 1.0), number % 3 == 0
        write_volume(folder / "cases" / f"scan{number:02d}.nii.gz", hounsfield(values), spacing, turned=turned)
        row = {"file": f"scan{number:02d}.nii.gz", **labels(number, 12, radius)}
        if masks:
            write_volume(folder / "cases" / "outlines" / f"scan{number:02d}.nii.gz", label, spacing, turned=turned)
            row["mask"] = f"outlines/scan{number:02d}.nii.gz"
        rows.append(row)
    write_labels(folder / "cases", rows)
    write_volume(
        folder / "new" / "new0.nii.gz", hounsfield(blob(100, (15, 22, 20), 12)[0]), (2.0, 1.0, 1.0), turned=True
    )


def hounsfield(values: np.ndarray) -> np.ndarray:
    """Values 0..1 as whole numbers from -900 to 700."""
    return np.round(values * 1600 - 900).astype(np.int16)


def radiographs(folder: Path) -> None:
    """16 DICOM of 16 patients in the layout of the RSNA challenge, 32x32, a box on each positive; one in ``new``."""
    cases = folder / "cases"
    boxes, classes, people = [], [], []
    for number in range(16):
        values, label, _ = blob(number, (1, 32, 32), 16)
        write_dicom(cases / "stage_2_train_images" / f"image{number:02d}.dcm", byte(values[0]), number)
        ill = number % 2
        rows, columns = np.nonzero(label[0])
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if ill else [""] * 4
        boxes.append([f"image{number:02d}", *box, ill])
        classes.append(
            [
                f"image{number:02d}",
                "Lung Opacity" if ill else ("Normal", "No Lung Opacity / Not Normal")[number // 2 % 2],
            ]
        )
        people.append([f"image{number:02d}", f"patient {number}"])
    for name, head, table in (
        ("stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], boxes),
        ("stage_2_detailed_class_info.csv", ["patientId", "class"], classes),
        ("patient_mapping.csv", ["patientId", "patient"], people),
    ):
        with open(cases / name, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([head, *table])
    write_dicom(folder / "new" / "new0.dcm", byte(blob(100, (1, 32, 32), 16)[0][0]), 100)


def write_dicom(path: Path, pixels: np.ndarray, number: int) -> None:
    """One grey radiograph, uncompressed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data.SOPInstanceUID, data.SeriesInstanceUID, data.StudyInstanceUID = (
        f"1.2.826.0.1.{k}.{number + 1}" for k in (1, 2, 3)
    )
    data.PatientID, data.PatientName, data.StudyDate, data.Modality = (
        f"R{number}",
        f"Radiograph^{number}",
        "20200203",
        "DX",
    )
    data.Manufacturer, data.ManufacturerModelName = ("Alpha", "Beta")[number // 3 % 2], "One"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing, data.SamplesPerPixel, data.PhotometricInterpretation = [0.5, 0.5], 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(path, enforce_file_format=True)


def write_studies(recipe: Recipe, folder: Path) -> None:
    """All raw studies of a recipe below ``folder``, each file with the same time of change."""
    recipe.studies(folder)
    for path in sorted(folder.rglob("*")):
        os.utime(path, (MODIFIED, MODIFIED))


# ------------------------------------------------------------------------------------------ recipes


def arm(model: str, start: str, strategy: str = "finetune", **more: Any) -> dict[str, Any]:
    """One entry of ``models``."""
    return {"model": model, "start": start, "strategy": strategy, **more}


CODED = ("labels=labels.csv", "patient=patient")
OPEN = (*CODED, "identity=keep")
MONAI, BERT = ("monai.networks.nets",), ("transformers.models.bert.modeling_bert",)
SMALL = {"size": 32}
CLIP = {"kind": "uniform", "length": 4, "size": 32}
HEAD, DENSE = {"learning_rate": 0.03, "iterations": 3}, {"learning_rate": 0.1, "iterations": 3}
BLOCK = {"kind": "whole", "length": 16, "size": 16}

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "image_classify",
        pictures,
        (*OPEN, "target=finding", "positive=ill", "site=site", "facts=[probe]", "split=part"),
        {
            "window": SMALL,
            "models": [
                arm(LITE, "imagenet", "frozen_logistic"),
                arm(LITE, "imagenet", grid={"learning_rate": [1e-3, 4e-3]}, train={"tta": 2, "optimizer": "adamw"}),
            ],
        },
        (("studies/new",), ("studies/new/new0.png", "studies/new/new1.png", f"model={LITE} · imagenet · finetune")),
        rough=True,
    ),
    Recipe(
        "image_negatives",
        pictures,
        (*CODED, "target=[finding, kind]", "facts=[probe]"),
        {
            "target": "finding",
            "negatives": "kind",
            "window": SMALL,
            "keep_windows": True,
            "split": {"kind": "nested", "inner": 2},
            "models": [
                arm(LITE, "imagenet", "frozen", train=HEAD),
                arm(TINY, "random", train={"dropout": 0.2, "logits": 2}),
            ],
            "claims": [
                {
                    "text": "ImageNet does better.",
                    "source": "a source",
                    "better": {"start": "imagenet"},
                    "than": {"start": "random"},
                },
                {
                    "text": "Frozen is more accurate.",
                    "better": {"strategy": "frozen"},
                    "metrics": ["accuracy", "f1"],
                    "published": ".9",
                },
            ],
        },
    ),
    Recipe(
        "image_multiclass",
        pictures,
        (*OPEN, "target=kind"),
        {
            "window": SMALL,
            "split": {"kind": "holdout", "test_share": 0.3},
            "seeds": [0, 1],
            "train": {"balanced": True},
            "models": [arm(LITE, "imagenet", "frozen_logistic", train={"logistic_c": 1.0}), arm(TINY, "random")],
        },
    ),
    Recipe(
        "image_multilabel",
        partial(pictures, broken=True),
        (*CODED, "target=[a, b]"),
        {
            "target": ["a", "b"],
            "window": SMALL,
            "train": {"positive_weight": "balanced"},
            "models": [arm(LITE, "imagenet", "frozen", train=HEAD), arm(TINY, "random", "gradual")],
        },
    ),
    Recipe(
        "image_regress",
        partial(pictures, twin=True),
        (*OPEN, "target=size", "target_unit=px"),
        {
            "window": SMALL,
            "models": [arm(LITE, "imagenet", "frozen", train=HEAD), arm(TINY, "random", train={"tta": 1})],
        },
    ),
    Recipe(
        "image_boxes",
        radiographs,
        ("layout=rsna",),
        {"target": "pneumonia", "window": SMALL, "explain": 2, "report": False, "models": [arm(TINY, "random")]},
    ),
    Recipe(
        "image_segment",
        partial(pictures, masks=True),
        (*OPEN, "target=finding", "masks=mask", "structures={1: ball, 2: core}"),
        {"task": "segment", "window": SMALL, "models": [arm("unet2d", "random", options={"width": 4}, train=DENSE)]},
        heavy=MONAI,
    ),
    Recipe(
        "clip_classify",
        clips,
        (*OPEN, "target=finding", "positive=ill"),
        {
            "window": {**CLIP, "views": 2, "join": "vote"},
            "models": [
                arm(LITE, "imagenet", "frozen", train=HEAD),
                arm(f"r2plus1d:{TINY}", "random", window={"length": 8}),
            ],
        },
    ),
    Recipe(
        "clip_regress",
        clips,
        (*CODED, "target=size", "target_unit=px"),
        {
            "window": CLIP,
            "models": [
                arm(LITE, "imagenet", "frozen", join="bert", hidden=10, train=HEAD),
                arm(f"i3d:{TINY}", "random"),
            ],
        },
        heavy=BERT,
    ),
    Recipe(
        "clip_segment",
        frame_folders,
        (*OPEN, "target=finding", "masks=mask", "frames=folder", "structures={1: ball, 2: core}"),
        {"task": "segment", "window": SMALL, "models": [arm("unet2d", "random", options={"width": 4}, train=DENSE)]},
        heavy=MONAI,
    ),
    Recipe(
        "volume_classify",
        volumes,
        (*CODED, "target=finding", "positive=ill", "unit=HU"),
        {
            "models": [
                arm(f"i3d:{TINY}", "random", window={**BLOCK, "size": 32}),
                arm(
                    LITE,
                    "imagenet",
                    "frozen_logistic",
                    window={"kind": "uniform", "length": 4, "size": 32},
                    train={"logistic_c": 0.1},
                ),
            ]
        },
    ),
    Recipe(
        "volume_regress",
        volumes,
        (*OPEN, "target=size", "target_unit=px"),
        {"models": [arm(CUBIC, "random", window=BLOCK)], "train": {"label_scale": 1.0}},
        heavy=MONAI,
        rough=True,
    ),
    Recipe(
        "volume_segment",
        partial(volumes, masks=True),
        (*OPEN, "target=finding", "masks=mask", "structures={1: ball, 2: core}"),
        {
            "task": "segment",
            "window": {"kind": "cubes", "length": 16, "size": 16},
            "models": [arm("unet3d", "random", options={"width": 4}, train=DENSE)],
        },
        heavy=MONAI,
    ),
)
