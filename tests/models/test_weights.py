"""Cards, the search for a file, downloads from a real server, and what loading refuses."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from medgraft.errors import UserError, WeightsAbsent
from medgraft.models import registry, weights
from medgraft.models.weights import WeightCard

PAYLOAD = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


def lite0() -> WeightCard:
    card = weights.find_card("efficientnet_lite0", "imagenet")
    assert card is not None
    return card


# ---------------------------------------------------------------------------------------- cards


def test_starts_find_their_cards() -> None:
    assert weights.find_card("efficientnet_lite0", "random") is None
    assert lite0().name == "efficientnet_lite0.imagenet" and lite0().licence == "Apache-2.0"
    kinetics = weights.find_card("r2plus1d_18", "kinetics")
    assert (
        kinetics is not None
        and kinetics.name == "r2plus1d_18.KINETICS400_V1"
        and kinetics.mean[0] == pytest.approx(0.43216)
    )
    assert weights.find_card("r2plus1d_18", "r2plus1d_18.kinetics400_v1") == kinetics
    timm_default = weights.find_card("timm:resnet50", "imagenet")
    other = weights.find_card("timm:resnet50", "tv_in1k")
    assert timm_default is not None and timm_default.tag == "a1_in1k" and timm_default.licence == "apache-2.0"
    assert other is not None and other.name == "timm:resnet50.tv_in1k" and "timm/resnet50.tv_in1k" in other.addresses[0]
    older = weights.find_card("torchvision:resnet50", "imagenet1k_v1")
    assert older is not None and older.sha256 == "0676ba61" and older.resize == 256


def test_a_start_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(UserError, match="its starts are random, imagenet") as caught:
        weights.find_card("efficientnet_lite0", "kinetics")
    assert caught.value.case == "efficientnet_lite0"
    with pytest.raises(UserError, match="its starts are random"):
        weights.find_card("resnet3d_10", "imagenet")


def test_built_in_cards_are_whole() -> None:
    own = weights.built_in()
    assert len({c.name for c in own}) == len(own) >= 4
    for card in own:
        assert card.name.startswith(card.backbone + ".") and card.backbone in registry.names()
        assert re.fullmatch(r"([0-9a-f]{8}){0,1}|[0-9a-f]{64}", card.sha256) and callable(
            weights.name_map(card.name_map)
        )
        if card.package or not card.addresses:  # what nobody can fetch by name must be known by its whole hash
            assert len(card.sha256) == 64 and card.size_bytes
        assert (
            len(card.mean) == len(card.std) == card.channels
            and card.range in (1.0, 255.0)
            and card.channel_order in ("RGB", "BGR")
        )
        assert card.licence and card.source_data and card.paper


def test_a_card_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(UserError, match="licens"):
        weights.card_from({"name": "a.b", "backbone": "a", "file_name": "f", "licens": "MIT"})


# ---------------------------------------------------------------------------------------- files


def test_the_package_that_ships_the_weights_is_found() -> None:
    path = weights.locate(lite0(), cache=Path("nowhere"))
    assert path.name == lite0().file_name and weights.sha256(path) == lite0().sha256


def test_absent_weights_name_file_hash_and_folder(tmp_path: Path) -> None:
    card = replace(lite0(), package="no-such-package-of-weights", addresses=("https://example.org/w.pth",))
    with pytest.raises(WeightsAbsent) as caught:
        weights.locate(card, folders=[tmp_path / "here"], cache=tmp_path / "cache")
    line = str(caught.value)
    for part in (
        card.file_name,
        card.sha256,
        str(tmp_path / "here"),
        "no-such-package-of-weights",
        "https://example.org/w.pth",
    ):
        assert part in line
    assert "\n" not in line


def test_a_folder_serves_and_a_wrong_file_is_never_skipped(tmp_path: Path) -> None:
    card = WeightCard("a.b", "a", "w.bin", sha256=DIGEST, size_bytes=len(PAYLOAD))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    (second / "w.bin").write_bytes(PAYLOAD)
    assert weights.locate(card, folders=[first, second]) == second / "w.bin"
    (first / "w.bin").write_bytes(PAYLOAD[:-1] + b"!")
    with pytest.raises(UserError, match="the card says " + DIGEST):
        weights.locate(card, folders=[first, second])
    (first / "w.bin").write_bytes(PAYLOAD[:100])
    with pytest.raises(UserError, match="has 100 bytes"):
        weights.locate(card, folders=[first, second])
    (first / "w.bin").write_bytes(PAYLOAD)
    assert weights.locate(replace(card, sha256=DIGEST[:8]), folders=[first]) == first / "w.bin"


class Hub(BaseHTTPRequestHandler):
    """Serves one file whole, cut, changed, as a web page, behind a redirect that states its hash as hubs do, or behind
    one to another scheme.
    """

    def do_GET(self) -> None:
        if self.path.startswith("/redirect"):
            self.send_response(302)
            goal = {"": "/whole", "-changed": "/changed", "-file": "file:///etc/hostname", "-ftp": "ftp://127.0.0.1/w"}
            self.send_header("Location", goal[self.path.removeprefix("/redirect")])
            self.send_header("X-Linked-Etag", f'"{DIGEST}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path not in ("/whole", "/cut", "/changed", "/page"):
            self.send_error(404)
            return
        body = PAYLOAD if self.path != "/changed" else PAYLOAD[:-1] + b"!"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a page is refused by its first bytes, and the line hung up
            self.wfile.write(body if self.path != "/cut" else body[: len(body) // 2])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def download(cache: Path, *addresses: str, sha256: str = DIGEST) -> Path:
    return weights.locate(
        WeightCard("a.b", "a", "w.bin", addresses=addresses, sha256=sha256), cache=cache, download=True
    )


def test_a_download_is_verified_and_kept(hub: str, tmp_path: Path) -> None:
    path = download(tmp_path / "cache", f"{hub}/whole")
    assert path == tmp_path / "cache" / "w.bin" and path.read_bytes() == PAYLOAD
    assert download(tmp_path / "cache", f"{hub}/missing") == path  # now from the cache: the address is not asked
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_nothing_is_fetched_unless_asked(hub: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsAbsent, match="allow the download"):
        weights.locate(WeightCard("a.b", "a", "w.bin", addresses=(f"{hub}/whole",), sha256=DIGEST), cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("page", "word"),
    [
        ("/changed", "the card says"),
        ("/cut", "cut off after|IncompleteRead"),
        ("/missing", "Not Found"),
        ("/page", "a web page, not a file"),
        ("/redirect-file", "not allowed"),
        ("/redirect-ftp", "refused"),
    ],
)
def test_a_bad_download_leaves_nothing(hub: str, tmp_path: Path, page: str, word: str) -> None:
    with pytest.raises(WeightsAbsent, match=word) as caught:
        download(tmp_path, hub + page)
    assert "w.bin" in str(caught.value) and DIGEST in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_next_address_is_tried(hub: str, tmp_path: Path) -> None:
    assert download(tmp_path, "ftp://127.0.0.1/w.bin", f"{hub}/cut", f"{hub}/whole").read_bytes() == PAYLOAD


def test_the_hash_that_a_hub_states_is_checked_where_the_card_has_none(hub: str, tmp_path: Path) -> None:
    assert download(tmp_path / "a", f"{hub}/redirect", sha256="").read_bytes() == PAYLOAD
    with pytest.raises(WeightsAbsent, match="the card says"):
        download(tmp_path / "b", f"{hub}/redirect-changed", sha256="")
    with pytest.raises(WeightsAbsent):
        download(tmp_path / "c", "http://127.0.0.1:9/none")  # nobody listens


# ---------------------------------------------------------------------------------------- loading


def test_the_real_file_fills_the_body(tmp_path: Path) -> None:
    body = registry.build_body("efficientnet_lite0")
    report = weights.load(body, lite0(), weights.locate(lite0()))
    assert report.share_of_parameters == 1.0 and not report.missing and not report.unexpected and not report.adapted
    assert report.head == ("classifier.bias", "classifier.weight")
    assert set(report.loaded) == set(body.state_dict())
    assert next(iter(report.by_layer)) == "conv_stem" and all(
        have == total > 0 for have, total in report.by_layer.values()
    )
    assert "100.0%" in report.summary()


def test_a_wrong_file_is_refused_by_layer_and_changes_nothing(tmp_path: Path) -> None:
    state = weights.read_state(weights.locate(lite0()))
    body = registry.build_body("efficientnet_lite0")
    before = {k: v.clone() for k, v in body.state_dict().items()}
    gone = "_blocks.3._project_conv.weight"
    torch.save({k: v for k, v in state.items() if k != gone}, tmp_path / "less.pth")
    torch.save({**state, gone: state[gone][:2]}, tmp_path / "shape.pth")
    torch.save({"a": torch.ones(3)}, tmp_path / "other.pth")
    for name, word in (
        ("less", r"1 of \d+ tensors are missing \(blocks.2.0.conv_pwl.weight\)"),
        ("shape", r"conv_pwl.weight \(2, "),
        ("other", "1 are unknown"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            weights.load(body, lite0(), tmp_path / f"{name}.pth")
        assert f"{name}.pth does not fit efficientnet_lite0" in caught.value.cause
    assert all(torch.equal(v, before[k]) for k, v in body.state_dict().items())
    report = weights.load(body, lite0(), tmp_path / "less.pth", allow_missing=True)
    assert report.missing == ("blocks.2.0.conv_pwl.weight",)
    lost = state[gone].numel() / sum(p.numel() for p in body.parameters())
    assert report.share_of_parameters == pytest.approx(1 - lost)
    assert report.by_layer["blocks.2"][0] == report.by_layer["blocks.2"][1] - state[gone].numel()


def test_first_convolution_is_adapted_and_recorded() -> None:
    path = weights.locate(lite0())
    colour = registry.build_body("efficientnet_lite0", channels=3).eval()
    weights.load(colour, lite0(), path)
    grey_image = torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = colour(grey_image.expand(-1, 3, -1, -1))
        for channels in (1, 5):
            body = registry.build_body("efficientnet_lite0", channels=channels).eval()
            report = weights.load(body, lite0(), path)
            assert (
                list(report.adapted) == ["conv_stem.weight"]
                and f"3 -> {channels}" in report.adapted["conv_stem.weight"]
            )
            assert "conv_stem.weight" not in report.loaded
            assert torch.allclose(body(grey_image.expand(-1, channels, -1, -1)), expected, atol=1e-4)


def test_files_with_code_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"weight": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Bomb()}))
    (tmp_path / "noise.pth").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name in ("bomb.pth", "plain.pth", "noise.pth", "noise.safetensors", "module.pth", "none.pth"):
        with pytest.raises(UserError) as caught:
            weights.read_state(tmp_path / name)
        assert caught.value.case == name and "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_wrapped_and_safetensors_files_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    save_file(state, str(tmp_path / "f.safetensors"))
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "f.pth")
    for name in ("f.safetensors", "f.pth"):
        found = weights.read_state(tmp_path / name)
        assert set(found) == set(state) and all(torch.equal(found[k], state[k]) for k in state)


def test_batch_norms_that_are_not_folded_are_refused(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2()
    with torch.no_grad():
        net.features[0][1].running_var.mul_(2)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    card = weights.find_card("mobilenet_v2_folded", "imagenet")
    assert card is not None
    with pytest.raises(UserError, match=r"features.0.1 is not folded \(running_var"):
        weights.load(registry.build_body("mobilenet_v2_folded"), card, tmp_path / "w.pth")


def test_published_accuracies_name_their_column() -> None:
    """Top-1 and top-5 are never taken for each other, figures after transfer never for figures on the source data."""

    def told(accuracy: str) -> str:
        return weights.source_accuracy(weights.WeightCard("x.y", "x", "f", accuracy=accuracy))

    assert told("top-1 73.524 %, top-5 91.562 % (ImageNet-1k validation)") == "top-1 73.524 %, top-5 91.562 %"
    assert told("video top-5 84.4 (paper, ten clips a video); top-5, not top-1") == "video top-5 84.4"
    assert told("after transfer: lung segmentation Dice 87.16 %") == "" == told("none published") == told("75.1 %")
    card = weights.find_card("torchvision:resnet50", "IMAGENET1K_V1")
    assert card is not None and weights.source_accuracy(card) == "top-1 76.13 %, top-5 92.862 %"
    lite = weights.find_card("efficientnet_lite0", "imagenet")
    assert lite is not None and weights.source_accuracy(lite) == "top-1 75.1 %"
    for name in registry.names():
        for card in weights.cards(name):
            assert not card.accuracy[:1].isdigit(), f"{card.name}: a figure without its measure"
