"""Predicted structures as label maps: values, sizes, and the place of the source."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medgraft.errors import UserError
from medgraft.export.masks import write_labels
from medgraft.intake.dicom import study as dicom
from medgraft.intake.read import Limits, Study
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


def turned(x: float, y: float, z: float) -> np.ndarray:
    """Directions turned by degrees about the three axes, one after the other."""
    made = np.eye(3)
    for axis, angle in enumerate(np.radians([x, y, z])):
        turn, (a, b) = np.eye(3), [k for k in range(3) if k != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        made = turn @ made
    return made


#: Columns are the steps along x, y and z of a source in LPS.
DIRECTIONS = {
    "as LPS": np.eye(3),
    "as RAS": np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.diag([-1.0, 1.0, 1.0]),
    "feet last": np.diag([1.0, 1.0, -1.0]),
    "sagittal": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "coronal": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "oblique": turned(20, -35, 12),
    "oblique and flipped": turned(-17, 8, 40) @ np.diag([1.0, -1.0, 1.0]),
    "oblique sagittal": turned(10, 15, -20) @ np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
}
SPACING, ORIGIN, SIZE = (0.5, 0.7, 3.0), (-212.25, 31.5, -940.125), (7, 6, 5)  # x, y, z


def source_of(direction: np.ndarray) -> tuple[sitk.Image, np.ndarray]:
    """An image whose voxels hold numbers of their own, and a corner of it as a structure: (image, bool (z, y, x))."""
    values = np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE[::-1])
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction.reshape(-1).tolist())
    return image, np.isin(values, [0, 1, 2, 7, 42, 209])


def series(image: sitk.Image, folder: Path) -> list[Path]:
    """The image as a DICOM series in a shuffled order. A series has no left-handed axes: z follows from x and y."""
    turn = np.reshape(image.GetDirection(), (3, 3))
    common, paths = generate_uid(), []
    for k in np.random.default_rng(0).permutation(SIZE[2]).tolist():
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
        header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.Modality, header.SeriesInstanceUID = "CT", common
        header.PixelSpacing = [SPACING[1], SPACING[0]]
        header.ImageOrientationPatient = [float(f"{v:.10f}") for v in turn.T[:2].reshape(-1)]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        header.ImagePositionPatient = [float(f"{v:.8f}") for v in position]
        header.Rows, header.Columns, header.SamplesPerPixel = SIZE[1], SIZE[0], 1
        header.PhotometricInterpretation = "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation, header.RescaleSlope, header.RescaleIntercept = 15, 1, 1, 0
        header.PixelData = sitk.GetArrayFromImage(image)[k].tobytes()
        paths.append(folder / f"{len(paths)}.dcm")
        pydicom.dcmwrite(paths[-1], header, enforce_file_format=True)
    return paths


def places(affine: np.ndarray, found: np.ndarray) -> np.ndarray:
    """World coordinates (n, 3) of voxels (n, 3), in one order."""
    world = found @ affine[:3, :3].T + affine[:3, 3]
    return world[np.lexsort(np.round(world, 2).T)]


def nifti_header(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """sform and qform as affines from (i, j, k) to RAS, and their codes, from the bytes (nifti1.h) and no library."""
    with gzip.open(path) as stream:
        head = stream.read(348)
    pixdim = np.frombuffer(head[76:108], "<f4")
    (b, c, d, *offset), sform = struct.unpack("<6f", head[256:280]), np.eye(4)
    sform[:3] = np.frombuffer(head[280:328], "<f4").reshape(3, 4)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    qform = np.eye(4)
    qform[:3, :3] = np.array(turn) * pixdim[1:4] * [1, 1, pixdim[0] or 1]
    qform[:3, 3] = offset
    qcode, scode = struct.unpack("<hh", head[252:256])
    return sform, qform, (qcode, scode)


def mask_of(study: Study, structure: np.ndarray, values: np.ndarray, folder: Path) -> Path:
    """The served mask of a study: its structure holds the same voxel values as that of the source."""
    array = np.stack([frame[0] for frame in study.frames])
    assert study.to_source is not None
    facts = line(kind="volume", spacing=study.spacing, to_source=list(study.to_source))
    field = np.isin(array, values[structure])[None].astype(float)
    path, row = served(field, facts, ["corner"], folder)
    assert row["corner ml"] == pytest.approx(structure.sum() * np.prod(SPACING) / 1000, rel=1e-5)
    return path


@pytest.mark.parametrize("name", list(DIRECTIONS))
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd", "series"])
def test_a_served_mask_lies_over_its_source_in_any_viewer(tmp_path: Path, name: str, suffix: str) -> None:
    """World coordinates of the mask are those of the source's voxels: for SimpleITK, by the bytes of both affines of
    the file, and for nibabel where it is installed.
    """
    direction = DIRECTIONS[name]
    if suffix == "series" and np.linalg.det(direction) < 0:
        direction = direction @ np.diag([1.0, 1.0, -1.0])
    image, structure = source_of(direction)
    if suffix == "series":
        study = dicom.read_series(series(image, tmp_path), Limits())
    else:
        sitk.WriteImage(image, str(tmp_path / f"source{suffix}"))
        study = read_volume(tmp_path / f"source{suffix}", Limits())
    path = mask_of(study, structure, sitk.GetArrayFromImage(image), tmp_path)
    affine = np.eye(4)  # of the source, (x, y, z) to LPS
    affine[:3, :3], affine[:3, 3] = direction * SPACING, ORIGIN
    wanted = places(affine, np.argwhere(structure)[:, ::-1])

    mask = sitk.ReadImage(str(path))
    there = np.argwhere(sitk.GetArrayFromImage(mask))[:, ::-1]
    in_itk = np.array([mask.TransformIndexToPhysicalPoint(v.tolist()) for v in there])
    assert np.allclose(in_itk[np.lexsort(np.round(in_itk, 2).T)], wanted, atol=2e-3)
    corners = [[i * (n - 1) for i, n in zip(corner, SIZE)] for corner in np.ndindex(2, 2, 2)]
    everywhere = places(affine, np.array(corners))
    ends = np.array([[i * (n - 1) for i, n in zip(corner, mask.GetSize())] for corner in np.ndindex(2, 2, 2)])
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    sform, qform, codes = nifti_header(path)
    assert min(codes) > 0  # a viewer may take either
    for found in (sform, qform):
        assert np.allclose(places(lps @ found, there), wanted, atol=2e-3)
        assert np.allclose(places(lps @ found, ends), everywhere, atol=2e-3)  # the whole frame, not the structure alone
    try:
        import nibabel
    except ImportError:
        return
    loaded = nibabel.load(path)
    assert np.allclose(places(lps @ loaded.affine, np.argwhere(np.asarray(loaded.dataobj))), wanted, atol=2e-3)
    assert np.allclose(sorted(loaded.header.get_zooms()), sorted(SPACING), atol=1e-5)


def test_a_structure_at_a_known_point_of_the_patient_is_found_there(tmp_path: Path) -> None:
    image, _ = source_of(DIRECTIONS["oblique and flipped"])
    point = image.TransformIndexToPhysicalPoint((5, 1, 3))
    sitk.WriteImage(image, str(tmp_path / "source.mha"))
    study = read_volume(tmp_path / "source.mha", Limits())
    values = sitk.GetArrayFromImage(image)
    structure = values == values[3, 1, 5]
    mask = sitk.ReadImage(str(mask_of(study, structure, values, tmp_path)))
    assert mask[mask.TransformPhysicalPointToIndex(point)] == 1 and sitk.GetArrayFromImage(mask).sum() == 1


def test_a_tilted_series_says_that_places_are_not_exact(tmp_path: Path) -> None:
    image, _ = source_of(DIRECTIONS["as LPS"])
    for path in series(image, tmp_path):
        header = pydicom.dcmread(path)
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, float(y) + 0.3 * (float(z) - ORIGIN[2]), z]
        header.save_as(path)
    study = dicom.read_series(sorted(tmp_path.glob("*.dcm")), Limits())
    assert any("tilted gantry: each slice lies 0.9 mm aside" in note for note in study.notes)
    straight = dicom.read_series(series(image, tmp_path), Limits())
    assert not any("tilted" in note for note in straight.notes)


def test_fields_and_structures_must_agree(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 fields for 1 structures"):
        served(np.zeros((2, 1, 3, 3)), line(), ["liver"], tmp_path)
    assert not list(tmp_path.iterdir())
