"""Mutants of small studies of every format, read as a scan reads them. Run by ``test_fuzz.py`` in a process of its own.

    python tests/intake/fuzz.py FOLDER COUNT [FIRST [LAST]]

Prints one JSON line a mutant: its number, the seed, how it was changed, and what became of it. Everything follows from
the mutant's number, so that one can be made again. A decoder that brings the process down leaves the number of the
guilty mutant as the last line begun; one that hangs is ended with status 1 and a trace.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import SimpleITK as sitk
from PIL import Image

SECONDS = 20  # the most that one mutant may take before its process is ended; typical are some milliseconds
SIDE = 48
Files = dict[str, bytes]  # the files of one study, by name; the first is the study


# ------------------------------------------------------------------------------------------ seeds


def _picture(pixels: np.ndarray, suffix: str, **options: Any) -> Files:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, suffix, **options)
    return {f"a.{suffix.lower()}": stream.getvalue()}


def _pages(pages: np.ndarray, **options: Any) -> Files:
    stream = io.BytesIO()
    first, *rest = [Image.fromarray(p) for p in pages]
    first.save(stream, "TIFF", save_all=True, append_images=rest, **options)
    return {"a.tif": stream.getvalue()}


def video(frames: np.ndarray, codec: str, container: str, pixel: str = "yuv420p") -> bytes:
    """(N, H, W, 3) uint8 as a coded video."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as out:
        line = out.add_stream(codec, rate=20)
        line.width, line.height, line.pix_fmt = frames.shape[2], frames.shape[1], pixel
        for frame in frames:
            out.mux(line.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(line.encode())
    return stream.getvalue()


def _volume(folder: Path, name: str, compress: bool = False) -> Files:
    image = sitk.GetImageFromArray(np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8))
    image.SetSpacing((0.5, 0.7, 2.0))
    folder.mkdir(parents=True)
    sitk.WriteImage(image, str(folder / name), useCompression=compress)
    found = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    shutil.rmtree(folder)
    return {name: found.pop(name), **found}


def _array(write: Callable[..., None], suffix: str, *values: np.ndarray) -> Files:
    stream = io.BytesIO()
    write(stream, *values)
    return {f"a.{suffix}": stream.getvalue()}


def _dicom(pixels: np.ndarray, syntax: str, coded: list[bytes] | None = None, **tags: Any) -> Files:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    data = Dataset()
    data.file_meta = FileMetaDataset()
    compressed = pydicom.uid.UID(syntax).is_encapsulated
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(
        "1.2.840.10008.1.2.1" if compressed and coded is None else syntax
    )
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.PatientID, data.Modality = "7", "US"
    samples = 3 if pixels.shape[-1] == 3 else 1
    data.Rows, data.Columns = pixels.shape[-2 - (samples == 3) : len(pixels.shape) - (samples == 3)]
    data.SamplesPerPixel, data.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes() if coded is None else encapsulate(coded)
    data["PixelData"].VR = "OW" if coded is None else "OB"
    if coded is None and compressed:
        data.compress(pydicom.uid.UID(syntax), generate_instance_uid=False)
    stream = io.BytesIO()
    if syntax == "1.2.840.10008.1.2.2":
        data.preamble = b"\0" * 128
        pydicom.dcmwrite(stream, data, implicit_vr=False, little_endian=False, force_encoding=True)
    else:
        pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return {"a.dcm": stream.getvalue()}


