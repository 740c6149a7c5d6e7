"""Every format against what was planted: colours, palettes, compressions, times and videos of DICOM; TIFF, BMP, arrays,
volumes, frames.
"""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image, TiffImagePlugin
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from test_readers import LIMITS, load, refused, write_dicom, write_video

from medgraft import datasets, store, tables
from medgraft.intake.options import ScanOptions
from medgraft.intake.read import Limits
from medgraft.intake.scan import scan

COLOUR = Limits(colour=True)
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def smooth(height: int, width: int, frames: int = 1) -> np.ndarray:
    """(N, H, W, 3) uint8 of slow gradients, kind to lossy compression."""
    rows, columns, time = np.mgrid[:height, :width, :frames].astype(float)
    channels = [
        128 + 100 * np.sin(rows / 9 + time / 3),
        128 + 90 * np.cos(columns / 11),
        60 + 120 * (rows + columns) / (height + width),
    ]
    return np.stack(channels, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)


# ------------------------------------------------------------------------------------------ DICOM: colours


def ybr_of(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.clip(np.round(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def partial_of(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.291, 0.4392], [0.4392, -0.3678, -0.0714]])
    return np.clip(np.round(rgb @ matrix.T + [16, 128, 128]), 0, 255).astype(np.uint8)


def subsampled(ybr: np.ndarray) -> bytes:
    """4:2:2 as DICOM stores it: two lumas, then one pair of chromas."""
    pairs = ybr.reshape(-1, 2, 3)
    return np.stack([pairs[:, 0, 0], pairs[:, 1, 0], pairs[:, 0, 1], pairs[:, 0, 2]], axis=1).tobytes()


@pytest.mark.parametrize(
    "interpretation", ["YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "RGB planar", "YBR_FULL planar"]
)
def test_uncompressed_colours_become_rgb(tmp_path: Path, interpretation: str) -> None:
    rgb = smooth(24, 32)[0]
    rgb[:, 1::2] = rgb[:, ::2]  # pairs alike, so that subsampling loses nothing
    name, _, planar = interpretation.partition(" ")
    stored = partial_of(rgb) if "PARTIAL" in name else rgb if name == "RGB" else ybr_of(rgb)
    data = write_dicom(
        tmp_path / "c.dcm", rgb, **RGB | {"PhotometricInterpretation": name, "PlanarConfiguration": int(bool(planar))}
    )
    data.PixelData = (
        subsampled(stored) if "422" in name else (stored.transpose(2, 0, 1) if planar else stored).tobytes()
    )
    data.save_as(tmp_path / "c.dcm")
    array, study = load(tmp_path / "c.dcm", COLOUR)
    assert study.value_unit == "display"
    assert np.abs(array[:, 0].transpose(1, 2, 0).astype(int) - rgb).max() <= (0 if name == "RGB" else 3)
    grey = load(tmp_path / "c.dcm")[0][0, 0]
    assert np.abs(grey.astype(int) - np.asarray(Image.fromarray(rgb).convert("L"))).max() <= 2


@pytest.mark.parametrize("deep", [8, 16])
def test_palettes_colour_every_frame_alike(tmp_path: Path, rng: np.random.Generator, deep: int) -> None:
    """A 16-bit table keeps its upper byte, also in a frame whose own colours are dark; 8-bit colours in a 16-bit table
    stay.
    """
    table = rng.integers(0, 1 << deep, (256, 3)).astype(f"u{deep // 8}")
    table[:4] = 7
    frames = rng.integers(0, 256, (3, 6, 8), dtype=np.uint8)
    frames[1] %= 4
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", "NumberOfFrames": 3}
    data = write_dicom(tmp_path / "p.dcm", frames, **tags)
    for index, name in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        data[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(data, f"{name}PaletteColorLookupTableData", table[:, index].astype("<u2").tobytes())
    data.save_as(tmp_path / "p.dcm")
    array, _ = load(tmp_path / "p.dcm", COLOUR)
    expected = (table >> 8 if deep == 16 else table).astype(np.uint8)
    assert (array.transpose(1, 2, 3, 0) == expected[frames]).all()


def test_segmented_palettes_are_unfolded_and_bombs_are_not(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = write_dicom(tmp_path / "s.dcm", ramp, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        data[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        # One discrete entry 0, then a line of 255 steps up to 65280.
        setattr(
            data, f"Segmented{name}PaletteColorLookupTableData", np.array([0, 1, 0, 1, 255, 65280], "<u2").tobytes()
        )
    data.save_as(tmp_path / "s.dcm")
    assert np.abs(load(tmp_path / "s.dcm")[0][0, 0].astype(int) - ramp).max() <= 1
    line = np.tile(np.array([1, 65535, 9], "<u2"), 5000)
    data.SegmentedRedPaletteColorLookupTableData = np.array([0, 1, 0], "<u2").tobytes() + line.tobytes()
    data.save_as(tmp_path / "bomb.dcm")
    assert "palette unfolds" in refused(tmp_path / "bomb.dcm")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_syntaxes(tmp_path: Path, rng: np.random.Generator, syntax: str) -> None:
    deep = rng.integers(0, 4096, (2, 9, 11), dtype=np.uint16)
    data = write_dicom(tmp_path / "v.dcm", deep, BitsStored=12, HighBit=11, NumberOfFrames=2)
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data.PixelData = deep.astype(">u2").tobytes()
    data["PixelData"].VR = "OW"
    implicit = syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(
        tmp_path / "v.dcm", data, implicit_vr=implicit, little_endian=syntax != ExplicitVRBigEndian, force_encoding=True
    )
    assert (load(tmp_path / "v.dcm")[0][0] == deep).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_syntaxes(tmp_path: Path, rng: np.random.Generator, syntax: str) -> None:
    deep = rng.integers(0, 4096, (2, 32, 33), dtype=np.uint16)
    data = write_dicom(tmp_path / "v.dcm", deep, BitsStored=12, HighBit=11, NumberOfFrames=2)
    data.compress(syntax, generate_instance_uid=False)
    data.save_as(tmp_path / "v.dcm")
    assert (load(tmp_path / "v.dcm")[0][0] == deep).all()
    rgb = rng.integers(0, 256, (32, 33, 3), dtype=np.uint8)
    data = write_dicom(tmp_path / "c.dcm", rgb, **RGB)
    if syntax == JPEG2000Lossless:
        data.PhotometricInterpretation = "YBR_RCT"
    data.compress(syntax, generate_instance_uid=False)
    data.save_as(tmp_path / "c.dcm")
    assert (load(tmp_path / "c.dcm", COLOUR)[0][:, 0].transpose(1, 2, 0) == rgb).all()


@pytest.mark.parametrize("syntax", [JPEG2000, JPEGLSNearLossless])
def test_lossy_syntaxes(tmp_path: Path, syntax: str) -> None:
    rgb = smooth(48, 64)[0]
    data = write_dicom(tmp_path / "c.dcm", rgb, **RGB)
    if syntax == JPEG2000:
        data.PhotometricInterpretation = "YBR_ICT"
        data.compress(syntax, j2k_cr=[8], generate_instance_uid=False)
    else:
        data.compress(syntax, jls_error=2, generate_instance_uid=False)
    data.save_as(tmp_path / "c.dcm")
    assert np.abs(load(tmp_path / "c.dcm", COLOUR)[0][:, 0].transpose(1, 2, 0).astype(int) - rgb).mean() < 3


def write_jpeg(
    path: Path, frames: np.ndarray, interpretation: str, *, quality: int = 95, keep_rgb: bool = False, **tags: Any
) -> Dataset:
    """JPEG baseline cine of (N, H, W) or (N, H, W, 3) uint8."""
    coded = []
    for frame in frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=quality, **({"keep_rgb": True} if keep_rgb else {}))
        coded.append(stream.getvalue())
    samples = 3 if frames.ndim == 4 else 1
    data = write_dicom(path, frames[0], SamplesPerPixel=samples, PhotometricInterpretation=interpretation, **tags)
    if samples == 3:
        data.PlanarConfiguration = 0
    data.NumberOfFrames = len(frames)
    data.PixelData = encapsulate(coded)
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.save_as(path, enforce_file_format=True)
    return data


@pytest.mark.filterwarnings("ignore")  # pydicom says that a JFIF marker contradicts RGB
def test_jpeg_baseline_with_and_without_a_colour_transform(tmp_path: Path) -> None:
    rgb = smooth(48, 64, 3)
    expected = np.stack([np.asarray(Image.fromarray(f).convert("L")) for f in rgb]).astype(int)
    for name, tags in {
        "ybr": {"interpretation": "YBR_FULL_422"},
        "rgb": {"interpretation": "RGB", "keep_rgb": True},
    }.items():
        write_jpeg(tmp_path / f"{name}.dcm", rgb, FrameTime=20, **tags)
        array, study = load(tmp_path / f"{name}.dcm", COLOUR)
        assert array.shape == (3, 3, 48, 64) and study.times == pytest.approx([0, 0.02, 0.04])
        assert np.abs(array.transpose(1, 2, 3, 0).astype(int) - rgb).mean() < 2, name
        assert np.abs(load(tmp_path / f"{name}.dcm")[0][0].astype(int) - expected).mean() < 1.5, name
    write_jpeg(tmp_path / "grey.dcm", rgb[..., 0], "MONOCHROME1")
    assert np.abs(255 - load(tmp_path / "grey.dcm")[0][0].astype(int) - rgb[..., 0]).mean() < 1.5
    data = pydicom.dcmread(tmp_path / "grey.dcm")
    data.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.save_as(tmp_path / "twelve.dcm")
    assert refused(tmp_path / "twelve.dcm").startswith("12-bit pixels in JPEG Extended")


def test_enhanced_ct_is_scaled_frame_by_frame(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 2000, (3, 6, 7), dtype=np.uint16)
    data = write_dicom(tmp_path / "e.dcm", frames, NumberOfFrames=3, Modality="CT")
    data.PerFrameFunctionalGroupsSequence = []
    for index in range(3):
        group, value, plane, turn = Dataset(), Dataset(), Dataset(), Dataset()
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = 1 + index, -1024, "HU"
        plane.ImagePositionPatient, turn.ImageOrientationPatient = [0, 0, 4 * index], [1, 0, 0, 0, 1, 0]
        group.PixelValueTransformationSequence, group.PlanePositionSequence, group.PlaneOrientationSequence = (
            [value],
            [plane],
            [turn],
        )
        data.PerFrameFunctionalGroupsSequence.append(group)
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.7]
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    data.save_as(tmp_path / "e.dcm")
    array, study = load(tmp_path / "e.dcm")
    assert study.kind == "volume" and study.value_unit == "HU" and study.spacing == pytest.approx([4, 0.5, 0.7])
    scaled = frames * np.array([1, 2, 3])[:, None, None] - 1024.0
    assert (array[0] == scaled[:, ::-1, ::-1]).all()


# ------------------------------------------------------------------------------------------ DICOM: times, regions,
# counts


def timed(name: str, frames: int) -> dict[str, Any]:
    """Tags that state frame times 0, 40, 90, 150 ms (or steps of 50 ms), each in one of the places of the standard."""
    stamps = [0.0, 0.04, 0.09, 0.15]

    def groups(sequence: str, tag: str, values: list[Any]) -> dict[str, Any]:
        found = []
        for value in values:
            inner, group = Dataset(), Dataset()
            setattr(inner, tag, value)
            setattr(group, sequence, [inner])
            found.append(group)
        return {"PerFrameFunctionalGroupsSequence": found}

    moments = [f"20260102235959.{int(t * 1e6):06d}+0100" if t < 1 else "" for t in stamps]
    rotation = Dataset()
    rotation.ActualFrameDuration = 50
    return {
        "FrameTimeVector": {"FrameTimeVector": [0, 40, 50, 60]},
        "FrameTimeVector short": {"FrameTimeVector": [40, 50, 60]},
        "FrameReferenceDateTime": groups("FrameContentSequence", "FrameReferenceDateTime", moments),
        "FrameAcquisitionDateTime": groups("FrameContentSequence", "FrameAcquisitionDateTime", moments),
        "TemporalPositionTimeOffset": groups("TemporalPositionSequence", "TemporalPositionTimeOffset", stamps),
        "NominalCardiacTriggerDelayTime": groups(
            "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", [1000 * t for t in stamps]
        ),
        "FrameAcquisitionDuration": groups("FrameContentSequence", "FrameAcquisitionDuration", [40, 50, 60, 70]),
        "FrameTime": {"FrameTime": 50},
        "CineRate": {"CineRate": 20},
        "ActualFrameDuration": {"ActualFrameDuration": 50},
        "ActualFrameDuration in rotation": {"RotationInformationSequence": [rotation]},
        "RecommendedDisplayFrameRate": {"RecommendedDisplayFrameRate": 20},
    }[name]


UNEVEN = [
    "FrameTimeVector",
    "FrameTimeVector short",
    "FrameReferenceDateTime",
    "FrameAcquisitionDateTime",
    "TemporalPositionTimeOffset",
]
UNEVEN += ["NominalCardiacTriggerDelayTime", "FrameAcquisitionDuration"]
EVEN = [
    "FrameTime",
    "CineRate",
    "ActualFrameDuration",
    "ActualFrameDuration in rotation",
    "RecommendedDisplayFrameRate",
]


@pytest.mark.parametrize("place", UNEVEN + EVEN)
def test_frame_times_from_every_place(tmp_path: Path, place: str) -> None:
    write_dicom(tmp_path / "t.dcm", np.zeros((4, 4, 4), np.uint8), NumberOfFrames=4, **timed(place, 4))
    _, study = load(tmp_path / "t.dcm")
    assert study.kind == "video" and study.time_source == ["header"]
    assert study.times == pytest.approx([0, 0.04, 0.09, 0.15] if place in UNEVEN else [0, 0.05, 0.1, 0.15])
    assert any(place.split()[0] in note for note in study.notes)


def test_the_most_exact_times_win_and_nonsense_is_passed_over(tmp_path: Path) -> None:
    tags = {"FrameTimeVector": [0, 10, -10, 10], "FrameTime": 0, "CineRate": 25, "RecommendedDisplayFrameRate": 50}
    write_dicom(tmp_path / "t.dcm", np.zeros((4, 4, 4), np.uint8), NumberOfFrames=4, **tags)
    _, study = load(tmp_path / "t.dcm")
    assert (
        study.times == pytest.approx([0, 0.04, 0.08, 0.12]) and "times from CineRate, a rate of display" in study.notes
    )


def test_ultrasound_regions_become_boxes_of_the_header(tmp_path: Path) -> None:
    regions = []
    for form, unit, box in ((1, 3, (10, 20, 59, 79)), (2, 4, (0, 80, 63, 95)), (1, 3, (5, 5, 2, 2))):
        region = Dataset()
        region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = form, 1, 2
        (
            region.RegionLocationMinX0,
            region.RegionLocationMinY0,
            region.RegionLocationMaxX1,
            region.RegionLocationMaxY1,
        ) = box
        region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = unit, 3
        region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, 0.04
        regions.append(region)
    (tmp_path / "in").mkdir()
    write_dicom(
        tmp_path / "in" / "u.dcm", np.zeros((96, 64), np.uint8), Modality="US", SequenceOfUltrasoundRegions=regions
    )
    _, study = load(tmp_path / "in" / "u.dcm")
    assert study.spacing[1:] == pytest.approx([0.4, 0.3])
    scan(tmp_path / "in", ScanOptions(out=tmp_path / "out", patient="none", identity="keep"))
    rows = tables.read(tmp_path / "out" / "annotations.parquet", "annotations")
    assert (
        rows.select("case_id", "frame", "kind", "author", "what").rows() == [("u", -1, "box", "header", "region")] * 2
    )
    import json

    first, second = map(json.loads, rows["geometry"])
    assert first == {
        "x": 10,
        "y": 20,
        "width": 50,
        "height": 60,
        "format": "2D",
        "delta_x": 0.03,
        "unit_x": "cm",
        "delta_y": 0.04,
        "unit_y": "cm",
    }
    assert second["format"] == "M-mode" and second["unit_x"] == "s" and (second["x"], second["height"]) == (0, 16)


def test_frames_are_counted_not_believed(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (4, 6, 8), dtype=np.uint8)
    write_dicom(tmp_path / "less.dcm", frames, NumberOfFrames=2, FrameTime=40)
    array, study = load(tmp_path / "less.dcm")
    assert (
        (array[0] == frames).all()
        and "header declares 2 frames, 4 are in the file" in study.notes
        and len(study.times) == 4
    )
    write_dicom(tmp_path / "more.dcm", frames, NumberOfFrames=5)
    assert refused(tmp_path / "more.dcm") == "truncated: 192 of 240 bytes of pixels are in the file"
    write_jpeg(tmp_path / "giant.dcm", frames, "MONOCHROME2")
    data = pydicom.dcmread(tmp_path / "giant.dcm")
    data.NumberOfFrames = 100_000_000
    data.save_as(tmp_path / "giant.dcm")
    assert "100000000 frames" in refused(tmp_path / "giant.dcm")


def test_overlays_look_up_tables_and_objects_that_are_no_studies(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    data = write_dicom(tmp_path / "o.dcm", pixels, WindowCenter=40, WindowWidth=80)
    data.add_new(0x60000010, "US", 8)
    data.add_new(0x60003000, "OW", b"\0" * 8)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [256, 0, 16], "US", b"\0" * 512
    data.ModalityLUTSequence = [table]
    data.save_as(tmp_path / "o.dcm")
    _, study = load(tmp_path / "o.dcm")
    assert {
        "overlays ignored",
        "modality look-up table noted, not applied",
        "window centre 40.0 width 80.0 noted, not applied",
    } <= set(study.notes)
    data = write_dicom(tmp_path / "seg.dcm", pixels)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    data.save_as(tmp_path / "seg.dcm")
    assert refused(tmp_path / "seg.dcm") == "a DICOM segmentation: a mask, not an image"


def test_a_series_with_copies_and_in_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    """A slice that is there twice counts once; colour slices keep their channels; grey ones are given three."""
    from medgraft.intake.dicom import study as dicom
    from medgraft.intake.read import guarded

    rgb = rng.integers(0, 256, (3, 6, 7, 3), dtype=np.uint8)
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "SeriesInstanceUID": "1.2.3"}
    paths = []
    for name, z in (("a", 0), ("b", 1), ("c", 2), ("copy", 1)):
        paths.append(tmp_path / f"{name}.dcm")
        write_dicom(paths[-1], rgb[z], **RGB, **place, ImagePositionPatient=[0, 0, 2 * z])
    study = dicom.read_series(paths, COLOUR)
    array = np.stack(list(guarded(study, COLOUR)), axis=1)
    assert study.kind == "volume" and "1 repeated slices dropped" in study.notes
    assert (array.transpose(1, 2, 3, 0) == rgb[:, ::-1, ::-1]).all()
    once = dicom.read_series([paths[1], paths[3]], LIMITS)
    assert once.kind == "image" and next(once.frames).shape == (1, 6, 7)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(tmp_path / "v.nii"))
    assert load(tmp_path / "v.nii", COLOUR)[0].shape == (3, 2, 3, 4)


def test_masks_as_bmp_and_tiff(tmp_path: Path) -> None:
    from medgraft.intake.masks import read_mask

    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for suffix in ("bmp", "tif"):
        Image.fromarray(labels).save(tmp_path / f"m.{suffix}")
        assert (read_mask(tmp_path / f"m.{suffix}", LIMITS)[0] == labels[None]).all()


# ------------------------------------------------------------------------------------------ DICOM: coded videos


def coded(frames: np.ndarray, codec: str, container: str) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as out:
        line = out.add_stream(codec, rate=25)
        line.width, line.height, line.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            out.mux(line.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(line.encode())
    return stream.getvalue()


H264 = next((name for name in ("libx264", "libopenh264", "h264") if name in av.codecs_available), "")
HEVC = next((name for name in ("libx265", "libkvazaar") if name in av.codecs_available), "")
CODED = [("100", "mpeg2video", "mpeg2video"), ("100.1", "mpeg2video", "mpegts"), ("101", "mpeg2video", "mpeg")]
CODED += [("102", H264, "h264"), ("103", H264, "mp4"), ("106.1", H264, "mpegts"), ("107", HEVC, "hevc")]


@pytest.mark.parametrize(("syntax", "codec", "container"), CODED)
def test_videos_coded_inside_dicom(tmp_path: Path, syntax: str, codec: str, container: str) -> None:
    if not codec:
        pytest.skip(f"this build of FFmpeg has no encoder for {container}")
    frames = smooth(64, 96, 12)
    data = write_dicom(
        tmp_path / "v.dcm",
        frames[0],
        **RGB | {"PhotometricInterpretation": "YBR_PARTIAL_420"},
        NumberOfFrames=11,
        FrameTime=50,
    )
    video = coded(frames, codec, container)
    half = len(video) // 4 * 2  # fragmentable syntaxes may cut the stream anywhere
    parts = [video[:half], video[half:]] if syntax.endswith(".1") else [video]
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(p) + len(p) % 2) + p + b"\0" * (len(p) % 2) for p in [b"", *parts]
    )
    data.PixelData = items
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(f"1.2.840.10008.1.2.4.{syntax}")
    data.save_as(tmp_path / "v.dcm")
    array, study = load(tmp_path / "v.dcm", COLOUR)
    assert study.kind == "video" and array.shape == (3, 12, 64, 96)
    assert np.abs(array.transpose(1, 2, 3, 0).astype(int) - frames).mean() < 8
    assert study.times == pytest.approx(np.arange(12) * 0.05) and study.spacing[0] == pytest.approx(0.05)
    assert "header declares 11 frames, 12 decode" in study.notes


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".webm", "libvpx-vp9"), (".mov", "mjpeg"), (".mpg", "mpeg2video"), (".gif", "gif"), (".mkv", "ffv1")],
)
def test_video_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    frames = smooth(64, 96, 9)[..., 0]
    pixel = {"gif": "gray", "mjpeg": "yuvj420p", "ffv1": "gray"}.get(codec, "yuv420p")
    write_video(tmp_path / f"v{suffix}", np.ascontiguousarray(frames), codec, rate=25, pixel=pixel)
    array, study = load(tmp_path / f"v{suffix}")
    assert array.shape == (1, 9, 64, 96) and study.kind == "video" and len(study.times) == 9
    assert np.abs(array[0].astype(int) - frames).mean() < 5 and study.spacing[0] == pytest.approx(0.04, abs=2e-3)


