"""C2D, I3D, Slow and SlowFast on ResNet-50, with and without non-local blocks.

Papers: Feichtenhofer et al., SlowFast networks, ICCV 2019 (arXiv:1812.03982); Carreira and Zisserman, I3D, CVPR
2017 (arXiv:1705.07750); Wang et al., Non-local neural networks, CVPR 2018 (arXiv:1711.07971). Official code:
facebookresearch/SlowFast (Apache-2.0, no other licence is stated for its zoo), whose tensor names are kept; most
of its zoo was trained on Kinetics-400 in Caffe2 (``caffe2`` maps those names). What differs: the head and its softmax
are off, a body gives the features pooled over time and space; SlowFast takes one tensor, the Fast clip, and draws its
Slow path from it; the Slow path has ceil(D / alpha) frames (the official floor gives the same where alpha divides D).
The released C2D weights belong to a net without the 2x1x1 pool after res2 (``pool``). The official non-local
variants of Slow, SlowFast and C2D have configurations, but no weights; that of SlowFast 8x8 has lateral
kernels of 5, not 7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medgraft.models import inflate, surgery
from medgraft.models.records import backbone
from medgraft.models.zoo.nonlocal_block import NonLocal

BLOCKS = (3, 4, 6, 3)  # bottlenecks of res2 to res5
#: Temporal kernel of the stem, and those of the blocks of res2 to res5 (repeated).
KERNELS: dict[str, tuple[int, tuple[tuple[int, ...], ...]]] = {
    "c2d": (1, ((1,), (1,), (1,), (1,))),
    "i3d": (5, ((3,), (3, 1), (3, 1), (1, 3))),
    "slow": (1, ((1,), (1,), (3,), (3,))),
    "fast": (5, ((3,), (3,), (3,), (3,))),
}
NON_LOCAL = ((), (1, 3), (1, 3, 5), ())  # after these blocks of res2 to res5 of the (Slow) path
Affinity = Literal["", "scaled_softmax", "mean"]


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Conv3d:
    """Without bias, padded to keep the size at stride 1, drawn as the official code does (Kaiming normal, fan out)."""
    made = nn.Conv3d(
        inputs, outputs, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2), bias=False
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


class Stem(nn.Module):
    """kt x 7 x 7 convolution, BN, ReLU, 1x3x3 maximum: a quarter of the height and width."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = _convolution(inputs, outputs, (kernel, 7, 7), (1, 2, 2))
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool3d(self.bn(self.conv(x)).relu_(), (1, 3, 3), (1, 2, 2), (0, 1, 1))


