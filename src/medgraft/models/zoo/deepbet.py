"""deepbet's LinkNet in 3D: brain extraction from T1-weighted MR volumes, 2.1 M parameters, without norm parameters.

Papers: Fisch et al., deepbet: fast brain extraction of T1-weighted MRI using convolutional neural networks,
Computers in Biology and Medicine 2024 (doi:10.1016/j.compbiomed.2024.108845); Chaurasia and Culurciello, LinkNet, VCIP
2017 (arXiv:1707.03718). Weights: the PyPI package ``deepbet`` (MIT), two TorchScript archives whose tensors are
read without running them. ``deepbet`` was trained on the cropped head at 256x256x256, ``deepbet_box`` on the
whole volume at 128x128x128, both on (x, y, z) arrays: the name map turns the kernels to (z, y, x).
What differs: logits instead of a softmax, and no bias on the two convolutions whose bias the instance norm
after them takes away again.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import backbone


def _step(convolution: nn.Module, width: int) -> list[nn.Module]:
    """A convolution, its instance norm without parameters, and a ReLU."""
    return [convolution, nn.InstanceNorm3d(width), nn.ReLU(inplace=True)]


class Block(nn.Module):
    """Two 3x3x3 convolutions around a shortcut, which is a 1x1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        first = _step(nn.Conv3d(inputs, width, 3, stride, 1, bias=False), width)
        self.double_conv = nn.Sequential(*first, nn.Conv3d(width, width, 3, 1, 1, bias=False), nn.InstanceNorm3d(width))
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, width, 1, stride, bias=False), nn.InstanceNorm3d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.double_conv(x) + shortcut, inplace=True)


class Down(nn.Module):
    """Two blocks, the first of which may halve the side."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.block1 = Block(inputs, width, stride)
        self.block2 = Block(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(self.block1(x))


class Up(nn.Module):
    """To a quarter of the channels, ``stride`` times the side, and on to the channels of the level above."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        narrow = inputs // 4
        self.conv1 = nn.Sequential(*_step(nn.Conv3d(inputs, narrow, 1, bias=False), narrow))
        turned = nn.ConvTranspose3d(narrow, narrow, 3, stride, 1, output_padding=stride - 1, bias=False)
        self.tp_conv = nn.Sequential(*_step(turned, narrow))
        self.conv2 = nn.Sequential(*_step(nn.Conv3d(narrow, width, 1, bias=False), width))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.tp_conv(self.conv1(x)))


class LinkNet3d(nn.Module):
    """(B, C, D, H, W) -> (B, K, D, H, W) logits; sides divide by 32."""

    def __init__(self, channels: int, structures: int) -> None:
        super().__init__()
        self.init = nn.Sequential(*_step(nn.Conv3d(channels, 16, 7, 2, 3, bias=False), 16), nn.MaxPool3d(3, 2, 1))
        self.down0 = Down(16, 16, 1)
        self.down1 = Down(16, 32, 2)
        self.down2 = Down(32, 64, 2)
        self.down3 = Down(64, 128, 2)
        self.up0 = Up(128, 64, 2)
        self.up1 = Up(64, 32, 2)
        self.up2 = Up(32, 16, 2)
        self.up3 = Up(16, 16, 1)
        self.tp_conv1 = nn.Sequential(*_step(nn.ConvTranspose3d(16, 8, 3, 2, 1, output_padding=1, bias=False), 8))
        self.conv = nn.Sequential(*_step(nn.Conv3d(8, 8, 3, 1, 1, bias=False), 8))
        self.tp_conv2 = nn.ConvTranspose3d(8, structures, 2, 2)
        # The features before it have variance 1 for good, so its scale alone decides how sure the map can be: logits of
        # variance 2 from 8 inputs. PyTorch's own start counts the outputs of a turned convolution and leaves them at
        # .05.
        nn.init.normal_(self.tp_conv2.weight, std=2 / 8**0.5)

    def forward(self, x: Tensor) -> Tensor:
        start = self.init(x)
        first = self.down0(start)
        second = self.down1(first)
        third = self.down2(second)
        x = self.up0(self.down3(third)) + third
        x = self.up1(x) + second
        x = self.up2(x) + first
        x = self.up3(x) + start
        return self.tp_conv2(self.conv(self.tp_conv1(x)))


def published(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Kernels of (x, y, z) to (z, y, x), without the two biases that a norm takes away."""
    idle = ("tp_conv1.0.bias", "conv.0.bias")
    turned = {
        name: tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.ndim == 5 else tensor
        for name, tensor in state.items()
    }
    return {name: tensor for name, tensor in turned.items() if name not in idle}


@backbone(
    family="LinkNet",
    dims=3,
    output="dense",
    features=8,
    default_size=(128, 128, 128),
    min_size=(64, 64, 64),  # at 32 a single voxel would be left for the innermost norm
    divisor=32,
    paper="doi:10.1016/j.compbiomed.2024.108845",
)
def linknet3d(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """LinkNet in 3D as deepbet uses it for brain extraction."""
    return surgery.annotate(LinkNet3d(channels, structures), last=("tp_conv2",))
