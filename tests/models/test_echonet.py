"""The networks of EchoNet-Dynamic with each of their starts, by files like the published ones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from medgraft.data.dataset import TargetSpec
from medgraft.errors import UserError
from medgraft.models import parity, weights
from medgraft.models.model import Model, make_model, preprocess_of
from medgraft.tasks.regress import Regress

MEAN_EF = 55.6
EF = [TargetSpec("EF", "regress")]


def filled(network: nn.Module, file: Path, gain: float = 1.0) -> nn.Module:
    """The library's network in evaluation mode, every tensor away from 0 and 1, and a file of them."""
    network.load_state_dict(parity.fill(parity.shapes(network), gain))
    torch.save(network.state_dict(), file)
    return network.eval()


def batch_of(clip: Tensor) -> dict[str, Tensor]:
    return {"x": clip, "value_range": torch.tensor([[0.0, 1.0]] * len(clip))}


@pytest.mark.parametrize("name", ["r2plus1d_18", "mc3_18", "r3d_18"])
def test_ejection_fraction_networks_with_their_two_starts(name: str, tmp_path: Path) -> None:
    """With the same tensors ours answers what torchvision's network with one output and bias 55.6 answers."""
    official = filled(models.get_model(name, weights=None), tmp_path / "kinetics.pth")
    official.fc = nn.Linear(512, 1)
    nn.init.constant_(official.fc.bias, MEAN_EF)
    card = weights.find_card(name, "kinetics")
    assert card is not None and card.source_data == "Kinetics-400" and weights.find_card(name, "random") is None
    clip = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.2]).view(
        2, 1, 1, 1, 1
    )
    task = Regress(EF, center=MEAN_EF, scale=1.0)

    fresh, nothing = make_model(name, start="random", outputs=1, channels=3, seed=1)
    assert nothing is None
    model = Model(fresh.body, fresh.head, preprocess_of(card, 3), card).eval()
    with torch.no_grad():
        untrained = task.scores(model(batch_of(clip)))
        assert (untrained - MEAN_EF).abs().max() < 5 and not model.head.linear.bias.any()
        report = weights.load(model.body, card, tmp_path / "kinetics.pth")
        assert (
            report.share_of_parameters == 1
            and not report.missing
            and not report.unexpected
            and report.head == ("fc.bias", "fc.weight")
        )
        model.head.linear.weight.copy_(official.fc.weight)
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (card.mean, card.std))
        expected, found = official((clip - mean) / std), task.scores(model(batch_of(clip)))
        assert expected.std() > 0.01 and (found - expected).abs().max() <= 1e-4 * (expected - MEAN_EF).abs().max()

    (tmp_path / card.file_name).write_bytes((tmp_path / "kinetics.pth").read_bytes())
    with pytest.raises(UserError, match="the card says"):  # only the published file passes under its name
        make_model(name, start="kinetics", outputs=1, folders=[tmp_path])


def test_a_center_trains_as_a_bias_does() -> None:
    """Three steps of SGD with momentum: a bias that starts at 55.6 and a centre of 55.6 with scale 1 give the same
    losses and answers.
    """
    model, _ = make_model("mc3_18", outputs=1, seed=2)
    theirs = nn.Sequential(copy.deepcopy(model.body), nn.Linear(512, 1))
    with torch.no_grad():
        theirs[1].weight.copy_(model.head.linear.weight)
        theirs[1].bias.fill_(MEAN_EF)
    clip = torch.rand(3, 1, 4, 24, 24, generator=torch.Generator().manual_seed(4))
    truth = torch.tensor([[31.0], [64.0], [70.0]])
    batch = {**batch_of(clip), "y": truth}

    def ours(task: Regress, steps: int) -> tuple[list[float], Tensor]:
        trained = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4, momentum=0.9)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = task.loss(trained(batch), batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, task.scores(trained(batch)).detach()

    optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-4, momentum=0.9)
    expected = []
    x = model.prepare(batch["x"], batch["value_range"])
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(theirs(x), truth)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    task = Regress(EF, center=MEAN_EF, scale=1.0)
    task.fit(truth.numpy())
    losses, answers = ours(task, 3)
    assert np.allclose(losses, expected, rtol=1e-3) and abs(losses[0] - losses[-1]) > 1
    assert torch.allclose(answers, theirs(x), rtol=1e-3)
    own = Regress(EF)
    own.fit(truth.numpy())
    assert own.center[0] == pytest.approx(55.0) and own.scale[0] > 10 and ours(own, 1)[0][0] < 0.1 * losses[0]


def test_a_given_center_is_of_one_quantity() -> None:
    with pytest.raises(UserError, match="of one quantity"):
        Regress([*EF, *EF], center=1.0)


@pytest.mark.parametrize(
    "name",
    [
        "fcn_resnet50",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")
        ),
    ],
)
def test_ventricle_networks_load_each_of_their_starts(name: str, tmp_path: Path) -> None:
    """COCO fills all but the last layer, ImageNet the backbone (what the released code runs under the name random),
    random nothing.
    """
    official = filled(
        models.get_model(name, weights=None, weights_backbone=None, num_classes=21, aux_loss=True),
        tmp_path / "coco.pth",
    )
    coco, image = weights.find_card(name, "COCO_WITH_VOC_LABELS_V1"), weights.find_card(name, "imagenet")
    assert (
        coco is not None and image is not None and coco.name != image.name and weights.find_card(name, "random") is None
    )
    model, nothing = make_model(name, start="random", outputs=21, dense=True, channels=3, seed=3)
    assert nothing is None
    body, picture = model.eval().body.body, parity.signal((2, 3, 64, 64))
    assert not any(k.startswith("aux") for k in body.state_dict())
    fresh = copy.deepcopy(body.state_dict())

    report = weights.load(body, coco, tmp_path / "coco.pth")
    assert not report.missing and not report.unexpected
    assert {k.split(".")[0] for k in report.head} == {"classifier", "aux_classifier"}
    assert {k for k in report.head if k.startswith("classifier")} == {"classifier.4.weight", "classifier.4.bias"}
    with torch.no_grad():
        expected = official(picture)["out"]
        assert torch.equal(
            body.state_dict()["classifier.4.weight"], fresh["classifier.4.weight"]
        )  # the last layer is new
        body.load_state_dict(
            {k: v for k, v in official.state_dict().items() if k.startswith("classifier.4")}, strict=False
        )
        found = body(picture)
    assert expected.std() >= 0.1 and (found - expected).abs().max() <= 1e-4 * expected.abs().max()

    encoder = {k.removeprefix("backbone."): -v for k, v in official.state_dict().items() if k.startswith("backbone.")}
    torch.save({**encoder, "fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}, tmp_path / "image.pth")
    body.load_state_dict(fresh)
    report = weights.load(body, image, tmp_path / "image.pth")
    assert report.head == ("backbone.fc.bias", "backbone.fc.weight") and not report.unexpected
    state = body.state_dict()
    assert all(
        torch.equal(v, encoder[k.removeprefix("backbone.")]) for k, v in state.items() if k.startswith("backbone.")
    )
    left = {k for k in state if k.startswith("classifier.")}
    assert all(torch.equal(state[k], fresh[k]) for k in left)
    assert {k for k in left if not k.endswith("num_batches_tracked") and not k.startswith("classifier.4.")} == set(
        report.missing
    )
