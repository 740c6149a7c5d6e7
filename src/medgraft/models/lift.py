"""Image networks on clips and volumes: fold depth into the batch, run, join over depth or leave that to the head."""

from __future__ import annotations

from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import inflate
from medgraft.models.records import BackboneInfo, info_of

JOINS = ("mean", "none")


class Lift(nn.Module):
    """An image body that takes (B, C, D, H, W).

    Every frame or slice goes through the same body; an inflated one (``models/inflate``) also sees its
    neighbours. A ``features`` body gives (B, F), the mean of its frame features, or with ``join="none"``
    (B, D, F), for a head that reads sequences; a ``dense`` body gives (B, K, D, H, W), one map a frame.
    An image is a clip of one frame, so for D = 1 the lifted body equals the body.
    """

    def __init__(self, body: nn.Module, join: str = "mean") -> None:
        super().__init__()
        if join not in JOINS:
            raise UserError(f"unknown way to join frames '{join}'", fix=f"choose one of {', '.join(JOINS)}")
        if info_of(body).dims != 2:
            raise ValueError("only image bodies are lifted")
        self.body = body
        self.join = join

    @property
    def info(self) -> BackboneInfo:
        return info_of(self.body)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, F) or (B, D, F), or (B, K, D, H, W) for a dense body."""
        batch, channels, depth, height, width = x.shape
        inflate.set_clip(self.body, depth)
        folded = x.transpose(1, 2).reshape(batch * depth, channels, height, width)
        out = self.body(folded)
        if self.info.dense:
            return out.unflatten(0, (batch, depth)).transpose(1, 2)
        frames = out.unflatten(0, (batch, depth))
        return frames if self.join == "none" else frames.mean(1)
