"""Image weights in networks for clips: kernels that reach over time, filled so that a still clip looks like its image.

A 3D kernel of k frames takes the 2D kernel k times, divided by k (Carreira and Zisserman, CVPR 2017,
arXiv:1705.07750): on a clip whose frames are all the same the sum over time is then the image network's
activation. Without the division it is k times too large. At the ends of a clip this needs the border frame
repeated, which the networks built here do; the I3D of ``zoo/slowfast`` pads with zeros as its authors do, so there
it holds for frames away from the ends.

Any image network becomes one for clips as ``i3d:NAME`` or ``r2plus1d:NAME``. It stays an image network whose frames
are folded into the batch by ``Lift``: norms, pools and attention act frame by frame, which is what their 3D
pendants with one frame do, and its convolutions larger than 1x1 see their neighbours in time.

* ``i3d``: k x k becomes ``frames`` x k x k, repeated and divided. On a still clip equal to the image network.
* ``r2plus1d``: a convolution over time alone, ``frames`` x 1 x 1, follows each; it starts as the identity (1 at the
  centre), so on every clip the network starts as the lifted image network. No norm or ReLU stands between the
  two. The fixed R(2+1)D-18 and -34 cannot take image weights: their kernels in space have other widths than a
  ResNet's (45 for 64, 144 for 64, 230 for 128), and they have no pool after the stem.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import surgery


def to_shape(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """A 2D kernel (out, in, h, w) for a 3D one of this shape (out, in, k, h, w): repeated k times, over k.

    Others as they are.
    """
    if weight.ndim != 4 or len(shape) != 5:
        return weight
    return weight.float().unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2]


def _copy_facts(image: nn.Conv2d, into: nn.Conv2d) -> None:
    """Channels, sides, stride, padding, groups: what others ask a convolution for."""
    for fact in (*nn.Conv2d.__constants__, "_reversed_padding_repeated_twice", "transposed"):
        setattr(into, fact, getattr(image, fact))


class TemporalConv(nn.Conv2d):
    """A convolution over time and space for frames folded into the batch, (B D, C, H, W) -> (B D, C', H', W').

    ``reach`` frames in time, stride 1, the border frame repeated. ``weight`` holds the kernels of all offsets in time
    one after another, for each group: (groups * reach * out / groups, in / groups, h, w), so that one 2D convolution
    gives all of them and their sum over shifted frames is the 3D convolution. In space it is exactly the
    given convolution, asymmetric padding included. ``clip`` is the number of frames of a clip, set by ``Lift``.
    """

    def __init__(self, image: nn.Conv2d, reach: int) -> None:
        nn.Module.__init__(self)
        _copy_facts(image, self)
        self.reach = reach
        self.clip = 1
        self.weight = nn.Parameter(self.spread(image.weight.detach()))
        self.bias = None if image.bias is None else nn.Parameter(image.bias.detach())
        plain = copy.deepcopy(image).to("meta")  # its arithmetic in space, without weights of its own
        plain.bias = None
        self._image = [plain]  # in a list, so that it is no part of the state

    def spread(self, weight: Tensor) -> Tensor:
        """An image kernel (out, in / groups, h, w), repeated over time and divided by the reach, as ``weight`` holds
        it.
        """
        by_group = weight.unflatten(0, (self.groups, 1, -1)) / self.reach
        return by_group.expand(-1, self.reach, *by_group.shape[2:]).flatten(0, 2).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.func.functional_call(self._image[0], {"weight": self.weight}, (x,))
        parts = parts.unflatten(1, (self.groups, self.reach, -1)).unflatten(0, (-1, self.clip))
        middle = self.reach // 2
        total = parts[:, :, :, middle]
        for offset in (o for o in range(-middle, middle + 1) if o):
            total = total + _shifted(parts[:, :, :, middle + offset], offset)
        out = total.flatten(2, 3).flatten(0, 1)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def kernel(self) -> Tensor:
        """The kernel as a 3D convolution has it: (out, in / groups, reach, h, w)."""
        return self.weight.unflatten(0, (self.groups, self.reach, -1)).transpose(1, 2).flatten(0, 1).transpose(1, 2)


def _shifted(x: Tensor, offset: int) -> Tensor:
    """(B, D, ...) with frame d + offset at d, the border frame repeated beyond the ends."""
    count = min(abs(offset), x.shape[1])
    if offset > 0:
        return torch.cat([x[:, count:], x[:, -1:].expand(-1, count, *x.shape[2:])], 1)
    return torch.cat([x[:, :1].expand(-1, count, *x.shape[2:]), x[:, : x.shape[1] - count]], 1)


class FactoredConv(nn.Conv2d):
    """An image convolution followed by one over time alone, which starts as the identity. Folded frames as above."""

    def __init__(self, image: nn.Conv2d, reach: int) -> None:
        nn.Module.__init__(self)
        _copy_facts(image, self)
        self.weight, self.bias = image.weight, image.bias
        self._image = [copy.deepcopy(image).to("meta")]
        with torch.device(image.weight.device):
            self.time = TemporalConv(
                nn.Conv2d(image.out_channels, image.out_channels, 1, groups=image.groups, bias=False), reach
            )
        self.reset_time()

    def reset_time(self) -> None:
        """Make the convolution over time the identity: 1 for the frame itself and the same channel, 0 elsewhere."""
        with torch.no_grad():
            parts = self.time.weight.zero_().unflatten(0, (self.time.groups, self.time.reach, -1))
            parts[:, self.time.reach // 2].diagonal(dim1=1, dim2=2).fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        given = {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}
        return self.time(torch.func.functional_call(self._image[0], given, (x,)))


def convert(body: nn.Module, kind: str, reach: int = 3) -> nn.Module:
    """Give every convolution larger than 1x1 of an image body a reach over time, in place; see the module's docstring.

    The kernel over time is ``reach`` frames, at most as many as the kernel's larger side. Raises ``UserError``
    for an even reach and for networks whose convolutions normalise their weights (the sum over time would not hold).
    """
    if reach < 1 or reach % 2 == 0:
        raise UserError(f"a kernel over {reach} frames has no centre", fix="give an odd number of frames")
    changed = 0
    for name, module in list(body.named_modules()):
        if not isinstance(module, nn.Conv2d) or max(module.kernel_size) == 1:
            continue
        if type(module) is not nn.Conv2d and type(module).__name__ != "Conv2dSame":
            raise UserError(
                f"layer {name} changes its weights as it runs ({type(module).__name__})",
                fix="choose a network of plain convolutions",
            )
        side = max(module.kernel_size)
        length = min(reach, side if side % 2 else side - 1)
        surgery.replace_module(body, name, (TemporalConv if kind == "i3d" else FactoredConv)(module, length))
        changed += 1
    if not changed:
        raise UserError("the network has no convolution larger than 1x1", fix="choose a convolutional one")
    return body


def set_clip(body: nn.Module, frames: int) -> None:
    """Tell the convolutions over time of a body how many frames of its batch belong to one clip."""
    for module in body.modules():
        if isinstance(module, TemporalConv):
            module.clip = frames


def adapt(state: Mapping[str, Tensor], body: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Image tensors for an inflated body, and what was done to each; other bodies and tensors as they are."""
    out, changes = dict(state), {}
    for name, module in _temporal(body):
        key = f"{name}.weight"
        found = state.get(key)
        if found is not None and found.ndim == 4 and found.shape[0] == module.out_channels and module.reach > 1:
            out[key] = module.spread(found.float())  # a file may hold float16, which a division would round
            changes[key] = f"inflated: repeated over {module.reach} frames, divided by {module.reach}"
    return out, changes


def identities(body: nn.Module, state: Mapping[str, Tensor]) -> dict[str, FactoredConv]:
    """Convolutions over time of a factored body that no file of an image network holds, by the name of their weight."""
    found = {f"{name}.time.weight": module for name, module in body.named_modules() if isinstance(module, FactoredConv)}
    return {name: module for name, module in found.items() if name not in state}


def _temporal(body: nn.Module) -> Iterator[tuple[str, TemporalConv]]:
    inner = {id(m.time) for m in body.modules() if isinstance(m, FactoredConv)}
    for name, module in body.named_modules():
        if isinstance(module, TemporalConv) and id(module) not in inner:
            yield name, module
