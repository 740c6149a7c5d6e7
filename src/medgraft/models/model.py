"""One wrapper for every network: stored values in, logits out.

The model owns its preprocessing. It takes a batch as the data act gives it, ``x (B, C, D, H, W)`` in
stored values and ``value_range (B, 2)``, and brings it to what its weights were trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import registry, sequence, surgery, weights
from medgraft.models.heads import AuxiliaryHead, DenseHead, HiddenHead, LinearHead
from medgraft.models.lift import Lift
from medgraft.models.records import BackboneInfo, LoadReport, WeightCard, info_of

LONGEST = 64  # frames a BERT takes where no window is named
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries use it


@dataclass(frozen=True)
class Preprocess:
    """How values become inputs: 0..1 after the value range, times ``range``, minus ``mean``, over ``std``.

    ``mean`` and ``std`` have one entry, or one for each of ``channels``, in the order ``order`` (RGB or BGR).
    ``standardise`` first brings each window to mean 0 and deviation 1: counted over ``all`` its values, or
    over the ``positive`` ones (brighter than the lower end of the value range); empty leaves it out.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    range: float = 1.0
    channels: int = 3
    order: str = "RGB"
    standardise: str = ""


def standardised(x: Tensor, which: str) -> Tensor:
    """Windows (B, C, D, H, W) at mean 0 and deviation 1 each, counted over ``all`` values or the ``positive`` ones; a
    constant one gives 0.
    """
    counted = torch.ones_like(x) if which == "all" else (x > 0).to(x.dtype)
    axes = tuple(range(1, x.ndim))
    count = counted.sum(axes, keepdim=True).clamp(min=1)
    mean = (x * counted).sum(axes, keepdim=True) / count
    deviation = (((x - mean) * counted).square().sum(axes, keepdim=True) / count).sqrt()
    return (x - mean) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def preprocess_of(card: WeightCard | None, channels: int) -> Preprocess:
    """The preprocessing of a card for a body with ``channels`` inputs; a random start gets mean .5, std .25.

    Where the body's channels differ from the card's, the channel means of the card's figures serve all.
    """
    if card is None:
        return Preprocess(channels=channels)
    mean, std = tuple(map(float, card.mean)), tuple(map(float, card.std))
    if channels != card.channels:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return Preprocess(mean, std, card.range, channels, card.channel_order, card.standardise)


