"""Masks of volumes: the default run against MONAI's own example loop, on the same cases, in one run.

    python bench/bench_monai.py data=FOLDER          20 cases to learn from, 30 others to be judged on
    python bench/bench_monai.py data=FOLDER cases=6 judged=4 seconds=20

FOLDER is the hippocampus set as published (``cases.csv``, images, labels). Ours is ``medgraft run`` with nothing
named but the column that says who is judged. MONAI's is the loop of its spleen tutorial (UNet with residual units and
batch norm of widths 16 to 256, DiceCE loss, Adam 1e-4, ``RandCropByPosNegLabeld`` with four crops of a case and two
cases a batch, sliding-window inference), with a crop of 32 voxels a side for volumes this small, and once more with
ten times the learning rate; it trains for the CPU seconds that our training took. Both run in one thread and
are judged by one rule: mean Dice over cases and the two structures. Prints each Dice and the seconds, and after how
many seconds each of MONAI's curves passed ours. Exit code 1 when a MONAI loop passed ours in less time.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from medgraft import api

LOOKS = 6


def tables(folder: Path, learns: int, judged: int, work: Path) -> tuple[Path, list[dict[str, str]]]:
    """A label table with a column of parts; every fourth case is left out of learning."""
    with open(folder / "cases.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    order = np.random.default_rng(0).permutation(len(rows))[: learns + judged]
    some = [{**rows[k], "part": "train" if n < learns else "test"} for n, k in enumerate(order)]
    path = work / "parts.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(some[0]))
        writer.writeheader()
        writer.writerows(some)
    return path, some


def dice(called: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the two structures."""
    values = []
    for label in (1, 2):
        a, b = called == label, truth == label
        values.append(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    return float(np.mean(values))


def ours(folder: Path, table: Path, work: Path, share: float = 1.0) -> tuple[float, float]:
    """(Dice, CPU seconds of the whole) of the default run, or of one with a share of its 800 steps."""
    less = {} if share == 1 else {"train": {"iterations": int(800 * share)}}
    keys = {"masks": "label", "patient": "none", "structures": {1: "anterior", 2: "posterior"}, "split": "part"}
    data = api.scan(folder, labels=str(table), out=work / "data", progress=False, quiet=True, identity="keep", **keys)
    split = {"kind": "column", "column": "part"}
    began = time.process_time()
    result = api.run(data=data, out=work / "runs", split=split, threads=1, workers=0, report=False, quiet=True, **less)
    spent = time.process_time() - began
    return result.summary["models"][0]["metrics"]["case.dice"]["value"], spent


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def theirs(folder: Path, rows: list[dict[str, str]], seconds: float, rate: float) -> list[tuple[float, float]]:
    """(CPU seconds, Dice) along MONAI's training."""
    from monai.data import CacheDataset, DataLoader
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        RandCropByPosNegLabeld,
        ScaleIntensityRangePercentilesd,
        SpatialPadd,
    )
    from monai.utils import set_determinism

    set_determinism(0)
    parts: dict[str, list[dict[str, np.ndarray]]] = {"train": [], "test": []}
    for row in rows:
        image, label = read(folder / row["image"]).astype(np.float32), read(folder / row["label"])
        parts[row["part"]].append({"image": image, "label": label})
    scale = ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0, 1, clip=True)
    first = [EnsureChannelFirstd(("image", "label"), channel_dim="no_channel"), scale]
    pad = SpatialPadd(("image", "label"), (32, 32, 32))
    crop = RandCropByPosNegLabeld(("image", "label"), "label", (32, 32, 32), pos=1, neg=1, num_samples=4)
    began = time.process_time()
    data = CacheDataset(parts["train"], Compose([*first, pad, crop]), progress=False)
    held = [Compose(first)(item) for item in parts["test"]]
    network = UNet(3, 1, 3, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="batch")
    loss, optimizer = DiceCELoss(to_onehot_y=True, softmax=True), torch.optim.Adam(network.parameters(), rate)
    found, spent, look = [], 0.0, 1
    while spent < seconds:
        network.train()
        for batch in DataLoader(data, batch_size=2, shuffle=True):
            optimizer.zero_grad()
            loss(network(batch["image"].as_tensor()), batch["label"].as_tensor()).backward()
            optimizer.step()
        spent += time.process_time() - began
        if spent >= seconds * look / LOOKS:
            network.eval()
            with torch.inference_mode():
                values = []
                for item in held:
                    out = sliding_window_inference(item["image"].as_tensor()[None], (32, 32, 32), 4, network, 0.5)
                    values.append(dice(out[0].argmax(0).numpy(), np.asarray(item["label"][0])))
            found.append((spent, float(np.mean(values))))
            print(f"  MONAI, rate {rate:g}: {spent:.0f} s, Dice {found[-1][1]:.3f}", flush=True)
            look += 1
        began = time.process_time()
    return found


def main(words: list[str]) -> int:
    asked = dict(word.split("=", 1) for word in words)
    folder = Path(asked["data"])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        table, rows = tables(folder, int(asked.get("cases", 20)), int(asked.get("judged", 30)), Path(place))
        value, spent = ours(folder, table, Path(place))
    print(f"medgraft, default: {spent:.0f} CPU s, reading, training and judging; Dice {value:.3f}")
    late = True
    for rate in (1e-4, 1e-3):
        curve = theirs(folder, rows, float(asked.get("seconds", spent)), rate)
        passed = next((s for s, d in curve if d >= value), None)
        late &= passed is None or passed >= spent
        said = "never" if passed is None else f"after {passed:.0f} s, {passed / spent:.2f} of our time"
        print(f"MONAI, rate {rate:g}: passes our Dice {said}")
    return 0 if late else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
