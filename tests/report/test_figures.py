"""What a figure shows, read back from its lines: which axis is which, and nothing left out."""

from __future__ import annotations

import re

import numpy as np

from medgraft.report import figures
from medgraft.report.text import Text


def lines(svg: str, colour: str) -> list[np.ndarray]:
    """Points (n, 2) of every open line of a colour, y upwards."""
    found = []
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg):
        if f"stroke: {colour}" in style and "fill: none" in style and not path.rstrip().endswith("z"):
            numbers = np.array(re.findall(r"-?\d+\.?\d*", path), float).reshape(-1, 2)
            found.append(numbers * [1, -1])
    return found


def texts(svg: str) -> dict[str, bool]:
    """Every text -> whether it stands upright along a vertical axis."""
    found = re.findall(r"<text([^>]*)>([^<]*)</text>", svg)
    return {text.strip(): "rotate(-90" in place for place, text in found}


def test_a_roc_curve_rises_along_sensitivity_and_runs_along_false_alarms() -> None:
    curve = {"fpr": [0.0, 0.0, 1.0], "tpr": [0.0, 1.0, 1.0], "low": [0.0, 0.9, 1.0], "high": [0.1, 1.0, 1.0]}
    names, text = {"a": "A", "b": "B"}, Text()
    svg = figures.roc({"a": curve, "b": curve}, ["a", "b"], names, text)
    drawn = [line for line in lines(svg, figures.BLUE) if len(line) == 3]
    assert len(drawn) == 2  # a panel each
    for line in drawn:
        (_, up), (right, _) = line[1] - line[0], line[2] - line[1]
        assert up > 10 and right > 10 and abs(line[1] - line[0])[0] < 1 and abs(line[2] - line[1])[1] < 1
    said = texts(svg)
    assert said[text("axis_tpr")] and not said[text("axis_fpr")]


def test_learning_curves_show_the_loss_above_and_the_score_below_to_the_last_look() -> None:
    curve = {"step": [1.0, 2.0, 3.0], "train_loss": [3.0, 2.0, 1.0], "select_score": [0.5, 0.6, 0.9]}
    svg = figures.learning({"a": [curve]}, ["a"], {"a": "A"}, Text())
    (loss,) = (line for line in lines(svg, figures.MUTED) if len(line) == 3)
    (score,) = (line for line in lines(svg, figures.BLUE) if len(line) == 3)
    assert loss[:, 1].min() > score[:, 1].max()
    assert (np.diff(loss[:, 1]) < 0).all() and (np.diff(score[:, 1]) > 0).all() and (np.diff(loss[:, 0]) > 0).all()
