"""torchvision's video networks: R3D, MC3 and R(2+1)D with 18 layers, S3D, MViT, Video Swin.

Papers: Tran et al., CVPR 2018 (arXiv:1711.11248); Xie et al., ECCV 2018 (arXiv:1712.04851); Fan et al.,
ICCV 2021 (arXiv:2104.11227); Li et al., CVPR 2022 (arXiv:2112.01526); Liu et al., CVPR 2022
(arXiv:2106.13230). Weights: torchvision, Kinetics-400 (BSD-3-Clause code; the videos have terms of their
own). What differs: no classifier; S3D pools by the mean over time and space, so it also takes clips other
than 16x224x224 (there it equals torchvision's fixed 2x7x7 pool); MViT
takes 16x224x224 only. Batch-norm momentum is 0.1 (S3D's own is 0.001).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medgraft.models import surgery
from medgraft.models.records import backbone


def _build(name: str, channels: int, **arguments: Any) -> nn.Module:
    import torchvision.models as models

    body = models.get_model(name, weights=None, **arguments)
    classifier = surgery.remove_classifier(body)
    surgery.set_input_channels(body, channels)
    return surgery.annotate(body, removed=(classifier,))


RESNET = {
    "family": "video ResNet",
    "dims": 3,
    "output": "features",
    "features": 512,
    "default_size": (16, 112, 112),
    "min_size": (1, 16, 16),
    "paper": "arXiv:1711.11248",
}
MVIT = {
    "family": "MViT",
    "dims": 3,
    "output": "features",
    "features": 768,
    "default_size": (16, 224, 224),
    "min_size": (16, 224, 224),
    "fixed_size": True,
}


@backbone(**RESNET, weights_of="torchvision:r3d_18")
def r3d_18(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """3D ResNet with 18 layers."""
    return _build("r3d_18", channels)


@backbone(**RESNET, weights_of="torchvision:mc3_18")
def mc3_18(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Mixed 3D and 2D convolutions, 18 layers."""
    return _build("mc3_18", channels)


@backbone(**RESNET, weights_of="torchvision:r2plus1d_18")
def r2plus1d_18(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """R(2+1)D with 18 layers: spatial, then temporal convolutions."""
    return _build("r2plus1d_18", channels)


@backbone(
    family="S3D",
    dims=3,
    output="features",
    features=1024,
    default_size=(16, 224, 224),
    min_size=(
        8,
        17,
        17,
    ),  # below 8 frames the backward pass of the 7x1x1 stem crashes or gives NaN now and then (PyTorch 2.14, CPU)
    paper="arXiv:1712.04851",
    weights_of="torchvision:s3d",
)
def s3d(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Separable 3D Inception."""
    body = _build("s3d", channels)
    body.avgpool = surgery.MeanPool()
    return body


@backbone(**MVIT, paper="arXiv:2104.11227", weights_of="torchvision:mvit_v1_b")
def mvit_v1_b(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Multi-scale vision transformer, version 1, base."""
    return _build("mvit_v1_b", channels)


@backbone(**MVIT, paper="arXiv:2112.01526", weights_of="torchvision:mvit_v2_s")
def mvit_v2_s(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Multi-scale vision transformer, version 2, small."""
    return _build("mvit_v2_s", channels)


@backbone(
    family="Video Swin",
    dims=3,
    output="features",
    features=768,
    default_size=(16, 224, 224),
    min_size=(1, 32, 32),
    paper="arXiv:2106.13230",
    weights_of="torchvision:swin3d_t",
)
def swin3d_t(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Video Swin transformer, tiny."""
    return _build("swin3d_t", channels)
