"""R(2+1)D with 34 layers on clips of 8 or 32 frames, for the weights trained on 65 million Instagram videos.

Papers: Tran et al., CVPR 2018 (arXiv:1711.11248); Ghadiyaram et al., CVPR 2019 (arXiv:1905.00561), for the
IG-65M data. Weights: Caffe2 files of facebookresearch/VMZ, converted by moabitcoin/ig65m-pytorch (MIT; VMZ
is Apache-2.0); the videos have terms of their own. Blocks and names are torchvision's, with two differences
that the files need: every 3x3x3 convolution takes its middle width from its own channels (torchvision takes
one for both of a block, which leaves 230, 460 and 921 where the files have 288, 576 and 1152), and batch-norm
epsilon is 1e-3. The converter's momentum of .9, copied from Caffe2, would mean '90 % new' here: it is .1.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from medgraft.models import surgery
from medgraft.models.records import backbone


def middle_width(channels_in: int, channels_out: int) -> int:
    """Channels between the 1x3x3 and the 3x1x1 part, so that both together hold the parameters of one 3x3x3
    convolution.
    """
    return 27 * channels_in * channels_out // (9 * channels_in + 3 * channels_out)


class OwnWidth(Conv2Plus1D):
    """A convolution in space, then in time, whose middle width follows from its own channels."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        super().__init__(in_planes, out_planes, middle_width(in_planes, out_planes), stride, padding)


@backbone(
    family="R(2+1)D",
    dims=3,
    output="features",
    features=512,
    default_size=(8, 112, 112),
    min_size=(1, 16, 16),
    paper="arXiv:1711.11248",
    notes="63.5 M parameters; clips of 8 frames for the clip8 weights, of 32 for the clip32 ones",
)
def r2plus1d_34(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """R(2+1)D with 34 layers."""
    body = VideoResNet(block=BasicBlock, conv_makers=[OwnWidth] * 4, layers=[3, 4, 6, 3], stem=R2Plus1dStem)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    removed = surgery.remove_classifier(body)
    surgery.set_input_channels(body, channels)
    return surgery.annotate(body, removed=(removed,))
