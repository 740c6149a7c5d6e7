"""MedicalNet's 3D ResNets of 10 to 200 layers, for the weights trained on 23 (or 8) sets of volumes.

Paper: Chen et al., Med3D: transfer learning for 3D medical image analysis (arXiv:1904.00625). Weights:
Tencent/MedicalNet (MIT), segmentation of organs and lesions in MR and CT; the decoder is not in the files.
The body keeps an eighth of the side: stages 3 and 4 are dilated by 2 and 4 instead of strided, unlike the
``resnet3d_*`` bodies. 18 and 34 layers have shortcuts without parameters (type A: every other voxel, zeros
for the new channels), the others convolutions (type B); the files fit no other way.
What differs: features are the mean over all places, and the type A shortcut passes gradients (the original
cuts them). One input channel; the preprocessing is described with the cards in docs/models.md.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import backbone


class Padded(nn.Module):
    """Shortcut of type A: every ``stride``-th voxel, new channels filled with zeros; no parameters."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


def _convolution(channels_in: int, channels_out: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Conv3d:
    convolution = nn.Conv3d(
        channels_in, channels_out, side, stride, padding=dilation * (side // 2), dilation=dilation, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Shortcut of type B: a convolution of one voxel and its norm."""
    return nn.Sequential(_convolution(channels_in, channels_out, 1, stride), nn.BatchNorm3d(channels_out))


class Block(nn.Module):
    """Two 3x3x3 convolutions, or (``deep``) 1x1x1, 3x3x3 and 1x1x1 to four times the width, around a shortcut."""

    def __init__(
        self, channels: int, width: int, deep: bool, stride: int, dilation: int, around: nn.Module | None
    ) -> None:
        super().__init__()
        out = 4 * width if deep else width
        self.conv1 = _convolution(channels, width, 1) if deep else _convolution(channels, width, 3, stride, dilation)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = (
            _convolution(width, width, 3, stride, dilation) if deep else _convolution(width, width, 3, 1, dilation)
        )
        self.bn2 = nn.BatchNorm3d(width)
        if deep:
            self.conv3 = _convolution(width, out, 1)
            self.bn3 = nn.BatchNorm3d(out)
        self.downsample = around
        self.deep = deep

    def forward(self, x: Tensor) -> Tensor:
        past = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.deep:
            x = self.bn3(self.conv3(F.relu(x, inplace=True)))
        return F.relu(x + past, inplace=True)


class MedicalNet(nn.Module):
    """(B, C, D, H, W) -> (B, 512) with 10, 18 or 34 layers, (B, 2048) with more."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, channels: int, blocks: tuple[int, ...], *, deep: bool, padded: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm3d(64)
        have = 64
        for stage, (count, width, stride, dilation) in enumerate(
            zip(blocks, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4)), 1
        ):
            out = 4 * width if deep else width
            around: nn.Module | None = None
            if stride != 1 or have != out:
                around = Padded(out, stride) if padded else shortcut(have, out, stride)
            layers = [Block(have, width, deep, stride, dilation, around)]
            layers += [Block(out, width, deep, 1, dilation, None) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            have = out

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean((2, 3, 4))


def _build(channels: int, blocks: tuple[int, ...], *, deep: bool, padded: bool = False) -> nn.Module:
    return surgery.annotate(MedicalNet(channels, blocks, deep=deep, padded=padded), removed=("conv_seg",))


FAMILY = {
    "family": "MedicalNet",
    "dims": 3,
    "output": "features",
    "default_size": (64, 64, 64),
    "min_size": (8, 8, 8),
    "paper": "arXiv:1904.00625",
}


@backbone(**FAMILY, features=512)
def medicalnet_10(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 10 layers."""
    return _build(channels, (1, 1, 1, 1), deep=False)


@backbone(**FAMILY, features=512)
def medicalnet_18(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 18 layers."""
    return _build(channels, (2, 2, 2, 2), deep=False, padded=True)


@backbone(**FAMILY, features=512)
def medicalnet_34(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 34 layers."""
    return _build(channels, (3, 4, 6, 3), deep=False, padded=True)


@backbone(**FAMILY, features=2048)
def medicalnet_50(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 50 layers."""
    return _build(channels, (3, 4, 6, 3), deep=True)


@backbone(**FAMILY, features=2048)
def medicalnet_101(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 101 layers."""
    return _build(channels, (3, 4, 23, 3), deep=True)


@backbone(**FAMILY, features=2048)
def medicalnet_152(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 152 layers."""
    return _build(channels, (3, 8, 36, 3), deep=True)


@backbone(**FAMILY, features=2048)
def medicalnet_200(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MedicalNet's ResNet with 200 layers."""
    return _build(channels, (3, 24, 36, 3), deep=True)
