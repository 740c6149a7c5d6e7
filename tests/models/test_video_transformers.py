"""VideoMAE and TimeSformer against the library's own models, through files that the library wrote itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import parity, registry, weights
from medgraft.models.model import make_model
from medgraft.models.zoo import video_transformers

TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
DECODER = {
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 48,
}


def saved(model: Any, folder: Path) -> tuple[Any, Path]:
    """The library's model with filled tensors, in evaluation mode, and the file that it writes."""
    model.load_state_dict(parity.fill(parity.shapes(model), gain=1.0))
    model.save_pretrained(folder)
    return model.eval(), folder / "model.safetensors"


def library_videomae(size: tuple[int, int, int], kind: str = "VideoMAEForVideoClassification", **more: Any) -> Any:
    import transformers

    config = transformers.VideoMAEConfig(
        image_size=list(size[1:]), num_frames=size[0], num_labels=7, **TINY, **DECODER, **more
    )
    return getattr(transformers, kind)(config)


def library_timesformer(size: tuple[int, int, int]) -> Any:
    import transformers

    return transformers.TimesformerForVideoClassification(
        transformers.TimesformerConfig(image_size=size[1], num_frames=size[0], num_labels=7, **TINY)
    )


def card(name: str, start: str) -> weights.WeightCard:
    found = weights.find_card(name, start)
    assert found is not None
    return found


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() >= 0.1
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("size", [(4, 32, 32), (6, 32, 48)], ids=["square", "longer and oblong"])
def test_videomae_gives_the_librarys_logits(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """The file is always of the square size: sine positions are made anew for the other."""
    _, file = saved(library_videomae((4, 32, 32)), tmp_path)
    official = library_videomae(size).eval()
    official.load_state_dict(parity.fill(parity.shapes(official), gain=1.0))
    state = weights.read_state(file)
    assert "videomae.encoder.layer.0.attention.attention.q_bias" in state  # as the published files name them
    body = video_transformers.make_videomae(3, size, **TINY).eval()
    report = weights.load(body, card("videomae_base", "kinetics"), file)
    assert (
        report.share_of_parameters == 1
        and report.head == ("classifier.bias", "classifier.weight")
        and not report.unexpected
    )
    clip = parity.signal((2, 3, *size))
    with torch.no_grad():
        same(official.classifier(body(clip)), official(clip.transpose(1, 2)).logits)


def test_pretrained_videomae_brings_its_encoder_and_the_norm_starts_fresh(tmp_path: Path) -> None:
    size = (4, 32, 32)
    official, file = saved(library_videomae(size, "VideoMAEForPreTraining", use_mean_pooling=False), tmp_path)
    body = video_transformers.make_videomae(3, size, **TINY).eval()
    report = weights.load(body, card("videomae_base", "pretrained"), file)
    assert report.missing == ("fc_norm.weight", "fc_norm.bias") and not report.unexpected
    assert {name.split(".")[1] for name in report.head} == {"decoder", "encoder_to_decoder", "mask_token", "layernorm"}
    clip = parity.signal((2, 3, *size))
    with torch.no_grad():
        official.videomae.layernorm = None
        tokens = official.videomae(clip.transpose(1, 2)).last_hidden_state
        same(body(clip), nn.functional.layer_norm(tokens.mean(1), (TINY["hidden_size"],)))


def test_either_file_of_a_hub_is_read_under_one_name(tmp_path: Path) -> None:
    _, file = saved(library_videomae((4, 32, 32)), tmp_path)
    state = weights.read_state(file)
    torch.save(state, tmp_path / "pytorch_model.bin")
    shutil.copy(tmp_path / "pytorch_model.bin", tmp_path / "videomae.safetensors")
    again = weights.read_state(tmp_path / "videomae.safetensors")
    assert again.keys() == state.keys() and all(torch.equal(v, state[k]) for k, v in again.items())


def test_timesformer_gives_the_librarys_logits(tmp_path: Path) -> None:
    size = (3, 32, 32)
    official, file = saved(library_timesformer(size), tmp_path)
    body = video_transformers.make_timesformer(3, size, **TINY).eval()
    report = weights.load(body, card("timesformer_base", "kinetics"), file)
    assert report.share_of_parameters == 1 and not report.missing and not report.unexpected
    clip = parity.signal((2, 3, *size))
    with torch.no_grad():
        same(official.classifier(body(clip)), official(clip.transpose(1, 2)).logits)
    (body(clip) * parity.signal((2, TINY["hidden_size"]), "mix")).sum().backward()
    assert {n for n, p in body.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()


def test_timesformer_positions_follow_to_another_size(tmp_path: Path) -> None:
    """A file for 2 frames of 2x2 patches in a body for 4 frames of 4x4: each place and time stands twice in each
    direction.
    """
    _, file = saved(library_timesformer((2, 32, 32)), tmp_path)
    state = weights.read_state(file)
    body = video_transformers.make_timesformer(3, (4, 64, 64), **TINY).eval()
    report = weights.load(body, card("timesformer_base", "kinetics"), file)
    assert report.share_of_parameters == 1 and not report.missing
    own, stem = body.state_dict(), "timesformer.embeddings."
    places, times = state[stem + "position_embeddings"][0], state[stem + "time_embeddings"][0]
    assert torch.equal(own[stem + "position_embeddings"][0, 0], places[0])
    grid = own[stem + "position_embeddings"][0, 1:].unflatten(0, (4, 4))
    assert all(torch.equal(grid[r, c], places[1 + 2 * (r // 2) + c // 2]) for r in range(4) for c in range(4))
    assert torch.equal(own[stem + "time_embeddings"][0], times[[0, 0, 1, 1]])
    with torch.no_grad():
        assert body(parity.signal((1, 3, 4, 64, 64))).shape == (1, TINY["hidden_size"])


@pytest.mark.parametrize(
    ("name", "size"),
    [("videomae_base", (5, 32, 32)), ("videomae_base", (4, 32, 40)), ("timesformer_base", (4, 32, 48))],
)
def test_sizes_that_are_no_patches_are_refused(name: str, size: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="multiples of 16"):
        registry.build_body(name, size=size)


def test_a_body_meets_only_the_size_it_was_built_for() -> None:
    model, _ = make_model("videomae_small", outputs=1, size=(4, 32, 32))
    grey = {"value_range": torch.tensor([[0.0, 1.0]]), "x": torch.zeros(1, 1, 4, 32, 32)}
    assert model(grey).shape == (1, 1)
    with pytest.raises(UserError, match="meet a network built for"):
        model({**grey, "x": torch.zeros(1, 1, 6, 32, 32)})


def test_cards_state_licence_and_the_right_normalisation() -> None:
    for name, start, mean, std in (
        ("videomae_base", "kinetics", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("videomae_base", "pretrained", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("videomae_small", "kinetics", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("timesformer_base", "kinetics", (0.45,) * 3, (0.225,) * 3),
    ):
        found = card(name, start)
        assert (
            (found.mean, found.std) == (mean, std)
            and "NC" in found.licence
            and found.input_size == registry.info(name).default_size
        )
        assert all(address.startswith("https://huggingface.co/") for address in found.addresses)
    assert card("videomae_base", "kinetics").tag == "finetuned_kinetics"  # the labelled file is the default


@pytest.mark.slow  # MONAI alone imports for 7 s; the light networks' case stands in test_registry.py
def test_monai_leaves_the_library_alone() -> None:
    code = (
        "import sys\nfrom medgraft.models import registry, weights\n"
        "registry.info('videomae_base'); weights.cards('videomae_base'); registry.build_body('unet2d', structures=1)\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'transformers'])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().splitlines()[-1] == "[]"