class Transform(nn.Module):
    """The branch of a bottleneck: kt x 1 x 1, 1 x 3 x 3 with the stride, 1 x 1 x 1; the last norm's scale starts
    at 0.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.a = _convolution(inputs, inner, (kernel, 1, 1))
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = _convolution(inner, inner, (1, 3, 3), (1, stride, stride))
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = _convolution(inner, outputs, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(outputs)
        nn.init.zeros_(self.c_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_bn(self.a(x)).relu_()
        x = self.b_bn(self.b(x)).relu_()
        return self.c_bn(self.c(x))


class Bottleneck(nn.Module):
    """Transform plus shortcut; the shortcut is a convolution where channels or stride change."""

    def __init__(self, inputs: int, inner: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.changes = inputs != outputs or stride != 1
        if self.changes:
            self.branch1 = _convolution(inputs, outputs, (1, 1, 1), (1, stride, stride))
            self.branch1_bn = nn.BatchNorm3d(outputs)
        self.branch2 = Transform(inputs, inner, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_bn(self.branch1(x)) if self.changes else x
        return self.branch2(x).add_(shortcut).relu_()


class Stage(nn.Module):
    """One of res2 to res5 for one or two paths; blocks of path P are ``pathwayP_resB`` and ``pathwayP_nonlocalB``."""

    def __init__(
        self, index: int, inputs: Sequence[int], widths: Sequence[int], kinds: Sequence[str], affinity: Affinity
    ) -> None:
        super().__init__()
        self.paths: list[list[str]] = []
        for path, (channels, width, kind) in enumerate(zip(inputs, widths, kinds)):
            inner, outputs, order = width << index, width << (index + 2), []
            kernels = KERNELS[kind][1][index]
            for block in range(BLOCKS[index]):
                stride = 2 if index and not block else 1
                order.append(f"pathway{path}_res{block}")
                self.add_module(order[-1], Bottleneck(channels, inner, outputs, kernels[block % len(kernels)], stride))
                channels = outputs
                if affinity and path == 0 and block in NON_LOCAL[index]:
                    order.append(f"pathway{path}_nonlocal{block}")
                    self.add_module(order[-1], NonLocal(outputs, pool="before", affinity=affinity))
            self.paths.append(order)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        out = []
        for x, order in zip(inputs, self.paths):
            for name in order:
                x = getattr(self, name)(x)
            out.append(x)
        return out


class Stems(nn.Module):
    """The stems of one or two paths, ``pathwayP_stem``."""

    def __init__(self, channels: int, widths: Sequence[int], kinds: Sequence[str]) -> None:
        super().__init__()
        for path, (width, kind) in enumerate(zip(widths, kinds)):
            self.add_module(f"pathway{path}_stem", Stem(channels, width, KERNELS[kind][0]))

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [getattr(self, f"pathway{path}_stem")(x) for path, x in enumerate(inputs)]


class ResNet(nn.Module):
    """One path: (B, C, D, H, W) -> (B, 2048). ``pool`` halves D after res2 by a 2x1x1 maximum."""

    def __init__(self, channels: int, kind: str, *, pool: bool, affinity: Affinity) -> None:
        super().__init__()
        self.pool = pool
        self.s1 = Stems(channels, (64,), (kind,))
        for index, inputs in enumerate((64, 256, 512, 1024)):
            self.add_module(f"s{index + 2}", Stage(index, (inputs,), (64,), (kind,), affinity))

    def forward(self, x: Tensor) -> Tensor:
        for name in ("s1", "s2", "s3", "s4", "s5"):
            (x,) = getattr(self, name)(x)
            if self.pool and name == "s2":
                x = functional.max_pool3d(x, (2, 1, 1))
        return x.mean((2, 3, 4))


class Fusion(nn.Module):
    """Lateral connection: the Fast path, brought to the Slow frame rate by a strided convolution, joins the Slow
    path.
    """

    def __init__(self, channels: int, kernel: int, alpha: int) -> None:
        super().__init__()
        self.conv_f2s = _convolution(channels, 2 * channels, (kernel, 1, 1), (alpha, 1, 1))
        self.bn = nn.BatchNorm3d(2 * channels)

    def forward(self, slow: Tensor, fast: Tensor) -> list[Tensor]:
        return [torch.cat([slow, self.bn(self.conv_f2s(fast)).relu_()], 1), fast]


def slow_frames(frames: int, alpha: int) -> list[int]:
    """Frames of the Fast clip that the Slow path sees: floor(linspace(0, frames - 1, frames / alpha)), first and last
    included.

    In whole numbers: the official float32 gives the same up to 400 frames, save one frame of a clip of 160.
    """
    count = -(-frames // alpha)
    return [i * (frames - 1) // max(1, count - 1) for i in range(count)]


class SlowFast(nn.Module):
    """Two paths: the Fast clip (B, C, D, H, W) -> (B, 2304), 2048 Slow and 256 Fast features.

    The Slow path sees one frame in ``alpha``; the Fast path has an eighth of the channels and joins the
    Slow path after the stem, res2, res3 and res4 through convolutions of ``kernel`` frames.
    """

    def __init__(self, channels: int, *, alpha: int, kernel: int, affinity: Affinity) -> None:
        super().__init__()
        self.alpha = alpha
        widths, kinds = (64, 8), ("slow", "fast")
        self.s1 = Stems(channels, widths, kinds)
        self.s1_fuse = Fusion(8, kernel, alpha)
        for index, fast in enumerate((8, 32, 64, 128)):
            self.add_module(f"s{index + 2}", Stage(index, (fast * 10, fast), widths, kinds, affinity))
            if index < 3:
                self.add_module(f"s{index + 2}_fuse", Fusion(32 << index, kernel, alpha))

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.tensor(slow_frames(x.shape[2], self.alpha), device=x.device)
        paths = [x.index_select(2, chosen), x]
        for name in ("s1", "s1_fuse", "s2", "s2_fuse", "s3", "s3_fuse", "s4", "s4_fuse", "s5"):
            paths = getattr(self, name)(*paths)
        return torch.cat([path.mean((2, 3, 4)) for path in paths], 1)


# ---------------------------------------------------------------------------------------- names of Caffe2

_STATISTICS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var", "w": "weight"}
_BLOB = re.compile(
    r"(?P<fast>t_)?(?:(?P<stem>res_conv1_bn|conv1)|res(?P<stage>\d)_(?P<block>\d+)_branch(?:1(?P<one_bn>_bn)?|2(?P<letter>[abc])(?P<bn>_bn)?))_(?P<leaf>s|b|rm|riv|w)"
)
_FUSION = re.compile(
    r"t_(?:pool(?P<pool>1)|res(?P<stage>\d)_\d+_branch2c_bn)_subsample(?P<bn>_bn)?_(?P<leaf>s|b|rm|riv|w)"
)
_NON_LOCAL = re.compile(
    r"nonlocal_conv(?P<stage>\d)_(?P<block>\d+)_(?P<part>theta|phi|g|out|bn)_(?P<leaf>s|b|rm|riv|w)"
)
_OPTIMISER = re.compile(r".*_momentum|lr|model_iter|.*_lr")


def caffe2_name(blob: str) -> str | None:
    """The tensor that a Caffe2 blob holds; None for the optimiser's blobs; an unknown name stays as it is."""
    if _OPTIMISER.fullmatch(blob):
        return None
    if found := _FUSION.fullmatch(blob):
        norm = "bn" if found["bn"] else "conv_f2s"
        return f"s{found['pool'] or found['stage']}_fuse.{norm}.{_STATISTICS[found['leaf']]}"
    if found := _NON_LOCAL.fullmatch(blob):
        part = "bn" if found["part"] == "bn" else f"conv_{found['part']}"
        return f"s{found['stage']}.pathway0_nonlocal{found['block']}.{part}.{_STATISTICS[found['leaf']]}"
    if found := _BLOB.fullmatch(blob):
        path, leaf = 1 if found["fast"] else 0, _STATISTICS[found["leaf"]]
        if found["stem"]:
            return f"s1.pathway{path}_stem.{'conv' if found['stem'] == 'conv1' else 'bn'}.{leaf}"
        branch = (
            f"branch2.{found['letter']}{found['bn'] or ''}" if found["letter"] else f"branch1{found['one_bn'] or ''}"
        )
        return f"s{found['stage']}.pathway{path}_res{found['block']}.{branch}.{leaf}"
    return {"pred_w": "head.projection.weight", "pred_b": "head.projection.bias"}.get(blob, blob)


