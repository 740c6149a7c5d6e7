"""Temporal shift module: image networks that trade an eighth of their channels with each neighbouring frame.

Paper: Lin et al., TSM: temporal shift module for efficient video understanding, ICCV 2019 (arXiv:1811.08383).
Weights: mit-han-lab/temporal-shift-module (MIT code), Kinetics-400 and Something-Something (the videos have
terms of their own). Built on torchvision's ResNet and MobileNetV2, which are the networks of that project
layer by layer; the number of frames is that of the clip, so 8 and 16 frames are one network. Features are
the mean over frames, and a linear layer of a mean is the mean of the logits that the project takes (its
dropout of .5 falls before that layer, once a frame there, once a clip here).

What differs: no classifier; tensors are named as in torchvision, so ImageNet files fit as they are, and
``published`` turns ``base_model.``, ``.net.``, ``.block.`` and the flat MobileNetV2 into that; the shift is
one pass over memory and keeps the memory format. All batch norms train (the project can freeze all but one).
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2
from torchvision.models.resnet import Bottleneck, ResNet

from medgraft.models import surgery
from medgraft.models.records import backbone
from medgraft.models.zoo.nonlocal_block import NonLocal


class _Shift(torch.autograd.Function):
    """Written into one new tensor; backwards it is the same with time reversed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frames: int, fold: int, reverse: bool) -> Tensor:
        ctx.arguments = frames, fold, not reverse
        out = torch.empty_like(x)
        source, target = x.unflatten(0, (-1, frames)), out.unflatten(0, (-1, frames))
        ahead, behind = slice(fold), slice(fold, 2 * fold)
        if reverse:
            ahead, behind = behind, ahead
        target[:, :-1, ahead] = source[:, 1:, ahead]
        target[:, -1, ahead] = 0
        target[:, 1:, behind] = source[:, :-1, behind]
        target[:, 0, behind] = 0
        target[:, :, 2 * fold :] = source[:, :, 2 * fold :]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Shift.apply(grads[0], *ctx.arguments), None, None, None


def temporal_shift(x: Tensor, frames: int, fold: int) -> Tensor:
    """(B * frames, C, H, W) -> the same shape, channels moved along time.

    The first ``fold`` channels come from the next frame (0 in the last), the second ``fold`` from the
    frame before (0 in the first), all others stay.
    """
    return _Shift.apply(x, frames, fold, False)


