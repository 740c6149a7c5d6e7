"""Random training clips: from the store against decoding the AVI for each clip.

    python bench/bench_clips.py

A clip is 32 frames of 112x112, stride 2, from a random start, with a random pad-crop of 12 pixels. The
videos are MJPEG files of 176 frames of 112x112, written here. Three ways take turns on one thread:

  store   ``CaseDataset.train_batch`` (draw, read, crop, labels, collate), batches of 8
  avi     decode the file with PyAV to grey frames as PyAV's documentation does (``frame.to_ndarray``),
          then cut the clip; every frame is decoded once for each clip
  avi, Y  the fastest decoding known to us: only the luminance plane, stopping at the clip's last frame

Files lie in the page cache for all three. Counted is processor time, so a busy machine changes little and
the rate is one core's. Prints clips/s and the ratio with its 95 % interval (t interval
of the log ratios over the turns). Exit code 1 when the lower bound of store against avi is below 100.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import av
import numpy as np
import polars as pl
import torch
from scipy import stats

from medgraft import store, tables
from medgraft.data.dataset import CaseDataset, TargetSpec
from medgraft.data.transforms import Augment
from medgraft.data.windows import WindowSpec
from medgraft.datasets import Dataset, load_dataset
from medgraft.files import write_json

FRAMES, SIDE, LENGTH, STRIDE, PAD, BATCH = 176, 112, 32, 2, 12, 8


def picture(rng: np.random.Generator) -> np.ndarray:
    """A moving speckled sector (FRAMES, SIDE, SIDE) uint8: compresses about as ultrasound does."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    sector = np.hypot(rows, columns - SIDE / 2) < SIDE * 0.95
    sector &= np.abs(columns - SIDE / 2) < rows + 4
    speckle = rng.rayleigh(40, (SIDE + FRAMES // 4 + 1, SIDE))
    frames = [
        np.clip(speckle[t // 4 : t // 4 + SIDE] * (1 + 0.4 * np.sin(rows / 9 + t / 6)), 0, 255) * sector
        for t in range(FRAMES)
    ]
    return np.stack(frames).astype(np.uint8)


def write_avi(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=50, width=SIDE, height=SIDE, pix_fmt="yuvj420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuvj420p")))
        container.mux(stream.encode())


def crop(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    padded = np.pad(clip, [(0, 0), (PAD, PAD), (PAD, PAD)])
    top, left = rng.integers(0, 2 * PAD + 1, 2)
    return padded[:, top : top + SIDE, left : left + SIDE]


def clip_from_avi(path: Path, rng: np.random.Generator) -> np.ndarray:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    start = rng.integers(0, len(frames) - LENGTH * STRIDE + 1)
    return crop(frames[start : start + LENGTH * STRIDE : STRIDE], rng)


def clip_from_avi_fast(path: Path, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(0, FRAMES - LENGTH * STRIDE + 1))
    wanted = range(start, start + LENGTH * STRIDE, STRIDE)
    frames = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                plane = frame.planes[0]
                frames.append(np.frombuffer(plane, np.uint8).reshape(SIDE, plane.line_size)[:, :SIDE])
            if len(frames) == LENGTH:
                break
    return crop(np.stack(frames), rng)


def write_data_set(folder: Path, arrays: Iterable[np.ndarray], kind: str = "video") -> Dataset:
    """Store arrays (D, H, W) as a data set of one case each."""
    rows = []
    for index, array in enumerate(arrays):
        stored = store.write_array(folder, array[None])
        rows.append(
            dict.fromkeys(tables.SCHEMAS["manifest"])
            | {
                "patient_id": str(index),
                "case_id": str(index),
                "array_id": stored.array_id,
                "kind": kind,
                "shape": list(stored.shape),
            }
            | {"value_unit": "display", "p005": stored.p005, "p995": stored.p995, "label.finding": str(index % 2)}
        )
    tables.write(pl.DataFrame(rows), folder / "manifest.parquet", "manifest")
    tables.write(tables.empty("frames"), folder / "frames.parquet", "frames")
    write_json(folder / "dataset.json", {"name": "bench", "channels": 1, "patient": "column"})
    return load_dataset(folder)


def clips_of(dataset: Dataset, cases: int) -> CaseDataset:
    """Training clips of the first cases."""
    window = WindowSpec("dense", LENGTH, SIDE, stride=STRIDE)
    return CaseDataset(
        dataset,
        range(cases),
        window=window,
        augment=Augment(crop=PAD),
        targets=[TargetSpec("finding", "binary", ("0", "1"))],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--videos", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = [picture(rng) for _ in range(arguments.videos)]
        paths = [folder / f"{index}.avi" for index in range(len(videos))]
        for path, video in zip(paths, videos):
            write_avi(path, video)
        cases = clips_of(write_data_set(folder, videos), len(videos))
        del videos

        def from_store(turn: int) -> int:
            for step in range(50):
                batch = cases.train_batch(0, turn * 50 + step, BATCH)
                assert batch["x"].shape == (BATCH, 1, LENGTH, SIDE, SIDE)
            return 50 * BATCH

        def from_files(read: Callable[[Path, np.random.Generator], np.ndarray], turn: int) -> int:
            for index in range(8):
                assert read(paths[(8 * turn + index) % len(paths)], rng).shape == (LENGTH, SIDE, SIDE)
            return 8

        ways = {
            "store": from_store,
            "avi": lambda turn: from_files(clip_from_avi, turn),
            "avi, Y": lambda turn: from_files(clip_from_avi_fast, turn),
        }
        pace: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(-1, arguments.turns):  # the first turn warms caches up and is dropped
            for way, run in ways.items():
                began = time.process_time()
                clips = run(max(0, turn))
                if turn >= 0:
                    pace[way].append(clips / (time.process_time() - began))
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1024

    print(
        f"{LENGTH}x{SIDE}x{SIDE}, stride {STRIDE}, pad-crop {PAD}; AVI of {FRAMES} frames, {size:.0f} KB; "
        f"{arguments.turns} turns, 1 thread"
    )
    print(f"{'way':8s} {'clips/s':>9s}   {'store is faster by':>20s}   95 % interval")
    low = 0.0
    for way, values in pace.items():
        logs = np.log(np.array(pace["store"]) / np.array(values))
        half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
        ratio, bounds = np.exp(logs.mean()), np.exp([logs.mean() - half, logs.mean() + half])
        print(f"{way:8s} {np.median(values):9.1f}   {ratio:19.1f}x   {bounds[0]:.1f} .. {bounds[1]:.1f}")
        if way == "avi":
            low = float(bounds[0])
    print(f"bar: store at least 100 times avi: {'held' if low >= 100 else 'MISSED'}")
    return 0 if low >= 100 else 1


if __name__ == "__main__":
    sys.exit(main())
