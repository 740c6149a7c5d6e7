"""BERT over the frames of an image network, and the image networks of the ultrasound study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model
from medgraft.models.records import info_of
from medgraft.models.sequence import Bert

LITE = "efficientnet_lite0"


def filled(module: nn.Module, gain: float = 1.0) -> dict[str, Tensor]:
    """Fill every tensor away from 0 and 1, by name, and return the state."""
    state = parity.fill(parity.shapes(module), gain)
    module.load_state_dict(state)
    return state


def by_hand(state: dict[str, Tensor], frames: Tensor, heads: int) -> Tensor:
    """Devlin et al. 2018 with post-layer-norm, written out: (B, T, F) -> (B, F)."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"bert.{name}.weight"].T + state[f"bert.{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"bert.{name}.weight"], state[f"bert.{name}.bias"], 1e-12)

    token = state["bert.embeddings.word_embeddings.weight"].expand(len(frames), 1, -1)
    x = torch.cat([token, frames], 1)
    x = (
        x
        + state["bert.embeddings.position_embeddings.weight"][: x.shape[1]]
        + state["bert.embeddings.token_type_embeddings.weight"]
    )
    x = norm("embeddings.LayerNorm", x)
    for k in range(3):
        layer = f"encoder.layer.{k}."
        q, key, value = (
            linear(f"{layer}attention.self.{n}", x).unflatten(2, (heads, -1)).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        mixed = (q @ key.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ value
        x = norm(
            f"{layer}attention.output.LayerNorm",
            x + linear(f"{layer}attention.output.dense", mixed.transpose(1, 2).flatten(2)),
        )
        inner = linear(f"{layer}intermediate.dense", x)
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        x = norm(f"{layer}output.LayerNorm", x + linear(f"{layer}output.dense", inner))
    return linear("pooler.dense", x[:, 0]).tanh()


def test_bert_is_the_published_arithmetic_and_transformers_own() -> None:
    reader = Bert(1000, 8).eval()
    state = filled(reader)
    frames = parity.signal((2, 8, 1000))
    with torch.no_grad():
        found = reader(frames)
        assert (
            found.shape == (2, 1000) and found.std() > 0.1 and (found.abs() < 0.999).float().mean() > 0.5
        )  # tanh is not saturated
        assert (found - by_hand(state, frames, 5)).abs().max() <= 1e-4 * found.abs().max()
        short = frames[:, :3]
        assert (reader(short) - by_hand(state, short, 5)).abs().max() <= 1e-4

        # A BertModel as a language model has it: other rows in its tables, fused attention, padding.
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=7, hidden_size=1000, num_hidden_layers=3, num_attention_heads=5, intermediate_size=1280
        )
        theirs = BertModel(config).eval()
        own = {k.removeprefix("bert."): v for k, v in state.items()}
        tables = {
            k: theirs.state_dict()[k].clone()
            for k in own
            if "embeddings" in k and theirs.state_dict()[k].shape != own[k].shape
        }
        for name, table in tables.items():
            table[: len(own[name])] = own[name]
        theirs.load_state_dict({**own, **tables})
        words = torch.cat([own["embeddings.word_embeddings.weight"].expand(2, 1, -1), frames], 1)
        assert (found - theirs(inputs_embeds=words).pooler_output).abs().max() <= 1e-4 * found.abs().max()


def test_bert_has_the_stated_sizes_and_start() -> None:
    """Spec 4.7: about 20.7 M more than the network, 6.57 M a layer; N(0, .02); dropout .2; an order that counts."""
    model, _ = make_model(LITE, outputs=2, join="bert", size=(8, 64, 64), seed=1)
    reader = model.head[0]
    assert isinstance(reader, Bert)
    layers = [sum(p.numel() for p in layer.parameters()) for layer in reader.bert.encoder.layer]
    assert layers == [6_570_280] * 3
    extra = sum(p.numel() for p in reader.parameters())
    assert extra == 3 * 6_570_280 + 1_001_000 + 9_000 + 4_000  # pooler, 9 positions; class token, segment, norm
    assert round(extra / 1e6, 1) == 20.7
    lite = sum(p.numel() for p in registry.build_body(LITE, channels=1).parameters()) + 1281 * 1000
    assert sum(p.numel() for p in model.parameters()) == lite + extra + 2 * 1001
    weight = reader.bert.encoder.layer[1].intermediate.dense.weight
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    for drawn in (
        reader.bert.embeddings.word_embeddings.weight,
        reader.bert.embeddings.position_embeddings.weight,
        model.head[1].linear.weight,
    ):
        assert float(drawn.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert {m.p for m in reader.modules() if isinstance(m, nn.Dropout)} == {0.2}
    self_attention = reader.bert.encoder.layer[0].attention.self
    assert (self_attention.num_attention_heads, self_attention.attention_head_size) == (5, 200)
    frames = torch.randn(1, 8, 1000)
    with torch.no_grad():
        model.eval()
        assert not torch.allclose(reader(frames), reader(frames.flip(1)))
        model.train()
        assert not torch.allclose(reader(frames), reader(frames))


def test_the_other_reading_projects_to_1280() -> None:
    model, _ = make_model(LITE, outputs=2, join="bert", hidden=1280, size=(4, 64, 64))
    reader = model.head[0]
    assert isinstance(reader.project, nn.Linear) and tuple(reader.project.weight.shape) == (1280, 1000)
    assert reader.bert.encoder.layer[0].attention.self.attention_head_size == 256
    batch = {"x": torch.rand(2, 1, 4, 64, 64), "value_range": torch.tensor([[0.0, 1.0]] * 2)}
    assert model(batch).shape == (2, 2)
    with pytest.raises(UserError, match="multiple of its 5 heads"):
        make_model(LITE, outputs=2, join="bert", hidden=1001)


def test_every_parameter_learns_and_stands_in_the_head_or_its_stage() -> None:
    model, _ = make_model(LITE, outputs=2, join="bert", size=(3, 64, 64))
    batch = {"x": torch.rand(2, 1, 3, 64, 64), "value_range": torch.tensor([[0.0, 1.0]] * 2)}
    assert model.features(batch).shape == (2, 3, 1000)
    (model(batch) * torch.tensor([1.0, -0.7])).sum().backward()
    dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # A constant added to every key changes no softmax: what gradient there is, is rounding.
    assert dead <= {f"head.0.bert.encoder.layer.{k}.attention.self.key.bias" for k in range(3)}
    groups = dict(model.groups())
    head = {id(p) for p in groups["head"]}
    assert {id(p) for p in model.head.parameters()} == head
    assert id(model.body.body.classifier.weight) not in head  # the classifier came with the network, it is no new layer
    too_long = {"x": torch.rand(1, 1, 4, 64, 64), "value_range": torch.tensor([[0.0, 1.0]])}
    with pytest.raises(UserError, match="3 positions"):
        model.eval()(too_long)


def test_an_image_is_a_sentence_of_one_word() -> None:
    model, _ = make_model(LITE, outputs=2, join="bert", size=(1, 64, 64))
    assert model({"x": torch.rand(2, 1, 1, 64, 64), "value_range": torch.tensor([[0.0, 1.0]] * 2)}).shape == (2, 2)


def test_only_image_networks_are_read() -> None:
    with pytest.raises(UserError, match="joins the frames of an image network"):
        make_model("r3d_18", outputs=2, join="bert")
    with pytest.raises(UserError, match="joins the frames of an image network"):
        make_model("unet2d", outputs=2, dense=True, join="bert")
    with pytest.raises(UserError, match="only image networks keep"):
        registry.build_body("r3d_18", classes=400)


# ---------------------------------------------------------------------------------------- the logits are the file's own


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("torchvision:resnet18", "resnet18"),
        ("torchvision:mobilenet_v2", "mobilenet_v2"),
        ("torchvision:alexnet", "alexnet"),
        ("torchvision:squeezenet1_1", "squeezenet1_1"),
    ],
)
def test_kept_logits_are_those_of_torchvisions_network(name: str, official: str) -> None:
    from torchvision import models

    theirs = models.get_model(official).eval()
    state = (
        theirs.state_dict() if official == "alexnet" else filled(theirs)
    )  # no norm or gate that its start could hide
    card = weights.find_card(name, "imagenet")
    assert card is not None
    body = registry.build_body(name, classes=1000).eval()
    report = weights.load_state(body, card, state, "file")
    assert not report.head and not report.missing and not report.unexpected and report.share_of_parameters == 1
    x = parity.signal((2, 3, 64, 64))
    with torch.no_grad():
        expected = theirs(x)
        assert (body(x) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert info_of(body).features == 1000


def test_kept_logits_come_from_the_same_file_as_the_body() -> None:
    """The embedded weights: the classifier is the package's own, and photographs are told by it."""
    card = weights.find_card(LITE, "imagenet")
    assert card is not None
    path = weights.locate(card)
    model, report = make_model(LITE, start="imagenet", outputs=2, channels=3, join="bert", size=(1, 224, 224))
    assert report is not None and not report.head and report.share_of_parameters == 1
    state = weights.read_state(path)
    assert torch.equal(model.body.body.classifier.weight, state["_fc.weight"])
    features = registry.build_body(LITE).eval()
    weights.load(features, card, path)
    x = parity.signal((1, 3, 64, 64))
    with torch.no_grad():
        expected = functional.linear(features(x), state["_fc.weight"], state["_fc.bias"])
        torch.testing.assert_close(model.body.body.eval()(x), expected)
    partial = {k: v for k, v in state.items() if not k.startswith("_fc")}
    with pytest.raises(UserError, match="classifier"):
        weights.load_state(registry.build_body(LITE, classes=1000), card, partial, "torso")


@pytest.mark.parametrize("name", sorted(n for n in registry.names("2d") if not registry.info(n).dense))
def test_every_image_network_of_the_zoo_keeps_its_classifier(name: str) -> None:
    with torch.device("meta"):
        if name == "genesis_encoder2d":  # an encoder of segmentation networks, which never had one
            with pytest.raises(UserError, match="no classifier of its own"):
                registry.build_body(name, classes=1000)
            return
        body = registry.build_body(name, classes=1000)
        assert body.eval()(torch.empty(1, 3, *registry.info(name).default_size)).shape == (1, 1000)


def test_kept_logits_of_bn_inception_are_the_official_ones() -> None:
    """The golden holds the official network's 1000 logits: here they come out of the body itself, its classifier
    kept.
    """
    golden = json.loads((Path(__file__).parent / "goldens" / "bninception.json").read_text(encoding="utf-8"))
    card = weights.find_card("bninception", "imagenet")
    assert card is not None and len(golden["head"]) == 2
    body = registry.build_body("bninception", classes=1000).eval()
    report = weights.load_state(body, card, parity.fill(golden["tensors"], golden["gain"]), "golden")
    assert not report.head and not report.missing
    with torch.no_grad():
        assert parity.error(golden, body(parity.signal(golden["input"]))) <= parity.TOLERANCE
    assert round(sum(p.numel() for p in body.parameters()) / 1e6, 2) == 11.30
    with torch.device("meta"):
        read, _ = make_model(
            "bninception", start="imagenet", outputs=2, join="bert", size=(8, 224, 224), load_weights=False
        )
    assert (
        sum(p.numel() for p in read.parameters()) == sum(p.numel() for p in body.parameters()) + 20_724_840 + 2 * 1001
    )


# ---------------------------------------------------------------------------------------- CEUS-M01 to M05, M18


@pytest.mark.parametrize(
    ("bare", "published", "last"),
    [
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048),
        ("mobilenet_v2", 3_504_872, 1280),
        ("alexnet", 61_100_840, 4096),
    ],
)
def test_image_networks_of_the_ultrasound_study(bare: str, published: int, last: int) -> None:
    """ImageNet weights and their preprocessing, 224 pixels, the last layer replaced by two logits; with BERT it
    stays.
    """
    name = f"torchvision:{bare}"
    with torch.device("meta"):
        model, _ = make_model(name, start="imagenet", outputs=2, load_weights=False)
        logits = model({"x": torch.empty(2, 1, 1, 224, 224), "value_range": torch.empty(2, 2)})
        kept = registry.build_body(name, classes=1000)
        read, _ = make_model(name, start="imagenet", outputs=2, join="bert", size=(8, 224, 224), load_weights=False)
        joined = read({"x": torch.empty(2, 1, 8, 224, 224), "value_range": torch.empty(2, 2)})
    assert logits.shape == (2, 2) and registry.info(name).default_size == (224, 224)
    assert sum(p.numel() for p in model.parameters()) == published - 1000 * (last + 1) + 2 * (last + 1)
    assert sum(p.numel() for p in kept.parameters()) == published
    assert joined.shape == (2, 2) and sum(p.numel() for p in read.parameters()) == published + 20_724_840 + 2 * 1001
    card = model.weight_card
    assert card is not None and card.source_data == "ImageNet-1k" and weights.source_accuracy(card).startswith("top-1 ")
    assert (card.range, card.mean, card.std) == (1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
