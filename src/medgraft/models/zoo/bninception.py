"""BN-Inception (Inception v2): ten Inception blocks with batch norm, in Caffe's manner.

Paper: Ioffe and Szegedy, Batch normalization, ICML 2015 (arXiv:1502.03167). Weights: ImageNet, trained in
Caffe and ported for temporal segment networks; the file is that of Cadene/pretrained-models.pytorch
(BSD-3-Clause code). Inputs are 0..255 in BGR order, minus 104, 117, 128. Caffe's habits stay: pools round
their output up (``ceil_mode``), convolutions have biases, and the pool branch of 5a averages while that of
5b takes maxima. What differs: no classifier; a block is a module, so ``inception_3a_1x1`` of the file is
``inception_3a.1x1`` here; where 3c or 4e halves an odd side, its pool branch gets one more line (the
official network fails there, for instance at 112x112); the last pool is a mean, so any size goes.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from medgraft.models import surgery
from medgraft.models.records import backbone

#: Block -> widths: 1x1 (0 = none, and the block halves the sides), 3x3 after its reduction, double 3x3
#: after its, projection of the pool branch (0 = none), and what that branch takes.
BLOCKS: dict[str, tuple[int, tuple[int, int], tuple[int, int], int, str]] = {
    "3a": (64, (64, 64), (64, 96), 32, "mean"),
    "3b": (64, (64, 96), (64, 96), 64, "mean"),
    "3c": (0, (128, 160), (64, 96), 0, "maximum"),
    "4a": (224, (64, 96), (96, 128), 128, "mean"),
    "4b": (192, (96, 128), (96, 128), 128, "mean"),
    "4c": (160, (128, 160), (128, 160), 128, "mean"),
    "4d": (96, (128, 192), (160, 192), 128, "mean"),
    "4e": (0, (128, 192), (192, 256), 0, "maximum"),
    "5a": (352, (192, 320), (160, 224), 128, "mean"),
    "5b": (352, (192, 320), (192, 224), 128, "maximum"),
}


class Inception(nn.Module):
    """(N, C, H, W) -> (N, ``outputs``, H, W), or half the sides, rounded up, where there is no 1x1 branch.

    ``gate`` is an extra module that may be put on the first branch (1x1, or the reduction before the 3x3
    where there is no 1x1), between convolution and norm; it is called with the number of frames too.
    """

    def __init__(
        self, inputs: int, single: int, triple: tuple[int, int], double: tuple[int, int], project: int, pool: str
    ) -> None:
        super().__init__()
        stride = 1 if single else 2
        self.halves = not single
        self.averages = pool == "mean"
        if single:
            self._add("1x1", inputs, single, 1)
        self._add("3x3_reduce", inputs, triple[0], 1)
        self._add("3x3", *triple, 3, stride)
        self._add("double_3x3_reduce", inputs, double[0], 1)
        self._add("double_3x3_1", *double, 3)
        self._add("double_3x3_2", double[1], double[1], 3, stride)
        if project:
            self._add("pool_proj", inputs, project, 1)
        self.gated = "1x1" if single else "3x3_reduce"
        self.gate: nn.Module | None = None
        self.outputs = single + triple[1] + double[1] + (project or inputs)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _unit(self, name: str, x: Tensor, frames: int) -> Tensor:
        x = getattr(self, name)(x)
        if self.gate is not None and name == self.gated:
            x = self.gate(x, frames)
        return functional.relu(getattr(self, f"{name}_bn")(x), inplace=True)

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        def branch(*names: str) -> Tensor:
            y = x
            for name in names:
                y = self._unit(name, y, frames)
            return y

        found = [] if self.halves else [branch("1x1")]
        found.append(branch("3x3_reduce", "3x3"))
        found.append(branch("double_3x3_reduce", "double_3x3_1", "double_3x3_2"))
        if self.halves:
            # Values are 0 or more after a ReLU, so zeros beyond the border change no maximum.
            odd = functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)) if x.shape[2] % 2 or x.shape[3] % 2 else x
            found.append(functional.max_pool2d(odd, 3, 2, ceil_mode=True))
        else:
            pooled = functional.avg_pool2d(x, 3, 1, 1) if self.averages else functional.max_pool2d(x, 3, 1, 1)
            found.append(self._unit("pool_proj", pooled, frames))
        return torch.cat(found, 1)


class BNInception(nn.Module):
    """(N, C, H, W) -> (N, 1024)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1_7x7_s2 = nn.Conv2d(channels, 64, 7, 2, 3)
        self.conv1_7x7_s2_bn = nn.BatchNorm2d(64)
        self.conv2_3x3_reduce = nn.Conv2d(64, 64, 1)
        self.conv2_3x3_reduce_bn = nn.BatchNorm2d(64)
        self.conv2_3x3 = nn.Conv2d(64, 192, 3, padding=1)
        self.conv2_3x3_bn = nn.BatchNorm2d(192)
        width = 192
        for name, widths in BLOCKS.items():
            block = Inception(width, *widths)
            self.add_module(f"inception_{name}", block)
            width = block.outputs
        self.last_linear: nn.Module = nn.Identity()  # the classifier's place, for those who keep it
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> dict[str, Inception]:
        """The Inception blocks by name (``3a``)."""
        return {name: getattr(self, f"inception_{name}") for name in BLOCKS}

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        """``frames`` consecutive images belong to one clip; only gates look at it."""

        def unit(name: str, x: Tensor) -> Tensor:
            return functional.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)), inplace=True)

        x = functional.max_pool2d(unit("conv1_7x7_s2", x), 3, 2, ceil_mode=True)
        x = functional.max_pool2d(unit("conv2_3x3", unit("conv2_3x3_reduce", x)), 3, 2, ceil_mode=True)
        for block in self.blocks.values():
            x = block(x, frames)
        return self.last_linear(x.mean((2, 3)))


def published(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Names of the published file (``inception_3a_1x1``) to ours; its norms come as (1, C), a trace of Caffe."""
    squeezed = {k: v[0] if "_bn." in k and v.ndim == 2 else v for k, v in state.items()}
    return {re.sub(r"^inception_(\d[a-e])_", r"inception_\1.", k): v for k, v in squeezed.items()}


@backbone(
    family="BN-Inception",
    dims=2,
    output="features",
    features=1024,
    default_size=(224, 224),
    min_size=(32, 32),
    paper="arXiv:1502.03167",
    notes="11.3 M parameters with its classifier; inputs 0..255, BGR",
)
def bninception(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """BN-Inception, ImageNet."""
    return surgery.annotate(BNInception(channels), removed=("last_linear", "fc"))
