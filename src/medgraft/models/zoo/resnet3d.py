"""3D ResNets of 10, 18, 34 and 50 layers for volumes, built by MONAI.

Papers: He et al., CVPR 2016 (arXiv:1512.03385); Chen et al., Med3D (arXiv:1904.00625) for the 3D layout.
No weights are published under these names yet: random starts. What differs: no classifier; the stem has
stride 2 in all three directions, as in Med3D.
"""

from __future__ import annotations

from torch import nn

from medgraft.models import surgery
from medgraft.models.libraries.monai import monai_networks
from medgraft.models.records import backbone


def _build(name: str, channels: int) -> nn.Module:
    body = getattr(monai_networks(), name)(spatial_dims=3, n_input_channels=channels, conv1_t_stride=2, num_classes=2)
    return surgery.annotate(body, removed=(surgery.remove_classifier(body),))


FAMILY = {
    "family": "3D ResNet",
    "dims": 3,
    "output": "features",
    "default_size": (64, 64, 64),
    "min_size": (8, 8, 8),
    "paper": "arXiv:1904.00625",
}


@backbone(**FAMILY, features=512)
def resnet3d_10(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """3D ResNet-10."""
    return _build("resnet10", channels)


@backbone(**FAMILY, features=512)
def resnet3d_18(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """3D ResNet-18."""
    return _build("resnet18", channels)


@backbone(**FAMILY, features=512)
def resnet3d_34(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """3D ResNet-34."""
    return _build("resnet34", channels)


@backbone(**FAMILY, features=2048)
def resnet3d_50(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """3D ResNet-50."""
    return _build("resnet50", channels)
