"""Bodies and weight cards of torchvision, timm, MONAI and segmentation_models_pytorch, on demand.

Each has a file here with the same five functions (some have ``convert_state`` too); it is imported, and the library
with it, when one of its networks is named, not before. The facts of a network are found by building it on torch's meta
device, where it costs neither memory nor arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from medgraft.errors import UserError
from medgraft.models.records import BackboneInfo, WeightCard

if TYPE_CHECKING:
    from torch import Tensor, nn


class Library(Protocol):
    """What each file of this folder gives; ``bare`` is a name without the library's prefix."""

    def names(self) -> list[str]:
        """All usable networks."""

    def has(self, bare: str) -> bool:
        """Is there a network of that name that medgraft can use?"""

    def facts(self, bare: str) -> dict[str, Any]:
        """The fields of ``BackboneInfo`` that need no building: all but name, family and features."""

    @property
    def build(self) -> Callable[..., nn.Module]:
        """A body with random weights from a name, channels, size, options (and structures for dense networks)."""

    def cards(self, bare: str) -> list[WeightCard]:
        """Weight cards from the library's own records, the default first."""


def library(name: str) -> Library:
    """The file of a library."""
    if name == "torchvision":
        from medgraft.models.libraries import torchvision

        return torchvision
    if name == "timm":
        from medgraft.models.libraries import timm

        return timm
    if name == "monai":
        from medgraft.models.libraries import monai

        return monai
    from medgraft.models.libraries import smp

    return smp


def has(name: str, bare: str) -> bool:
    """Does the library hold a network of that name that medgraft can use?"""
    return library(name).has(bare)


def library_names(name: str) -> list[str]:
    """All usable networks of a library, with its prefix."""
    return [f"{name}:{bare}" for bare in sorted(library(name).names())]


@lru_cache(maxsize=256)
def library_info(name: str) -> BackboneInfo:
    """Facts of ``library:name``, found on the meta device. Raises ``UserError`` where the library cannot build it: not
    every name that it lists goes with every other.
    """
    from medgraft.models import surgery  # it needs torch, which names do not

    family, _, bare = name.partition(":")
    facts = library(family).facts(bare)
    try:
        features = surgery.features_given(builder(name), facts["output"] == "dense", facts["default_size"])
    except UserError:
        raise
    except Exception as error:  # libraries refuse in many ways
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"{family} cannot build this network ({reason})", case=name, fix="choose another") from error
    return BackboneInfo(name=name, family=family, features=features, **facts)


def builder(name: str) -> Callable[..., nn.Module]:
    """The builder of ``library:name``: takes channels, size, options (and structures for dense networks)."""
    family, _, bare = name.partition(":")
    return lambda **arguments: library(family).build(bare, **arguments)


def library_cards(name: str) -> list[WeightCard]:
    """Cards of ``library:name`` from the library's own records, the default first."""
    family, _, bare = name.partition(":")
    return library(family).cards(bare)


def convert_state(state: dict[str, Tensor], body: nn.Module) -> dict[str, Tensor]:
    """A library's own conversions: old DenseNet names, position embeddings for another size, timm's filters."""
    from medgraft.models.libraries import monai, timm, torchvision

    for each in (torchvision, monai, timm):
        state = each.convert_state(state, body)
    return state
