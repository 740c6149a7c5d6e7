"""One function a figure. Each returns SVG text; ``standalone`` and ``inline`` dress it for a file or for the page.

Text stays text (the reader's browser chooses the font, so Chinese needs no font here), nothing in the
SVG names a date or a network address, and two builds of one summary agree to the byte. Colours are
three fixed hex values that ``inline`` turns into CSS variables, so a figure follows the page's theme.
Blue and orange stay apart under every common colour blindness, and lightness differs too.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medgraft.report.text import Text, clean, finite, take

INK, MUTED, RULE, BLUE, ORANGE = "#1d2125", "#5b636b", "#d4d7d9", "#0b5f97", "#b8480a"
#: Colours of the figures and the CSS variables that stand for them on the page.
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", BLUE: "--blue", ORANGE: "--orange"}
#: Heat map: from missed (orange) over undecided to right (blue).
HEAT = ("#c2510c", "#f3efe6", "#1b6ca8")
FONTS = (
    "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'Noto Sans CJK SC', 'PingFang SC', 'Microsoft "
    "YaHei', sans-serif"
)
MOST_PANELS = 12

STRINGS = take(
    {
        "axis_fpr": ("False positive rate (1 − specificity)", "假阳性率（1 − 特异度）"),
        "axis_tpr": ("Sensitivity", "灵敏度"),
        "axis_predicted": ("Predicted probability", "预测概率"),
        "axis_observed": ("Observed share", "实际比例"),
        "axis_prediction": ("Prediction", "预测值"),
        "axis_mean": ("Mean of both", "二者均值"),
        "axis_difference": ("Prediction − reference", "预测值 − 参考值"),
        "axis_step": ("Training step", "训练步数"),
        "axis_loss": ("Training loss", "训练损失"),
        "axis_score": ("Selection score", "选择得分"),
    }
)

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medgraft",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: sizes are the same on every machine
    "font.size": 8.5,
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.unicode_minus": True,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.constrained_layout.use": True,
}

Draw = Callable[[Axes, str], None]


def _svg(figure: Figure) -> str:
    """The figure as one ``<svg>`` element without header, document type, metadata or background."""
    stream = io.StringIO()
    FigureCanvasSVG(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing", category=UserWarning
        )  # text is drawn by the browser's fonts
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", FONTS, text)
    return re.sub(r"\n\s*\n+", "\n", text).strip()


def standalone(svg: str) -> str:
    """A file of its own, on white, as a journal prints it."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + re.sub(
        r"(<svg\b[^>]*>)",
        lambda found: found.group(1) + '\n<rect width="100%" height="100%" fill="#ffffff"/>',
        svg,
        count=1,
    )


