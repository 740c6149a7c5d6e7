"""VideoMAE and TimeSformer, built by the library transformers from its own configurations.

Papers: Tong et al., VideoMAE, NeurIPS 2022 (arXiv:2203.12602); Bertasius et al., TimeSformer, ICML 2021
(arXiv:2102.05095). Weights: files of the model hub, CC-BY-NC-4.0 (no commercial use). What differs from the
library: no classifier; clips come as (B, C, D, H, W); built without its slow start (same distributions).

- VideoMAE gives the mean over all patch tokens, normalised, which is what its published classifiers stand on
  (the hub's configuration beside the pre-training file would take the token of the first patch instead).
- TimeSformer gives the class token.

Both are built for one clip size, which may be any: sides that are multiples of 16 and, for VideoMAE, an even
number of frames. VideoMAE's sine positions are made anew, TimeSformer's learnt ones are interpolated on loading,
to the nearest, as the library does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medgraft.errors import UserError
from medgraft.models import surgery
from medgraft.models.records import backbone

PATCH, TUBELET = 16, 2


class VideoMAE(nn.Module):
    """(B, C, D, H, W) -> (B, F): the normalised mean of all tokens."""

    def __init__(self, videomae: Any, width: int) -> None:
        super().__init__()
        self.videomae = videomae
        self.fc_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.videomae(x.transpose(1, 2)).last_hidden_state
        return self.fc_norm(tokens.mean(1))


class TimeSformer(nn.Module):
    """(B, C, D, H, W) -> (B, F): the class token."""

    def __init__(self, timesformer: Any) -> None:
        super().__init__()
        self.timesformer = timesformer

    def forward(self, x: Tensor) -> Tensor:
        return self.timesformer(x.transpose(1, 2)).last_hidden_state[:, 0]


def make_videomae(channels: int, size: tuple[int, ...], **config: Any) -> nn.Module:
    """A VideoMAE body for clips of ``size`` (D, H, W); ``config`` are fields of the library's ``VideoMAEConfig``."""
    from transformers import VideoMAEConfig, VideoMAEModel

    depth, height, width = size
    if depth % TUBELET or height % PATCH or width % PATCH:
        raise UserError(
            f"VideoMAE takes an even number of frames and sides that are multiples of {PATCH}, not {size}",
            fix="change `length` or `size`",
        )
    # One patch for the library, which would fill its table of positions number by number; the real table follows.
    settings = VideoMAEConfig(
        image_size=PATCH, num_frames=TUBELET, patch_size=PATCH, tubelet_size=TUBELET, num_channels=channels, **config
    )
    body = VideoMAE(_empty(VideoMAEModel, settings), settings.hidden_size)
    embeddings = body.videomae.embeddings
    patches = embeddings.patch_embeddings
    patches.image_size = (height, width)
    patches.num_patches = embeddings.num_patches = (depth // TUBELET) * (height // PATCH) * (width // PATCH)
    del embeddings.position_embeddings
    embeddings.register_buffer(
        "position_embeddings", sine_positions(embeddings.num_patches, settings.hidden_size), persistent=False
    )
    others = ("layernorm", "decoder", "encoder_to_decoder", "mask_token")  # of pre-training
    return surgery.annotate(body, removed=("classifier", *(f"videomae.{name}" for name in others)))


def make_timesformer(channels: int, size: tuple[int, ...], **config: Any) -> nn.Module:
    """A TimeSformer body for clips of ``size`` (D, H, W); ``config`` are fields of the library's
    ``TimesformerConfig``.
    """
    from transformers import TimesformerConfig, TimesformerModel

    depth, height, width = size
    if height != width or height % PATCH:
        raise UserError(
            f"TimeSformer takes squares whose sides are multiples of {PATCH}, not {size}", fix="change `size`"
        )
    settings = TimesformerConfig(image_size=height, num_frames=depth, patch_size=PATCH, num_channels=channels, **config)
    body = TimeSformer(_empty(TimesformerModel, settings))
    for name in ("cls_token", "position_embeddings"):
        nn.init.trunc_normal_(getattr(body.timesformer.embeddings, name), std=settings.initializer_range)
    nn.init.zeros_(body.timesformer.embeddings.time_embeddings)
    return surgery.annotate(body, removed=("classifier",))


def _empty(kind: Any, settings: Any) -> nn.Module:
    """The library's network with its random start: normal weights of its standard deviation, biases 0, norms 1 and 0.

    Drawn once; the library's constructor draws everything twice, which takes seconds.
    """
    device = torch.get_default_device()
    with torch.device("meta"):
        network: nn.Module = kind(settings)
    network.to_empty(device=device)
    for module in network.modules():
        if isinstance(module, (nn.Linear, *surgery.CONVOLUTIONS)):
            nn.init.normal_(module.weight, std=settings.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    return network


def sine_positions(count: int, width: int) -> Tensor:
    """(1, count, width): sines at even and cosines at odd places, wavelengths from 2 pi to 20 000 pi."""
    rate = np.power(10000.0, -2 * (np.arange(width) // 2) / width)
    angle = np.arange(count)[:, None] * rate
    table = np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.from_numpy(table.astype(np.float32))[None].to(torch.get_default_device())


def videomae(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Hub names to the library's: biases of queries and values stand in the attention itself in the files."""
    ends = {
        "attention.attention.q_bias": "attention.attention.query.bias",
        "attention.attention.v_bias": "attention.attention.value.bias",
    }
    mapped = {}
    for name, tensor in state.items():
        for old, new in ends.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        mapped[name] = tensor
    return mapped


def videomae_pretrained(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """The encoder of a pre-training file, for a card with scope ``videomae``: the norm after pooling is not in it."""
    return {name.removeprefix("videomae."): tensor for name, tensor in videomae(state, body).items()}


def timesformer(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """Position and time embeddings of a file for another clip size, interpolated to the nearest."""
    own = body.state_dict()
    places, times = (f"timesformer.embeddings.{name}" for name in ("position_embeddings", "time_embeddings"))
    mapped = dict(state)
    if places in state and state[places].shape[1] != own[places].shape[1]:
        first, grid = state[places][:, :1], state[places][:, 1:].transpose(1, 2)
        side, goal = math.isqrt(grid.shape[2]), math.isqrt(own[places].shape[1] - 1)
        grid = functional.interpolate(grid.unflatten(2, (side, side)), size=(goal, goal), mode="nearest")
        mapped[places] = torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)
    if times in state and state[times].shape[1] != own[times].shape[1]:
        mapped[times] = functional.interpolate(
            state[times].transpose(1, 2), size=own[times].shape[1], mode="nearest"
        ).transpose(1, 2)
    return mapped


VIDEOMAE = {
    "family": "VideoMAE",
    "dims": 3,
    "output": "features",
    "default_size": (16, 224, 224),
    "min_size": (2, 16, 16),
    "fixed_size": True,
    "paper": "arXiv:2203.12602",
}


@backbone(**VIDEOMAE, features=384, notes="21.9 M parameters")
def videomae_small(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """VideoMAE, small."""
    return make_videomae(
        channels, size or (16, 224, 224), hidden_size=384, num_attention_heads=6, intermediate_size=1536
    )


@backbone(**VIDEOMAE, features=768, notes="86.2 M parameters")
def videomae_base(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """VideoMAE, base."""
    return make_videomae(channels, size or (16, 224, 224))


@backbone(
    family="TimeSformer",
    dims=3,
    output="features",
    features=768,
    default_size=(8, 224, 224),
    min_size=(1, 16, 16),
    fixed_size=True,
    paper="arXiv:2102.05095",
    notes="121.3 M parameters; attention over time, then over space",
)
def timesformer_base(channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """TimeSformer with divided attention, base."""
    return make_timesformer(channels, size or (8, 224, 224))
