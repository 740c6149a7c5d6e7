"""Label maps of predicted structures, which lie where their source lies."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from medgraft.errors import UserError
from medgraft.files import disk_error


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
