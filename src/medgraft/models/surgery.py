"""Small operations on networks of other libraries: take the classifier off, change the input channels.

A body keeps notes for the weight loader: ``body.removed``, name prefixes of layers that were taken off
(their tensors in a file are left out, not unexpected), ``body.last``, name prefixes of the last layer of
a dense body (it belongs to the task, so it is not taken from a file), and ``body.inputs``, names of the
convolutions that see the input, where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class MeanPool(nn.Module):
    """Mean over all spatial axes, kept as length 1: an adaptive pool to size 1 with a deterministic backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def pool_by_mean(module: nn.Module) -> None:
    """Replace adaptive average pools to size 1 by ``MeanPool``: same numbers, deterministic on a GPU."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) in (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d):
                sides = child.output_size if isinstance(child.output_size, tuple) else (child.output_size,)
                if all(side == 1 for side in sides):
                    setattr(parent, name, MeanPool())


def set_norm_momentum(module: nn.Module, momentum: float = 0.1) -> None:
    """Give every batch norm PyTorch's momentum.

    Networks bring values down to 0.0003 (MNASNet) and 0.001 (S3D), made for hundreds of thousands of steps:
    in a few hundred the statistics of a random start would hardly leave 0 and 1, and evaluation would fail.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.momentum is not None:
            child.momentum = momentum


def mixes_cases(module: nn.Module) -> bool:
    """Does a part of this network look across the cases of a batch in evaluation mode too (``mixes_cases`` is set on
    it)?
    """
    return any(getattr(child, "mixes_cases", False) for child in module.modules())


