"""The device, its precision and threads: what makes the same numbers again."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from medgraft.errors import UserError
from medgraft.files import cores

DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def device_type(wanted: str) -> str:
    """``auto`` resolved. Raises ``UserError`` for a device that is not here."""
    if wanted not in DEVICES:
        raise UserError(f"no device {wanted!r}", fix="use auto, cpu, cuda or mps")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available", fix="use device=auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def thread_count(wanted: int) -> int:
    """CPU threads; 0 = all cores."""
    return wanted or cores()


def make_fabric(device: str, precision: str, threads: int) -> Fabric:
    """The device at work. Kernels are deterministic where PyTorch has them.

    New tensors are not filled first: that guards against reading memory that nobody wrote, costs a sixth of a step
    and changes no number of code that writes before it reads (tests/engine/test_device.py).
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Fabric(accelerator=device_type(device), devices=1, precision=_PRECISION[precision])  # type: ignore[arg-type]
