"""``medgraft bench``: what the engine costs over a bare PyTorch loop on the same batches."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.engine import loop, optim
from medgraft.engine.device import make_fabric, thread_count
from medgraft.files import cores, write_text
from medgraft.models import registry, strategy
from medgraft.models.model import make_model
from medgraft.tasks.classify import Classify


def machine() -> str:
    """This machine in a few words, to stand beside what was measured on it."""
    return f"{cores()} cores {platform.machine()}"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], threads: int) -> None:
    """Measurements as JSON: ``{"machine", "threads", "rows"}``, for ``scripts/zoo.py``."""
    write_text(path, json.dumps({"machine": machine(), "threads": threads, "rows": list(rows)}, indent=1) + "\n")


class FixedSamples:
    """The same ready batches for both contestants, so that only the step is timed."""

    def __init__(self, batches: Sequence[Mapping[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches) * int(self.batches[0]["x"].shape[0])

    def train_batch(self, seed: int, step: int, batch_size: int, balanced: bool = False) -> Mapping[str, Any]:
        return self.batches[step % len(self.batches)]


def bare(
    model: torch.nn.Module, batches: Sequence[Mapping[str, Any]], setting: TrainConfig, steps: int, device: torch.device
) -> None:
    """The loop that anybody would write: forward, loss, backward, step."""
    strategy.apply(model, "finetune")  # type: ignore[arg-type]
    optimizer = optim.make_optimizer(model, setting)  # type: ignore[arg-type]
    model.train()
    for step in range(steps):
        batch = {k: v.to(device) for k, v in batches[step % len(batches)].items()}
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch["y"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def step_overhead(
    models: Sequence[str] = ("efficientnet_lite0", "r3d_18"),
    *,
    batch_size: int = 4,
    steps: int = 4,
    repeats: int = 7,
    device: str = "auto",
    threads: int = 0,
) -> list[dict[str, Any]]:
    """Time the engine's loop against a bare one, interleaved; ratio of times with a 95 % bootstrap interval of its
    median.
    """
    threads = thread_count(threads)
    fabric = make_fabric(device, "32", threads)
    rng = np.random.default_rng(0)
    found = []
    for name in models:
        info = registry.info(name)
        shape = (batch_size, 1, 1, 128, 128) if info.dims == 2 else (batch_size, 1, 8, 48, 48)
        batches = [
            {
                "x": torch.from_numpy(rng.integers(0, 255, shape, np.uint8)),
                "value_range": torch.tensor([[0.0, 255.0]] * batch_size),
                "y": torch.from_numpy(rng.integers(0, 2, (batch_size, 1)).astype(np.float32)),
                "case": torch.arange(batch_size),
            }
            for _ in range(2)
        ]
        task = Classify([TargetSpec("label", "binary", ("no", "yes"), "yes")])
        setting = TrainConfig(iterations=steps, batch_size=batch_size, evaluations=1)
        models_of = [make_model(name, outputs=1, seed=0)[0].to(fabric.device) for _ in range(2)]
        samples = FixedSamples(batches)
        times: list[list[float]] = [[], []]
        for repeat in range(-1, repeats):  # the first round warms up
            order = (0, 1) if repeat % 2 else (1, 0)
            for contestant in order:
                began = time.perf_counter()
                if contestant == 0:
                    loop.train(fabric, models_of[0], task, samples, setting, seed=0, horizon=steps)
                    if fabric.device.type == "cuda":
                        torch.cuda.synchronize()
                else:
                    bare(models_of[1], batches, setting, steps, fabric.device)
                if repeat >= 0:
                    times[contestant].append((time.perf_counter() - began) / steps)
        ratios = np.array(times[0]) / np.array(times[1])
        draws = np.median(ratios[rng.integers(0, len(ratios), (2000, len(ratios)))], axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        found.append(
            {
                "model": name,
                "device": str(fabric.device),
                "threads": threads,
                "engine_seconds": float(np.median(times[0])),
                "bare_seconds": float(np.median(times[1])),
                "ratio": float(np.median(ratios)),
                "low": float(low),
                "high": float(high),
            }
        )
    return found


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The measurements as a table."""
    lines = ["model                 engine ms   bare ms   ratio (95 % interval)   device"]
    for r in rows:
        lines.append(
            f"{r['model']:<20} {r['engine_seconds'] * 1e3:10.1f} {r['bare_seconds'] * 1e3:9.1f}   "
            f"{r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})   {r['device']}, {r['threads']} threads"
        )
    return "\n".join(lines)
