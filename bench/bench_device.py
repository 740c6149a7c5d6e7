"""Training and scoring on a GPU, against a bare loop of the same network, batch and precision in the same run.

    python bench/bench_device.py                  the networks below at full width, under 8 minutes on one GPU
    python bench/bench_device.py device=cpu small=1   reduced sizes, to see that it runs
    python bench/bench_device.py only=image

One row a network: milliseconds of a training step by the engine and by the bare loop, their ratio with its interval,
the same for scoring, the most memory; for the three networks marked so also what ``torch.compile`` brings to a forward
pass. Bar: the bare loop's time is at least 85 % of the engine's. The rows are kept in bench/results/device.json with
the device's name.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.engine import bench, loop
from medgraft.engine.device import make_fabric
from medgraft.models.model import Model, make_model
from medgraft.tasks.classify import Classify
from medgraft.tasks.segment import Segment

RESULTS = Path(__file__).parent / "results" / "device.json"
BAR = 0.85
REPEATS, STEPS = 7, 8

#: family -> (network, window of one case (C, D, H, W), cases in a batch, structures or 0, whether to compile)
NETWORKS: dict[str, list[tuple[str, tuple[int, int, int, int], int, int, bool]]] = {
    "image": [
        ("efficientnet_lite0", (1, 1, 224, 224), 32, 0, True),
        ("torchvision:resnet50", (1, 1, 224, 224), 32, 0, True),
        ("timm:vit_small_patch16_224", (1, 1, 224, 224), 32, 0, False),
    ],
    "video": [
        ("r2plus1d_18", (1, 16, 112, 112), 8, 0, True),
        ("tsm_mobilenet_v2", (1, 8, 224, 224), 8, 0, False),
        ("slow_r50_8x8", (1, 8, 224, 224), 8, 0, False),
    ],
    "volume": [
        ("resnet3d_18", (1, 64, 64, 64), 8, 0, False),
        ("unet3d", (1, 64, 64, 64), 4, 2, False),
        ("genesis_encoder3d", (1, 64, 64, 32), 4, 0, False),
    ],
}


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Wall seconds of a call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratio(ours: list[float], bare: list[float]) -> dict[str, float]:
    """Bare over ours: the share of the bare loop's speed that is kept, with a bootstrap interval of its median."""
    shares = np.array(bare) / np.array(ours)
    draws = np.median(shares[np.random.default_rng(0).integers(0, len(shares), (2000, len(shares)))], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"share": float(np.median(shares)), "low": float(low), "high": float(high)}


def measure(
    name: str, shape: tuple[int, ...], batch: int, structures: int, compiled: bool, device: str
) -> dict[str, Any]:
    """One network: training steps and scoring, engine and bare loop by turns."""
    fabric = make_fabric(device, "32", torch.get_num_threads())
    rng = np.random.default_rng(0)
    task: Any = Classify([TargetSpec("label", classes=("no", "yes"), positive="yes")])
    if structures:
        task = Segment([f"s{k}" for k in range(structures)])
    ready: list[Mapping[str, Any]] = []
    for _ in range(2):
        one = {
            "x": torch.from_numpy(rng.integers(0, 255, (batch, *shape), np.uint8)),
            "value_range": torch.tensor([[0.0, 255.0]] * batch),
            "y": torch.from_numpy(rng.integers(0, 2, (batch, 1)).astype(np.float32)),
            "case": torch.arange(batch),
        }
        if structures:
            one["mask"] = torch.from_numpy(rng.integers(0, 2, (batch, structures, *shape[1:]), np.uint8))
        ready.append({k: v.to(fabric.device) for k, v in one.items()})
    size = {"size": tuple(shape[1:])} if name.startswith("timm:") else {}
    pair = [
        make_model(name, outputs=task.outputs, seed=0, dense=bool(structures), **size)[0].to(fabric.device)
        for _ in range(2)
    ]
    setting = TrainConfig(iterations=STEPS, batch_size=batch, evaluations=1)
    samples = bench.FixedSamples(ready)

    def ours() -> None:
        loop.train(fabric, pair[0], task, samples, setting, seed=0, horizon=STEPS)  # type: ignore[arg-type]

    def bare() -> None:
        model = pair[1].train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-2)
        for step in range(STEPS):
            one = ready[step % 2]
            loss = task.loss(model(one), one)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def score(model: Model) -> None:
        model.eval()
        with torch.no_grad():
            for step in range(STEPS):
                task.scores(model(ready[step % 2]))

    row: dict[str, Any] = {"network": name, "shape": list(shape), "batch": batch}
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times: list[list[float]] = [[], []]
    for repeat in range(-1, REPEATS):
        for place in (0, 1) if repeat % 2 else (1, 0):
            spent = timed((ours, bare)[place], fabric.device) / STEPS
            if repeat >= 0:
                times[place].append(spent)
    row |= {"train_ms": 1e3 * float(np.median(times[0])), "bare_ms": 1e3 * float(np.median(times[1]))}
    row["train"] = ratio(*times)
    with torch.no_grad():
        timed(lambda: score(pair[1]), fabric.device)
        row["score_ms"] = 1e3 * min(timed(lambda: score(pair[1]), fabric.device) for _ in range(3)) / STEPS
    if fabric.device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if compiled:
            fast = torch.compile(pair[1].eval())
            with torch.no_grad():
                for one in ready:
                    fast(one)

                def again() -> None:
                    for step in range(STEPS):
                        fast(ready[step % 2])

                row["compiled_ms"] = 1e3 * min(timed(again, fabric.device) for _ in range(3)) / STEPS
    return row


def main(words: list[str]) -> None:
    asked = {key: value for key, _, value in (w.partition("=") for w in words)}
    device = asked.get("device", "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: not measured")
        return
    where = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    rows = []
    for family, networks in NETWORKS.items():
        for name, shape, batch, structures, compiled in networks:
            if asked.get("only", family) != family:
                continue
            if asked.get("small"):
                shape, batch = (shape[0], min(shape[1], 16), 32, 32), 2
                if "vit" in name or "genesis" in name:
                    shape = (1, 16, 32, 32) if "genesis" in name else (1, 1, 224, 224)
            try:
                row = {"family": family, **measure(name, shape, batch, structures, compiled, device)}
            except Exception as error:
                row = {"family": family, "network": name, "reason": f"{type(error).__name__}: {error}"[:200]}
            rows.append(row)
            if "reason" in row:
                print(f"{name}: not measured, {row['reason']}", flush=True)
                continue
            share = row["train"]
            told = f"{name:28s} train {row['train_ms']:8.1f} ms, bare {row['bare_ms']:8.1f} ms: {share['share']:.0%} "
            told += f"({share['low']:.0%} to {share['high']:.0%}) {'met' if share['share'] >= BAR else 'MISSED'}; "
            told += f"scoring {row['score_ms']:.1f} ms"
            told += f", compiled {row['compiled_ms']:.1f} ms" if "compiled_ms" in row else ""
            print(told + (f"; {row['peak_gib']:.1f} GiB" if "peak_gib" in row else ""), flush=True)
    if device == "cuda":
        RESULTS.write_text(json.dumps({"device": where, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
