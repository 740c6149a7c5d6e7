"""What trains, how fast, and what stands still."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medgraft.errors import UserError
from medgraft.models import strategy
from medgraft.models.model import Model, make_model


def lite(**arguments: object) -> Model:
    return make_model("efficientnet_lite0", outputs=2, **arguments)[0]  # type: ignore[arg-type]


def batch() -> dict[str, Tensor]:
    return {
        "x": torch.rand(4, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)),
        "value_range": torch.tensor([[0.0, 1.0]]).expand(4, 2),
    }


def step(model: Model, groups: list[dict] | None = None) -> set[str]:
    """One training step; returns the names of all tensors that it changed, statistics included."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(groups or strategy.parameter_groups(model, 0.1, 0.1, decay_norms_and_biases=True))
    model.train()
    model(batch()).square().sum().backward()
    optimizer.step()
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


def test_finetune_moves_everything() -> None:
    model = lite()
    set_step = strategy.apply(model, "finetune")
    assert set_step(0) == len(model.groups())
    assert step(model) == set(model.state_dict())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "r3d_18"])
def test_frozen_moves_the_head_alone_and_statistics_stand_still(name: str) -> None:
    model, _ = make_model(name, outputs=2, dropout=0.5)
    control = step(make_model(name, outputs=2)[0])
    assert any("running_mean" in k for k in control)  # the same step does move them when nothing is frozen
    assert strategy.apply(model, "frozen")(10) == 1
    model.train()
    assert not any(m.training for m in model.body.modules()) and model.training and model.head.dropout.training
    assert step(model) == {"head.linear.weight", "head.linear.bias"}
    model.eval()
    assert not model.head.training


def test_frozen_dense_networks_train_their_last_layer() -> None:
    model, _ = make_model("lraspp_mobilenet_v3_large", outputs=1, dense=True)
    strategy.apply(model, "frozen")
    assert step(model) == {
        f"body.body.classifier.{k}.{leaf}" for k in ("low_classifier", "high_classifier") for leaf in ("weight", "bias")
    }


def test_a_body_can_be_opened_again() -> None:
    model = lite()
    strategy.apply(model, "frozen")
    strategy.apply(model, "finetune")
    assert step(model) == set(model.state_dict())


def test_gradual_opens_from_the_head_to_the_input() -> None:
    counts = [strategy.gradual_stages(s, 100, 10) for s in range(101)]
    assert counts[0] == 1 and counts == sorted(counts) and set(counts) == set(range(1, 11))
    assert counts[49] == 9 and counts[50] == 10
    assert strategy.gradual_stages(0, 100, 10, first=10) == 10

    model = lite()
    set_step = strategy.apply(model, "gradual", steps=100)
    names = [n for n, _ in model.groups()]
    assert step(model) == {"head.linear.weight", "head.linear.bias"}
    assert set_step(20) == 4
    changed = step(model)
    assert not any(
        n.startswith(f"body.body.{stage}.") for n in changed for stage in names[:-4]
    )  # weights and statistics
    for stage in names[-4:-1]:
        assert any(
            n.startswith(f"body.body.{stage}.") and n.endswith("conv_dw.weight" if "blocks" in stage else "weight")
            for n in changed
        )
    assert any(n.endswith("running_mean") for n in changed)
    assert set_step(50) == len(names)
    resumed = lite()
    strategy.apply(resumed, "gradual", steps=100)(20)  # one call puts a resumed run where it was
    set_step(20)
    assert [p.requires_grad for p in resumed.parameters()] == [p.requires_grad for p in model.parameters()]
    model.train(), resumed.train()
    assert [m.training for m in resumed.modules()] == [m.training for m in model.modules()]


def test_wrong_strategies_are_refused() -> None:
    model = lite()
    with pytest.raises(UserError, match="choose one of finetune, frozen, gradual"):
        strategy.apply(model, "freeze")
    with pytest.raises(UserError, match="number of steps"):
        strategy.apply(model, "gradual")
    with pytest.raises(UserError, match="number of steps"):
        strategy.apply(model, "gradual", steps=10, first=99)
    with pytest.raises(UserError, match="between 0 and 1"):
        strategy.parameter_groups(model, 0.1, 0, layer_decay=1.5)
    with pytest.raises(UserError, match="0 or more"):
        strategy.L2SP(model, -1)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "timm:vit_tiny_patch16_224", "unet3d"])
def test_parameter_groups_hold_each_once_and_spare_norms_and_biases(name: str) -> None:
    model, _ = make_model(name, outputs=2, dense=name == "unet3d")
    groups = strategy.parameter_groups(model, 0.1, 0.05)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    spared = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    norms = {id(p) for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)) for p in m.parameters()}
    for parameter_name, parameter in model.named_parameters():
        assert (id(parameter) in spared) == (id(parameter) in norms or parameter.ndim < 2), parameter_name
    everything = strategy.parameter_groups(model, 0.1, 0.05, decay_norms_and_biases=True)
    assert {g["weight_decay"] for g in everything} == {0.05}


def test_layer_decay_falls_from_head_to_input() -> None:
    model = lite()
    names = [n for n, _ in model.groups()]
    rates = {g["name"].split(",")[0]: g["lr"] for g in strategy.parameter_groups(model, 0.1, 0.05, layer_decay=0.5)}
    assert [rates[n] for n in names] == pytest.approx([0.1 * 0.5 ** (len(names) - 1 - k) for k in range(len(names))])
    assert len({g["lr"] for g in strategy.parameter_groups(model, 0.1, 0.05)}) == 1


def value(penalty: strategy.L2SP) -> float:
    return float(penalty().detach())


def test_l2sp_pulls_the_body_back_to_its_start_and_leaves_the_head() -> None:
    model = lite()
    penalty = strategy.L2SP(model, alpha=0.4)
    assert value(penalty) == 0
    with torch.no_grad():
        model.head.linear.weight.add_(1.0)
        assert value(penalty) == 0
        model.body.body.conv_stem.weight.add_(0.5)
    weight = model.body.body.conv_stem.weight
    assert value(penalty) == pytest.approx(0.5 * 0.4 * 0.25 * weight.numel(), rel=1e-4)
    penalty().backward()
    assert weight.grad is not None and torch.allclose(weight.grad, torch.full_like(weight, 0.4 * 0.5), atol=1e-6)
    again = strategy.L2SP(model, alpha=0.0)
    again.load_state_dict(penalty.state_dict())
    assert value(again) == value(penalty)
    strategy.apply(model, "frozen")
    assert value(penalty) == 0
