"""Readers against what was planted: values, orientation, times, counts; and refusals of broken and hostile files."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medgraft.intake import npz
from medgraft.intake.dicom import study as dicom
from medgraft.intake.read import FORMATS, Limits, Study, Unreadable, guarded
from medgraft.intake.readers import READERS, open_study, reader_of

LIMITS = Limits()


def load(path: Path, limits: Limits = LIMITS) -> tuple[np.ndarray, Study]:
    """(C, D, H, W) of a whole study."""
    study = open_study(path, limits)
    return np.stack(list(guarded(study, limits)), axis=1), study


def refused(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(Unreadable) as caught:
        load(path, limits)
    assert caught.value.fix and "\n" not in str(caught.value)
    return caught.value.cause


# ------------------------------------------------------------------------------------------ pictures


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_pictures_keep_their_values(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (17, 23), dtype=np.uint8)
    deep = rng.integers(0, 65536, (17, 23), dtype=np.uint16)
    colour = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / "equal.png")
    assert (load(tmp_path / "grey.png")[0] == grey[None, None]).all()
    array, study = load(tmp_path / "deep.png")
    assert array.dtype == np.uint16 and (array == deep[None, None]).all() and study.value_unit == "raw"
    assert (load(tmp_path / "colour.png")[0][0, 0] == np.asarray(Image.fromarray(colour).convert("L"))).all()
    assert (load(tmp_path / "equal.png")[0] == grey[None, None]).all()
    assert (load(tmp_path / "colour.png", Limits(colour=True))[0][:, 0] == colour.transpose(2, 0, 1)).all()
    assert load(tmp_path / "grey.png", Limits(colour=True))[0].shape == (3, 1, 17, 23)


def test_content_decides_not_the_suffix(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (9, 8), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.avi")
    assert (load(tmp_path / "a.avi")[0] == grey[None, None]).all()
    volume = sitk.GetImageFromArray(rng.integers(0, 9, (3, 4, 5)).astype(np.int16))
    sitk.WriteImage(volume, str(tmp_path / "v.nii.gz"))
    (tmp_path / "v.nii.gz").rename(tmp_path / "v.dcm")
    assert load(tmp_path / "v.dcm")[0].shape == (1, 3, 4, 5)


def test_broken_pictures_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "short.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    assert "truncated" in refused(tmp_path / "short.png")
    assert "zero bytes" in refused(tmp_path / "empty.png")
    assert "not a format" in refused(tmp_path / "text.png")
    # A header that declares 60000 x 60000 pixels in some hundred bytes.
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + data[24:29]
    bomb = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "large.png").write_bytes(data)
    assert "decompression bomb" in refused(tmp_path / "bomb.png")
    assert "more than 4095 pixels" in refused(tmp_path / "large.png", Limits(pixels=4095))


# ------------------------------------------------------------------------------------------ videos


def write_video(path: Path, frames: np.ndarray, codec: str, *, rate: int = 20, pixel: str = "gray") -> None:
    """(N, H, W) uint8."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixel
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def test_lossless_video_gives_back_every_frame_and_time(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (13, 32, 48), dtype=np.uint8)
    write_video(tmp_path / "v.mkv", frames, "ffv1")
    array, study = load(tmp_path / "v.mkv")
    assert (array[0] == frames).all() and study.kind == "video"
    assert study.time_source == ["header"] and np.allclose(study.times, np.arange(13) / 20, atol=1e-3)
    assert study.spacing[0] == pytest.approx(0.05, abs=1e-3)


def test_limited_range_is_expanded_to_what_a_screen_shows(tmp_path: Path) -> None:
    frames = np.broadcast_to(np.array([[0, 128], [255, 64]], np.uint8).repeat(16, 0).repeat(16, 1), (6, 32, 32))
    write_video(tmp_path / "v.avi", np.ascontiguousarray(frames), "mpeg4", pixel="yuv420p")
    array, _ = load(tmp_path / "v.avi")
    centres = array[0, :, [8, 8, 24, 24], [8, 24, 8, 24]]
    assert np.abs(centres.T.astype(int) - [0, 128, 255, 64]).max() <= 6
    with av.open(str(tmp_path / "v.avi")) as container:
        shown = np.stack([f.to_ndarray(format="rgb24")[..., 0] for f in container.decode(video=0)])
    assert np.abs(array[0].astype(int) - shown.astype(int)).mean() < 2