# ------------------------------------------------------------------------------------------ pictures and arrays


def test_bmp_and_tiff_of_every_depth(tmp_path: Path, rng: np.random.Generator) -> None:
    grey, colour = rng.integers(0, 256, (9, 14), dtype=np.uint8), rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "g.bmp")
    Image.fromarray(colour).save(tmp_path / "c.bmp")
    assert (load(tmp_path / "g.bmp")[0][0, 0] == grey).all()
    assert (load(tmp_path / "c.bmp", COLOUR)[0][:, 0] == colour.transpose(2, 0, 1)).all()
    for name, values in {
        "u1": grey,
        "u2": rng.integers(0, 65536, (9, 14), dtype=np.uint16),
        "i4": rng.integers(-(2**31), 2**31, (9, 14), dtype=np.int32),
        "f4": rng.normal(size=(9, 14)).astype(np.float32),
    }.items():
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate"):
            Image.fromarray(values).save(tmp_path / f"{name}.tif", compression=compression)
            array, study = load(tmp_path / f"{name}.tif")
            assert study.kind == "image" and array.dtype == values.dtype and (array[0, 0] == values).all(), (
                name,
                compression,
            )
            assert study.value_unit == ("display" if name == "u1" else "raw")
    hole = np.zeros((4, 4), np.float32)
    hole[1, 2] = np.nan
    Image.fromarray(hole).save(tmp_path / "nan.tif")
    assert "1 NaN" in refused(tmp_path / "nan.tif")


