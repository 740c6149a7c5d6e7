"""The model sees stored values of any kind and gives logits; its preprocessing is exact and its start repeatable."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medgraft.errors import UserError, WeightsAbsent
from medgraft.models import registry, weights
from medgraft.models.heads import LinearHead
from medgraft.models.lift import Lift
from medgraft.models.model import Model, Preprocess, fingerprint, make_model


def bare(card: Preprocess) -> Model:
    body = registry.build_body("unet2d", channels=card.channels, structures=1)
    return Model(Lift(body), nn.Identity(), card)


def column(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A batch of one study, one channel, one frame, one row."""
    return torch.tensor(values, dtype=dtype).view(1, 1, 1, 1, -1)


def prepared(model: Model, x: Tensor, low: float, high: float) -> list[list[float]]:
    out = model.prepare(x, torch.tensor([[low, high]]))
    assert out.dtype == torch.float32
    return [[round(v, 4) for v in channel.flatten().tolist()] for channel in out[0]]


def test_prepare_gives_exact_numbers() -> None:
    plain = bare(Preprocess(mean=(0.5,), std=(0.25,), channels=1))
    assert prepared(plain, column(0, 51, 255, dtype=torch.uint8), 0, 255) == [[-2, -1.2, 2]]
    assert prepared(plain, column(-1000, -500, 0, 3000, dtype=torch.int16), -1000, 0) == [
        [-2, 0, 2, 2]
    ]  # clipped above
    assert prepared(plain, column(1000, 40000, dtype=torch.uint16), 2000, 40000) == [[-2, 2]]  # clipped below
    assert prepared(plain, column(7, 7.5), 7, 7) == [[-2, 0]]  # a constant study has no range to divide by
    bgr = bare(Preprocess(mean=(104, 117, 128), std=(1, 1, 2), range=255.0, channels=3, order="BGR"))
    assert prepared(bgr, column(0, 255, dtype=torch.uint8), 0, 255) == [[-104, 151], [-117, 138], [-64, 63.5]]
    colour = torch.cat([column(255), column(0), column(51)], 1)
    assert prepared(bgr, colour, 0, 255) == [[51 - 104], [-117], [63.5]]  # blue first
    assert prepared(plain, colour, 0, 255) == [[round((0.299 + 0.114 * 0.2 - 0.5) / 0.25, 4)]]


def test_each_study_has_its_own_range() -> None:
    model = bare(Preprocess(mean=(0.0,), std=(1.0,), channels=1))
    x = torch.full((3, 1, 2, 4, 4), 50.0)
    out = model.prepare(x, torch.tensor([[0.0, 100.0], [0.0, 200.0], [50.0, 60.0]]))
    assert [float(o.unique()) for o in out] == [0.5, 0.25, 0.0]