def caffe2(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The official zoo's blobs under our names; a blob with fewer axes than its tensor gets axes of length 1 at its
    end.
    """
    own, mapped = body.state_dict(), {}
    for blob, tensor in state.items():
        name = caffe2_name(blob)
        if name is None:
            continue
        missing = own[name].ndim - tensor.ndim if name in own else 0
        mapped[name] = tensor.reshape(*tensor.shape, *[1] * missing) if missing > 0 else tensor
    return mapped


# ---------------------------------------------------------------------------------------- image weights

_RESNET = {"conv1": "s1.pathway0_stem.conv", "bn1": "s1.pathway0_stem.bn", "fc": "head.projection"}
_LAYERS = {
    "conv1": "branch2.a",
    "conv2": "branch2.b",
    "conv3": "branch2.c",
    "bn1": "branch2.a_bn",
    "bn2": "branch2.b_bn",
    "bn3": "branch2.c_bn",
}
_LAYERS |= {"downsample.0": "branch1", "downsample.1": "branch1_bn"}


def inflated(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A ResNet-50 for images (names of torchvision, timm or PySlowFast) inflated to the kernels of the body.

    torchvision's and timm's ResNet-50 stride in the 3x3 convolution, as these networks do.
    """
    own, mapped = body.state_dict(), {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if found := re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", stem):
            stem = f"s{int(found[1]) + 1}.pathway0_res{found[2]}.{_LAYERS.get(found[3], found[3])}"
        target = f"{_RESNET.get(stem, stem)}.{leaf}"
        mapped[target] = inflate.to_shape(tensor, own[target].shape) if target in own else tensor
    return mapped


# ---------------------------------------------------------------------------------------- the networks


def _single(channels: int, kind: str, *, pool: bool = False, affinity: Affinity = "") -> nn.Module:
    return surgery.annotate(ResNet(channels, kind, pool=pool, affinity=affinity), removed=("head",))


def _double(channels: int, *, alpha: int, kernel: int, affinity: Affinity = "") -> nn.Module:
    return surgery.annotate(
        SlowFast(channels, alpha=alpha, kernel=kernel, affinity=affinity),
        removed=("head",),
        inputs=("s1.pathway0_stem.conv", "s1.pathway1_stem.conv"),
    )


R50 = {"dims": 3, "output": "features", "features": 2048}
C2D = {**R50, "family": "C2D", "default_size": (8, 224, 224), "paper": "arXiv:1711.07971"}
I3D = {**R50, "family": "I3D", "default_size": (8, 224, 224)}
SLOW = {**R50, "family": "Slow", "paper": "arXiv:1812.03982"}
SLOWFAST = {
    "family": "SlowFast",
    "dims": 3,
    "output": "features",
    "features": 2304,
    "default_size": (32, 224, 224),
    "paper": "arXiv:1812.03982",
}


@backbone(
    **C2D,
    min_size=(1, 16, 16),
    notes="frames meet only in the mean at the end; pool=True adds the 2x1x1 maximum after res2 (no weights published)",
)
def c2d_r50(channels: int, size: tuple[int, ...] | None = None, pool: bool = False) -> nn.Module:
    """C2D-R50 8x8 as released: no temporal convolution, no temporal pool."""
    return _single(channels, "c2d", pool=pool)


@backbone(
    **C2D,
    min_size=(2, 17, 17),
    notes="non-local blocks after res3 1, 3 and res4 1, 3, 5; 2x1x1 pool after res2; no weights published",
)
def c2d_r50_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """C2D-R50 8x8 with non-local blocks (scaled softmax) and the temporal pool of its configuration."""
    return _single(channels, "c2d", pool=True, affinity="scaled_softmax")


@backbone(
    **I3D,
    min_size=(2, 16, 16),
    paper="arXiv:1705.07750",
    notes="27.2 M parameters with two classes; frames are halved after res2",
)
def i3d_r50(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """I3D-R50 8x8."""
    return _single(channels, "i3d", pool=True)


@backbone(
    **I3D,
    min_size=(2, 17, 17),
    paper="arXiv:1711.07971",
    notes="34.6 M parameters with two classes; non-local blocks after res3 1, 3 and res4 1, 3, 5",
)
def i3d_r50_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """I3D-R50 8x8 with non-local blocks (scaled softmax)."""
    return _single(channels, "i3d", pool=True, affinity="scaled_softmax")


@backbone(**SLOW, default_size=(8, 224, 224), min_size=(1, 16, 16), notes="31.6 M parameters with two classes")
def slow_r50_8x8(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Slow-R50, 8 frames."""
    return _single(channels, "slow")


@backbone(
    **SLOW,
    default_size=(4, 224, 224),
    min_size=(1, 16, 16),
    notes="31.6 M parameters with two classes; the network of slow_r50_8x8 with weights for 4 frames",
)
def slow_r50_4x16(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Slow-R50, 4 frames."""
    return _single(channels, "slow")


@backbone(
    **SLOW,
    default_size=(8, 224, 224),
    min_size=(1, 17, 17),
    notes="non-local blocks with the mean of dot products, after res3 1, 3 and res4 1, 3, 5; no weights published",
)
def slow_r50_8x8_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Slow-R50 with non-local blocks (dot product), 8 frames."""
    return _single(channels, "slow", affinity="mean")


@backbone(
    **SLOW,
    default_size=(4, 224, 224),
    min_size=(1, 17, 17),
    notes="the network of slow_r50_8x8_nl for 4 frames; no weights published",
)
def slow_r50_4x16_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Slow-R50 with non-local blocks (dot product), 4 frames."""
    return _single(channels, "slow", affinity="mean")


@backbone(
    **SLOWFAST,
    min_size=(1, 16, 16),
    notes="33.6 M parameters with two classes; a clip is the Fast path, 8 of 32 frames are the Slow path",
)
def slowfast_r50_8x8(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """SlowFast-R50 8x8: 32 Fast and 8 Slow frames, lateral kernels of 7."""
    return _double(channels, alpha=4, kernel=7)


@backbone(
    **SLOWFAST,
    min_size=(1, 16, 16),
    notes="33.6 M parameters with two classes; a clip is the Fast path, 4 of 32 frames are the Slow path",
)
def slowfast_r50_4x16(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """SlowFast-R50 4x16: 32 Fast and 4 Slow frames, lateral kernels of 5."""
    return _double(channels, alpha=8, kernel=5)


@backbone(
    **SLOWFAST,
    min_size=(1, 17, 17),
    notes="non-local blocks (dot product) on the Slow path; lateral kernels of 5, as its configuration has them; no "
    "weights published",
)
def slowfast_r50_8x8_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """SlowFast-R50 8x8 with non-local blocks."""
    return _double(channels, alpha=4, kernel=5, affinity="mean")


@backbone(
    **SLOWFAST, min_size=(1, 17, 17), notes="non-local blocks (dot product) on the Slow path; no weights published"
)
def slowfast_r50_4x16_nl(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """SlowFast-R50 4x16 with non-local blocks."""
    return _double(channels, alpha=8, kernel=5, affinity="mean")
