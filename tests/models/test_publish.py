"""What is published in a folder is found there as a start, and nothing else is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medgraft.errors import UserError
from medgraft.models import catalogue, registry, weights
from medgraft.models.model import Model, Preprocess, make_model
from medgraft.models.records import Source, WeightCard
from medgraft.models.weights.publish import Facts, publish

MOBILE = "timm:mobilenetv3_small_050"
FACTS = Facts(
    network=MOBILE,
    name="chest_v1",
    input_size=(64, 64),
    channels=1,
    trained_on="5000 chest X-rays of two hospitals",
    licence="CC-BY-4.0",
    sources=(Source("timm:mobilenetv3_small_050.lamb_in1k", "ab" * 32), Source("run chest, cell 0123456789ab")),
    reached="case AUC .91",
    range=255.0,
    mean=(101.5,),
    std=(57.0,),
    standardise="positive",
    notes="for a test",
)


@pytest.fixture(scope="module")
def trained() -> Model:
    """A network that no start gives: every tensor moved away from its random start."""
    model, _ = make_model(MOBILE, outputs=1, channels=1, body_channels=1, seed=3)
    with torch.no_grad():
        for tensor in model.network.state_dict().values():
            tensor.add_(1)
    return model


@pytest.fixture
def folder(trained: Model, tmp_path: Path) -> Path:
    publish(trained.network.state_dict(), FACTS, tmp_path / "starts")
    return tmp_path / "starts"


def one_card(folder: Path) -> Path:
    return next(folder.glob("*.card.json"))


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = one_card(folder)
    row = json.loads(path.read_text())
    change(row)
    path.write_text(json.dumps(row))
    return path


@pytest.mark.parametrize("way", ["chest_v1", f"{MOBILE}.chest_v1", "CHEST_V1", "card", "file", "within"])
def test_a_published_body_comes_back_whole(trained: Model, folder: Path, way: str) -> None:
    file = next(folder.glob("*.safetensors"))
    start = {"card": str(one_card(folder)), "file": str(file), "within": file.name}.get(way, way)
    folders = [] if way in ("card", "file") else [folder]
    model, report = make_model(MOBILE, start=start, outputs=2, channels=1, folders=folders)
    own: dict[str, Tensor] = trained.network.state_dict()
    found = model.network.state_dict()
    assert found.keys() == own.keys() and all(torch.equal(found[k], own[k]) for k in own)
    assert report is not None and report.share_of_parameters == 1
    assert not (report.missing or report.unexpected or report.adapted or report.head)
    assert model.card == Preprocess((101.5,), (57.0,), 255.0, 1, "RGB", "positive")
    card = model.weight_card
    assert card is not None and (card.source_data, card.accuracy) == (FACTS.trained_on, FACTS.reached)
    assert (card.licence, card.sources, card.notes, card.input_size) == (
        "CC-BY-4.0",
        FACTS.sources,
        "for a test",
        (64, 64),
    )
    assert sorted(p.name for p in folder.iterdir()) == sorted([one_card(folder).name, file.name])  # nothing left over


def test_a_dense_body_is_published_and_takes_another_count_of_structures(tmp_path: Path) -> None:
    first, _ = make_model("unet2d", outputs=2, dense=True, channels=1, seed=1)
    facts = replace(FACTS, network="unet2d", name="edges")
    publish(first.network.state_dict(), facts, tmp_path)
    second, report = make_model("unet2d", start="edges", outputs=3, dense=True, channels=1, folders=[tmp_path])
    own, found = first.network.state_dict(), second.network.state_dict()
    same = {k for k in own if own[k].shape == found[k].shape and torch.equal(own[k], found[k])}
    assert report is not None and not report.missing and report.head
    last = {k for k in own if k.startswith("model.2.")}
    assert set(report.head) == last and own.keys() - last <= same and not last <= same


def test_an_altered_file_is_refused_by_its_hash(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(UserError, match=r"has sha256 .* the card says"):
        make_model(MOBILE, start="chest_v1", outputs=2, folders=[folder])
    file.unlink()
    with pytest.raises(UserError, match="is not on this machine") as caught:
        make_model(MOBILE, start="chest_v1", outputs=2, folders=[folder])
    assert str(folder) in caught.value.fix


def test_the_file_beside_the_card_is_taken_before_one_of_its_name(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / next(folder.glob("*.safetensors")).name).write_bytes(b"another")
    card = weights.find_card(MOBILE, "chest_v1", [other, folder])
    assert card is not None and weights.locate(card, folders=[other, folder]).parent == folder.resolve()


def test_a_card_of_another_network_is_refused(folder: Path) -> None:
    for start in ("chest_v1", str(one_card(folder))):
        with pytest.raises(UserError, match=f"is for {MOBILE}, not for this network") as caught:
            weights.find_card("efficientnet_lite0", start, [folder])
        assert caught.value.case == "efficientnet_lite0" and "\n" not in str(caught.value)


def test_two_cards_of_one_name_are_refused_and_both_named(folder: Path, trained: Model, tmp_path: Path) -> None:
    again = tmp_path / "again"
    publish(trained.network.state_dict(), FACTS, again)
    card = weights.find_card(MOBILE, "chest_v1", [folder, again])  # the same file twice is no question
    assert card is not None and card.folder == str(folder.resolve())
    edited(again, lambda row: row.update(mean=[100.0]))
    with pytest.raises(UserError, match="two weight cards") as caught:
        weights.find_card(MOBILE, "chest_v1", [folder, again])
    assert str(folder.resolve()) in caught.value.cause and str(again.resolve()) in caught.value.cause
    assert weights.find_card(MOBILE, str(one_card(again)), [folder, again]).mean == (100.0,)
    tag = weights.cards(MOBILE)[0].tag
    edited(again, lambda row: row.update(name=f"{MOBILE}.{tag}"))
    with pytest.raises(UserError, match="which medgraft knows"):
        weights.find_card(MOBILE, tag, [again])


def test_a_start_for_images_serves_their_inflated_network(folder: Path) -> None:
    card = weights.find_card(f"i3d:{MOBILE}", "chest_v1", [folder])
    assert card is not None and card.backbone == f"i3d:{MOBILE}" and weights.locate(card).parent == folder.resolve()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"licens": "MIT"}, "unknown fields licens"),
        ({"mean": "0.5"}, "its mean is no list of number"),
        ({"mean": [0.5, 0.5]}, "1 channels, 2 means"),
        ({"std": [0.0]}, "above 0"),
        ({"range": float("nan")}, "its range is no number"),
        ({"size_bytes": "12"}, "its size_bytes is no whole number or null"),
        ({"file_name": "../w.safetensors"}, "no safetensors file beside it"),
        ({"file_name": "w.pth"}, "no safetensors file beside it"),
        ({"sha256": "ab"}, "64 digits"),
        ({"package": "numpy", "package_file": "x"}, "names a package"),
        ({"name": "efficientnet_lite0.chest_v1"}, "does not begin with its network"),
        ({"name": f"{MOBILE}.imagenet"}, "no names for cards of your own"),
        ({"sources": [{"name": "x"}]}, "its sources is no list of name and hash"),
        ({"channel_order": "GBR"}, "RGB or BGR"),
        ({"standardise": "some"}, "all, positive or empty"),
        ({"folder": "/"}, "unknown fields folder"),
    ],
)
def test_a_card_that_is_none_is_refused_in_one_line(folder: Path, change: dict[str, Any], word: str) -> None:
    path = edited(folder, lambda row: row.update(change))
    for start in (str(path), "chest_v1"):
        with pytest.raises(UserError, match=word) as caught:
            weights.find_card(MOBILE, start, [folder])
        assert caught.value.case == str(path) and "\n" not in str(caught.value)
    assert weights.find_card(MOBILE, weights.cards(MOBILE)[0].tag, [folder]) is not None  # others are left alone


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, " " * (1 << 20) + "{}"])
def test_a_file_that_is_no_card_at_all_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.card.json").write_text(text)
    with pytest.raises(UserError, match="not a weight card"):
        weights.find_card(MOBILE, "x.card.json", [tmp_path])


def test_a_file_without_a_card_and_a_path_to_nothing_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no such weight card or weights file"):
        weights.find_card(MOBILE, "none.safetensors", [folder])
    one_card(folder).unlink()
    with pytest.raises(UserError, match="no weight card lies beside this file"):
        weights.find_card(MOBILE, str(next(folder.glob("*.safetensors"))))


def test_what_cannot_be_published_is_refused_and_leaves_nothing(trained: Model, folder: Path, tmp_path: Path) -> None:
    state = trained.network.state_dict()
    name = next(k for k in state if state[k].is_floating_point())
    broken = {**state, name: state[name].clone().fill_(float("inf"))}
    cases: list[tuple[dict[str, Tensor], Facts, str]] = [
        (broken, FACTS, f"tensor {name} holds numbers that are not finite"),
        ({}, FACTS, "no tensors to publish"),
        (state, replace(FACTS, name="imagenet"), "no names for cards of your own"),
        (state, replace(FACTS, name="a/b"), "letters, digits"),
        (state, replace(FACTS, name=weights.cards(MOBILE)[0].tag), "has a start of that name"),
        (state, replace(FACTS, std=(0.0,)), "std and range are above 0"),
        (state, replace(FACTS, network="mobilenetv3_smal_050"), "unknown network"),
    ]
    for tensors, facts, word in cases:
        with pytest.raises(UserError, match=word):
            publish(tensors, facts, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError, match="there already"):
        publish(state, FACTS, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_starts_in_folders_are_listed_and_a_slip_is_answered(folder: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'chest_v1'\? its starts are random, .*chest_v1"):
        weights.find_card(MOBILE, "chest_v2", [folder])
    told = catalogue.weights_text([folder], "chest_v1")
    for word in (FACTS.trained_on, FACTS.reached, "CC-BY-4.0", "abababababab", "run chest", "standardised"):
        assert word in told
    assert f"{MOBILE}.chest_v1" in catalogue.verify_text([folder], "chest_v1")[0]
    for kind, there in (("2d", True), ("features", True), ("3d", False), ("dense", False)):
        assert (f"{MOBILE}.chest_v1" in {card.name for card in catalogue.own_cards(kind, [folder])}) == there


def test_every_field_of_a_card_is_explained() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    part = page[page.index("## A start of your own") :]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    told = {word.strip().strip("`") for row in rows for word in row.split(",")}
    assert told == {f.name for f in fields(WeightCard)} - {"folder"}


def test_the_registry_knows_what_a_published_network_is() -> None:
    assert registry.find("mobilenetv3_small_050") == MOBILE and registry.find("no_such_network") is None