def test_channels_that_do_not_convert_are_refused() -> None:
    with pytest.raises(UserError, match="data with 2 channels"):
        bare(Preprocess(channels=3)).prepare(torch.zeros(1, 2, 1, 8, 8), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(UserError, match="data with 2 channels"):
        make_model("unet2d", outputs=1, dense=True, channels=2, body_channels=3)


def test_the_card_decides_the_preprocessing_and_no_file_is_needed_for_it() -> None:
    model, report = make_model("efficientnet_lite0", start="imagenet", outputs=2, load_weights=False)
    assert report is None and model.card == Preprocess((127.0,) * 3, (128.0,) * 3, 255.0, 3, "RGB")
    blue_first, _ = make_model("bninception", start="imagenet", outputs=2, load_weights=False)
    assert blue_first.card.order == "BGR"
    grey, _ = make_model("efficientnet_lite0", start="imagenet", outputs=2, load_weights=False, body_channels=1)
    assert grey.card == Preprocess((127.0,), (128.0,), 255.0, 1, "RGB")
    random, _ = make_model("efficientnet_lite0", outputs=2, channels=1)
    assert random.card == Preprocess((0.5,), (0.25,), 1.0, 1, "RGB")
    assert random.body.body.conv_stem.in_channels == 1


def batch_of(x: Tensor) -> dict[str, Tensor]:
    return {"x": x, "value_range": torch.tensor([[0.0, 255.0]]).expand(len(x), 2)}


def test_a_still_clip_equals_the_image_and_a_clip_is_the_mean_of_its_frames() -> None:
    model, _ = make_model("efficientnet_lite0", start="imagenet", outputs=2, seed=3)
    model.eval()
    frames = torch.randint(0, 256, (2, 1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        alone = [model.features(batch_of(frames[:, :, k : k + 1])) for k in range(3)]
        still = model.features(batch_of(frames[:, :, :1].expand(-1, -1, 4, -1, -1)))
        clip = model.features(batch_of(frames))
    scale = alone[0].abs().max()
    assert alone[0].shape == (2, 1280) and (alone[0] - alone[1]).abs().max() > 0.1 * scale
    assert (still - alone[0]).abs().max() < 1e-5 * scale
    assert (clip - torch.stack(alone).mean(0)).abs().max() < 1e-5 * scale


def test_a_grey_body_with_summed_filters_equals_the_colour_body_on_grey_data() -> None:
    batch = batch_of(torch.randint(0, 256, (2, 1, 1, 64, 64), dtype=torch.uint8))
    colour, _ = make_model("efficientnet_lite0", start="imagenet", outputs=2)
    grey, report = make_model("efficientnet_lite0", start="imagenet", outputs=2, body_channels=1)
    assert report is not None and "conv_stem.weight" in report.adapted
    with torch.no_grad():
        a, b = colour.eval().features(batch), grey.eval().features(batch)
    assert (a - b).abs().max() < 1e-4 * a.abs().max()


def test_other_channels_adapt_the_first_convolution() -> None:
    model, report = make_model("efficientnet_lite0", start="imagenet", outputs=2, channels=4)
    assert report is not None and "3 -> 4" in report.adapted["conv_stem.weight"]
    assert model(batch_of(torch.zeros(1, 4, 1, 64, 64, dtype=torch.uint8))).shape == (1, 2)


def test_a_lifted_dense_network_maps_each_frame_at_its_place_and_any_size() -> None:
    model, _ = make_model("unet2d", outputs=2, dense=True, options={"width": 4})
    model.eval()
    x = torch.randint(0, 256, (2, 1, 3, 37, 50), dtype=torch.uint8)
    with torch.no_grad():
        maps = model(batch_of(x))
        alone = [model(batch_of(x[:, :, k : k + 1])) for k in range(3)]
        padded = model(batch_of(torch.nn.functional.pad(x.float(), (0, 6, 0, 3, 0, 0), mode="replicate")))
    assert maps.shape == (2, 2, 3, 37, 50)
    assert torch.allclose(maps, torch.cat(alone, 2), atol=1e-5) and not torch.allclose(alone[0], alone[2], atol=1e-3)
    assert torch.allclose(padded[..., :37, :50], maps, atol=1e-5)
    volume, _ = make_model("unet3d", outputs=3, dense=True, options={"width": 4})
    assert volume(batch_of(torch.zeros(1, 1, 5, 20, 33))).shape == (1, 3, 5, 20, 33)


def test_windows_that_do_not_fit_are_named() -> None:
    model, _ = make_model("efficientnet_lite0", outputs=2)
    with pytest.raises(UserError, match=r"windows of \(16, 40\) are smaller"):
        model(batch_of(torch.zeros(1, 1, 1, 16, 40)))
    fixed, _ = make_model("timm:vit_tiny_patch16_224", outputs=2, size=(1, 64, 64))
    assert fixed(batch_of(torch.zeros(1, 1, 2, 64, 64))).shape == (1, 2)
    with pytest.raises(UserError, match=r"built for \(64, 64\)"):
        fixed(batch_of(torch.zeros(1, 1, 1, 80, 80)))


def test_a_seed_fixes_every_tensor_and_leaves_the_global_generator_alone() -> None:
    def tensors(seed: int) -> dict[str, Tensor]:
        return make_model("efficientnet_lite0", outputs=2, seed=seed)[0].state_dict()

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one = tensors(1)
    assert torch.equal(torch.rand(3), expected)
    again, other = tensors(1), tensors(2)
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not torch.equal(one["head.linear.weight"], other["head.linear.weight"])
    assert not torch.equal(one["body.body.conv_stem.weight"], other["body.body.conv_stem.weight"])


def test_a_random_start_holds_no_published_weights_and_the_same_head() -> None:
    random, none = make_model("efficientnet_lite0", outputs=2, seed=4, body_channels=3)
    image, report = make_model("efficientnet_lite0", start="imagenet", outputs=2, seed=4)
    assert none is None and report is not None and random.weight_card is None and image.weight_card is not None
    a, b = random.state_dict(), image.state_dict()
    assert set(a) == set(b) and not {"mean", "std"} & set(a)
    assert torch.equal(a["head.linear.weight"], b["head.linear.weight"])
    same = [k for k in a if k.startswith("body") and a[k].ndim > 1 and torch.equal(a[k], b[k])]
    assert not same
    published = weights.read_state(weights.locate(image.weight_card))
    assert torch.equal(b["body.body.conv_stem.weight"], published["_conv_stem.weight"])


def test_absent_weights_never_become_a_random_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = weights.find_card("efficientnet_lite0", "imagenet")
    assert card is not None
    changed = replace(card, package="no-such-package-of-weights")
    monkeypatch.setattr(sys.modules["medgraft.models.weights.cards"], "built_in", lambda: (changed,))
    with pytest.raises(WeightsAbsent, match=card.file_name):
        make_model("efficientnet_lite0", start="imagenet", outputs=2, cache=tmp_path)


def small() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Identity(), nn.PReLU())
    body.register_buffer("empty", torch.zeros(0, 2))
    body.register_buffer("halves", torch.arange(6).to(torch.bfloat16).view(2, 3))
    body.register_buffer("flag", torch.tensor(True))
    return body


def test_a_fingerprint_is_that_of_the_bytes_alone() -> None:
    first = fingerprint(small())
    assert re.fullmatch("[0-9a-f]{64}", first) and fingerprint(small()) == first
    other_layout = small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not other_layout[0].weight.is_contiguous() and fingerprint(other_layout) == first
    assert fingerprint(small().eval().requires_grad_(False)) == first


def test_a_fingerprint_changes_with_one_bit_anywhere() -> None:
    seen = {fingerprint(small())}
    for index, tensor in enumerate(t for t in small().state_dict().values() if t.numel()):
        body = small()
        target = [t for t in body.state_dict().values() if t.numel()][index]
        assert target.shape == tensor.shape
        target.reshape(-1)[-1:].view(torch.uint8)[0] ^= 1
        seen.add(fingerprint(body))
    assert len(seen) == 1 + sum(1 for t in small().state_dict().values() if t.numel())


def test_a_fingerprint_knows_order_names_types_and_shapes() -> None:
    def changed(change: Callable[[Any], object]) -> str:
        body = small()
        with torch.no_grad():
            change(body)
        return fingerprint(body)

    def swap(body: Any) -> None:
        """Two tensors of one shape and of one sum change places."""
        a, b = body[0].bias, body[2].bias
        a.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])), b.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))

    def swapped(body: Any) -> None:
        swap(body)
        held = body[0].bias.clone()
        body[0].bias.copy_(body[2].bias), body[2].bias.copy_(held)

    def renamed(body: Any) -> None:
        body.register_buffer("flags", body.flag)
        del body.flag

    def turned(body: Any) -> None:
        body.halves = body.halves.view(3, 2)

    def retyped(body: Any) -> None:
        body.halves = body.halves.view(torch.float16)

    ways = [fingerprint(small()), *map(changed, (swap, swapped, renamed, turned, retyped))]
    assert len(set(ways)) == len(ways)


def test_a_task_and_a_network_must_fit() -> None:
    with pytest.raises(UserError, match=r"gives dense, the task needs features.*efficientnet_lite0"):
        make_model("unet2d", outputs=2)
    with pytest.raises(UserError, match=r"gives features, the task needs dense maps.*unet3d"):
        make_model("r3d_18", outputs=2, dense=True)
    with pytest.raises(UserError, match="choose mean or bert"):
        make_model("efficientnet_lite0", outputs=2, join="median")


def test_the_head_starts_near_zero_and_drops_out_only_in_training() -> None:
    torch.manual_seed(0)
    head = LinearHead(2000, 3, dropout=0.5)
    assert float(head.linear.weight.detach().std()) == pytest.approx(0.01, rel=0.05) and not head.linear.bias.any()
    features = torch.ones(1, 2000)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))