def replace_module(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` at the dotted ``name`` under ``root``."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)


def annotate(
    body: nn.Module, *, removed: tuple[str, ...] = (), last: tuple[str, ...] = (), inputs: tuple[str, ...] = ()
) -> nn.Module:
    """Write the notes of this module's docstring onto a body."""
    setattr(body, "inputs", inputs)  # noqa: B010
    setattr(body, "removed", removed)  # noqa: B010
    setattr(body, "last", last)  # noqa: B010
    return body


def last_layer(module: nn.Module) -> str:
    """Name of the last convolution or linear layer in order of definition."""
    return [n for n, m in module.named_modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))][-1]


def remove_classifier(module: nn.Module) -> str:
    """Take off the last linear layer (or 1x1 convolution) in place, with the dropout right before it.

    Returns its dotted name; the module then gives the classifier's input. The last weighted layer in
    order of definition is the classifier in every torchvision network that has no auxiliary output.
    """
    name = last_layer(module)
    replace_module(module, name, nn.Identity())
    parent, _, leaf = name.rpartition(".")
    siblings = dict(module.get_submodule(parent).named_children())
    before = list(siblings)[: list(siblings).index(leaf)]
    if before and isinstance(siblings[before[-1]], nn.Dropout):
        replace_module(module, f"{parent}.{before[-1]}" if parent else before[-1], nn.Identity())
    return name


def put_classifier_back(module: nn.Module, features: int, classes: int) -> nn.Module:
    """Put a linear layer where a body's classifier was taken off, under the name that its files give it, in place.

    The body then gives (B, classes), and a file must fill the layer. Raises ``ValueError`` where the body
    has no such place: its files hold no classifier.
    """
    removed: tuple[str, ...] = tuple(getattr(module, "removed", ()))
    name = removed[0] if removed else ""
    if not name or not isinstance(dict(module.named_modules()).get(name), nn.Identity):
        raise ValueError("no classifier was taken off")
    replace_module(module, name, nn.Linear(features, classes))
    return annotate(module, removed=removed[1:], last=tuple(getattr(module, "last", ())))


def first_convolution(module: nn.Module) -> tuple[str, Any]:
    """Name and module of the convolution that sees the input (the first defined)."""
    for name, child in module.named_modules():
        if isinstance(child, CONVOLUTIONS):
            return name, child
    raise ValueError("the network has no convolution")


def input_weights(body: nn.Module) -> tuple[str, ...]:
    """Names of the weights that see the input: those of ``body.inputs``, else of the first convolution; none without
    one.
    """
    names: tuple[str, ...] = tuple(getattr(body, "inputs", ()))
    if not names and any(isinstance(m, CONVOLUTIONS) for m in body.modules()):
        names = (first_convolution(body)[0],)
    return tuple(f"{name}.weight" for name in names)


def set_input_channels(module: nn.Module, channels: int) -> None:
    """Give the first convolution ``channels`` inputs; when that changes it, it is drawn anew (Kaiming normal, fan
    out).
    """
    name, old = first_convolution(module)
    if old.in_channels == channels:
        return
    if old.groups != 1:
        raise ValueError("a grouped first convolution cannot take other channels")
    new = type(old)(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
    )
    if not new.weight.is_meta:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        if new.bias is not None:
            nn.init.zeros_(new.bias)
    replace_module(module, name, new)


def adapt_input_weight(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight (out, in, ...) for another number of input channels.

    To 1: the sum over the channels, which on a grey image equals the network on the repeated image.
    To n: that sum spread evenly, so n equal channels give the same activations.
    """
    total = weight.sum(1, keepdim=True)
    return total.expand(-1, channels, *weight.shape[2:]) / channels


def stages(body: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Cut a body into stages from input to output, for layer-wise learning rates and gradual unfreezing.

    Starts from the children in order of definition and opens the biggest one until there are at least
    four blocks or nothing big (a quarter of the parameters) is left to open. A bare convolution or linear
    layer opens a stage, the bare norms and parameters after it belong to it.
    """
    units: list[tuple[str, nn.Module | nn.Parameter]] = _open("", body)
    total = sum(p.numel() for p in body.parameters())

    def count(unit: nn.Module | nn.Parameter) -> int:
        return unit.numel() if isinstance(unit, nn.Parameter) else sum(p.numel() for p in unit.parameters())

    def block(unit: nn.Module | nn.Parameter) -> bool:
        return isinstance(unit, nn.Module) and any(True for c in unit.children() for _ in c.parameters())

    while sum(block(u) for _, u in units) < 4:
        big = [(count(u), -i) for i, (_, u) in enumerate(units) if block(u) and count(u) * 4 >= total]
        if not big:
            break
        index = -max(big)[1]
        name, unit = units[index]
        assert isinstance(unit, nn.Module)
        units[index : index + 1] = _open(name, unit)

    groups: list[tuple[str, list[nn.Parameter]]] = []
    weighted = False  # does the open stage of bare layers hold a convolution or linear layer yet?
    previous_block = True
    seen: set[int] = set()
    for name, unit in units:
        members = [unit] if isinstance(unit, nn.Parameter) else list(unit.parameters())
        members = [p for p in members if id(p) not in seen]  # tied weights belong to their first place
        seen.update(map(id, members))
        if not members:
            continue
        is_weight = isinstance(unit, (nn.Linear, *CONVOLUTIONS, nn.ConvTranspose2d, nn.ConvTranspose3d))
        follows_block = previous_block and not is_weight and groups and not block(unit)
        if block(unit) or (not follows_block and (previous_block or (is_weight and weighted))):
            groups.append((name, members))
            weighted = is_weight
        else:
            groups[-1][1].extend(members)
            weighted = weighted or is_weight
        previous_block = block(unit) or bool(follows_block)
    yield from groups


def _open(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module | nn.Parameter]]:
    """Direct parameters, then children that hold parameters, with dotted names."""
    dot = f"{prefix}." if prefix else ""
    own: list[tuple[str, nn.Module | nn.Parameter]] = [(dot + n, p) for n, p in module.named_parameters(recurse=False)]
    return own + [(dot + n, c) for n, c in module.named_children() if any(True for _ in c.parameters())]


def norm_parameters(module: nn.Module) -> set[int]:
    """Identities of all parameters that belong to normalisation layers."""
    return {
        id(p)
        for m in module.modules()
        if isinstance(m, NORMS) or "norm" in type(m).__name__.lower()
        for p in m.parameters(recurse=False)
    }


def output_shape(module: nn.Module, shape: tuple[int, ...]) -> torch.Size:
    """Shape of the output for an input of ``shape``; on the meta device this costs neither memory nor arithmetic."""
    device = next(module.parameters()).device
    training = module.training
    with torch.no_grad():
        out = module.eval()(torch.empty(shape, device=device))
    module.train(training)
    return out.shape


def features_given(build: Callable[..., nn.Module], dense: bool, size: tuple[int, ...]) -> int:
    """Features of the body that ``build`` makes, for an input of ``size``; of a dense one, what enters its last layer.

    Found on the meta device.
    """

    def count() -> int:
        body = build(channels=3, size=None, **({"structures": 2} if dense else {}))
        if dense:
            last = body.get_submodule(cast(tuple[str, ...], body.last)[-1])
            return int(first_convolution(last)[1].in_channels)
        return int(output_shape(body, (1, 3, *size))[-1])

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return count()
        except (NotImplementedError, RuntimeError):  # a few builders compute with tensors (RegNet)
            return count()
