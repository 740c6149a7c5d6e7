"""Every network of the zoo on this machine: time to build, forward samples/s of one core; on a GPU also what bf16,
channels-last and compiling bring.

Bars: building without weights under 2 s; importing the registry imports no model file; on a GPU never slower
than plain float32 (the faster of the two is what is kept), and at least 2.5 times as fast for 3D convolutions.

    python bench/bench_zoo.py                       all networks
    python bench/bench_zoo.py c3d tsm_resnet50      some
    python bench/bench_zoo.py --write               keeps the rows in bench/results/zoo.json, which docs/zoo.md shows
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medgraft.engine.bench import write_rows
from medgraft.models import registry, weights

RESULTS = Path(__file__).parent / "results" / "zoo.json"
BUILD_BAR, GPU_BAR = 2.0, 2.5


def built(name: str) -> tuple[nn.Module, tuple[int, ...], float]:
    """The body in evaluation mode, the shape of one sample at its own size, and the CPU seconds that building took."""
    facts, cards = registry.info(name), weights.cards(name)
    channels = cards[0].channels if cards else 3

    def build() -> nn.Module:
        return registry.build_body(
            name,
            channels=channels,
            structures=1 if facts.dense else None,
            size=facts.default_size if facts.fixed_size else None,
        )

    build()  # imports of the library belong to the first network that needs it
    began = time.process_time()  # of this process alone: other work on the machine is no cost of building
    body = build().eval()
    return body, (channels, *facts.default_size), time.process_time() - began


def seconds(
    call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter, least: float = 1.0, repeats: int = 5
) -> float:
    """Best time of a call: one warm-up, then up to ``repeats`` calls or ``least`` seconds."""
    call()
    found: list[float] = []
    while len(found) < repeats and (not found or sum(found) < least):
        began = clock()
        call()
        found.append(clock() - began)
    return min(found)


def on_cpu(name: str) -> dict[str, Any]:
    """Samples a second of one core: one thread, and the CPU's time, so that other work on the machine counts little."""
    body, shape, build = built(name)
    x = torch.randn(1, *shape)
    with torch.inference_mode():
        spent = seconds(lambda: body(x), time.process_time)
    return {"network": name, "samples_per_second": 1 / spent, "build_seconds": build}


def fast(body: nn.Module, x: torch.Tensor, compiled: bool = True) -> Callable[[], Any]:
    """The same network in bf16, channels-last and compiled."""
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    body, x = body.to(memory_format=layout), x.contiguous(memory_format=layout)  # type: ignore[call-overload]
    run: Any = torch.compile(body) if compiled else body

    def call() -> Any:
        with torch.autocast(x.device.type, torch.bfloat16):
            out = run(x)
        if x.device.type == "cuda":
            torch.cuda.synchronize()
        return out

    return call


def on_gpu(name: str, batch: int = 4, device: str = "cuda", compiled: bool = True) -> dict[str, Any]:
    """Samples/s in plain float32 and in bf16, channels-last, compiled, same batch; which of the two to take."""
    body, shape, _ = built(name)
    body, x = body.to(device), torch.randn(batch, *shape, device=device)

    def plain() -> None:
        body(x)
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        slow = batch / seconds(plain)
        try:
            quick = batch / seconds(fast(body, x, compiled))
        except Exception as error:  # a network that the compiler cannot take keeps plain float32
            return {
                "network": name,
                "float32": slow,
                "bf16": None,
                "ratio": 1.0,
                "take": f"float32 ({type(error).__name__})",
            }
    return {
        "network": name,
        "float32": slow,
        "bf16": quick,
        "ratio": quick / slow,
        "take": "bf16" if quick > slow else "float32",
    }


def keep(row: dict[str, Any]) -> None:
    """Put a row into the kept results, in place of an older one."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []
    merged = {r["network"]: r for r in [*kept, row] if r["network"] in registry.names()}
    RESULTS.parent.mkdir(exist_ok=True)
    write_rows(RESULTS, [merged[k] for k in sorted(merged)], 1)


def registry_alone() -> bool:
    """Whether importing the registry and asking it for facts imports no model file."""
    code = "from medgraft.models import registry as r; r.names(); r.info('c3d')\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return not any(name.startswith("medgraft.models.zoo.") for name in loaded)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("names", nargs="*")
    words.add_argument("--write", action="store_true")
    asked = words.parse_args()
    torch.set_num_threads(1)
    names = [registry.resolve(n) for n in asked.names] or registry.names()
    print(f"importing the registry imports no model file: {'met' if registry_alone() else 'MISSED'}")
    for name in names:
        row = on_cpu(name)
        bar = "met" if row["build_seconds"] < BUILD_BAR else "MISSED"
        print(
            f"{name:28} {row['samples_per_second']:8.3f} samples/s   built in {row['build_seconds']:.2f} s (bar "
            f"{BUILD_BAR:g} s: {bar})",
            flush=True,
        )
        if asked.write:
            keep(row)
    if not torch.cuda.is_available():
        print("bf16, channels-last, compiled against float32: not measured: no CUDA device")
        return
    for name in names:
        row = on_gpu(name)
        convolves = any(isinstance(m, nn.Conv3d) and max(m.kernel_size) > 1 for m in built(name)[0].modules())
        bar = f" (bar {GPU_BAR}: {'met' if row['ratio'] >= GPU_BAR else 'MISSED'})" if convolves else ""
        print(
            f"{name:28} float32 {row['float32']:8.1f}/s   bf16 {row['bf16'] or 0:8.1f}/s   ratio "
            f"{row['ratio']:.2f}{bar}   take {row['take']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
