"""The batch: keys, shapes, how samples become one, how one reaches a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

import torch

from medgraft.errors import UserError


class Sample(TypedDict):
    """One window: the entries of ``Batch`` without their first axis."""

    x: torch.Tensor
    value_range: torch.Tensor
    y: torch.Tensor
    mask: NotRequired[torch.Tensor]
    case: int
    window: int
    start: tuple[int, int, int]


class Batch(TypedDict):
    """What a model and a task receive.

    x            (B, C, D, H, W) stored values in their stored type
    value_range  (B, 2) float32: the values that mean black and white
    y            (B, T) float32: class index, 0/1 or quantity; NaN = missing
    mask         (B, K, D, H, W) uint8 of 0, 1 and 255 (ignore); only where the task is dense
    case         (B,) int64 row of the manifest
    window       (B,) int64 number among the case's evaluation windows, -1 = drawn at random
    start        (B, 3) int64 d, h, w of the window in the array
    """

    x: torch.Tensor
    value_range: torch.Tensor
    y: torch.Tensor
    mask: NotRequired[torch.Tensor]
    case: torch.Tensor
    window: torch.Tensor
    start: torch.Tensor


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples. Stored types are kept; a batch that mixes them becomes float32.

    Nothing is padded: windows of one ``WindowSpec`` share a shape, others raise ``UserError``.
    """
    arrays = [sample["x"] for sample in samples]
    shapes = {tuple(array.shape) for array in arrays}
    if len(shapes) != 1:
        raise UserError(
            f"windows of different shapes in one batch: {sorted(shapes)}",
            fix="scan to one number of channels and frames",
        )
    if len({array.dtype for array in arrays}) > 1:
        arrays = [array.to(torch.float32) for array in arrays]
    batch = Batch(
        x=torch.stack(arrays),
        value_range=torch.stack([sample["value_range"] for sample in samples]),
        y=torch.stack([sample["y"] for sample in samples]),
        case=torch.tensor([sample["case"] for sample in samples], dtype=torch.int64),
        window=torch.tensor([sample["window"] for sample in samples], dtype=torch.int64),
        start=torch.tensor([sample["start"] for sample in samples], dtype=torch.int64),
    )
    if "mask" in samples[0]:
        batch["mask"] = torch.stack([sample["mask"] for sample in samples])
    return batch


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move every tensor; through pinned memory and without waiting when ``device`` is a GPU."""
    device = torch.device(device)
    if device.type == "cpu":
        return batch
    source: dict[str, Any] = dict(pin(batch) if device.type == "cuda" else batch)
    moved: Any = {key: value.to(device, non_blocking=True) for key, value in source.items()}
    return moved


def pin(batch: Batch) -> Batch:
    """Copy every tensor to page-locked memory, from which a GPU reads without stopping the host."""
    return {key: value.pin_memory() for key, value in batch.items()}  # type: ignore[return-value, attr-defined]


def size_in_bytes(batch: Batch) -> int:
    """Bytes of all tensors."""
    return sum(value.numel() * value.element_size() for value in batch.values())  # type: ignore[attr-defined]


class Samples(Protocol):
    """What the loop needs of a data set: the batch of step i as a function of (seed, i)."""

    def __len__(self) -> int: ...

    def train_batch(self, seed: int, step: int, batch_size: int, balanced: bool = False) -> Mapping[str, Any]: ...
