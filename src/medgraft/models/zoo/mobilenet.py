"""MobileNetV2 as convolution + bias, without batch norm.

Paper: Sandler et al., MobileNetV2, CVPR 2018 (arXiv:1801.04381). Layers and names are torchvision's.
The weights at hand come from an 8-bit model (licence: Apache-2.0, presumed from its source repository) whose batch
norms are folded into the convolutions: the norms of the file hold scale 1, mean 0, variance 1 and the folded bias. With
batch statistics such a network collapses, so there are none here: training and evaluation features agree.
What differs from torchvision: no norm layers, biases on the convolutions, no classifier, no dropout, and a
variance-keeping random start (fan in; gain 1 for the linear bottlenecks), since no norm would repair the scale.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from medgraft.models import surgery
from medgraft.models.records import backbone


@backbone(
    family="MobileNetV2",
    dims=2,
    output="features",
    features=1280,
    default_size=(224, 224),
    min_size=(32, 32),
    paper="arXiv:1801.04381",
    notes="without batch norm; from a random start it trains worse than torchvision:mobilenet_v2, which has it",
)
def mobilenet_v2_folded(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """MobileNetV2 with batch norms folded away."""
    from torchvision.models import mobilenet_v2

    body = mobilenet_v2(weights=None)
    removed = surgery.remove_classifier(body)
    surgery.set_input_channels(body, channels)
    for parent in list(body.features.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.named_children())
        for (before, convolution), (name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, _with_bias(convolution, linear=name == children[-1][0]))
                setattr(parent, name, nn.Identity())
    return surgery.annotate(body, removed=(removed,))


def _with_bias(old: nn.Conv2d, linear: bool) -> nn.Conv2d:
    """The same convolution with a bias; ``linear`` if no activation follows."""
    how: tuple[Any, ...] = (old.kernel_size, old.stride, old.padding, old.dilation, old.groups)
    new = nn.Conv2d(old.in_channels, old.out_channels, *how)
    nn.init.kaiming_normal_(new.weight, mode="fan_in", nonlinearity="linear" if linear else "relu")
    assert new.bias is not None
    nn.init.zeros_(new.bias)
    return new