def test_frames_are_counted_by_decoding(tmp_path: Path, rng: np.random.Generator) -> None:
    write_video(tmp_path / "v.avi", rng.integers(0, 256, (10, 32, 32), dtype=np.uint8), "mjpeg", pixel="yuvj420p")
    data = bytearray((tmp_path / "v.avi").read_bytes())
    where = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert struct.unpack_from("<I", data, where)[0] == 10
    struct.pack_into("<I", data, where, 299)
    (tmp_path / "lie.avi").write_bytes(data)
    array, study = load(tmp_path / "lie.avi")
    assert array.shape[1] == 10 and any("299" in note for note in study.notes)


def test_rotation_in_the_container_is_applied(tmp_path: Path) -> None:
    frame = np.zeros((32, 64), np.uint8)
    frame[:16, :16] = 255  # upper left
    write_video(tmp_path / "v.mp4", np.stack([frame] * 4), "mpeg4", pixel="yuv420p")
    data = (tmp_path / "v.mp4").read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(data[:at] + clockwise + data[at + 36 :])
    array, _ = load(tmp_path / "turned.mp4")
    assert array.shape == (1, 4, 64, 32)
    assert array[0, 0, :12, -12:].min() > 200 and array[0, 0, :12, :12].max() < 50


def test_broken_and_hostile_videos_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, (20, 64, 64), dtype=np.uint8)
    for name, codec in (("v.avi", "mjpeg"), ("v.mp4", "mpeg4")):
        write_video(tmp_path / name, noise, codec, pixel="yuvj420p" if codec == "mjpeg" else "yuv420p")
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"short{name}").write_bytes(data[: len(data) // 2])
        assert "truncated" in refused(tmp_path / f"short{name}")
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        container.start_encoding()
    assert "0 frames" in refused(tmp_path / "none.avi")
    Image.fromarray(noise[0]).save(tmp_path / "secret.png")
    playlists = {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'v.mp4'}\n#EXT-X-ENDLIST\n",
        "concat.avi": f"ffconcat version 1.0\nfile '{tmp_path / 'v.avi'}'\n",
        "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        assert "not a format" in refused(tmp_path / name)


# ------------------------------------------------------------------------------------------ volumes


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SAL", "ILA"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_volumes_come_in_one_orientation_with_the_way_back(
    tmp_path: Path, rng: np.random.Generator, orientation: str, suffix: str
) -> None:
    image = sitk.GetImageFromArray(rng.integers(0, 100, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image = sitk.DICOMOrient(image, orientation)
    planted = (2, 1, 3)
    image[planted] = 1000
    where = np.array(image.TransformIndexToPhysicalPoint(planted))  # LPS, mm
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"))
    array, study = load(tmp_path / f"v{suffix}")
    index = np.argwhere(array[0] == 1000)
    assert index.shape == (1, 3)
    affine = np.array(study.to_source).reshape(4, 4)
    assert np.allclose((affine @ [*index[0], 1.0])[:3], where, atol=1e-4)
    # d grows to superior (+z), h to anterior (-y in LPS), w to the right in the RAS sense (-x in LPS).
    assert affine[2, 0] > 0 and affine[1, 1] < 0 and affine[0, 2] < 0
    assert study.spacing == pytest.approx([2.0, 0.75, 0.5])


def test_broken_volumes_are_refused_and_missing_spacing_is_not_invented(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    values = rng.random((8, 9, 10)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "whole.nii"))
    data = bytearray((tmp_path / "whole.nii").read_bytes())
    hole = values.copy()
    hole[3, 4, 5] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(hole), str(tmp_path / "nan.nii.gz"))
    assert "1 NaN" in refused(tmp_path / "nan.nii.gz")
    zipped = gzip.compress(bytes(data))
    (tmp_path / "short.nii.gz").write_bytes(zipped[: len(zipped) // 2])
    assert "truncated" in refused(tmp_path / "short.nii.gz")
    (tmp_path / "short.nii").write_bytes(data[: len(data) // 2])
    assert "truncated" in refused(tmp_path / "short.nii")
    for suffix in (".mha", ".nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"whole{suffix}"))
        (tmp_path / f"short{suffix}").write_bytes((tmp_path / f"whole{suffix}").read_bytes()[:-900])
        assert "truncated" in refused(tmp_path / f"short{suffix}")
    struct.pack_into("<3f", data, 80, 0.0, 0.0, 0.0)  # pixdim[1..3]
    struct.pack_into("<2h", data, 252, 0, 0)  # no qform, no sform
    (tmp_path / "bare.nii").write_bytes(data)
    array, study = load(tmp_path / "bare.nii")
    assert (
        study.spacing == [None, None, None]
        and "no spacing in the header" in study.notes
        and array.shape == (1, 8, 9, 10)
    )
    struct.pack_into("<8h", data, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    (tmp_path / "bomb.nii").write_bytes(data)
    assert "30000x30000x30000" in refused(tmp_path / "bomb.nii")


# ------------------------------------------------------------------------------------------ DICOM


def write_dicom(path: Path, pixels: np.ndarray, **tags: object) -> Dataset:
    """(H, W), (N, H, W) or, under SamplesPerPixel=3, (H, W, 3)."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
    data.PatientID, data.PatientName, data.Modality = "7", "Doe^Jane", "OT"
    samples = int(tags.get("SamplesPerPixel", 1))  # type: ignore[call-overload]
    height, width = pixels.shape[-2:] if samples == 1 else pixels.shape[-3:-1]
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = (
        height,
        width,
        samples,
        "MONOCHROME2",
    )
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return data


def test_monochrome1_colour_and_hounsfield(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (8, 10), dtype=np.uint8)
    write_dicom(tmp_path / "m1.dcm", grey, PhotometricInterpretation="MONOCHROME1", PixelSpacing=[0.2, 0.3])
    array, study = load(tmp_path / "m1.dcm")
    assert (
        (array[0, 0] == 255 - grey).all()
        and study.spacing == [None, 0.2, 0.3]
        and "MONOCHROME1 inverted" in study.notes
    )
    twelve = rng.integers(0, 4096, (8, 10), dtype=np.uint16)
    write_dicom(tmp_path / "m1d.dcm", twelve, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    array, study = load(tmp_path / "m1d.dcm")
    assert (array[0, 0] == 4095 - twelve).all() and study.value_unit == "raw"
    colour = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    write_dicom(tmp_path / "rgb.dcm", colour, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    assert (load(tmp_path / "rgb.dcm")[0][0, 0] == np.asarray(Image.fromarray(colour).convert("L"))).all()
    planar = np.ascontiguousarray(colour.transpose(2, 0, 1))
    data = write_dicom(
        tmp_path / "planar.dcm", colour, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=1
    )
    data.PixelData = planar.tobytes()
    data.save_as(tmp_path / "planar.dcm")
    assert (load(tmp_path / "planar.dcm", Limits(colour=True))[0][:, 0] == planar).all()
    raw = rng.integers(0, 3000, (8, 10), dtype=np.uint16)
    write_dicom(tmp_path / "ct.dcm", raw, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    array, study = load(tmp_path / "ct.dcm")
    assert study.value_unit == "HU" and array.dtype == np.int16 and (array[0, 0] == raw.astype(int) - 1024).all()


def test_cine_times(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (4, 6, 8), dtype=np.uint8)
    write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=4, FrameTime=40)
    write_dicom(tmp_path / "b.dcm", frames, NumberOfFrames=4, FrameTimeVector=[0, 10, 20, 30])
    write_dicom(tmp_path / "c.dcm", frames, NumberOfFrames=4, CineRate=25)
    write_dicom(tmp_path / "d.dcm", frames, NumberOfFrames=4)
    expected = {"a": [0, 0.04, 0.08, 0.12], "b": [0, 0.01, 0.03, 0.06], "c": [0, 0.04, 0.08, 0.12], "d": []}
    for name, times in expected.items():
        array, study = load(tmp_path / f"{name}.dcm")
        assert study.kind == "video" and (array[0] == frames).all() and study.times == pytest.approx(times)
        assert study.time_source == (["header"] if times else ["none"])


def test_a_series_is_sorted_by_position_and_placed(tmp_path: Path, rng: np.random.Generator) -> None:
    volume = rng.integers(0, 1000, (5, 6, 7), dtype=np.uint16)
    volume[3, 2, 4] = 5000
    uid = generate_uid()
    paths = []
    for order, z in enumerate(rng.permutation(5)):
        position = [-10.0, -20.0, 2.5 * int(z)]
        paths.append(tmp_path / f"{order}.dcm")
        common = {
            "Modality": "CT",
            "RescaleSlope": 1,
            "RescaleIntercept": -1000,
            "PixelSpacing": [0.5, 0.6],
            "SeriesInstanceUID": uid,
        }
        write_dicom(
            paths[-1], volume[z], ImagePositionPatient=position, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **common
        )
    study = dicom.read_series(paths, LIMITS)
    array = np.stack(list(guarded(study, LIMITS)), axis=1)
    assert study.kind == "volume" and study.value_unit == "HU" and study.spacing == pytest.approx([2.5, 0.5, 0.6])
    index = np.argwhere(array[0] == 4000)[0]
    source = np.array(study.to_source).reshape(4, 4) @ [*index, 1]
    assert np.allclose(source[:3], [-10 + 0.6 * 4, -20 + 0.5 * 2, 2.5 * 3])
    assert (array[0] == volume[:, ::-1, ::-1].astype(int) - 1000).all()
    write_dicom(
        tmp_path / "twin.dcm", volume[0], ImagePositionPatient=[-10, -20, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
    )
    with pytest.raises(Unreadable, match="one position"):
        dicom.read_series([*paths, tmp_path / "twin.dcm"], LIMITS)


def test_broken_dicom_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    write_dicom(tmp_path / "v.dcm", rng.integers(0, 256, (64, 64), dtype=np.uint8))
    data = (tmp_path / "v.dcm").read_bytes()
    (tmp_path / "short.dcm").write_bytes(data[:-2000])
    assert "truncated" in refused(tmp_path / "short.dcm")
    header = pydicom.dcmread(tmp_path / "v.dcm")
    header.Rows = header.Columns = 60000
    header.save_as(tmp_path / "bomb.dcm")
    assert "60000x60000" in refused(tmp_path / "bomb.dcm")
    del header.Rows, header.Columns, header.PixelData
    header.save_as(tmp_path / "report.dcm")
    assert "without pixels" in refused(tmp_path / "report.dcm")


# ------------------------------------------------------------------------------------------ archives


def test_archives_are_read_row_by_row_and_pickles_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (5, 4, 6), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", train_images=images)
    for index in (0, 1, 4, 2):  # backwards, too
        assert (npz.read_row(tmp_path / "a.npz", "train_images", index, LIMITS) == images[index]).all()
    np.savez(tmp_path / "evil.npz", train_images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Unreadable, match="pickled"):
        npz.members(tmp_path / "evil.npz")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("train_images.npy", b"\x93NUMPY\x01\x00\x04\x00junk")
    with pytest.raises(Unreadable, match="damaged"):
        npz.members(tmp_path / "odd.npz")


@pytest.mark.filterwarnings("ignore")  # the files are odd on purpose; a scan notes such warnings
def test_pydicoms_own_files(tmp_path: Path) -> None:
    """Every compression that pydicom's wheel has a file for, against its in-memory decoder; 12 bit is refused with a
    word.
    """
    from pydicom.data import get_testdata_file

    same = {
        "CT_small.dcm": "HU",
        "MR_small_RLE.dcm": "raw",
        "MR_small_jp2klossless.dcm": "raw",
        "MR_small_jpeg_ls_lossless.dcm": "raw",
        "MR_small_bigendian.dcm": "raw",
        "image_dfl.dcm": "display",
        "J2K_pixelrep_mismatch.dcm": "HU",
    }
    for name, unit in same.items():
        path = Path(str(get_testdata_file(name, download=False)))
        data = pydicom.dcmread(path)
        expected = data.pixel_array.astype(np.int64)
        if unit == "HU":
            expected = expected * int(data.RescaleSlope) + int(data.RescaleIntercept)
        array, study = load(path)
        assert study.value_unit == unit and (array[0, 0] == expected).all(), name
    colour = load(Path(str(get_testdata_file("examples_ybr_color.dcm", download=False))), Limits(colour=True))
    assert colour[0].shape == (3, 30, 240, 320) and colour[1].spacing[0] == pytest.approx(0.033, abs=1e-3)
    assert "12-bit" in refused(Path(str(get_testdata_file("JPGExtended.dcm", download=False))))


def test_a_localiser_in_the_series_is_a_study_of_its_own(tmp_path: Path, rng: np.random.Generator) -> None:
    from medgraft.intake.plan import discover

    uid = generate_uid()
    for z in range(4):
        turn = [1, 0, 0, 0, 1, 0] if z else [1, 0, 0, 0, 0, -1]
        pixels = rng.integers(0, 256, (6, 6), dtype=np.uint8)
        write_dicom(
            tmp_path / f"{z}.dcm",
            pixels,
            SeriesInstanceUID=uid,
            ImagePositionPatient=[0, 0, z],
            ImageOrientationPatient=turn,
        )
    items, rejects, _ = discover(tmp_path, [f"{z}.dcm" for z in range(4)])
    assert [(i.reader, len(i.files)) for i in items] == [("dicom", 1), ("series", 3)] and not rejects


def test_every_format_has_one_reader() -> None:
    assert sorted(READERS) == sorted(form.name for form in FORMATS)
    assert all(callable(reader_of(name)) for name in READERS)