def test_pages_of_a_tiff_are_slices_unless_imagej_says_frames(tmp_path: Path, rng: np.random.Generator) -> None:
    pages = rng.integers(0, 65536, (5, 9, 14), dtype=np.uint16)

    def write(name: str, description: str) -> None:
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[270] = description
        first, *rest = [Image.fromarray(p) for p in pages]
        first.save(tmp_path / name, save_all=True, append_images=rest, tiffinfo=info)

    write("plain.tif", "")
    write("z.tif", "ImageJ=1.53\nimages=5\nslices=5\nunit=micron\nspacing=2500.0\n")
    write("t.tif", "ImageJ=1.53\nimages=5\nframes=5\nfinterval=0.25\n")
    for name, kind, step in (("plain.tif", "volume", None), ("z.tif", "volume", 2.5), ("t.tif", "video", 0.25)):
        array, study = load(tmp_path / name)
        assert (study.kind, study.spacing[0]) == (kind, step) and (array[0] == pages).all()
    assert load(tmp_path / "t.tif")[1].times == pytest.approx(np.arange(5) * 0.25)


def test_bare_arrays(tmp_path: Path, rng: np.random.Generator) -> None:
    cases = {
        "image": rng.integers(0, 256, (6, 7), dtype=np.uint8),
        "volume": rng.integers(-1000, 1000, (4, 6, 7)).astype(np.int16),
        "video": rng.integers(0, 256, (4, 6, 7, 3), dtype=np.uint8),
    }
    for kind, values in cases.items():
        np.save(tmp_path / f"{kind}.npy", values)
        array, study = load(tmp_path / f"{kind}.npy", COLOUR if kind == "video" else LIMITS)
        assert study.kind == kind and study.value_unit == ("raw" if kind == "volume" else "display")
        assert (
            (array.transpose(1, 2, 3, 0) == values).all() if kind == "video" else (array[0].squeeze() == values).all()
        )
    np.save(tmp_path / "wide.npy", np.arange(12, dtype=np.int64).reshape(3, 4))
    assert load(tmp_path / "wide.npy")[0].dtype == np.int32
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "pickled" in refused(tmp_path / "evil.npy")
    np.save(tmp_path / "flat.npy", np.zeros(9))
    assert refused(tmp_path / "flat.npy") == "has shape 9"
    data = (tmp_path / "volume.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(data[:-10])
    assert "truncated: 10 of 336" in refused(tmp_path / "short.npy")


# ------------------------------------------------------------------------------------------ detached volumes


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr"])
@pytest.mark.parametrize("zipped", [False, True])
def test_detached_volumes(tmp_path: Path, rng: np.random.Generator, suffix: str, zipped: bool) -> None:
    image = sitk.GetImageFromArray(rng.integers(0, 100, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    whole = tmp_path / "whole.mha"
    sitk.WriteImage(image, str(whole))
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"), useCompression=zipped)
    if suffix == ".hdr" and zipped:
        (tmp_path / "v.img.gz").write_bytes(gzip.compress((tmp_path / "v.img").read_bytes()))
        (tmp_path / "v.img").unlink()
    (tmp_path / f"v{suffix}").rename(
        tmp_path / f"v{'.head' if suffix != '.hdr' else suffix}"
    )  # content decides, here too
    array, study = load(tmp_path / f"v{'.head' if suffix != '.hdr' else suffix}")
    expected, straight = load(whole)
    assert (
        (array == expected).all()
        and study.spacing == pytest.approx(straight.spacing)
        and study.to_source == pytest.approx(straight.to_source)
    )


def test_detached_voxels_belong_to_their_header(tmp_path: Path, rng: np.random.Generator) -> None:
    """One case, not two; a changed voxel file is read again."""
    (tmp_path / "in").mkdir()
    volume = rng.integers(0, 100, (3, 4, 5)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / "in" / "v.mhd"))
    first = scan(tmp_path / "in", ScanOptions(out=tmp_path / "out", patient="none", identity="keep"))
    assert (first.cases, first.rejected, first.new) == (1, 0, 1)
    (tmp_path / "in" / "v.raw").write_bytes((volume + 1).tobytes())
    again = scan(tmp_path / "in", ScanOptions(out=tmp_path / "out", patient="none", identity="keep"))
    assert again.new == 1
    dataset = datasets.load_dataset(tmp_path / "out")
    assert sorted(store.open_array(dataset.root, dataset.manifest["array_id"][0]).ravel()) == sorted(
        (volume + 1).ravel()
    )


# ------------------------------------------------------------------------------------------ folders of frames


def write_frames(folder: Path, names: list[str], seed: int = 0) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 256, (len(names), 10, 12), dtype=np.uint8)
    for name, frame in zip(names, frames):
        Image.fromarray(frame).save(folder / name)
    return frames


def scanned(source: Path, out: Path, **options: Any) -> tuple[dict[str, tuple[str, tuple[int, ...]]], datasets.Dataset]:
    scan(source, ScanOptions(out=out, patient="none", identity="keep", **options))
    dataset = datasets.load_dataset(out)
    rows = dataset.manifest.select("case_id", "kind", "shape").iter_rows()
    return {case: (kind, tuple(shape)) for case, kind, shape in rows}, dataset


def test_exported_frames_are_videos_in_their_natural_order(tmp_path: Path) -> None:
    """Names as CEUS-P01 exports them, ``<tumour>_<video>_<index>``, one folder a case; BMP and PNG."""
    source = tmp_path / "in"
    frames = write_frames(source / "17", [f"17_1_{n}.bmp" for n in range(1, 13)])
    write_frames(source / "17", [f"17_2_{n}.bmp" for n in range(1, 9)], seed=1)
    write_frames(source / "18", [f"18_1_{n:03d}.png" for n in range(9)], seed=2)
    write_frames(source / "cine", [f"frame_{n}.png" for n in range(10)], seed=3)
    found, dataset = scanned(source, tmp_path / "out")
    assert found == {f"17_{k}": ("video", (1, n, 10, 12)) for k, n in ((1, 12), (2, 8))} | {
        "18_1": ("video", (1, 9, 10, 12)),
        "cine": ("video", (1, 10, 10, 12)),
    }
    row = dataset.manifest.filter(pl.col("case_id") == "17_1").row(0, named=True)
    assert (store.open_array(dataset.root, row["array_id"])[0] == frames).all()


def test_numbered_pictures_stay_pictures_unless_asked(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_frames(source / "images", [f"{n}.png" for n in (1, 2, 10, 11)])
    write_frames(source / "images", ["overview.png"], seed=5)
    found, _ = scanned(source, tmp_path / "out")
    assert {kind for kind, _ in found.values()} == {"image"} and len(found) == 5
    found, dataset = scanned(source, tmp_path / "out2", frames="folder")
    assert found == {"images": ("video", (1, 4, 10, 12)), "overview": ("image", (1, 1, 10, 12))}
    assert any("numbers of frames are missing" in n for n in dataset.info["notes"])
    write_frames(source / "17", [f"17_1_{n}.bmp" for n in range(8)], seed=6)
    found, _ = scanned(source, tmp_path / "out3", frames="files")
    assert {kind for kind, _ in found.values()} == {"image"} and len(found) == 13


def test_every_frame_of_dicom_is_exported_under_its_name(tmp_path: Path, rng: np.random.Generator) -> None:
    """CEUS-P01: ``<tumour>/<tumour>_<video>_<index>.bmp``, grey and colour; a scan of the export gives the same
    arrays.
    """
    source = tmp_path / "in"
    for folder in ("17", "18"):
        (source / folder).mkdir(parents=True)
    frames = rng.integers(0, 256, (9, 10, 12), dtype=np.uint8)
    rgb = smooth(10, 12, 8)
    write_dicom(source / "17" / "b.dcm", frames, NumberOfFrames=9, FrameTime=100)
    ybr = write_dicom(
        source / "17" / "c.dcm", rgb, **RGB | {"PhotometricInterpretation": "YBR_FULL"}, NumberOfFrames=8, FrameTime=100
    )
    ybr.PixelData = ybr_of(rgb).tobytes()
    ybr.save_as(source / "17" / "c.dcm")
    write_dicom(source / "18_4.dcm", frames[::-1].copy(), NumberOfFrames=9, FrameTime=100)
    for export_as in ("bmp", "png"):
        found, first = scanned(source, tmp_path / "out", colour=True, export=tmp_path / export_as, export_as=export_as)
        assert set(found) == {"b", "c", "18_4"}
        names = {p.relative_to(tmp_path / export_as).as_posix() for p in (tmp_path / export_as).rglob("*.*")}
        assert names == {
            f"{t}/{t}_{v}_{n}.{export_as}"
            for t, v, count in (("17", 1, 9), ("17", 2, 8), ("18", 1, 9))
            for n in range(1, count + 1)
        }
        shown = np.asarray(Image.open(tmp_path / export_as / "17" / f"17_2_3.{export_as}"))
        assert np.abs(shown.astype(int) - rgb[2]).max() <= 3
        again, second = scanned(tmp_path / export_as, tmp_path / f"again-{export_as}", colour=True)
        assert {kind for kind, _ in again.values()} == {"video"} and set(again) == {"17_1", "17_2", "18_1"}
        assert set(first.manifest["array_id"]) == set(second.manifest["array_id"])
    report = scan(source, ScanOptions(out=tmp_path / "coded", patient="none", export=tmp_path / "codes"))
    assert report.exported.startswith("26 frames") and not any(p.name == "17" for p in (tmp_path / "codes").iterdir())
    pictures = [np.asarray(Image.open(path)) for path in (tmp_path / "codes").rglob("*.bmp")]
    for frame in frames:  # of two videos, the second backwards
        assert sum(np.array_equal(picture, frame) for picture in pictures) == 2


def test_frames_of_one_video_must_agree(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_frames(source / "17", [f"17_1_{n}.bmp" for n in range(8)])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(source / "17" / "17_1_2.bmp")
    report = scan(source, ScanOptions(out=tmp_path / "out", patient="none", identity="keep"))
    assert report.cases == 0 and report.reasons == {"frame 2 has size (9, 9), the first has (10, 12)": 1}