def inline(svg: str, name: str, alt: str) -> str:
    """The figure for an HTML page: no namespaces (HTML needs none), own ids, theme colours, alternative text.

    ``name`` makes ids unique on the page; ``alt`` must already be escaped for an attribute.
    """
    svg = re.sub(r'\s+(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL
    )  # the page's style sheet holds its one rule
    svg = svg.replace(f"font-family: {FONTS}; ", "")  # the page's own font is inherited
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(
        r'\s+id="([^"]*)"', lambda found: f' id="{name}-{found.group(1)}"' if found.group(1) in used else "", svg
    )
    svg = re.sub(r'(url\(#|href="#)', lambda found: f"{found.group(1)}{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # Presentation attributes know no var(): colours set as attributes become style.
    svg = re.sub(r'\s(fill|stroke)="(var\([^"]*\))"', r' style="\1: \2"', svg)
    return re.sub(
        r'<svg\b([^>]*?)\s+width="[\d.]+pt"([^>]*)>',
        lambda found: _open(found.group(1) + found.group(2), alt),
        _height_out(svg),
        count=1,
    )


def _height_out(svg: str) -> str:
    return re.sub(r'(<svg\b[^>]*?)\s+height="[\d.]+pt"', r"\1", svg, count=1)


def _open(attributes: str, alt: str) -> str:
    return f'<svg{attributes} role="img" aria-label="{alt}" focusable="false">'


def _panels(ids: Sequence[str], draw: Draw, *, width: float, height: float, columns: int) -> str:
    """Small multiples: one panel a model."""
    ids = list(ids)[:MOST_PANELS]
    columns = max(1, min(columns, len(ids)))
    rows = -(-len(ids) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = _grid(width, height, rows, columns, several=len(ids) > 1)
        axes = figure.subplots(rows, columns, squeeze=False)
        for number, axis in enumerate(axes.flat):
            if number < len(ids):
                draw(axis, ids[number])
            else:
                axis.set_visible(False)
        return _svg(figure)


def _grid(width: float, height: float, rows: int, columns: int, *, several: bool, left: float = 0.62) -> Figure:
    """An empty figure for ``rows`` x ``columns`` panels of the given inches, with fixed margins (fitting them costs as
    much as drawing).
    """
    right, bottom, top = 0.1, 0.46, 0.42 if several else 0.1
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        figure = Figure(figsize=(width * columns, height * rows))
    figure.subplots_adjust(
        left=left / (width * columns),
        right=1 - right / (width * columns),
        bottom=bottom / (height * rows),
        top=1 - top / (height * rows),
        wspace=(left + right) / (width - left - right),
        hspace=(bottom + top) / (height - bottom - top),
    )
    return figure


def _title(axis: Axes, name: str, several: bool) -> None:
    """A panel carries its model's name when it stands among others; alone, the caption does."""
    if several:
        head, mark, rest = clean(name, 70).partition("，" if "，" in name else ", ")
        axis.set_title(f"{head}\n{rest}" if mark else head, fontsize=8)


def _array(values: Any) -> np.ndarray:
    return np.array([v if finite(v) else np.nan for v in values or []], dtype=float)


def forest(rows: Sequence[tuple[str, float, float, float]], label: str, reference: float | None = None) -> str:
    """Estimates with intervals: ``rows`` of (name, value, low, high), best first; ``reference`` draws a line
    (chance).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.6, 0.75 + 0.28 * max(1, len(rows))))
        axis = figure.subplots()
        y = np.arange(len(rows))[::-1]
        values, low, high = (np.array([r[i] if finite(r[i]) else np.nan for r in rows], dtype=float) for i in (1, 2, 3))
        if reference is not None:
            axis.axvline(reference, color=RULE, linewidth=0.9)
        axis.hlines(y, low, high, color=BLUE, linewidth=1.8)
        axis.plot(values, y, "o", color=BLUE, markersize=5)
        axis.set_yticks(y, [clean(r[0], 60) for r in rows])
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(label)
        return _svg(figure)


def bars(
    groups: Sequence[tuple[str, Sequence[tuple[str, float, float, float]]]], label: str, reference: float | None = None
) -> str:
    """Bars with intervals, a group a network and a bar a way of using it: ``groups`` of (network, [(way, value, low,
    high)]).
    """
    ways = list(dict.fromkeys(way for _, rows in groups for way, *_ in rows))
    tones = [BLUE, "#d07a2d", "#6b9f71", "#8a6fb0", "#9aa3aa", "#c5a83b"]
    # A bar begins where there is nothing to tell: at chance where there is one, else at 0.
    start = 0.0 if reference is None else reference
    with matplotlib.rc_context(_STYLE):
        slots = sum(len(rows) + 1 for _, rows in groups)
        figure = Figure(figsize=(6.6, 0.9 + 0.24 * slots + 0.2 * len(ways)))
        axis = figure.subplots()
        place, names = 0.0, []
        for network, rows in groups:
            names.append((place + (len(rows) - 1) / 2, clean(network, 40)))
            for way, value, low, high in rows:
                axis.barh(-place, value - start, left=start, height=0.78, color=tones[ways.index(way) % len(tones)])
                axis.hlines(-place, low, high, color=INK, linewidth=1.2)
                place += 1
            place += 1
        axis.set_yticks([-p for p, _ in names], [n for _, n in names])
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.axvline(start, color=INK, linewidth=0.9)
        axis.set_xlabel(label)
        handles = [Patch(color=tones[i % len(tones)], label=clean(way, 60)) for i, way in enumerate(ways)]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(3, len(ways)), frameon=False, fontsize=7.5)
        return _svg(figure)


def roc(
    curves: dict[str, dict[str, Any]], ids: Sequence[str], names: dict[str, str], text: Text, *, columns: int = 3
) -> str:
    """ROC curves with bands, one panel a model, the other models in grey behind."""

    def draw(axis: Axes, model: str) -> None:
        axis.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, dashes=(4, 3))
        for other in list(curves)[:MOST_PANELS]:
            if other != model:
                axis.plot(_array(curves[other].get("fpr")), _array(curves[other].get("tpr")), color=RULE, linewidth=0.8)
        curve = curves[model]
        x = _array(curve.get("fpr"))
        low, high = _array(curve.get("low")), _array(curve.get("high"))
        if len(low) == len(high) == len(x):
            axis.fill_between(x, low, high, color=BLUE, alpha=0.25, linewidth=0, zorder=2.5)
        axis.plot(x, _array(curve.get("tpr")), color=BLUE, linewidth=1.6, zorder=3)
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=text("axis_fpr"), ylabel=text("axis_tpr"))
        _square(axis)
        _title(axis, names[model], len(ids) > 1)

    return _panels(ids, draw, width=2.75, height=2.8, columns=columns)


def _square(axis: Axes) -> None:
    axis.set_aspect("equal", adjustable="box")
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def calibration(
    bins: dict[str, list[dict[str, Any]]], ids: Sequence[str], names: dict[str, str], text: Text, *, columns: int = 3
) -> str:
    """Reliability: observed share against predicted probability, with intervals."""

    def draw(axis: Axes, model: str) -> None:
        axis.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, dashes=(4, 3))
        rows = [r for r in bins[model] if finite(r.get("predicted")) and finite(r.get("observed"))]
        x, y = _array(r["predicted"] for r in rows), _array(r["observed"] for r in rows)
        low, high = _array([r.get("low") for r in rows]), _array([r.get("high") for r in rows])
        size = np.array([r.get("n") or 1 for r in rows], dtype=float)
        axis.vlines(x, low, high, color=BLUE, linewidth=1)
        axis.plot(x, y, color=BLUE, linewidth=0.8, alpha=0.6)
        axis.scatter(x, y, s=8 + 36 * size / max(1.0, size.max(initial=1.0)), color=BLUE, zorder=3, linewidths=0)
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=text("axis_predicted"), ylabel=text("axis_observed"))
        _square(axis)
        _title(axis, names[model], len(ids) > 1)

    return _panels(ids, draw, width=2.75, height=2.8, columns=columns)


def scatter(
    points: dict[str, list[dict[str, Any]]],
    ids: Sequence[str],
    names: dict[str, str],
    text: Text,
    unit: str,
    *,
    columns: int = 3,
) -> str:
    """Prediction against reference, on one scale."""

    def draw(axis: Axes, model: str) -> None:
        x, y = pairs_of(points[model])
        if len(x):
            low, high = min(x.min(), y.min()), max(x.max(), y.max())
            pad = 0.05 * (high - low or 1)
            axis.plot([low - pad, high + pad], [low - pad, high + pad], color=RULE, linewidth=0.8, dashes=(4, 3))
            axis.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
        axis.scatter(x, y, s=9, color=BLUE, alpha=0.55, linewidths=0)
        axis.set_aspect("equal", adjustable="box")
        axis.set(xlabel=with_unit(text("axis_reference"), unit), ylabel=with_unit(text("axis_prediction"), unit))
        _title(axis, names[model], len(ids) > 1)

    return _panels(ids, draw, width=2.75, height=2.8, columns=columns)


def bland_altman(
    points: dict[str, list[dict[str, Any]]],
    limits: dict[str, tuple[float, float, float]],
    ids: Sequence[str],
    names: dict[str, str],
    text: Text,
    unit: str,
    *,
    columns: int = 3,
) -> str:
    """Difference against mean with bias and limits of agreement (Bland and Altman, Lancet 1986; 327: 307-310).

    ``limits[id]`` is (lower limit, bias, upper limit).
    """

    def draw(axis: Axes, model: str) -> None:
        x, y = pairs_of(points[model])
        axis.axhline(0, color=RULE, linewidth=0.8)
        axis.scatter((x + y) / 2, y - x, s=9, color=BLUE, alpha=0.55, linewidths=0)
        if model in limits:
            lower, bias, upper = limits[model]
            axis.axhline(bias, color=ORANGE, linewidth=1.2)
            axis.axhline(lower, color=ORANGE, linewidth=0.9, dashes=(4, 3))
            axis.axhline(upper, color=ORANGE, linewidth=0.9, dashes=(4, 3))
        axis.set(xlabel=with_unit(text("axis_mean"), unit), ylabel=with_unit(text("axis_difference"), unit))
        _title(axis, names[model], len(ids) > 1)

    return _panels(ids, draw, width=2.75, height=2.8, columns=columns)


def pairs_of(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction of the rows where both are numbers."""
    kept = [(r["y_true"], r["y_pred"]) for r in rows if finite(r.get("y_true")) and finite(r.get("y_pred"))]
    both = np.array(kept, dtype=float).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def with_unit(label: str, unit: str) -> str:
    return f"{label} [{clean(unit, 20)}]" if unit else label


def distribution(values: np.ndarray, names: Sequence[str], label: str) -> str:
    """Values case by case: ``values`` (models, cases), one strip with a box a model, best first."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.6, 0.75 + 0.42 * max(1, len(names))))
        axis = figure.subplots()
        for row, line in enumerate(values):
            y = len(names) - 1 - row
            known = line[np.isfinite(line)]
            # Offsets by golden-ratio steps: spread like chance, the same in every build.
            offset = ((np.arange(len(known)) * 0.61803398875) % 1 - 0.5) * 0.56
            axis.scatter(known, y + offset, s=5, color=BLUE, alpha=0.35, linewidths=0)
            if len(known):
                first, middle, third = np.percentile(known, [25, 50, 75])
                axis.fill_between([first, third], y - 0.3, y + 0.3, facecolor="none", edgecolor=INK, linewidth=0.9)
                axis.vlines(middle, y - 0.3, y + 0.3, color=ORANGE, linewidth=1.8)
        axis.set_yticks(np.arange(len(names))[::-1], [clean(n, 60) for n in names])
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(label)
        return _svg(figure)


def heatmap(
    values: np.ndarray, names: Sequence[str], low: float, high: float, reverse: bool, axis_label: str, scale_label: str
) -> str:
    """Models by cases as one picture; ``reverse`` where a small value is good (an error). Missing cells stay open."""
    colours = LinearSegmentedColormap.from_list("heat", HEAT[::-1] if reverse else HEAT)
    colours.set_bad((0, 0, 0, 0))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 1.2 + 0.2 * max(1, len(names))))
        axis = figure.subplots()
        picture = axis.imshow(
            np.ma.masked_invalid(values), aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high
        )
        axis.set_yticks(np.arange(len(names)), [clean(n, 44) for n in names], fontsize=7)
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.set_xlabel(axis_label)
        for spine in axis.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(picture, ax=axis, orientation="horizontal", shrink=0.4, aspect=30, pad=0.02)
        bar.set_label(scale_label)
        cast(Any, bar.outline).set_visible(False)
        return _svg(figure)


def learning(
    curves: dict[str, list[dict[str, Any]]], ids: Sequence[str], names: dict[str, str], text: Text, *, columns: int = 3
) -> str:
    """Training loss over selection score, one thin line a training, one column of two panels a model."""
    ids = list(ids)[:MOST_PANELS]
    columns = max(1, min(columns, len(ids)))
    rows = -(-len(ids) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = _grid(2.75, 3.3, rows, columns, several=len(ids) > 1, left=0.72)
        holders = figure.subplots(rows, columns, squeeze=False)
        for number in range(rows * columns):
            holder = holders.flat[number]
            holder.set_axis_off()
            upper, lower = holder.inset_axes((0, 0.55, 1, 0.45)), holder.inset_axes((0, 0, 1, 0.45))
            if number >= len(ids):
                upper.set_visible(False)
                lower.set_visible(False)
                continue
            for curve in curves[ids[number]]:
                for axis, key, colour in ((upper, "train_loss", MUTED), (lower, "select_score", BLUE)):
                    step, value = _line(curve.get("step"), curve.get(key))
                    axis.plot(
                        step,
                        value,
                        color=colour,
                        linewidth=0.9,
                        alpha=0.6,
                        marker="o" if len(step) <= 12 else "",
                        markersize=2.5,
                    )
            lower.sharex(upper)
            upper.tick_params(labelbottom=False)
            for axis in (upper, lower):
                axis.locator_params(axis="y", nbins=4)
                axis.locator_params(axis="x", nbins=5)
            upper.set_ylabel(text("axis_loss"))
            lower.set_ylabel(text("axis_score"))
            lower.set_xlabel(text("axis_step"))
            upper.margins(x=0.02)
            _title(upper, names[ids[number]], len(ids) > 1)
        return _svg(figure)


def _line(step: Any, value: Any, most: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Points where both are numbers, thinned to at most ``most`` by means of neighbours."""
    x, y = _array(step), _array(value)
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])
