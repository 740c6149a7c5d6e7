"""`medgraft models` and `medgraft weights list` answer every name that they know, and say why one cannot be built."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from medgraft.errors import UserError
from medgraft.models import catalogue, registry, weights

#: Names that smp lists and then refuses, each for another reason.
REFUSED = {
    "smp:deeplabv3-vgg16": "do not support dilated mode",
    "smp:deeplabv3-densenet121": "do not support dilated mode",
    "smp:dpt-resnet18": "Only Timm encoders are supported",
    "smp:unetplusplus-mit_b0": "is not support",
}


def row(name: str) -> str:
    """The line of a network, whatever else has its name in it."""
    found = catalogue._row(name)
    assert "\n" not in "".join(found) and bool(found[1]) == bool(found[2])
    return "  ".join(found)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_name_that_the_library_refuses_says_why(name: str) -> None:
    assert REFUSED[name] in catalogue.text(name).splitlines()[1] and "cannot build" in row(name)
    with pytest.raises(UserError, match=REFUSED[name]) as caught:
        registry.build_body(name, structures=1)
    assert caught.value.case == name and "\n" not in str(caught.value)


def test_a_network_whose_file_wants_another_size_is_built_for_it() -> None:
    """torchvision builds ViT-H/14 for 224 pixels; its published weights have 518."""
    name = "torchvision:vit_h_14"
    assert "1280 features" in catalogue.text(name) and registry.info(name).default_size == (518, 518)
    with torch.device("meta"):
        body = registry.build_body(name)
    assert body.image_size == 518 and body.encoder.pos_embedding.shape[1] == 37 * 37 + 1


def test_a_broken_file_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    card = next(card for card in weights.built_in() if card.sha256 and not card.package)
    weights.default_cache().mkdir(parents=True)
    (weights.default_cache() / card.file_name).write_bytes(b"broken")
    told = catalogue.text(card.backbone)
    assert card.tag in told and f"{card.tag}*" not in told
    assert "the card says" in catalogue.verify_text(query=card.name)[0]


@pytest.mark.parametrize("query", ["resnet18", "torchvision:resnet18", "torchvision:resnet18.imagenet1k_v1"])
def test_weights_of_a_library_are_listed_by_the_network(query: str) -> None:
    told = catalogue.weights_text(query=query)
    assert "torchvision:resnet18.IMAGENET1K_V1" in told and "f37072fd" in told and "ImageNet-1k" in told


def test_weights_of_a_library_stand_before_others_of_its_name() -> None:
    found = [card.name for card in catalogue.own_cards("resnet50")]
    own = [card.name for card in weights.cards("torchvision:resnet50")]
    assert found[: len(own)] == own and "tsm_resnet50.kinetics_8_dense" in found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("resnet3d_10", "its only start is random"),
        ("r2plus1d34", "did you mean r2plus1d_34"),
        ("keras:resnet50", "see `medgraft weights list`"),
        ("qqqqqqqqqqqq", "see `medgraft weights list`"),
    ],
)
def test_a_name_without_cards_is_answered(query: str, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        catalogue.weights_text(query=query)
    assert caught.value.case == query


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "every", "refused"),
    [(None, 1, 0), ("torchvision", 1, 0), ("timm", 20, 0), ("monai", 1, 0), ("smp", 30, 9)],
)
def test_every_listed_name_is_answered(kind: str | None, every: int, refused: int) -> None:
    """No name raises; those that cannot be built are few, and of smp alone."""
    names = registry.names(kind)[::every]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries deprecate some of their own names
        lines = [row(name) for name in names]
    assert len(lines) > 5
    assert sum("cannot build" in line for line in lines) <= refused
