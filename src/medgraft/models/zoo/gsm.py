"""Gate-shift module on BN-Inception: learned gates decide, place by place, what moves along time.

Paper: Sudhakaran et al., Gate-shift networks for video action recognition, CVPR 2020 (arXiv:1912.00381).
Weights: swathikirans/GSM (BSD-2-Clause code), Something-Something v1; the accuracies printed there belong to
its Inception v3, those of these files are not published. Features are the mean over frames, and a linear
layer of a mean is the mean of the logits that the project takes. What differs: no classifier; blocks are
modules as in ``bninception``; the norm of a gate is written over frames as images, with the same numbers;
convolutions before a gate are re-ordered when image weights are loaded (``from_image``).
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from medgraft.models import surgery
from medgraft.models.records import backbone
from medgraft.models.zoo.bninception import BNInception
from medgraft.models.zoo.bninception import published as image_names
from medgraft.models.zoo.tsm import folded, temporal_shift


class GateShift(nn.Module):
    """(B * frames, C, H, W) -> the same shape; C is a multiple of 4.

    A gate in -1..1 for each half of the channels says which part of every value moves: in the first half
    to the frame before, in the second to the next; the rest stays. Then the channels of each half are
    interleaved, entry i C/4 + j going to 2 j + i. With its start, zero gates, this is that permutation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv3D = nn.Conv3d(channels, 2, 3, padding=1, groups=2)
        nn.init.zeros_(self.conv3D.weight)
        assert self.conv3D.bias is not None
        nn.init.zeros_(self.conv3D.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        quarter = x.shape[1] // 4
        seen = self.bn(x).relu_().unflatten(0, (-1, frames)).transpose(1, 2)
        gate = self.conv3D(seen).tanh().transpose(1, 2).flatten(0, 1)  # (B * frames, 2, H, W)
        moving = (x.unflatten(1, (2, -1)) * gate.unsqueeze(2)).flatten(1, 2)
        x = x - moving + temporal_shift(moving, frames, 2 * quarter)
        return x.unflatten(1, (2, 2, quarter)).transpose(2, 3).flatten(1, 3)


class GSM(BNInception):
    """(B, C, D, H, W) -> (B, 1024), the mean of the features of the D frames."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        for block in self.blocks.values():
            block.gate = GateShift(getattr(block, block.gated).out_channels)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        frames = x.shape[2]
        return super().forward(folded(x), frames).unflatten(0, (-1, frames)).mean(1)


def published(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Names of the project's files to ours: ``module.`` and ``base_model.`` go, ``gsm_inception_3a_1x1`` is
    ``inception_3a.gate``.
    """
    bare = {k.removeprefix("module.").removeprefix("base_model."): v for k, v in state.items()}
    return image_names(
        {re.sub(r"^gsm_inception_(\d[a-e])_(1x1|3x3_reduce)\.", r"inception_\1.gate.", k): v for k, v in bare.items()},
        body,
    )


def from_image(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A BN-Inception file for images, such that zero gates leave the image network's function as it was.

    The outputs of each convolution before a gate are put in the order that the gate's interleaving undoes.
    """
    assert isinstance(body, BNInception)
    mapped = image_names(state, body)
    for name, block in body.blocks.items():
        for leaf in ("weight", "bias"):
            key = f"inception_{name}.{block.gated}.{leaf}"
            if key in mapped:
                tensor = mapped[key]
                quarter = tensor.shape[0] // 4
                mapped[key] = tensor.unflatten(0, (2, quarter, 2)).transpose(1, 2).flatten(0, 2)
    return mapped


@backbone(
    family="GSM",
    dims=3,
    output="features",
    features=1024,
    default_size=(8, 224, 224),
    min_size=(1, 32, 32),
    paper="arXiv:1912.00381",
    notes="10.5 M parameters with its classifier of 174; any number of frames, trained with 8 or 16; inputs 0..255, "
    "BGR",
)
def gsm_bninception(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """BN-Inception with ten gate-shift modules."""
    return surgery.annotate(GSM(channels), removed=("new_fc", "last_linear", "fc"))
