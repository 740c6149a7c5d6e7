"""C3D: eight 3x3x3 convolutions and two fully connected layers on clips of 16 frames at 112x112.

Paper: Tran et al., Learning spatiotemporal features with 3D convolutional networks, ICCV 2015
(arXiv:1412.0767). Weights: Sports-1M, converted from Caffe by the port DavideA/c3d-pytorch (MIT), whose
author compared results by eye only; input 0..255, RGB, no mean. What differs from the port: the last layer
and its softmax are off (the body ends with fc7), so logits are logits. Dropout .5 after fc6 and fc7 as there.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from medgraft.models import surgery
from medgraft.models.records import backbone


class C3D(nn.Module):
    """(B, C, 16, 112, 112) -> (B, 4096), the activations of fc7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.fc6 = nn.Linear(8192, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.dropout = nn.Dropout(0.5)
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        relu, pool = functional.relu, functional.max_pool3d
        x = pool(relu(self.conv1(x)), (1, 2, 2))
        x = pool(relu(self.conv2(x)), 2)
        x = pool(relu(self.conv3b(relu(self.conv3a(x)))), 2)
        x = pool(relu(self.conv4b(relu(self.conv4a(x)))), 2)
        x = pool(relu(self.conv5b(relu(self.conv5a(x)))), 2, padding=(0, 1, 1))
        x = self.dropout(relu(self.fc6(x.flatten(1))))
        return self.dropout(relu(self.fc7(x)))


@backbone(
    family="C3D",
    dims=3,
    output="features",
    features=4096,
    default_size=(16, 112, 112),
    min_size=(16, 112, 112),
    fixed_size=True,
    paper="arXiv:1412.0767",
    notes="78.0 M parameters with two classes; takes 16x112x112 only",
)
def c3d(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """C3D, Sports-1M."""
    return surgery.annotate(C3D(channels), removed=("fc8",))
