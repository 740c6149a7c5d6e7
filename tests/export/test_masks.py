"""Predicted structures as label maps: values, sizes, and the place of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medgraft.errors import UserError
from medgraft.export.masks import write_labels
from medgraft.intake.read import Limits
from medgraft.intake.volume import read_volume
from medgraft.tasks.segment import Segment


def line(**more: Any) -> dict[str, Any]:
    return {"case_id": "case-1", "kind": "image", "spacing": [None, None, None], "to_source": None, **more}


def served(
    field: np.ndarray, facts: dict[str, Any], structures: list[str], folder: Path
) -> tuple[Path, dict[str, Any]]:
    """The label map and the columns of a served case."""
    answer = Segment(structures).answer(field, facts, threshold=None)
    assert answer.labels is not None
    return write_labels(answer.labels, facts, folder), answer.columns


def test_a_later_structure_stands_on_top_and_every_one_is_counted(tmp_path: Path) -> None:
    field = np.zeros((2, 1, 4, 5))
    field[0, 0, :2] = 0.9
    field[1, 0, 1:3, :2] = 0.6
    field[1, 0, 3] = 0.5  # one half is not more than one half
    path, row = served(field, line(), ["liver", "lesion"], tmp_path / "masks")
    assert path == tmp_path / "masks" / "case-1_mask.nii.gz"
    expected = np.zeros((1, 4, 5), np.uint8)
    expected[0, :2], expected[0, 1:3, :2] = 1, 2
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == expected).all()
    assert row == {"liver voxels": 10, "lesion voxels": 4}


def test_a_label_map_lies_where_its_volume_lies(tmp_path: Path) -> None:
    """An oblique volume is read, its brightest voxel marked, and the mark found at the same place in the patient."""
    values = np.zeros((4, 5, 6), np.int16)
    values[1, 3, 2] = 1000
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.7, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    turn = np.radians(20)
    image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "oblique.nii.gz"))
    study = read_volume(tmp_path / "oblique.nii.gz", Limits())
    array = np.stack([frame[0] for frame in study.frames])
    manifest = line(kind="volume", spacing=study.spacing, to_source=list(study.to_source))
    path, row = served((array == 1000)[None].astype(float), manifest, ["spot"], tmp_path)
    mask = sitk.ReadImage(str(path))
    found = np.argwhere(sitk.GetArrayFromImage(mask))[0]
    here = mask.TransformIndexToPhysicalPoint([int(v) for v in found[::-1]])
    assert np.allclose(here, image.TransformIndexToPhysicalPoint((2, 3, 1)), atol=1e-3)
    assert row["spot voxels"] == 1 and row["spot ml"] == pytest.approx(0.0007)


def test_fields_and_structures_must_agree(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 fields for 1 structures"):
        served(np.zeros((2, 1, 3, 3)), line(), ["liver"], tmp_path)
    assert not list(tmp_path.iterdir())
