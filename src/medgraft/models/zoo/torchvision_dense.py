"""torchvision's segmentation networks, without their auxiliary output.

Papers: Chen et al., DeepLabv3 (arXiv:1706.05587); Long et al., FCN (arXiv:1411.4038); Howard et al.,
MobileNetV3 and LR-ASPP (arXiv:1905.02244). Weights: torchvision (BSD-3-Clause code), trained on COCO with
VOC labels, or ImageNet for the backbone alone. What differs: the output is the map itself, at input size;
the last layer is new. DeepLabv3 normalises a pooled vector, so its training batches need two frames or more.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import backbone

_LEFT_OUT = ("aux_classifier", "backbone.fc", "backbone.classifier")


def _take_map(module: nn.Module, inputs: Any, output: dict[str, Tensor]) -> Tensor:
    return output["out"]


def _build(
    name: str, channels: int, structures: int, last: tuple[str, ...] = ("classifier.4",), **arguments: Any
) -> nn.Module:
    import torchvision.models as models

    body = models.get_model(name, weights=None, weights_backbone=None, num_classes=structures, **arguments)
    surgery.set_input_channels(body, channels)
    body.register_forward_hook(_take_map)  # a hook, not a wrapper: names stay those of the published files
    return surgery.annotate(body, removed=_LEFT_OUT, last=last)


DENSE = {"dims": 2, "output": "dense", "default_size": (224, 224), "min_size": (32, 32)}


@backbone(
    **DENSE, family="DeepLabv3", features=256, paper="arXiv:1706.05587", weights_of="torchvision:deeplabv3_resnet50"
)
def deeplabv3_resnet50(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """DeepLabv3 on ResNet-50."""
    return _build("deeplabv3_resnet50", channels, structures, aux_loss=False)


@backbone(
    **DENSE, family="DeepLabv3", features=256, paper="arXiv:1706.05587", weights_of="torchvision:deeplabv3_resnet101"
)
def deeplabv3_resnet101(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """DeepLabv3 on ResNet-101."""
    return _build("deeplabv3_resnet101", channels, structures, aux_loss=False)


@backbone(**DENSE, family="FCN", features=512, paper="arXiv:1411.4038", weights_of="torchvision:fcn_resnet50")
def fcn_resnet50(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Fully convolutional network on ResNet-50."""
    return _build("fcn_resnet50", channels, structures, aux_loss=False)


@backbone(**DENSE, family="FCN", features=512, paper="arXiv:1411.4038", weights_of="torchvision:fcn_resnet101")
def fcn_resnet101(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Fully convolutional network on ResNet-101."""
    return _build("fcn_resnet101", channels, structures, aux_loss=False)


@backbone(
    **DENSE,
    family="LR-ASPP",
    features=128,
    paper="arXiv:1905.02244",
    weights_of="torchvision:lraspp_mobilenet_v3_large",
)
def lraspp_mobilenet_v3_large(channels: int, structures: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Lite reduced ASPP on MobileNetV3-Large."""
    return _build(
        "lraspp_mobilenet_v3_large",
        channels,
        structures,
        last=("classifier.low_classifier", "classifier.high_classifier"),
    )
