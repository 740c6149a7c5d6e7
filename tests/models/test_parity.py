"""The embedded weights give what their own network gives, and see real photographs for what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medgraft.models import registry, weights
from medgraft.models.model import Model, make_model

GOLDEN = json.loads((Path(__file__).parent / "efficientnet_lite_features.json").read_text(encoding="utf-8"))
LITE = sorted(GOLDEN)


def wave(size: int) -> Tensor:
    """A picture without random numbers, the same on every machine and version."""
    n = torch.arange(3 * size * size, dtype=torch.float64)
    return torch.sin(n * 0.37 + n.square() * 1e-5).float().view(1, 3, size, size)


def body_of(name: str) -> tuple[nn.Module, weights.WeightCard]:
    card = weights.find_card(name, "imagenet")
    assert card is not None
    body = registry.build_body(name).eval()
    weights.load(body, card, weights.locate(card))
    return body, card


@pytest.mark.parametrize("name", LITE)
def test_efficientnet_lite_equals_the_network_of_its_package(name: str) -> None:
    """Goldens: features of the package's own network (efficientnet-lite-pytorch 0.1.0), means of 40 neighbours each."""
    body, card = body_of(name)
    assert body.info.default_size == tuple(card.input_size)
    with torch.no_grad():
        features = body(wave(card.input_size[0]))[0]
    expected = torch.tensor(GOLDEN[name])
    assert expected.std() > 0.05
    assert (features.view(32, 40).mean(1) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_goldens_see_wrong_padding_and_epsilon() -> None:
    import timm

    body, card = body_of("efficientnet_lite0")
    twin = timm.create_model("efficientnet_lite0", num_classes=0).eval()  # same shapes, symmetric padding, epsilon 1e-5
    twin.load_state_dict(body.state_dict())
    with torch.no_grad():
        features = twin(wave(card.input_size[0]))[0]
    expected = torch.tensor(GOLDEN["efficientnet_lite0"])
    assert (features.view(32, 40).mean(1) - expected).abs().max() > 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", LITE)
def test_efficientnet_lite_equals_the_official_code_where_it_is_installed(name: str) -> None:
    official_code = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the package with the official network is not installed"
    )
    body, card = body_of(name)
    official = official_code.EfficientNet.from_name(name.replace("_", "-"))
    official.load_state_dict(weights.read_state(weights.locate(card)))
    picture = torch.randn(2, 3, *card.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = official.eval().extract_features(picture).mean((2, 3))
        assert (body(picture) - expected).abs().max() <= 1e-4 * expected.abs().max()


# ---------------------------------------------------------------------------------------- MobileNetV2 without batch
# norm


def folded(shared_data: Path) -> tuple[Model, Path]:
    model, report = make_model("mobilenet_v2_folded", start="imagenet", outputs=2, folders=[shared_data / "weights"])
    assert report is not None and report.share_of_parameters == 1 and not report.missing and not report.unexpected
    assert model.weight_card is not None
    return model, weights.locate(model.weight_card, folders=[shared_data / "weights"])


def test_folded_mobilenet_agrees_with_itself_in_training_at_step_0(shared_data: Path) -> None:
    model, _ = folded(shared_data)
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in model.modules())
    batch = {
        "x": torch.randint(0, 256, (3, 1, 2, 96, 96), dtype=torch.uint8),
        "value_range": torch.tensor([[0.0, 255.0]]).expand(3, 2),
    }
    with torch.no_grad():
        model.train()
        training = model.features(batch)
        model.eval()
        assert torch.equal(training, model.features(batch))
    assert training.std() > 0.1


def test_folded_mobilenet_equals_torchvision_with_norms_in_evaluation_mode(shared_data: Path) -> None:
    from torchvision.models import mobilenet_v2

    model, path = folded(shared_data)
    official = mobilenet_v2(
        norm_layer=lambda n: nn.BatchNorm2d(n, eps=0.0)
    ).eval()  # variance 1: epsilon would only scale
    official.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in weights.read_state(path).items()}
    )
    picture = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = official.features(picture).mean((2, 3))
        assert (model.body.body(picture) - expected).abs().max() <= 1e-4 * expected.abs().max()


# ---------------------------------------------------------------------------------------- photographs


def photographs() -> dict[str, np.ndarray]:
    import matplotlib.cbook
    from PIL import Image
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as officer:
        return {"china": china, "flower": flower, "officer": np.asarray(officer.convert("RGB"))}


def best(name: str, classifier: str, folder: Path, picture: np.ndarray, high: float = 255.0) -> list[tuple[str, float]]:
    """The three best ImageNet classes with their probabilities, by the card's resize and crop and the model's own
    preprocessing.
    """
    from PIL import Image
    from torchvision.models import ResNet18_Weights

    model, _ = make_model(name, start="imagenet", outputs=1000, channels=3, folders=[folder])
    card = model.weight_card
    assert card is not None and card.resize is not None
    state = weights.read_state(weights.locate(card, folders=[folder]))
    model.head.linear.load_state_dict({k: state[f"{classifier}.{k}"].float() for k in ("weight", "bias")})
    image = Image.fromarray(picture)
    scale = card.resize / min(image.size)
    kernel = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[card.interpolation]
    image = image.resize((round(image.width * scale), round(image.height * scale)), kernel)
    side = card.input_size[0]
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.array(image.crop((left, upper, left + side, upper + side)))
    batch = {"x": torch.from_numpy(pixels).permute(2, 0, 1)[None, :, None], "value_range": torch.tensor([[0.0, high]])}
    with torch.no_grad():
        probability, index = model.eval()(batch).softmax(1)[0].topk(3)
    words = ResNet18_Weights.DEFAULT.meta["categories"]
    return [(words[i], p) for p, i in zip(probability.tolist(), index.tolist())]


def test_efficientnet_lite_recognises_photographs() -> None:
    pictures = photographs()
    for name in LITE:
        (word, probability), *_ = best(name, "_fc", Path("."), pictures["china"])
        assert word == "palace" and probability > 0.3
        assert "military uniform" in [w for w, _ in best(name, "_fc", Path("."), pictures["officer"])]
        assert best(name, "_fc", Path("."), pictures["china"], high=1.0)[0][0] != "palace"  # a wrong range is seen
    (word, probability), *_ = best("efficientnet_lite0", "_fc", Path("."), pictures["flower"])
    assert word == "daisy" and probability > 0.3


def test_folded_mobilenet_recognises_a_photograph(shared_data: Path) -> None:
    china = photographs()["china"]
    (word, probability), *_ = best("mobilenet_v2_folded", "classifier.1", shared_data / "weights", china)
    assert word == "palace" and probability > 0.4
    assert best("mobilenet_v2_folded", "classifier.1", shared_data / "weights", china, high=1.0)[0][0] != "palace"
