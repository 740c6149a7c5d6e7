"""Names are found without importing a network, and a wrong name is answered with the nearest right ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medgraft.errors import UserError
from medgraft.models import registry
from medgraft.models.records import BackboneInfo


def modules_after(statement: str) -> set[str]:
    """All modules of a fresh interpreter after one statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_registry_imports_no_network() -> None:
    loaded = modules_after(
        "from medgraft.models import registry as r; r.names('3d'); r.info('r3d_18'); r.resolve('unet3d')"
    )
    assert "medgraft.models.registry" in loaded
    assert not {"torch", "torchvision", "timm", "monai", "segmentation_models_pytorch"} & loaded
    assert not [m for m in loaded if m.startswith("medgraft.models.zoo")]


def test_one_family_is_imported_alone() -> None:
    loaded = modules_after("from medgraft.models import registry as r; r.build_body('mobilenet_v2_folded')")
    assert {m for m in loaded if m.startswith("medgraft.models.zoo.")} == {"medgraft.models.zoo.mobilenet"}
    assert not {"timm", "monai", "transformers"} & loaded


def test_a_new_file_in_the_zoo_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fact = "family='F', dims=3, output='features', features=7, default_size=(8, 8, 8), min_size=(1, 1, 1)"
    (tmp_path / "new.py").write_text(
        f"raise RuntimeError\n@backbone({fact})\ndef tiny(channels, size): ...\ndef helper(): ...\n"
    )
    monkeypatch.setattr(registry, "_ZOO", tmp_path)
    registry._zoo.cache_clear()
    try:
        assert registry.names() == ["tiny"]
        assert registry.info("tiny").features == 7 and registry.info("tiny").name == "tiny"
        (tmp_path / "twice.py").write_text(f"@backbone({fact})\ndef tiny(channels, size): ...\n")
        registry._zoo.cache_clear()
        with pytest.raises(RuntimeError, match="tiny stands in"):
            registry.names()
    finally:
        monkeypatch.undo()
        registry._zoo.cache_clear()


def test_sisters_share_facts_by_a_literal_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "family.py").write_text(
        "raise RuntimeError\nOTHER = {1: undefined}\nSIDES = {'default_size': (8, 8), 'min_size': (1, 1)}\n"
        "FAMILY = {**SIDES, 'family': 'F', 'dims': 2, 'output': 'features'}\n"
        "@backbone(**FAMILY, features=7)\ndef small(channels, size): ...\n"
        "@backbone(features=9, **FAMILY, notes='n')\ndef large(channels, size): ...\n"
    )
    monkeypatch.setattr(registry, "_ZOO", tmp_path)
    registry._zoo.cache_clear()
    try:
        small, large = registry.info("small"), registry.info("large")
        assert small == BackboneInfo("small", "F", 2, "features", 7, (8, 8), (1, 1))
        assert large == BackboneInfo("large", "F", 2, "features", 9, (8, 8), (1, 1), notes="n")
        (tmp_path / "twice.py").write_text("A = {'dims': 2}\n@backbone(**A, dims=3)\ndef worse(channels, size): ...\n")
        registry._zoo.cache_clear()
        with pytest.raises(RuntimeError, match="its dims twice"):
            registry.names()
    finally:
        monkeypatch.undo()
        registry._zoo.cache_clear()


def test_names_by_kind() -> None:
    assert (
        set(registry.names("dense")) | set(registry.names("features"))
        == set(registry.names())
        == set(registry.names("2d") + registry.names("3d"))
    )
    assert (
        "unet3d" in registry.names("dense")
        and "unet3d" in registry.names("3d")
        and "r3d_18" in registry.names("features")
    )
    assert "torchvision:resnet50" in registry.names("torchvision") and "monai:segresnet" in registry.names("monai")
    with pytest.raises(UserError, match="choose one of features, dense"):
        registry.names("audio")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("efficientnet_lite0", "efficientnet_lite0"),  # the zoo comes before timm, which has the name too
        ("resnet18", "torchvision:resnet18"),  # torchvision comes before timm
        ("convnext_atto", "timm:convnext_atto"),
        ("timm:resnet18", "timm:resnet18"),
        ("torchvision:s3d", "s3d"),  # the same network as the zoo's
        ("smp:unet-resnet18", "smp:unet-resnet18"),
        ("smp:fpn-tu-convnext_atto", "smp:fpn-tu-convnext_atto"),
        ("monai:segresnet", "monai:segresnet"),
    ],
)
def test_resolution_order(name: str, full: str) -> None:
    assert registry.resolve(name) == full


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("efficientnet_lit0", "efficientnet_lite0"),
        ("r2plus1d18", "r2plus1d_18"),
        ("torchvision:resnet19", "torchvision:resnet18"),
        ("smp:unet-resnet16", "smp:unet-resnet18"),
        ("monai:SegResNett", "monai:segresnet"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.resolve(name)
    assert near in caught.value.fix and caught.value.case == name


def test_an_unknown_library_names_the_known() -> None:
    with pytest.raises(UserError, match="torchvision, timm, monai, smp"):
        registry.info("keras:resnet50")


def test_bodies_refuse_what_they_cannot_be() -> None:
    with pytest.raises(UserError, match="number of structures"):
        registry.build_body("unet2d")
    with pytest.raises(UserError, match="choose a dense one"):
        registry.build_body("r3d_18", structures=2)
    with pytest.raises(UserError, match="3 sides"):
        registry.build_body("efficientnet_lite0", size=(1, 64, 64))
    with pytest.raises(UserError, match="at least one channel"):
        registry.build_body("efficientnet_lite0", channels=0)
    with pytest.raises(UserError, match="no such option"):
        registry.build_body("unet2d", structures=1, options={"breadth": 3})
    with pytest.raises(UserError, match=r"takes \(16, 224, 224\) only"):
        registry.build_body("mvit_v2_s", size=(8, 112, 112))


def test_options_reach_the_builder() -> None:
    def parameters(width: int) -> int:
        return sum(
            p.numel() for p in registry.build_body("unet3d", structures=1, options={"width": width}).parameters()
        )

    assert 3 < parameters(16) / parameters(8) < 4.2