def seeds(folder: Path) -> dict[str, Files]:
    """A small whole study of every format and syntax."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    grey = (rows * 3 + columns * 2).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, rng.integers(0, 9, (SIDE, SIDE)).astype(np.uint8)], axis=-1)
    deep = grey.astype(np.uint16) * 100
    cine = np.stack([np.roll(colour, n, axis=1) for n in range(4)])
    clip = np.ascontiguousarray(np.pad(cine, ((0, 0), (0, 64 - SIDE), (0, 64 - SIDE), (0, 0))))
    h264 = next((c for c in ("libx264", "libopenh264") if c in av.codecs_available), "mpeg4")
    jpeg = [_picture(f, "JPEG")["a.jpeg"] for f in cine]
    uid = "1.2.840.10008.1.2"
    palette = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    palette |= {
        f"Segmented{c}PaletteColorLookupTableData": np.array([0, 1, 0, 1, 255, 65280], "<u2").tobytes()
        for c in ("Red", "Green", "Blue")
    }
    found = {
        "png": _picture(grey, "PNG"),
        "png colour": _picture(colour, "PNG"),
        "png 16": _picture(deep, "PNG"),
        "jpeg": _picture(colour, "JPEG"),
        "jpeg progressive": _picture(colour, "JPEG", progressive=True),
        "bmp": _picture(colour, "BMP"),
        "tiff": _pages(np.stack([deep, deep])),
        "tiff lzw": _pages(cine[..., 0], compression="tiff_lzw"),
        "tiff deflate": _picture(colour, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": _picture(colour, "TIFF", compression="jpeg"),
        "gif": {"a.gif": video(clip, "gif", "gif", "rgb8")},
        "avi": {"a.avi": video(clip, "mjpeg", "avi", "yuvj420p")},
        "mp4": {"a.mp4": video(clip, h264, "mp4")},
        "mov": {"a.mov": video(clip, "mpeg4", "mov")},
        "mkv": {"a.mkv": video(clip, "ffv1", "matroska")},
        "webm": {"a.webm": video(clip, "libvpx-vp9", "webm")},
        "mpg": {"a.mpg": video(clip, "mpeg2video", "mpeg")},
        "ts": {"a.ts": video(clip, "mpeg2video", "mpegts")},
        "nii": _volume(folder / "v", "a.nii"),
        "nii.gz": _volume(folder / "v", "a.nii.gz", True),
        "hdr": _volume(folder / "v", "a.hdr"),
        "mha": _volume(folder / "v", "a.mha"),
        "mha zipped": _volume(folder / "v", "a.mha", True),
        "mhd": _volume(folder / "v", "a.mhd"),
        "nrrd": _volume(folder / "v", "a.nrrd"),
        "nrrd zipped": _volume(folder / "v", "a.nrrd", True),
        "nhdr": _volume(folder / "v", "a.nhdr"),
        "npy": _array(np.save, "npy", deep),
        "npz": _array(
            lambda stream, *v: np.savez_compressed(stream, train_images=v[0], train_labels=v[1]),
            "npz",
            cine[..., 0],
            np.arange(4),
        ),
        "dicom explicit": _dicom(deep, f"{uid}.1", WindowCenter=9, WindowWidth=9),
        "dicom implicit": _dicom(colour, uid),
        "dicom big endian": _dicom(grey, f"{uid}.2"),
        "dicom deflated": _dicom(cine[..., 0], f"{uid}.1.99", NumberOfFrames=4, FrameTime=40),
        "dicom rle": _dicom(deep, f"{uid}.5"),
        "dicom jpeg": _dicom(
            cine, f"{uid}.4.50", jpeg, PhotometricInterpretation="YBR_FULL_422", NumberOfFrames=4, FrameTime=40
        ),
        "dicom jpeg ls": _dicom(deep, f"{uid}.4.80"),
        "dicom jpeg 2000": _dicom(grey, f"{uid}.4.90"),
        "dicom palette": _dicom(grey, f"{uid}.1", PhotometricInterpretation="PALETTE COLOR", **palette),
        "dicom mpeg": _dicom(
            cine, f"{uid}.4.100", [video(clip, "mpeg2video", "mpegts")], NumberOfFrames=4, Rows=64, Columns=64
        ),
    }
    lossless = next(
        iter((Path(np.__file__).parents[1] / "pydicom" / "data" / "test_files").glob("SC_rgb_jpeg_gdcm.dcm")), None
    )
    if lossless is not None:
        found["dicom jpeg lossless"] = {"a.dcm": lossless.read_bytes()}
    return found


# ------------------------------------------------------------------------------------------ mutants

TOKENS = [
    b"\xff" * 4,
    b"\0" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"-1",
    b"99999999999",
    b"nan",
    b"../canary.raw",
    b"/etc/passwd",
    b"LIST",
]


def mutate(files: Files, others: list[Files], rng: np.random.Generator) -> tuple[Files, str]:
    """One file of a study changed in one way; which way."""
    name = list(files)[int(rng.integers(len(files)))]
    data = bytearray(files[name])
    how = ("flip", "header", "truncate", "splice", "swap", "token", "name", "grow")[int(rng.integers(8))]
    at = int(rng.integers(len(data)))
    if how == "flip":
        for _ in range(int(rng.integers(1, 16))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
    elif how == "header":
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(min(len(data), 700)))] ^= 1 << int(rng.integers(8))
    elif how == "truncate":
        del data[at:]
    elif how == "splice":
        other = next(iter(others[int(rng.integers(len(others)))].values()))
        start = int(rng.integers(len(other)))
        data[at : at + 64] = other[start : start + int(rng.integers(1, 400))]
    elif how == "swap":
        size = max(1, int(rng.integers(1, 1 + len(data) // 4)))
        first, second = sorted((at, int(rng.integers(len(data)))))
        data[first : first + size], data[second : second + size] = (
            data[second : second + size],
            data[first : first + size],
        )
    elif how == "token":
        token = TOKENS[int(rng.integers(len(TOKENS)))]
        where = at if rng.random() < 0.3 else int(rng.integers(min(len(data), 900)))
        data[where : where + len(token)] = token
    elif how == "name":  # what a detached header names, or any other field of its text
        lines = bytes(data[:600]).split(b"\n")
        line = int(rng.integers(len(lines)))
        key, mark, value = lines[line].partition(b"=" if b"=" in lines[line] else b":")
        lines[line] = key + mark + b" " + TOKENS[int(rng.integers(len(TOKENS)))] if mark else lines[line] + value + b" "
        data[:600] = b"\n".join(lines)
    else:
        data[at:at] = data[max(0, at - 256) : at] * int(rng.integers(1, 9))
    return {**files, name: bytes(data)}, how


def read(folder: Path) -> str:
    """What a scan makes of the files in a folder: ``case``, ``refused: reason`` or ``left alone``, one for each
    study.
    """
    from medgraft.intake import npz, plan, work
    from medgraft.intake.read import Limits, Unreadable, guarded

    limits = Limits(pixels=1 << 22, bytes=64 << 20)
    rejects: list[str] = []
    cases = 0
    try:
        for path in sorted(folder.glob("*.npz")):
            for name, member in npz.members(path).items():
                for row in range(min(3, member.shape[0] if member.shape else 0)):
                    npz.read_row(path, name, row, limits)
            cases += 1
    except Unreadable as error:
        rejects.append(error.cause)
    finally:
        npz.forget()
    names, refused = plan.walk(folder, set(), False)
    items, more, _ = plan.discover(folder, [n for n in names if not n.endswith(".npz")])
    rejects += [r.reason for r in (*refused, *more)]
    for item in items:
        try:
            for _ in guarded(work.open_item(item, limits), limits):
                pass
            cases += 1
        except Unreadable as error:
            rejects.append(error.cause)
    return " | ".join(["case"] * cases + [f"refused: {r}" for r in rejects]) or "left alone"


def main(arguments: list[str]) -> int:
    folder, count = Path(arguments[0]), int(arguments[1])
    first, last = (int(a) for a in (arguments[2:] + ["0", str(count)][len(arguments) - 2 :])[:2])
    warnings.simplefilter("ignore")
    av.logging.set_level(None)
    import logging

    logging.disable(logging.CRITICAL)
    made = seeds(folder / "seeds")
    names, every = list(made), list(made.values())
    try:
        import resource

        resource.setrlimit(
            resource.RLIMIT_AS, (8 << 30, 8 << 30)
        )  # what allocates without asking fails here, and the test with it
    except (ImportError, ValueError):
        pass
    inside = [
        str(folder.resolve()),
        sys.prefix,
        sys.base_prefix,
        str(Path(__file__).resolve().parents[2]),
        *{str(Path(p).resolve()) for p in sys.path if p},
    ]
    system = (
        "/dev/null",
        "/dev/urandom",
        "/proc/",
        "/sys/",
        "/usr/share/zoneinfo",
        "/etc/localtime",
        "/etc/mime.types",
    )
    outside: set[str] = set()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[0], (str, bytes)):
            name = os.fsdecode(details[0])
            path = os.path.realpath(name)
            if not path.startswith((*inside, *system)) and "medgraft-" not in path:
                outside.add(name)

    # Reading every seed first imports what readers need: those opens are no mutant's doing.
    for name, files in made.items():
        work = folder / "study"
        work.mkdir(exist_ok=True)
        for file, data in files.items():
            (work / file).write_bytes(data)
        print(json.dumps({"seed": name, "outcome": read(work)}), flush=True)
        shutil.rmtree(work)
    sys.addaudithook(watch)
    for number in range(first, last):
        rng = np.random.default_rng([7, number])
        name = names[number % len(names)]
        files, how = mutate(made[name], every, rng)
        print(json.dumps({"begin": number, "seed": name, "how": how}), flush=True)
        work = folder / "study"
        work.mkdir()
        for file, data in files.items():
            (work / file).write_bytes(data)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome = read(work)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"end": number, "outcome": outcome, "outside": sorted(outside)}), flush=True)
        outside.clear()
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
