"""U-Nets of configurable width in 2D and 3D, built by MONAI with residual units.

Papers: Ronneberger et al., MICCAI 2015 (arXiv:1505.04597); Kerfoot et al., STACOM 2018, for the residual
units. Random starts. ``width`` channels at full resolution, doubled at each of three halvings.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medgraft.models import surgery
from medgraft.models.libraries.monai import monai_networks
from medgraft.models.records import backbone


def _build(dims: int, channels: int, structures: int, width: int) -> nn.Module:
    body: Any = monai_networks().UNet(
        spatial_dims=dims,
        in_channels=channels,
        out_channels=structures,
        channels=(width, 2 * width, 4 * width, 8 * width),
        strides=(2, 2, 2),
        num_res_units=2,
    )
    return surgery.annotate(body, last=("model.2",))  # the last up-sampling block, whose channels are the structures


FAMILY = {"family": "U-Net", "output": "dense", "features": 32, "divisor": 8, "paper": "arXiv:1505.04597"}


@backbone(**FAMILY, dims=2, default_size=(224, 224), min_size=(16, 16))
def unet2d(channels: int, structures: int, size: tuple[int, ...] | None = None, width: int = 16) -> nn.Module:
    """2D U-Net; ``width`` 16 gives 0.4 M parameters."""
    return _build(2, channels, structures, width)


@backbone(**FAMILY, dims=3, default_size=(64, 64, 64), min_size=(16, 16, 16))
def unet3d(channels: int, structures: int, size: tuple[int, ...] | None = None, width: int = 16) -> nn.Module:
    """3D U-Net; ``width`` 16 gives 1.2 M parameters."""
    return _build(3, channels, structures, width)
