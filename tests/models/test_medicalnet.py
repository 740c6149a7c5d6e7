"""MedicalNet: two kinds of shortcut, dilated stages, the form of its files, and its preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model, preprocess_of, standardised

GOLDENS = Path(__file__).parent / "goldens"
#: Millions of parameters as the project's README prints them, and its kind of shortcut.
PUBLISHED = {
    10: (14.36, "B"),
    18: (32.99, "A"),
    34: (63.31, "A"),
    50: (46.21, "B"),
    101: (85.31, "B"),
    152: (117.51, "B"),
    200: (126.74, "B"),
}


def golden(depth: int) -> dict:
    found: dict = json.loads((GOLDENS / f"medicalnet_{depth}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("depth", sorted(PUBLISHED))
def test_each_depth_has_the_names_and_the_shortcuts_of_its_file(depth: int) -> None:
    """The names come from the official code; a decoder in a file is left out, for the project's files are encoders."""
    millions, kind = PUBLISHED[depth]
    with torch.device("meta"):
        body = registry.build_body(f"medicalnet_{depth}", channels=1)
    assert parity.shapes(body) == golden(depth)["tensors"]
    assert any("downsample" in n for n in golden(depth)["tensors"]) == (kind == "B")
    assert sum(t.numel() for t in body.state_dict().values()) / 1e6 == pytest.approx(
        millions, abs=0.01
    )  # they count running statistics too


@pytest.mark.parametrize("depth", [10, 18])
def test_a_file_as_it_is_published_loads_and_its_decoder_does_not(depth: int, tmp_path: Path) -> None:
    """Wrapped under state_dict, every name behind ``module.``; read by weights.load as the real one would be."""
    known = golden(depth)
    state = {f"module.{n}": t for n, t in parity.fill(known["tensors"], known["gain"]).items()}
    state["module.conv_seg.0.weight"] = torch.zeros(512, 32, 2, 2, 2)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / f"resnet_{depth}.pth")
    model, report = make_model(f"medicalnet_{depth}", start="8datasets", outputs=2, folders=[tmp_path])
    assert report is not None and report.head == ("conv_seg.0.weight",)
    assert report.share_of_parameters == 1 and not report.missing and not report.unexpected and not report.adapted
    found = model.eval().body(parity.signal(known["input"])).detach()
    assert parity.error(known, found) <= parity.TOLERANCE


def test_the_wrong_shortcut_is_refused() -> None:
    """A file without convolutions in its shortcuts does not pass for the one of 10 layers, whose shortcuts have
    them.
    """
    card = weights.find_card("medicalnet_10", "8datasets")
    assert card is not None
    state = {n: torch.zeros(shape) for n, shape in golden(10)["tensors"].items() if "downsample" not in n}
    with pytest.raises(UserError, match=r"tensors are missing \(layer2.0.downsample"):
        weights.load_state(registry.build_body("medicalnet_10", channels=1), card, state, "file")


def test_stages_three_and_four_are_dilated_and_keep_the_side() -> None:
    """An eighth of the side at the end; the outputs see it when a dilation is taken away."""
    known = golden(10)
    body, state, _ = parity.loaded_body(known)
    sides: list[tuple[int, ...]] = []
    body.layer4.register_forward_hook(lambda _, __, out: sides.append(tuple(out.shape[2:])))  # type: ignore[union-attr]
    with torch.no_grad():
        assert parity.error(known, parity.outputs(known, body, state)) <= parity.TOLERANCE
        assert sides[0] == tuple(side // 8 for side in known["input"][2:])
        for module in body.layer4.modules():  # type: ignore[union-attr]
            if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
                assert module.dilation == module.padding == (4, 4, 4)
                module.dilation = module.padding = (1, 1, 1)
        assert parity.error(known, parity.outputs(known, body, state)) > 0.01


def test_the_shortcut_without_parameters_passes_gradients() -> None:
    """The original cuts them (it concatenates ``.data``); here the input of a silenced block still learns through its
    shortcut.
    """
    from medgraft.models.zoo.medicalnet import Padded

    x = torch.randn(1, 3, 5, 4, 4, requires_grad=True)
    out = Padded(8, 2)(x)
    assert out.shape == (1, 8, 3, 2, 2) and torch.equal(out[:, :3], x[:, :, ::2, ::2, ::2]) and not out[:, 3:].any()
    out.sum().backward()
    assert x.grad is not None and x.grad.sum() == 3 * 3 * 2 * 2


def test_every_depth_has_its_files() -> None:
    names = {d: [c.file_name for c in weights.cards(f"medicalnet_{d}")] for d in PUBLISHED}
    for depth, files in names.items():
        assert files == ([f"resnet_{depth}_23dataset.pth"] if depth <= 50 else []) + [f"resnet_{depth}.pth"]
        for card in weights.cards(f"medicalnet_{depth}"):
            assert card.licence == "MIT" and card.channels == 1 and card.standardise == "positive"
            assert card.addresses == (
                f"https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet{depth}/resolve/main/{card.file_name}",
            )


def test_windows_enter_as_z_scores_of_their_bright_voxels() -> None:
    """As its authors do it for a volume, save for zeros: they fill these with noise, here they stay one constant."""
    rng = np.random.default_rng(0)
    volume = rng.gamma(3, 200, (6, 8, 7)).astype(np.int16) * (rng.random((6, 8, 7)) > 0.3)
    card = weights.find_card("medicalnet_10", "23datasets")
    with torch.device("meta"):
        model, _ = make_model("medicalnet_10", start="23datasets", outputs=2, load_weights=False)
    model.mean, model.std = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)  # the buffers stand on meta
    high = float(volume.max())
    found = model.prepare(torch.from_numpy(volume)[None, None], torch.tensor([[0.0, high]]))[0, 0].numpy()
    bright = volume[volume > 0].astype(np.float64)
    assert preprocess_of(card, 1).standardise == "positive"
    assert np.allclose(found[volume > 0], (bright - bright.mean()) / bright.std(), atol=1e-4)
    assert np.allclose(found[volume == 0], -bright.mean() / bright.std(), atol=1e-4)


def test_windows_are_standardised_one_by_one_over_all_their_channels() -> None:
    x = torch.rand(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    x *= torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1, 1, 1) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    whole = standardised(x, "all")
    for window, found in zip(x[:2], whole):  # one channel stays brighter than the other
        assert torch.allclose(found, (window - window.mean()) / window.std(unbiased=False), atol=1e-5)
    assert not whole[2].any()  # a black window stays black
    assert not standardised(torch.full((1, 1, 2, 2, 2), 0.25), "positive").any()
