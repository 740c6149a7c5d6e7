"""The two kinds of non-local block against the sum that the papers write, position by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medgraft.models.zoo.nonlocal_block import NonLocal

KINDS = [("before", "scaled_softmax"), ("after", "softmax"), ("before", "mean")]


def block(pool: str, affinity: str) -> NonLocal:
    torch.manual_seed(3)
    made = NonLocal(8, pool=pool, affinity=affinity)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
        made.bn.running_mean.normal_()
        made.bn.running_var.uniform_(0.5, 2)
    return made.eval()


def strongest(values: list[Tensor], top: int, left: int, width: int) -> Tensor:
    """Channel-wise maximum of the 2x2 neighbours whose upper left corner is given."""
    corners = [values[(top + i) * width + left + j] for i in (0, 1) for j in (0, 1)]
    return torch.stack(corners).amax(0)


def by_hand(net: NonLocal, x: Tensor, pool: str, affinity: str) -> Tensor:
    """One clip (C, D, H, W), without a single tensor operation over positions."""

    def apply(conv: torch.nn.Conv3d, vector: Tensor) -> Tensor:
        assert conv.bias is not None
        return conv.weight[:, :, 0, 0, 0] @ vector + conv.bias

    channels, depth, height, width = x.shape
    vectors = {(d, h, w): x[:, d, h, w] for d in range(depth) for h in range(height) for w in range(width)}
    keys, values = [], []
    for d in range(depth):
        frame = [vectors[d, h, w] for h in range(height) for w in range(width)]
        for top in range(0, height - 1, 2):
            for left in range(0, width - 1, 2):
                for conv, into in ((net.conv_phi, keys), (net.conv_g, values)):
                    if pool == "before":
                        into.append(apply(conv, strongest(frame, top, left, width)))
                    else:
                        into.append(strongest([apply(conv, v) for v in frame], top, left, width))
    out = x.clone()
    for (d, h, w), vector in vectors.items():
        dots = torch.stack([apply(net.conv_theta, vector) @ key for key in keys])
        if affinity == "mean":
            shares = dots / len(keys)
        else:
            dots = dots / (channels // 2) ** 0.5 if affinity == "scaled_softmax" else dots
            shares = dots.exp() / dots.exp().sum()
        y = apply(net.conv_out, sum((s * v for s, v in zip(shares, values)), torch.zeros(channels // 2)))
        bn = net.bn
        out[:, d, h, w] = vector + (y - bn.running_mean) / (bn.running_var + 1e-5).sqrt() * bn.weight + bn.bias
    return out


@pytest.mark.parametrize(("pool", "affinity"), KINDS)
def test_each_kind_is_its_sum_and_no_other(pool: str, affinity: str) -> None:
    net = block(pool, affinity)
    x = torch.randn(2, 8, 2, 3, 4, generator=torch.Generator().manual_seed(1))  # 3: the last row is not pooled
    with torch.no_grad():
        found = net(x)
        for clip, answer in zip(x, found):
            assert torch.allclose(answer, by_hand(net, clip, pool, affinity), atol=1e-4)
        for other in KINDS:
            if other != (pool, affinity):  # same tensors, another kind: loading into the wrong one would be seen
                twin = block(*other)
                assert (twin(x) - found).abs().max() > 0.05 * found.abs().max()


@pytest.mark.parametrize(("pool", "affinity"), KINDS)
def test_a_new_block_is_the_identity_and_its_scale_opens_it(pool: str, affinity: str) -> None:
    net = NonLocal(8, pool=pool, affinity=affinity)  # type: ignore[arg-type]
    x = torch.randn(2, 8, 2, 4, 4)
    assert torch.equal(net(x), x)
    net(x).square().sum().backward()
    assert net.bn.weight.grad is not None and net.bn.weight.grad.abs().sum() > 0
    assert (
        net.conv_theta.weight.grad is not None and net.conv_theta.weight.grad.abs().sum() == 0
    )  # a zero scale hides the branch
    with torch.no_grad():
        net.bn.weight.fill_(1)
    net(x).square().sum().backward()
    assert net.conv_theta.weight.grad.abs().sum() > 0
