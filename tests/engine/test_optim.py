"""Optimisers, rates and what a fit writes down, against PyTorch's own loop and closed forms."""

from __future__ import annotations

import copy
import itertools
import json
import platform

import pytest
import torch
from torch.nn import functional

from conftest import MODEL
from medgraft import flow, runs
from medgraft.config import TrainConfig
from medgraft.data.dataset import TargetSpec
from medgraft.engine import fit, optim
from medgraft.models.model import make_model
from medgraft.tasks.classify import Classify


def test_sgd_at_a_constant_rate_is_pytorchs_own() -> None:
    """Row CEUS-T01: three steps of stochastic gradient descent on the cross-entropy, no warm-up, nothing else."""
    setting = TrainConfig(
        optimizer="sgd", momentum=0.99, learning_rate=3e-2, weight_decay=0, schedule="constant", warmup=0
    )
    model, _ = make_model(MODEL, outputs=3, seed=1)
    twin = copy.deepcopy(model)
    task = Classify([TargetSpec("finding", "classes", ("a", "b", "c"))])
    ours, plain = optim.make_optimizer(model, setting), torch.optim.SGD(twin.parameters(), lr=3e-2, momentum=0.99)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        x = torch.rand((4, 1, 1, 32, 32), generator=generator)
        batch = {
            "x": x,
            "value_range": torch.tensor([[0.0, 1.0]] * 4),
            "y": torch.tensor([[0.0], [1.0], [2.0], [step % 3]]),
        }
        optim.set_rate(ours, optim.rate_factor(setting, step, 3))
        for net, optimizer in ((model, ours), (twin, plain)):
            torch.manual_seed(step)
            output = net(batch)
            loss = (
                task.loss(output, batch)["loss"]
                if net is model
                else functional.cross_entropy(output, batch["y"][:, 0].long())
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for (name, a), b in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_the_rate_rises_linearly_and_then_falls_for_head_and_body_alike() -> None:
    """Row PNEU-T02: one of 30 epochs (40 steps each) to warm up, the body at a tenth of the head's rate."""
    setting = TrainConfig(learning_rate=1e-4, head_learning_rate=1e-3, warmup=1 / 30, schedule="cosine")
    factors = [optim.rate_factor(setting, step, 1200) for step in range(1200)]
    assert factors[:40] == pytest.approx([(k + 1) / 40 for k in range(40)])
    assert (
        all(a > b for a, b in itertools.pairwise(factors[40:]))
        and factors[620] == pytest.approx(0.505)
        and factors[-1] == pytest.approx(0.01, abs=1e-4)
    )
    model, _ = make_model(MODEL, outputs=1, seed=1)
    optimizer = optim.make_optimizer(model, setting)
    optim.set_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    head = {id(p) for name, part in model.groups() if name == "head" for p in part}
    assert {rates[p] for p in head} == {5e-4} and {rate for p, rate in rates.items() if p not in head} == {5e-5}


def test_other_schedules_have_their_shapes() -> None:
    line, steps = (TrainConfig(schedule=s, warmup=0) for s in ("linear", "step"))  # type: ignore[arg-type]
    assert [optim.rate_factor(line, k, 100) for k in (0, 50, 100)] == pytest.approx([1, 0.505, 0.01])
    assert [optim.rate_factor(steps, k, 100) for k in (0, 49, 50, 74, 75, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


def test_a_fit_by_iterations_looks_at_intervals_and_writes_down_how_it_was_made(recipe) -> None:
    """Rows CEUS-T03, T04, T06 and E09."""
    words = (
        "train={iterations: 6, evaluations: 3, batch_size: 4, optimizer: sgd, learning_rate: 1e-2, schedule: "
        "constant, warmup: 0}"
    )
    root = flow.run(recipe(words), say=lambda line: None)
    records = runs.Run.open(root).records()
    searched = [r for r in records if r["inner"] == 0]
    assert len(searched) == 2
    for record in searched:
        rows = fit.read_log(root / "cells" / record["hash"] / "log.csv")
        assert [row["step"] for row in rows] == [2, 4, 6]
        assert {row["learning_rate"] for row in rows} == {0.01} and record["setting"]["train"]["batch_size"] == 4
    network, _ = make_model(MODEL, outputs=1, seed=0)
    assert {r["parameters"] for r in records} == {sum(p.numel() for p in network.parameters())}
    versions = json.loads((root / "run.json").read_text())["versions"]
    assert (versions["torch"], versions["python"]) == (torch.__version__.split("+")[0], platform.python_version())
    assert {"medgraft", "system", "torchvision", "timm", "numpy"} <= set(versions)
