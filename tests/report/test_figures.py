"""What a figure shows, read back from its lines: which axis is which, and nothing left out."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

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


def marks(svg: str, colour: str = figures.BLUE) -> np.ndarray:
    """Places (n, 2) of every point of a colour, in order, y upwards."""
    found = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: (#\w+)', svg)
    return np.array([(float(x), -float(y)) for x, y, fill in found if fill == colour])


def bar_lengths(svg: str) -> dict[str, list[float]]:
    """Colour -> lengths of the bars that are filled with it, from top to bottom."""
    found: dict[str, list[float]] = {}
    for path, fill in re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: (#\w+)"', svg):
        corners = np.array(re.findall(r"-?\d+\.?\d*", path), float).reshape(-1, 2)
        found.setdefault(fill, []).append(float(np.ptp(corners[:, 0])))
    return found


PAIRS = {"a": [{"y_true": x, "y_pred": y} for x, y in ((0.0, 3.0), (1.0, 4.0), (2.0, 5.0), (3.0, 9.0), (8.0, 1.0))]}


def test_a_scatter_has_the_reference_across_and_the_prediction_upwards() -> None:
    svg = figures.scatter(PAIRS, ["a"], {"a": "A"}, Text(), "mL")
    points = marks(svg)
    right, up = (points - points[0]).T
    unit = right[1]  # the scale of both axes is one
    assert unit > 1 and np.allclose(right / unit, [0, 1, 2, 3, 8], atol=1e-3)
    assert np.allclose(up / unit, [0, 1, 2, 6, -2], atol=1e-3)
    said = texts(svg)
    assert said["Prediction [mL]"] and not said["Reference [mL]"]


def test_differences_are_prediction_minus_reference_over_the_mean_of_both() -> None:
    points = marks(figures.bland_altman(PAIRS, {}, ["a"], {"a": "A"}, Text(), ""))
    mean, difference = (np.array([1.5, 2.5, 3.5, 6, 4.5]), np.array([3.0, 3, 3, 6, -7]))
    for drawn, wanted in zip(points.T, (mean, difference)):
        steps = (drawn - drawn[0])[3:] / (wanted - wanted[0])[3:]  # points for each unit
        assert (steps > 1).all() and np.allclose(steps, steps[0], rtol=1e-3)


def test_a_forest_has_the_best_on_top_with_its_interval() -> None:
    rows = [("first", 0.9, 0.8, 0.95), ("second", 0.7, 0.6, 0.8), ("third", 0.5, 0.4, 0.6)]
    svg = figures.forest(rows, "AUC")
    (right, up), spans = marks(svg).T, [line for line in lines(svg, figures.BLUE) if len(line) == 2]
    names = {text: -float(y) for y, text in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>(\w+)</text>', svg)}
    assert (np.diff(right) < -10).all() and (np.diff(up) < -10).all()
    assert np.allclose([names[n] for n, *_ in rows], up, atol=5)  # a name stands beside its point
    for x, y, span in zip(right, up, spans, strict=True):
        assert span[0, 0] < x < span[1, 0] and np.allclose(span[:, 1], y)


def test_a_bar_is_as_long_as_its_value_is_above_chance_and_has_the_colour_of_its_way() -> None:
    ways = [("tuned", 0.9, 0.8, 0.95), ("frozen", 0.6, 0.55, 0.7)]
    svg = figures.bars([("net", ways), ("other", ways[:1])], "AUC", 0.5)
    tuned, frozen = bar_lengths(svg)[figures.BLUE], bar_lengths(svg)["#d07a2d"]
    assert len(tuned) == 2 and len(frozen) == 1 and frozen[0] > 10
    assert np.allclose(np.array(tuned) / frozen[0], 4, rtol=1e-3)
    from_nothing = bar_lengths(figures.bars([("net", ways)], "AUC"))
    assert np.isclose(from_nothing[figures.BLUE][0] / from_nothing["#d07a2d"][0], 1.5, rtol=1e-3)


def test_a_heat_map_shows_right_in_blue_and_missed_in_orange_whichever_way_the_values_run() -> None:
    def shown(reverse: bool) -> list[tuple[int, ...]]:
        svg = figures.heatmap(np.array([[0.0, 1.0]]), ["a"], 0.0, 1.0, reverse, "cases", "value")
        pictures = [
            Image.open(io.BytesIO(base64.b64decode(text)))
            for text in re.findall(r"data:image/png;base64,\s*([\w+/=\s]+)", svg)
        ]
        picture = np.asarray(max(pictures, key=lambda p: p.height).convert("RGB"))
        middle = picture.shape[0] // 2
        return [tuple(picture[middle, int(share * picture.shape[1])].tolist()) for share in (0.25, 0.75)]

    missed, right = (tuple(bytes.fromhex(figures.HEAT[k].removeprefix("#"))) for k in (0, 2))
    assert shown(reverse=False) == [missed, right]  # a share: 1 is right
    assert shown(reverse=True) == [right, missed]  # an error: 0 is right
