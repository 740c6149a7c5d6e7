"""Models Genesis: the U-Nets of restoration pre-training, whole for segmentation, encoders alone for classification.

Papers: Zhou et al., MICCAI 2019 (arXiv:1908.06912) and Medical Image Analysis 2021 (arXiv:2004.07882). Origin:
MrGiovanni/ModelsGenesis, ``pytorch/unet3d.py`` (called V-Net there). Weights: Genesis_Chest_CT.pt, for academic
and non-commercial research only, patent pending (licence of Arizona State University). What differs from the origin:

- The output is logits; the sigmoid belongs to the restoration task, the last layer to whatever task there is.
- Batch norm is normal. The origin's uses the batch's statistics in evaluation too, so what it says of a case
  depends on the cases beside it; ``bn_mode="batch"`` repeats that for its weights.
- Sides divide by 8, not by 16 as its manual says: there are three poolings.
- Volumes are (z, y, x) here and (x, y, z) there, so the networks turn what comes in and what goes out.

For 2D the project released neither code nor weights. The paper names a U-Net on ResNet-18 in the way of the library
segmentation_models; here it is that of segmentation_models_pytorch, the same library's successor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from medgraft.errors import UserError
from medgraft.models import surgery
from medgraft.models.records import backbone


class BatchStatistics(nn.BatchNorm3d):
    """Batch norm by the statistics of the batch at hand, in evaluation too; evaluation leaves the running ones as they
    are.
    """

    mixes_cases = True

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


Norm = Callable[[int], nn.Module]


def _norm(bn_mode: str) -> Norm:
    modes: dict[str, Norm] = {"running": nn.BatchNorm3d, "batch": BatchStatistics}
    if bn_mode not in modes:
        raise UserError(
            f"bn_mode is {' or '.join(modes)}, not '{bn_mode}'", fix="batch repeats the published weights' evaluation"
        )
    return modes[bn_mode]


class Unit(nn.Module):
    """3x3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.bn1 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn1(self.conv1(x)), inplace=True)


class Down(nn.Module):
    """Two units; the second doubles the channels."""

    def __init__(self, inputs: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.ops = nn.Sequential(Unit(inputs, width, norm), Unit(width, 2 * width, norm))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)


class Up(nn.Module):
    """Double the sides, join what the way down saw there, two units."""

    def __init__(self, inputs: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(inputs, inputs, 2, stride=2)
        self.ops = nn.Sequential(Unit(inputs + width, width, norm), Unit(width, width, norm))

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.ops(torch.cat([self.up_conv(x), beside], 1))


class Last(nn.Module):
    """1x1x1 convolution to logits."""

    def __init__(self, inputs: int, structures: int) -> None:
        super().__init__()
        self.final_conv = nn.Conv3d(inputs, structures, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_conv(x)


class Encoder3D(nn.Module):
    """(B, C, D, H, W) -> (B, 512): the way down and the mean over space.

    Inside, axes stand as (W, H, D), which the published kernels know; with the short axis last it is faster, too.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.down_tr64 = Down(channels, 32, norm)
        self.down_tr128 = Down(64, 64, norm)
        self.down_tr256 = Down(128, 128, norm)
        self.down_tr512 = Down(256, 256, norm)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps (B, c, W, H, D) of 64, 128, 256 and 512 channels, the sides halved from each to the next."""
        full = self.down_tr64(x.transpose(2, 4))
        half = self.down_tr128(functional.max_pool3d(full, 2))
        quarter = self.down_tr256(functional.max_pool3d(half, 2))
        return full, half, quarter, self.down_tr512(functional.max_pool3d(quarter, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.levels(x)[-1].mean((2, 3, 4))


class UNet3D(Encoder3D):
    """(B, C, D, H, W) -> (B, K, D, H, W) logits; sides are multiples of 8."""

    def __init__(self, channels: int, structures: int, norm: Norm) -> None:
        super().__init__(channels, norm)
        self.up_tr256 = Up(512, 256, norm)
        self.up_tr128 = Up(256, 128, norm)
        self.up_tr64 = Up(128, 64, norm)
        self.out_tr = Last(64, structures)

    def forward(self, x: Tensor) -> Tensor:
        full, half, quarter, deep = self.levels(x)
        return self.out_tr(self.up_tr64(self.up_tr128(self.up_tr256(deep, quarter), half), full)).transpose(2, 4)


VOLUME = {
    "family": "Models Genesis",
    "dims": 3,
    "default_size": (32, 64, 64),
    "min_size": (16, 16, 16),
    "paper": "arXiv:2004.07882",
}
IMAGE = {
    "family": "Models Genesis",
    "dims": 2,
    "default_size": (224, 224),
    "paper": "arXiv:2004.07882",
    "weights_of": "smp:unet-resnet18",
}


@backbone(
    **VOLUME, output="dense", features=64, divisor=8, notes="19.07 M parameters; option bn_mode: running or batch"
)
def genesis_unet3d(
    channels: int, structures: int, size: tuple[int, ...] | None = None, bn_mode: str = "running"
) -> nn.Module:
    """Genesis 3D U-Net, for segmentation and restoration."""
    return surgery.annotate(UNet3D(channels, structures, _norm(bn_mode)), last=("out_tr",))


@backbone(
    **VOLUME,
    output="features",
    features=512,
    notes="7.03 M parameters; its authors put a dense layer of 1024 on it (hidden: 1024); option bn_mode: running or "
    "batch",
)
def genesis_encoder3d(channels: int, size: tuple[int, ...] | None = None, bn_mode: str = "running") -> nn.Module:
    """Encoder of the Genesis 3D U-Net, for classification and regression."""
    return surgery.annotate(Encoder3D(channels, _norm(bn_mode)), removed=("up_tr256", "up_tr128", "up_tr64", "out_tr"))


class Encoder2D(nn.Module):
    """(B, C, H, W) -> (B, 512): the U-Net's ResNet-18 and the mean over space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder("resnet18", in_channels=channels, depth=5, weights=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1].mean((2, 3))


@backbone(
    **IMAGE,
    output="dense",
    features=16,
    min_size=(64, 64),
    divisor=32,
    notes="14.3 M parameters; ImageNet weights for its encoder, Genesis weights by your own pre-training",
)
def genesis_unet2d(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Genesis 2D U-Net on ResNet-18."""
    from segmentation_models_pytorch import Unet

    return surgery.annotate(
        Unet("resnet18", encoder_weights=None, in_channels=channels, classes=structures),
        removed=("encoder.fc",),
        last=("segmentation_head",),
    )


@backbone(
    **IMAGE,
    output="features",
    features=512,
    min_size=(32, 32),
    notes="11.2 M parameters; takes what a genesis_unet2d learnt",
)
def genesis_encoder2d(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Encoder of the Genesis 2D U-Net."""
    return surgery.annotate(Encoder2D(channels), removed=("encoder.fc", "decoder", "segmentation_head"))
