"""Losses, scores and counts of the tasks against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from medgraft.data.dataset import TargetSpec
from medgraft.tasks.classify import Classify
from medgraft.tasks.regress import Regress
from medgraft.tasks.segment import Segment


def test_several_classes_share_one_probability_and_missing_labels_count_nowhere() -> None:
    task = Classify([TargetSpec("x", "classes", ("a", "b", "c"))])
    logits, y = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[2.0], [float("nan")], [0.0], [1.0]]),
    )
    scores = task.scores(logits)
    assert torch.allclose(scores.sum(1), torch.ones(4)) and torch.allclose(scores, logits.softmax(1))
    known = [0, 2, 3]
    torch.testing.assert_close(
        task.loss(logits, {"y": y})["loss"], functional.cross_entropy(logits[known], y[known, 0].long())
    )
    rows = task.rows(list("pqrs"), list("pqrs"), y.numpy(), scores.numpy())
    assert (
        rows["class"][:4] == ["a"] * 4
        and rows["y_true"][:4] == [0.0, None, 1.0, 0.0]
        and rows["y_pred"][4:8] == pytest.approx(scores[:, 1])
    )


def test_a_quantity_is_learned_in_its_spread_and_answered_in_its_unit() -> None:
    task = Regress([TargetSpec("a", "regress"), TargetSpec("b", "regress")])
    y = np.array([[10.0, 1.0], [30.0, np.nan], [20.0, 3.0]], np.float32)
    task.fit(y)
    assert task.center == pytest.approx([20, 2]) and task.scale == pytest.approx([np.std([10, 30, 20]), 1.0])
    output = torch.tensor([[0.5, 0.0], [1.0, 2.0], [0.0, -1.0]])
    expected = [(0.5 + 10 / task.scale[0]) ** 2, 1.0, (1 - 10 / task.scale[0]) ** 2, 0.0, (-1 - 1) ** 2]
    assert float(task.loss(output, {"y": torch.from_numpy(y)})["loss"]) == pytest.approx(sum(expected) / 5, rel=1e-5)
    assert task.scores(output)[0].tolist() == pytest.approx([20 + 0.5 * task.scale[0], 2.0])


def test_masks_learn_and_count_without_what_is_ignored() -> None:
    task = Segment(["a", "b"])
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(2, 2, 1, 3, 4, generator=generator)
    mask = torch.randint(0, 2, (2, 2, 1, 3, 4), generator=generator).to(torch.uint8)
    mask[0, :, :, 0], mask[1, 0, :, 2] = 255, 255
    known, truth, p = mask != 255, (mask == 1).float(), logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits[known], truth[known])
    dice = []
    for k in range(2):  # over the whole batch, a structure at a time
        here = known[:, k]
        common = (p[:, k][here] * truth[:, k][here]).sum()
        dice.append((2 * common + 1) / (p[:, k][here].sum() + truth[:, k][here].sum() + 1))
    torch.testing.assert_close(task.loss(logits, {"mask": mask})["loss"], entropy + 1 - torch.stack(dice).mean())
    assert torch.equal(task.scores(logits), p)
    counts = task.count(mask[0].numpy(), p[0].numpy())
    said, drawn, counted = p[0].numpy() > 0.5, mask[0].numpy() == 1, mask[0].numpy() != 255
    for k in range(2):
        assert counts["tp"][k] == (said[k] & drawn[k]).sum() and counts["fn"][k] == (~said[k] & drawn[k]).sum()
        assert counts["fp"][k] == (said[k] & ~drawn[k] & counted[k]).sum()
    columns = task.rows(["c"], ["p"], [(-1, mask[0].numpy())], [p[0].numpy()])
    assert set(columns["name"]) == {f"{kind}.{s}" for kind in ("tp", "fp", "fn") for s in "ab"} and set(
        columns["frame"]
    ) == {-1}
    overlap = [2 * counts["tp"][k] / (2 * counts["tp"][k] + counts["fp"][k] + counts["fn"][k]) for k in range(2)]
    assert task.summary(columns)["dice"] == pytest.approx(np.mean(overlap))
