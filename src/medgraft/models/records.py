"""What is known of a network, of a weight file and of a loading, as plain records. Everything in models stands on them.

Nothing here imports torch: a registry of names and a list of cards can be read without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("torchvision", "timm", "monai", "smp")
INFLATIONS = ("i3d", "r2plus1d")


@dataclass(frozen=True)
class BackboneInfo:
    """What a body takes and gives.

    ``features`` bodies map (B, C, H, W) or (B, C, D, H, W) to (B, ``features``), their classifier removed.
    ``dense`` bodies map the same inputs to (B, K, H, W) or (B, K, D, H, W) logits of K structures;
    ``features`` is then the number of channels that enter the last layer.
    Sizes are (H, W) for ``dims`` 2 and (D, H, W) for ``dims`` 3, in pixels, frames or slices.
    """

    name: str
    family: str
    dims: int
    output: Literal["features", "dense"]
    features: int
    default_size: tuple[int, ...]
    min_size: tuple[int, ...]
    # built for one input size, which must then be met (in the zoo, default_size alone where min_size equals it)
    fixed_size: bool = False
    divisor: int = 1  # a dense input is padded to multiples of it; an int for all sides
    paper: str = ""
    notes: str = ""
    auxiliary: int = 0  # features of an auxiliary head's input, for bodies built with option auxiliary=True
    weights_of: str = ""  # library network whose published weights fit this body name by name

    @property
    def dense(self) -> bool:
        return self.output == "dense"


Builder = TypeVar("Builder", bound=Callable[..., Any])


def backbone(**facts: Any) -> Callable[[Builder], Builder]:
    """Register the decorated builder; ``facts`` are the literal fields of its ``BackboneInfo`` save the name.

    The builder takes ``channels``, ``size`` (None = the default) and, for dense bodies, ``structures``;
    further keyword arguments are options of that network. It returns a body with random weights.
    """

    def mark(build: Builder) -> Builder:
        build.info = BackboneInfo(name=build.__name__, **facts)  # type: ignore[attr-defined]
        return build

    return mark


def info_of(body: nn.Module) -> BackboneInfo:
    """The facts of a built body."""
    return cast(BackboneInfo, body.info)


@dataclass(frozen=True)
class Source:
    """What a weight file was made from: a card, a data set, a run; ``hash`` is that of its bytes, or empty."""

    name: str
    hash: str = ""


@dataclass(frozen=True)
class WeightCard:
    """What is known of one published weight file.

    ``mean`` and ``std`` are in units of ``range`` (values run from 0 to ``range``: 1.0 or 255.0), in the
    order of ``channel_order``. A file that a package index cannot hold whole comes as ``shards``; ``sha256``
    is that of the joined file. ``sha256`` may be a prefix (torchvision publishes the first 8 digits) or
    empty where none is published. ``scope`` names the part of the body that the file fills: empty for
    all of it, ``encoder`` or ``backbone`` for segmentation networks. ``fresh`` names parts that the file
    of a plainer network does not have and whose start leaves its function as it was (zero gates): they
    keep it, and the load report lists them as missing. ``sources`` are what the file was made from. ``folder`` is where
    a card that is not medgraft's own was found: its file lies beside it, and no card file states it.
    """

    name: str
    backbone: str
    file_name: str
    addresses: tuple[str, ...] = ()
    package: str = ""
    package_file: str = ""
    shards: tuple[str, ...] = ()  # parts in packages of their own, "package:file in it", joined in this order
    sha256: str = ""
    size_bytes: int | None = None
    licence: str = "unknown"
    source_data: str = "unknown"
    accuracy: str = ""
    paper: str = ""
    input_size: tuple[int, ...] = (224, 224)
    resize: int | None = None  # shorter side before the central crop of input_size, as its authors tested it
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    range: float = 1.0
    channel_order: str = "RGB"
    channels: int = 3
    standardise: str = ""  # each window to mean 0, deviation 1 first: over "all" values or the "positive" ones
    name_map: str = "identity"
    scope: str = ""
    fresh: tuple[str, ...] = ()
    format: str = "torch"  # torch, safetensors, torchscript: told by content; caffe2: converted before it is read
    notes: str = ""
    sources: tuple[Source, ...] = ()
    folder: str = field(default="", compare=False, repr=False)

    @property
    def tag(self) -> str:
        return self.name.removeprefix(self.backbone + ".")


def source_accuracy(card: WeightCard) -> str:
    """The published accuracy of a file on its own source data, with the column it stands in: ``top-1 73.5 %``.

    Empty where the card has none, where it is of another task (after transfer), or where no column is named.
    """
    found = re.match(r"(?:(?:video|clip) )?top-[15] \d[\d.]*(?: %)?(?:, top-[15] \d[\d.]*(?: %)?)?", card.accuracy)
    return found.group() if found else ""


@dataclass(frozen=True)
class LoadReport:
    """What went where when a file was loaded into a body.

    Names are those of the body, save ``head`` and ``unexpected`` (names of the file). ``adapted`` says
    what was done to each changed tensor. ``share_of_parameters`` is the part of the body's parameters
    that came from the file, ``by_layer`` the same for each stage: (from the file, all).
    """

    card: str
    file: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    head: tuple[str, ...]
    share_of_parameters: float
    by_layer: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for logs."""
        changed = f", {len(self.adapted)} adapted" if self.adapted else ""
        absent = f", {len(self.missing)} missing" if self.missing else ""
        extra = f", {len(self.unexpected)} not used" if self.unexpected else ""
        return (
            f"{self.card}: {self.share_of_parameters:.1%} of the body's parameters from "
            f"{self.file}{changed}{absent}{extra}"
        )
