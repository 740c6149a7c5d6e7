"""Predicted structures as label maps that lie where their source lies, and the sizes of what they show."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from medgraft.errors import UserError
from medgraft.files import disk_error


def write_masks(
    field: np.ndarray, line: Mapping[str, Any], structures: Sequence[str], folder: Path
) -> tuple[Path, dict[str, Any]]:
    """Write the label map of one case, ``<case_id>_mask.nii.gz`` in ``folder``; return its path and a row of sizes.

    ``field`` (K, D, H, W) holds the probability of each structure; above one half it is there, and where two are, the
    later one stands. Value k + 1 is structure k. ``line`` is the row of the manifest. The row has ``study``, ``mask``
    (the file's name), and for each structure its voxels and, for volumes of known spacing, millilitres. Raises
    ``UserError`` where the field has another number of structures or the disk refuses.
    """
    if len(field) != len(structures):
        raise UserError(f"{len(field)} fields for {len(structures)} structures", case=str(line["case_id"]))
    said = field > 0.5
    labels = np.zeros(field.shape[1:], np.uint8)
    for k in range(len(structures)):
        labels[said[k]] = k + 1
    path = write_labels(labels, line, folder)
    spacing = line["spacing"]
    voxel = float(np.prod(list(spacing))) if spacing is not None and all(s is not None for s in spacing) else None
    row: dict[str, Any] = {"study": line["case_id"], "mask": path.name}
    for k, name in enumerate(structures):
        row[f"{name} voxels"] = int(said[k].sum())
        if voxel and line["kind"] == "volume":
            row[f"{name} ml"] = round(said[k].sum() * voxel / 1000, 4)
    return path, row


def write_labels(labels: np.ndarray, line: Mapping[str, Any], folder: Path) -> Path:
    """Write a label map (D, H, W) uint8 as ``<case_id>_mask.nii.gz`` in ``folder``, in the place of its source.

    ``line`` is the row of the manifest. Raises ``UserError`` where the disk refuses.
    """
    image = SimpleITK.GetImageFromArray(labels)
    place(image, line)
    path = folder / f"{line['case_id']}_mask.nii.gz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(image, str(path))
    except OSError as error:
        raise disk_error(error, folder) from error
    except RuntimeError as error:  # ITK's word for whatever hinders it
        raise UserError(
            "the mask cannot be written", case=str(path), fix="free some space or choose another out="
        ) from error
    return path


def place(image: SimpleITK.Image, line: Mapping[str, Any]) -> None:
    """Give a label map the place of its source: ``to_source`` maps (d, h, w) to the source's coordinates (LPS).

    Pictures and videos, and volumes without an invertible geometry, keep voxel coordinates.
    """
    if line["to_source"] is None or line["kind"] != "volume":
        return
    affine = np.reshape(line["to_source"], (4, 4))
    axes = affine[:3, [2, 1, 0]]  # SimpleITK counts w, h, d
    spacing = np.linalg.norm(axes, axis=0)
    with contextlib.suppress(RuntimeError):
        image.SetDirection((axes / spacing).reshape(-1).tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(affine[:3, 3].tolist())