def folded(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B * D, C, H, W), the frames of a clip one after the other."""
    return x.transpose(1, 2).flatten(0, 1)


class ShiftBottleneck(Bottleneck):
    """torchvision's bottleneck, its first convolution fed with shifted channels; the shortcut stays as it is."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.shifts = True
        self.nl: NonLocal | None = None

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        out = self.conv1(temporal_shift(x, frames, x.shape[1] // 8) if self.shifts else x)
        out = self.relu(self.bn1(out))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        out = self.relu(out)
        if self.nl is not None:
            clip = out.unflatten(0, (-1, frames)).transpose(1, 2)
            out = folded(self.nl(clip))
        return out


class ShiftResNet(ResNet):
    """(B, C, D, H, W) -> (B, 2048), the mean of the features of the D frames.

    ``blocks`` is the number of bottlenecks of each stage; with 23 or more in the third, every second block
    of each stage shifts, else all. ``non_local`` puts a block after every second one of stages 2 and 3.
    """

    def __init__(self, channels: int, blocks: list[int], *, non_local: bool = False) -> None:
        super().__init__(ShiftBottleneck, blocks)
        del self.fc
        surgery.set_input_channels(self, channels)
        for number, stage in enumerate(self.stages):
            for index, block in enumerate(stage):
                assert isinstance(block, ShiftBottleneck)
                block.shifts = blocks[2] < 23 or index % 2 == 0
                if non_local and number in (1, 2) and index % 2 == 0:
                    block.nl = NonLocal(block.bn3.num_features, pool="after", affinity="softmax")

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        x = self.maxpool(self.relu(self.bn1(self.conv1(folded(x)))))
        for stage in self.stages:
            for block in stage:
                x = block(x, frames)
        return x.mean((2, 3)).unflatten(0, (-1, frames)).mean(1)


class ShiftInverted(InvertedResidual):
    """torchvision's inverted residual block; it shifts where it has both an expansion and a residual sum."""

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        if not self.use_res_connect:
            return self.conv(x)
        expands = len(self.conv) == 4
        return x + self.conv(temporal_shift(x, frames, x.shape[1] // 8) if expands else x)


class ShiftMobileNetV2(MobileNetV2):
    """(B, C, D, H, W) -> (B, 1280), the mean of the features of the D frames."""

    def __init__(self, channels: int) -> None:
        super().__init__(block=ShiftInverted)
        del self.classifier
        surgery.set_input_channels(self, channels)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        x = folded(x)
        for layer in self.features:
            x = layer(x, frames) if isinstance(layer, ShiftInverted) else layer(x)
        return x.mean((2, 3)).unflatten(0, (-1, frames)).mean(1)


#: The project's non-local block -> ours.
_NON_LOCAL = {"theta": "conv_theta", "phi.0": "conv_phi", "g.0": "conv_g", "W.0": "conv_out", "W.1": "bn"}


def published(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Names of the project's files to torchvision's.

    ``module.``, ``base_model.`` and the ``net.`` of shifted layers go; ``layer2.0.block.conv1`` (there is a
    non-local block) becomes ``layer2.0.conv1`` and the parts of ``nl`` get our names. In MobileNetV2 entry
    3 i + k of a block's flat list is layer k of its group i; the last convolution and norm are not grouped.
    """
    mapped = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.").removeprefix("base_model.").replace(".net.", ".").replace(".block.", ".")
        if found := re.fullmatch(r"(layer\d\.\d+\.nl\.)(theta|phi\.0|g\.0|W\.0|W\.1)(\.\w+)", name):
            name = found[1] + _NON_LOCAL[found[2]] + found[3]
        elif found := re.fullmatch(r"(features\.(\d+)\.conv\.)(\d+)(\.\w+)", name):
            last = 3 if found[2] == "1" else 6  # the first block does not expand
            entry = int(found[3])
            name = (
                found[1] + (f"{entry // 3}.{entry % 3}" if entry < last else str(last // 3 + entry - last)) + found[4]
            )
        mapped[name] = tensor
    return mapped


FAMILY = {
    "family": "TSM",
    "dims": 3,
    "output": "features",
    "default_size": (8, 224, 224),
    "min_size": (1, 32, 32),
    "paper": "arXiv:1811.08383",
}


@backbone(
    **FAMILY,
    features=2048,
    weights_of="torchvision:resnet50",
    notes="24.3 M parameters with its classifier of 400; any number of frames, trained with 8 or 16",
)
def tsm_resnet50(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """ResNet50 with temporal shift."""
    return surgery.annotate(ShiftResNet(channels, [3, 4, 6, 3]), removed=("new_fc", "fc"))


@backbone(**FAMILY, features=2048, weights_of="torchvision:resnet101", notes="every second block shifts")
def tsm_resnet101(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """ResNet101 with temporal shift."""
    return surgery.annotate(ShiftResNet(channels, [3, 4, 23, 3]), removed=("new_fc", "fc"))


@backbone(**FAMILY, features=2048, notes="31.7 M parameters with its classifier of 400")
def tsm_resnet50_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """ResNet50 with temporal shift and five non-local blocks."""
    return surgery.annotate(ShiftResNet(channels, [3, 4, 6, 3], non_local=True), removed=("new_fc", "fc"))


@backbone(
    **FAMILY, features=1280, weights_of="torchvision:mobilenet_v2", notes="2.7 M parameters with its classifier of 400"
)
def tsm_mobilenet_v2(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MobileNetV2 with temporal shift."""
    return surgery.annotate(ShiftMobileNetV2(channels), removed=("new_fc", "classifier"))