class Model(nn.Module):
    """Body, head and preprocessing. Always sees (B, C, D, H, W); image bodies are lifted.

    ``forward`` gives (B, n) logits, or (B, K, D, H, W) maps at the input's size for a dense body.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        card: Preprocess,
        weight_card: WeightCard | None = None,
        auxiliary: AuxiliaryHead | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.auxiliary = auxiliary
        self.card = card
        self.weight_card = weight_card
        # Not part of the state: they belong to the card, a checkpoint must not carry a second truth.
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1, 1), persistent=False)

        self._held: list[nn.Module] = []

    def hold(self, modules: Sequence[nn.Module]) -> None:
        """Keep these parts of the body in evaluation mode whatever ``train`` says; replaces what was held before."""
        self._held = []
        self.train(self.training)
        self._held = list(modules)
        self.train(self.training)

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        for module in self._held:
            module.eval()
        return self

    @property
    def info(self) -> BackboneInfo:
        return info_of(self.body)

    @property
    def network(self) -> nn.Module:
        """The body as the registry built it, whether or not it was lifted."""
        return self.body.body if isinstance(self.body, Lift) else self.body

    def normalise(self, mean: Tensor, std: Tensor) -> None:
        """Put mean and deviation (C',) fitted on data in the place of the card's."""
        self.mean, self.std = (v.to(self.mean.device, torch.float32).view(1, -1, 1, 1, 1) for v in (mean, std))

    def prepare(self, x: Tensor, value_range: Tensor) -> Tensor:
        """Stored values (B, C, D, H, W) to float32 inputs (B, C', D, H, W): ``scaled``, minus mean, over std."""
        return (self.scaled(x, value_range) - self.mean) / self.std

    def scaled(self, x: Tensor, value_range: Tensor) -> Tensor:
        """Stored values (B, C, D, H, W) of any dtype to the card's range, float32 (B, C', D, H, W).

        ``(x - low) / (high - low)`` clipped to 0..1 with (low, high) of each row of ``value_range`` (a
        constant study, low = high, gives 0), channels adapted (1 -> C' by repetition, 3 -> 1 by luminance),
        standardised if the card says so, times the card's range. Raises ``UserError`` for other
        changes of channels.
        """
        low, high = value_range.to(x.device, torch.float32).view(-1, 2, 1, 1, 1, 1).unbind(1)
        span = torch.where(high > low, high - low, torch.ones_like(high))
        x = ((x.to(torch.float32) - low) / span).clamp(0, 1)
        have, want = x.shape[1], self.card.channels
        if have == 3 and want == 1:
            x = (x * x.new_tensor(LUMINANCE).view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
        elif have == 1 and want > 1:
            x = x.expand(-1, want, -1, -1, -1)
        elif have != want:
            raise UserError(
                f"data with {have} channels cannot enter a network with {want}",
                case=self.info.name,
                fix="build it for these channels",
            )
        elif want == 3 and self.card.order == "BGR":
            x = x.flip(1)
        if self.card.standardise:
            x = standardised(x, self.card.standardise)
        return x * self.card.range

    def features(self, batch: Mapping[str, Any]) -> Tensor:
        """Body features (B, F), or (B, D, F) for a head that reads sequences; for a dense body the maps (B, K, D, H,
        W).

        A batch that carries ``features`` (computed earlier by the same still body) skips the body.
        """
        if "features" in batch:
            return batch["features"]
        x = self.prepare(batch["x"], batch["value_range"])
        sides = tuple(x.shape[-self.info.dims :])
        if self.info.dense:
            return self._dense(x)
        if self.info.fixed_size and sides != self.info.default_size:
            raise UserError(
                f"windows of {sides} meet a network built for {self.info.default_size}",
                case=self.info.name,
                fix="set `size` to match",
            )
        if any(side < least for side, least in zip(sides, self.info.min_size)):
            raise UserError(
                f"windows of {sides} are smaller than the network takes ({self.info.min_size})",
                case=self.info.name,
                fix="raise `size`",
            )
        return self.body(x)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """A batch (``x`` and ``value_range`` at least) to logits (B, n) or maps (B, K, D, H, W)."""
        features = self.features(batch)
        if self.auxiliary is not None:
            self.auxiliary(len(features))
        return self.head(features)

    def _dense(self, x: Tensor) -> Tensor:
        """Pad to what the body takes by repeating the border, run, crop back."""
        depth, height, width = x.shape[2:]
        least = (1, *self.info.min_size) if self.info.dims == 2 else self.info.min_size
        step = self.info.divisor
        steps = (1, step, step) if self.info.dims == 2 else (step, step, step)
        goal = [-(-max(side, low) // by) * by for side, low, by in zip((depth, height, width), least, steps)]
        pads = [goal[2] - width, goal[1] - height, goal[0] - depth]
        if any(pads):
            x = F.pad(x, (0, pads[0], 0, pads[1], 0, pads[2]), mode="replicate")
        return self.body(x)[:, :, :depth, :height, :width]

    def groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Parameters in stages from input to head; the last is named ``head``.

        Every parameter stands in exactly one.
        """
        body = self.network
        last: tuple[str, ...] = tuple(getattr(body, "last", ()))
        head = {id(p) for name, p in body.named_parameters() if any(name.startswith(prefix + ".") for prefix in last)}
        side = self.auxiliary.parameters() if self.auxiliary is not None else ()
        stages = []
        for name, members in surgery.stages(body):
            if kept := [p for p in members if id(p) not in head]:
                stages.append((name, kept))
        return [*stages, ("head", [*(p for p in body.parameters() if id(p) in head), *self.head.parameters(), *side])]


def fingerprint(body: nn.Module) -> str:
    """SHA-256 of a network's state dict: name, type, shape and bytes of every tensor, in order.

    Equal for equal numbers on any device and in any memory layout; another for any changed bit. It names what a still
    body gives, for caches of features.
    """
    digest = hashlib.sha256()
    for name, tensor in body.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def make_model(
    name: str,
    *,
    start: str = "random",
    outputs: int,
    dense: bool = False,
    channels: int = 1,
    size: tuple[int, ...] | None = None,
    dropout: float = 0.0,
    join: str = "mean",
    folders: Sequence[Path] = (),
    download: bool = False,
    cache: Path | None = None,
    seed: int = 0,
    body_channels: int | None = None,
    load_weights: bool = True,
    auxiliary: bool = False,
    options: Mapping[str, Any] | None = None,
    hidden: int = 0,
) -> tuple[Model, LoadReport | None]:
    """Build a model for a task: body from the registry, weights from a start, a new head.

    ``outputs`` is the number of logits, or of structures where ``dense``. ``channels`` is C of the data;
    the body takes as many as its card (1 and 3 convert into each other), else as many as the data, which
    then adapts the first convolution. ``body_channels`` decides otherwise (1 = sum the filters of a colour
    network for grey data). ``size`` is the window's (H, W) or (D, H, W), for networks that fix it.
    ``options`` go to the network's builder, ``hidden`` puts a dense layer of that width with ReLU before the last one.
    ``join`` says how the frames of an image network become one: ``mean``, or ``bert``: the network keeps its 1000
    logits and a transformer reads them (``models.sequence``), of width ``hidden`` (0 = 1000); it belongs to the head.
    ``load_weights=False`` keeps the start's preprocessing and reads no file, for a checkpoint that follows.
    ``auxiliary`` adds the side head of networks that have one (``BackboneInfo.auxiliary``; others ignore it).

    The same ``seed`` gives the same tensors; torch's global generator is left as it was. Raises
    ``UserError`` for unknown names and unfit tasks, ``WeightsAbsent`` where the start's file is not here.
    """
    facts = registry.info(name)
    if facts.dense != dense:
        fit = ", ".join(registry.names("dense" if dense else "features"))
        raise UserError(
            f"this network gives {facts.output}, the task needs {'dense maps' if dense else 'features'}",
            case=name,
            fix=f"choose among {fit}",
        )
    card = weights.find_card(name, start, folders)
    if body_channels is None:
        body_channels = (
            channels
            if card is None or (channels != 1 and channels != 3) or card.channels not in (1, 3)
            else card.channels
        )
    if channels not in (1, body_channels) and (channels, body_channels) != (3, 1):
        raise UserError(f"data with {channels} channels cannot enter a body with {body_channels}", case=name)
    if join not in ("mean", "bert"):
        raise UserError(f"unknown way to join frames '{join}'", case=name, fix="choose mean or bert")
    reads = join == "bert"
    if reads and (facts.dims != 2 or dense):
        raise UserError(
            "BERT joins the frames of an image network that gives features", case=name, fix="leave out join"
        )
    path = (
        weights.locate(card, folders=folders, download=download, cache=cache)
        if card is not None and load_weights
        else None
    )

    auxiliary = auxiliary and facts.auxiliary > 0
    if auxiliary:
        options = {**(options or {}), "auxiliary": True}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = registry.build_body(
            name,
            channels=body_channels,
            structures=outputs if dense else None,
            size=size[-facts.dims :] if size is not None else None,
            classes=sequence.CLASSES if reads else None,
            options=options,
        )
        length = size[0] if size is not None and len(size) == 3 else LONGEST
        head = _head(info_of(body), outputs, hidden, dropout, length if reads else 0)
        if auxiliary:  # the tower's last convolution needs all of the map that the network's own size gives
            setattr(body, "info", replace(info_of(body), min_size=facts.default_size))  # noqa: B010
        side = AuxiliaryHead(facts.auxiliary, outputs, body.get_submodule(str(body.tower))) if auxiliary else None
    report = weights.load(body, card, path) if card is not None and path is not None else None
    whole = Lift(body, "none" if reads else "mean") if facts.dims == 2 else body
    return Model(whole, head, preprocess_of(card, body_channels), card, side), report


def _head(facts: BackboneInfo, outputs: int, hidden: int, dropout: float, frames: int) -> nn.Module:
    """``frames`` is the longest sequence that the head must read, 0 where it reads none."""
    if frames:
        reader = sequence.Bert(facts.features, frames, hidden=hidden or sequence.CLASSES)
        return nn.Sequential(reader, LinearHead(reader.features, outputs, dropout, sequence.SPREAD))
    if facts.dense:
        if hidden:
            raise UserError(
                "a dense network ends in its own last layer, there is no place for a hidden one",
                case=facts.name,
                fix="leave hidden out",
            )
        return DenseHead()
    return (
        HiddenHead(facts.features, hidden, outputs, dropout) if hidden else LinearHead(facts.features, outputs, dropout)
    )
