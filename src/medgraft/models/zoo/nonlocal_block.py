"""Non-local block: every position of a clip looks at all others, through a residual branch.

Paper: Wang et al., Non-local neural networks, CVPR 2018 (arXiv:1711.07971). Two projects publish weights for
it and their blocks differ, so each file needs its own kind: PySlowFast (Apache-2.0) pools the input before
phi and g and divides the affinity by the root of its width; TSM (MIT) pools after phi and g and does not
divide. What differs: tensors are named as in PySlowFast for both kinds (TSM's theta, phi.0, g.0, W.0, W.1 are
conv_theta, conv_phi, conv_g, conv_out, bn); the scale goes onto theta, which is smaller than the affinity.
With softmax the bias of phi is without effect: it adds the same to all affinities of a query.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class NonLocal(nn.Module):
    """(B, C, D, H, W) -> the same shape: the input plus BN(conv(attention)).

    ``pool`` says where keys and values are pooled 1x2x2: ``before`` phi and g (PySlowFast) or ``after`` (TSM).
    ``affinity``: ``scaled_softmax`` (over keys, divided by the root of the inner width; PySlowFast I3D and C2D),
    ``softmax`` (TSM), or ``mean`` (dot product over the number of keys; PySlowFast Slow and SlowFast).
    The inner width is C / 2. The norm's scale starts at 0, so the block starts as the identity.
    H and W must be 2 at least.
    """

    def __init__(
        self, channels: int, *, pool: Literal["before", "after"], affinity: Literal["scaled_softmax", "softmax", "mean"]
    ) -> None:
        super().__init__()
        self.pool_first = pool == "before"
        self.affinity = affinity
        inner = channels // 2
        self.conv_theta = nn.Conv3d(channels, inner, 1)
        self.conv_phi = nn.Conv3d(channels, inner, 1)
        self.conv_g = nn.Conv3d(channels, inner, 1)
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.conv_theta(x).flatten(2)  # (B, C/2, queries)
        if self.pool_first:
            below = functional.max_pool3d(x, (1, 2, 2))
            phi, g = self.conv_phi(below), self.conv_g(below)
        else:
            phi, g = (functional.max_pool3d(conv(x), (1, 2, 2)) for conv in (self.conv_phi, self.conv_g))
        phi, g = phi.flatten(2), g.flatten(2)  # (B, C/2, keys)
        if self.affinity == "scaled_softmax":
            theta = theta * theta.shape[1] ** -0.5
        elif self.affinity == "mean":
            theta = theta / phi.shape[2]
        weights = torch.bmm(theta.transpose(1, 2), phi)  # (B, queries, keys)
        if self.affinity != "mean":
            weights = weights.softmax(2)
        y = torch.bmm(g, weights.transpose(1, 2))  # (B, C/2, queries)
        return x + self.bn(self.conv_out(y.unflatten(2, x.shape[2:])))
