"""Speed and memory of ``medgraft scan``: chest X-rays as RSNA stores them, and compressed ultrasound cines.

    python bench/bench_scan.py            the bars: 1000 X-rays, 40 cines of each kind
    python bench/bench_scan.py --small    a tenth of it, in less than a minute

X-rays are 1024x1024 8-bit JPEG in DICOM. Cines are 120 frames of 480x640 in colour: JPEG baseline in DICOM, Motion
JPEG in AVI, and H.264 in MP4. Pixels are smooth structure with noise, at the usual quality (about 100 KB an X-ray, 40
KB a frame of a cine). A scan is timed as a whole: walking, sniffing, decoding to grey, hashing, writing, tables; two
processes, warm file cache. Memory is the USS (``Private_Clean + Private_Dirty``) of the largest process of a scan
with one worker, for 1 and 5 times the X-rays: its own peak, polled every 50 ms.

Bars: 40 X-rays a second, 150 frames a second of each kind, memory within 1.10. Exit code 1 when one is missed. Linux
only.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import av
import numpy as np
from PIL import Image, ImageFilter
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, generate_uid

XRAYS, CINES, FRAMES, WORKERS = 1000, 40, 120, 2
BARS = {"xray": 40.0, "cine": 150.0, "memory": 1.10}


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) uint8: blurred blobs under fine noise, which JPEG takes for anatomy."""
    coarse = Image.fromarray(rng.integers(0, 256, (height // 32, width // 32), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    smooth = np.asarray(coarse.filter(ImageFilter.GaussianBlur(8)), np.int16)
    return np.clip(smooth + rng.normal(0, 4, (height, width)), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write_dicom(path: Path, frames: list[bytes], height: int, width: int, colour: bool) -> None:
    """8-bit JPEG frames in DICOM, with the header elements a scan looks at."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = generate_uid(), generate_uid(), path.stem
    data.Modality, data.ViewPosition, data.PixelSpacing = "US" if colour else "CR", "PA", [0.14, 0.14]
    data.Rows, data.Columns, data.SamplesPerPixel = height, width, 3 if colour else 1
    data.PhotometricInterpretation = "YBR_FULL_422" if colour else "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    if colour:
        data.PlanarConfiguration, data.NumberOfFrames, data.FrameTime = 0, len(frames), 40
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)


def write_xrays(folder: Path, count: int) -> None:
    """``count`` different files; forty pictures, each with a corner of its own, keep the writing short."""
    rng = np.random.default_rng(0)
    bases = [picture(rng, 1024, 1024) for _ in range(40)]
    for number in range(count):
        pixels = bases[number % len(bases)].copy()
        pixels[:8, :8] = np.frombuffer(number.to_bytes(64, "little"), np.uint8).reshape(8, 8)
        write_dicom(folder / f"{number:05d}.dcm", [jpeg(pixels, 90)], 1024, 1024, False)


def cine_frames(rng: np.random.Generator) -> list[np.ndarray]:
    grey = picture(rng, 480, 640)
    colour = np.stack([grey] * 3, axis=-1)
    colour[200:280, 300:380, 0] = 255 - colour[200:280, 300:380, 0]
    return [np.ascontiguousarray(np.roll(colour, 3 * n, axis=1)) for n in range(FRAMES)]


def write_cines(folder: Path, count: int, kind: str) -> None:
    rng = np.random.default_rng(1)
    kinds = [cine_frames(rng) for _ in range(2)]
    h264 = next((c for c in ("libx264", "libopenh264") if c in av.codecs_available), "mpeg4")
    for number in range(count):
        frames = kinds[number % 2]
        frames[0][:8, :8] = number
        if kind == "dicom":
            write_dicom(folder / f"{number}.dcm", [jpeg(f, 80) for f in frames], 480, 640, True)
            continue
        with av.open(str(folder / f"{number}.{kind}"), "w") as out:
            stream = out.add_stream("mjpeg" if kind == "avi" else h264, rate=25)
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p" if kind == "avi" else "yuv420p"
            stream.bit_rate = 40_000 * 8 * 25 if kind == "avi" else 4_000_000
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())


def scan(source: Path, out: Path, workers: int, watch: Callable[[int], None] | None = None) -> float:
    """Seconds of one scan in a process of its own, without the start of Python."""
    code = (
        "import sys, time; from pathlib import Path; from medgraft.intake.scan import ScanOptions, scan\n"
        "if __name__ == '__main__':\n"
        " options = ScanOptions(out=Path(sys.argv[2]), patient='none', workers=int(sys.argv[3]), progress=False)\n"
        " t = time.monotonic(); scan(Path(sys.argv[1]), options)\n"
        " print(time.monotonic() - t)\n"
    )
    script = out.parent / "scan_once.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script), str(source), str(out), str(workers)], stdout=subprocess.PIPE, text=True
    )
    if watch is not None:
        threading.Thread(target=watch, args=(process.pid,), daemon=True).start()
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit("the scan failed")
    return float(text)


def private(pid: int) -> int:
    """Private memory of a process in KiB; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as stream:
            return sum(int(line.split()[1]) for line in stream if line.startswith("Private_"))
    except (OSError, ValueError):
        return 0


def peak_memory(source: Path, out: Path) -> float:
    """The greatest USS in MB of a scan in one process."""
    most = [0]

    def watch(pid: int) -> None:
        while kilobytes := private(pid):
            most[0] = max(most[0], kilobytes)
            time.sleep(0.05)

    scan(source, out, 1, watch)
    return most[0] / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the files")
    parser.add_argument("--only", choices=["xray", "dicom", "avi", "mp4", "memory"], help="one part")
    arguments = parser.parse_args()
    xrays, cines = (XRAYS // 10, CINES // 10) if arguments.small else (XRAYS, CINES)
    held = True
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if arguments.only in (None, "xray"):
            (root / "xray").mkdir()
            write_xrays(root / "xray", xrays)
            size = sum(p.stat().st_size for p in (root / "xray").iterdir()) / xrays / 1e3
            rate = xrays / scan(root / "xray", root / "out-xray", WORKERS)
            held &= rate >= BARS["xray"]
            print(
                f"{xrays} X-rays 1024x1024, {size:.0f} KB each, {WORKERS} processes: {rate:6.1f} a second (bar "
                f"{BARS['xray']:.0f})",
                flush=True,
            )
        for kind in ("dicom", "avi", "mp4"):
            if arguments.only in (None, kind):
                (root / kind).mkdir()
                write_cines(root / kind, cines, kind)
                size = sum(p.stat().st_size for p in (root / kind).iterdir()) / cines / FRAMES / 1e3
                rate = cines * FRAMES / scan(root / kind, root / f"out-{kind}", WORKERS)
                held &= rate >= BARS["cine"]
                what = f"{cines} cines of {FRAMES}x480x640 as {kind}, {size:.0f} KB a frame"
                print(f"{what}: {rate:6.0f} frames a second (bar {BARS['cine']:.0f})", flush=True)
        if arguments.only in (None, "memory"):
            peaks = []
            for times in (1, 5):
                folder = root / f"memory{times}"
                folder.mkdir()
                write_xrays(folder, xrays // 5 * times)
                peaks.append(peak_memory(folder, root / f"out-memory{times}"))
            ratio = peaks[1] / peaks[0]
            held &= ratio <= BARS["memory"]
            print(
                f"private memory of a scan of {xrays // 5} and {xrays} X-rays: {peaks[0]:.0f} and {peaks[1]:.0f} MB, "
                f"{ratio:.2f} times",
                flush=True,
            )
    print("held" if held else "MISSED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
