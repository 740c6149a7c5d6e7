"""Build ``report.html`` and ``figures/*.svg`` from a run folder.

One file holds everything it shows: style, script, figures and thumbnails are inlined, and no network
address stands in it. Every string of the user goes through the template engine's escaping.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medgraft import __version__
from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.files import read_json, write_text
from medgraft.report import beside, figures
from medgraft.report.drawn import MISSED, Drawn
from medgraft.report.gallery import Gallery
from medgraft.report.text import Text, clean, finite, split_metric
from medgraft.report.view import View, agreement, listed, patient_interval, public

TEMPLATES = Path(__file__).parent / "templates"
_ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://")


def build(run_dir: Path | str, *, lang: str = "en") -> Path:
    """Write the report of a run beside its ``summary.json`` and return its path.

    Reads ``summary.json`` (required), ``run.json`` (dataset folder, recipe, versions, looks) and
    ``splits.json`` where they are. ``lang`` is ``en`` (``report.html``) or ``zh`` (``report.zh.html``).
    Raises ``UserError`` when there is no summary, it is broken, or the folder cannot be written.
    """
    run_dir = Path(run_dir)
    text = Text(lang)
    if not (run_dir / "summary.json").is_file():
        raise UserError(
            "no summary.json, so there is nothing to report",
            case=str(run_dir),
            fix="run `medgraft run` to its end first",
        )
    summary = read_json(run_dir / "summary.json")
    facts = read_json(run_dir / "run.json") if (run_dir / "run.json").is_file() else {}
    if not isinstance(summary, dict) or not isinstance(summary.get("models"), list) or not isinstance(facts, dict):
        raise UserError(
            "summary.json holds no list of models",
            case=str(run_dir),
            fix="run `medgraft report` again after the statistics are made",
        )
    run = {**facts, **(summary.get("run") or {})}
    run["warnings"] = list(
        dict.fromkeys([*listed(facts.get("warnings")), *listed((summary.get("run") or {}).get("warnings"))])
    )
    dataset = _dataset(run_dir, facts)
    if dataset is not None and not run.get("units"):
        described = dataset.info.get("targets") or {}
        run["units"] = {
            t: (described.get(t) or {}).get("unit") for t in listed(run.get("targets")) if isinstance(described, dict)
        }
    view = View({**summary, "run": run}, text)
    drawn = Drawn(run_dir, view)
    page = _page(view, drawn, dataset, _splits(run_dir, facts), run_dir)
    return write_page(run_dir, "report", text, page)


def write_page(folder: Path, name: str, text: Text, page: dict[str, Any], styles: Sequence[str] = ()) -> Path:
    """Render ``templates/NAME.html`` into one file ``NAME.html`` (``NAME.zh.html``) of ``folder`` and return its path.

    Style (with the further ``styles``) and script are inlined; what a user wrote is escaped, and an address that it may
    quote stays readable but cannot be followed.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup(
        "".join((TEMPLATES / file).read_text(encoding="utf-8") for file in ("style.css", *styles))
    )  # ours, not a user's
    script = Markup((TEMPLATES / "page.js").read_text(encoding="utf-8"))
    rendered = environment.get_template(f"{name}.html").render(
        t=text, style=style, script=script, version=__version__, **page
    )
    return write_text(
        folder / (f"{name}.html" if text.language == "en" else f"{name}.{text.language}.html"),
        _ADDRESS.sub("", rendered),
    )


def _dataset(run_dir: Path, facts: dict[str, Any]) -> Dataset | None:
    """The data set of the run where it is still there; the report does without."""
    where = facts.get("dataset")
    if not isinstance(where, str) or not where:
        return None
    try:
        return load_dataset((run_dir / where).resolve())  # an absolute path replaces the run folder
    except (UserError, OSError):
        return None


def _splits(run_dir: Path, facts: dict[str, Any]) -> list[dict[str, int]]:
    """Patients per role of each outer fold: ``{fold, train, test, both}``."""
    path = run_dir / "splits.json"
    found = read_json(path) if path.is_file() else facts.get("splits")
    rows = found.get("rows") if isinstance(found, dict) else found
    members: dict[int, dict[str, set[str]]] = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            outer, patient, role = row.get("outer"), row.get("patient_id"), row.get("role")
        elif isinstance(row, (list, tuple)) and len(row) == 4:
            outer, _, patient, role = row
        else:
            continue
        if finite(outer):
            members.setdefault(int(outer), {"train": set(), "test": set()})["test" if role == "test" else "train"].add(
                str(patient)
            )
    return [
        {"fold": fold + 1, "train": len(r["train"]), "test": len(r["test"]), "both": len(r["train"] & r["test"])}
        for fold, r in sorted(members.items())
    ]


def _page(
    view: View, drawn: Drawn, dataset: Dataset | None, splits: list[dict[str, int]], run_dir: Path
) -> dict[str, Any]:
    """Everything the template shows."""
    text, summary, run, names = view.text, view.summary, view.run, view.names
    warnings = [text.say(w, names) for w in run["warnings"]]
    pairs_first, pairs_rest = view.pairs()
    pairs_note = {"unit": text(f"unit_{view.unit}"), "confidence": view.confidence_text}
    number = len(pairs_first) + len(pairs_rest)
    page: dict[str, Any] = {
        "title": view.title,
        "created": text("created", time=clean(run.get("created"), 40)) if run.get("created") else "",
        "facts_line": view.facts_line(),
        "answers": view.answers(),
        "warnings": warnings,
        "warning_line": _warning_line(warnings, text),
        "board": _board(view, drawn),
        "metrics": _metrics(view),
        "costs": _costs(view),
        "pairs": {
            "first": pairs_first,
            "rest": pairs_rest,
            "note": text("pairs_note_one", **pairs_note) if number == 1 else text("pairs_note", n=number, **pairs_note),
            "holm": number > 1,
            "metric": text.metric(view.primary),
        },
        "heatmap": _heatmap(view, drawn),
        "missed": _missed(view, dataset),
        "methods": view.methods(),
        "facts": _facts(view, dataset),
        "splits": splits,
        "split_unit": text(f"unit_{view.unit}"),
        "looks": _looks(view),
        "recipe": yaml.safe_dump(
            public(run.get("recipe") or {}), allow_unicode=True, sort_keys=False, width=100
        ).strip()
        if run.get("recipe")
        else "",
        "limits": view.limitations(),
        "glossary": view.glossary(_registry()),
    }

    curves = summary.get("roc") or {}
    made = drawn.panels("roc", text("roc_title"), view.order(curves), lambda ids: figures.roc(curves, ids, names, text))
    macro = text("roc_macro") if view.several_targets or len(_classes(view)) > 2 else ""
    page["roc"] = {**made, "note": text("roc_note", confidence=view.confidence_text, shown=macro + made["shown"])}

    bins = summary.get("calibration") or {}
    made = drawn.panels(
        "calibration",
        text("calibration_title"),
        view.order(bins),
        lambda ids: figures.calibration(bins, ids, names, text),
    )
    page["calibration"] = {
        **made,
        "note": text("calibration_note", confidence=view.confidence_text, shown=made["shown"]),
    }

    page["claims"] = beside.claims(view)
    page["kinds"] = beside.kinds(view)
    page["clean"] = beside.without_views(view)
    page["looks_at"] = beside.looks(view, run_dir, dataset)
    page["ways"] = _ways(view, drawn)
    page["agreement"] = _agreement(view, drawn)
    page["distribution"] = _distribution(view, drawn)

    lines = summary.get("curves") or {}
    made = drawn.panels(
        "learning", text("learning_title"), view.order(lines), lambda ids: figures.learning(lines, ids, names, text)
    )
    page["learning"] = {**made, "note": text("learning_note", shown=made["shown"])}
    return page


def _ways(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Fine-tuning beside frozen features, network by network."""
    rows = beside.ways(view)
    if not rows:
        return None
    svg = drawn.keep("ways", beside.draw_ways(view, rows))
    alt = view.text("figure_alt", title=view.text("ways_title"), models="; ".join(name for name, _ in rows))
    return {"svg": drawn.inline(svg, alt)}


def _classes(view: View) -> list[Any]:
    """The classes of a run with one target."""
    classes = view.run.get("classes")
    return listed(next(iter(classes.values()), [])) if isinstance(classes, dict) else listed(classes)


def _warning_line(warnings: list[str], text: Text) -> str:
    """The short form that stands at the head of every section."""
    if not warnings:
        return ""
    more = text("warnings_more", more=len(warnings) - 1) if len(warnings) > 1 else ""
    return text("warnings_line", first=clean(warnings[0], 160)) + more


def _registry() -> dict[str, str]:
    """Plain descriptions of all measures that the statistics know."""
    from medgraft.stats.metrics import METRICS

    return {name: str(getattr(entry, "description", entry)) for name, entry in METRICS.items()}


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside [low, high]."""
    if not high > low:
        return [low]
    step = 10.0 ** np.floor(np.log10((high - low) / 2))
    while (high - low) / step > 6:
        step *= 2 if round(step / 10.0 ** np.floor(np.log10(step))) in (1, 5) else 2.5
    first = np.ceil(low / step - 1e-9) * step
    return [round(float(first + i * step), 10) for i in range(int((high - first) / step + 1e-9) + 1)]


def _decimals(value: float) -> int:
    """Decimals that a round number needs."""
    return len(f"{value:.10f}".rstrip("0").partition(".")[2])


def _board(view: View, drawn: Drawn) -> dict[str, Any]:
    """The leaderboard with its interval bars, placed in per cent of the bar's column."""
    text, rows = view.text, view.leaderboard()
    known = [
        v
        for r in rows
        for v in (r.get("value"), r.get("low"), r.get("high"))
        if r.get("value") is not None and finite(v)
    ]
    chance = 0.5 if split_metric(view.primary)[1] in ("auc", "macro_auc") else None
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = 0.04 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    for row in rows:
        if row.get("value") is None:
            row["bar"] = None
            continue
        start, end = (
            (row["low"], row["high"]) if finite(row["low"]) and finite(row["high"]) else (row["value"], row["value"])
        )
        row["bar"] = {"left": place(start), "width": round(place(end) - place(start), 2), "dot": place(row["value"])}
    marks = _ticks(low, high)
    decimals = max(text.decimals(known, view.primary) - 1, *(_decimals(v) for v in marks)) if known else 2
    ticks = [{"at": place(v), "text": text.number(v, view.primary, decimals)} for v in marks]
    label = text("forest_title", metric=view.metric_label(view.primary), confidence=view.confidence_text)
    drawn_rows = [
        (view.names.get(r["id"], r["name"]), r["value"], r["low"], r["high"])
        for r in rows
        if r.get("value") is not None
    ]
    if drawn_rows:
        drawn.keep(
            "forest",
            figures.forest(drawn_rows, label, chance if chance is not None and low <= chance <= high else None),
        )
    note = text(
        "leaderboard_note_one" if view.one_part else "leaderboard_note",
        metric=text.metric(view.primary),
        level=text.metric_level(view.primary) or text(f"per_{view.level}"),
        confidence=view.confidence_text,
        resamples=view.resamples,
        unit=text(f"unit_{view.unit}"),
    )
    if view.baseline is not None:
        note += (" " if text.language == "en" else "") + text("baseline_note", facts=view.baseline_facts)
    return {"rows": rows, "ticks": ticks, "note": note, "metric": view.metric_label(view.primary)}


def _metrics(view: View) -> dict[str, Any]:
    """All measures of all judged models, each with its interval: a row a measure, a column a model."""
    text = view.text
    rows = [
        {
            "name": text.metric(c),
            "level": text.metric_level(c),
            "cells": [view.shown(m, c) if c in m["metrics"] else "–" for m in view.judged],
        }
        for c in view.metric_names()
    ]
    if larger := beside.majority(view):
        place = next((i for i, c in enumerate(view.metric_names()) if split_metric(c)[1:] == ("accuracy", "")), None)
        if place is not None:
            rows.insert(place + 1, {"name": text("majority_row"), "level": "", "cells": [larger] * len(view.judged)})
    rules = [view.rule(m) for m in view.judged]
    thresholds = {}
    if any(rules) and not view.several_targets:
        told = rules[0] if len(set(rules)) == 1 and text.has(f"rule_{rules[0]}_short") else ""
        cells = [view.thresholds(m) or text("unknown") for m in view.judged]
        thresholds = {"name": text("threshold"), "rule": text(f"rule_{told}_short") if told else "", "cells": cells}
    return {
        "models": [(text.model_name(m.get("model") or m["id"]), view.detail(m)) for m in view.judged],
        "rows": rows,
        "thresholds": thresholds,
        "note": text("metrics_note", confidence=view.confidence_text, unit=text(f"unit_{view.unit}")),
    }


def _costs(view: View) -> list[dict[str, str]]:
    text, rows = view.text, []
    for model in view.models:
        parameters, share = model.get("parameters"), (model.get("load") or {}).get("share")
        loaded = text("loaded_none") if model.get("start") == "random" else text("unknown")
        if finite(share) and model.get("start") != "random":
            loaded = text("loaded_share", share=text.percent(share, 0 if share in (0, 1) else 1))
        inner = model.get("inner_score")
        load = model.get("load") or {}
        source = text("unknown") if model.get("start") != "random" else "–"
        if load.get("source"):
            source = clean(load["source"], 80) + (f" ({clean(load['accuracy'], 60)})" if load.get("accuracy") else "")
        rows.append(
            {
                "name": view.names[model["id"]],
                "parameters": text("million", n=f"{parameters / 1e6:.2f}") if finite(parameters) else text("unknown"),
                "loaded": loaded,
                "source": source,
                "seconds": text.duration(model.get("seconds")),
                "inner": text.number(inner, view.primary) if finite(inner) else text("unknown"),
            }
        )
    return rows


def _facts(view: View, dataset: Dataset | None) -> list[tuple[str, str]]:
    rows = view.facts()
    if dataset is not None and dataset.info.get("name"):
        rows.insert(1, (view.text("fact_dataset"), clean(dataset.info["name"], 120)))
    return rows


def _looks(view: View) -> dict[str, Any]:
    looks = [look for look in listed(view.run.get("looks")) if isinstance(look, dict)]
    rows = []
    for look in looks:
        where = f" · {view.text('col_fold')} {int(look['outer']) + 1}" if finite(look.get("outer")) else ""
        seed = f" · {view.text('col_seed_one')} {look['seed']}" if finite(look.get("seed")) else ""
        arm = f"{view.names.get(str(look['arm']), clean(look['arm'], 100))}{where}{seed} · " if look.get("arm") else ""
        rows.append({"cell": f"{arm}{clean(look.get('cell'), 60)}", "time": clean(look.get("time"), 40)})
    cells = {str(look.get("cell")) for look in looks}
    key = "looks_note" if len(cells) == len(looks) else "looks_note_more"
    return {
        "note": view.text(key, n=view.text.count("trainings", len(cells))) if looks else view.text("looks_none"),
        "rows": rows,
    }


def _agreement(view: View, drawn: Drawn) -> dict[str, Any]:
    """Scatter and Bland-Altman panels of a regression, with bias and limits and their intervals."""
    text = view.text
    every = view.summary.get("scatter") or {}
    if view.task != "regress" or not view.order(every):
        return {"panels": [], "note": ""}
    panels: list[dict[str, Any]] = []
    shown = ""
    for number, target in enumerate(listed(view.run.get("targets")) or [None]):
        points = (
            {k: [r for r in rows if r.get("target") in (None, target)] for k, rows in every.items()}
            if view.several_targets
            else every
        )
        found, shown = _agreement_of(view, drawn, points, str(target or ""), f"_{number + 1}" if number else "")
        panels += found
    return {"panels": panels, "note": text("scatter_note", shown=shown)}


def _agreement_of(
    view: View, drawn: Drawn, points: dict[str, Any], target: str, ending: str
) -> tuple[list[dict[str, Any]], str]:
    """The panels of one quantity, and how many of them are shown."""
    text, ids = view.text, view.order(points)
    names = {k: view.join([clean(target, 40), v]) if view.several_targets else v for k, v in view.names.items()}
    unit = view.unit_of(target) if view.several_targets else view.value_unit
    owner = dict(zip((str(c.get("case_id")) for c in view.cases), view.patients))
    found, notes = {}, {}
    for k in ids[: figures.MOST_PANELS]:
        rows = [r for r in points[k] if finite(r.get("y_true")) and finite(r.get("y_pred"))]
        if len(rows) < 3:
            continue
        difference = np.array([r["y_pred"] - r["y_true"] for r in rows])
        patients = [owner.get(str(r.get("case_id")), str(r.get("case_id"))) for r in rows]
        three = patient_interval(agreement, difference, patients, view.confidence)
        found[k] = (three[0].value, three[1].value, three[2].value)
        metric = f"case.bias.{target}" if view.several_targets else "case.bias"
        lower, bias, upper = (view.interval(e.value, e.low, e.high, metric, form="interval_plain") for e in three)
        notes[k] = text("agreement_facts", bias=bias, lower=lower, upper=upper)
    title = text("scatter_title")
    left = drawn.panels(
        f"scatter{ending}", title, ids, lambda some: figures.scatter(points, some, names, text, unit), names
    )
    right = drawn.panels(
        f"bland_altman{ending}",
        title,
        ids,
        lambda some: figures.bland_altman(points, found, some, names, text, unit),
        names,
    )
    panels = [
        {**a, "second": b["svg"], "note": notes.get(a["id"], "")} for a, b in zip(left["panels"], right["panels"])
    ]
    return panels, left["shown"]


def _distribution(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """Dice case by case of a segmentation."""
    ids = view.order((view.summary.get("heatmap") or {}).get("models") or [])
    if view.task != "segment" or not ids or not view.cases:
        return None
    text, some = view.text, ids[: figures.MOST_PANELS]
    svg = drawn.keep(
        "distribution",
        figures.distribution(view.matrix[: len(some)], [view.names[k] for k in some], text("heatmap_dice")),
    )
    shown = (
        text("first_shown", n=len(some), file=f"distribution{drawn.ending.removesuffix('.svg')}", most=len(some))
        if len(ids) > len(some)
        else ""
    )
    alt = text("figure_alt", title=text("distribution_title"), models="; ".join(view.names[k] for k in some))
    return {"svg": drawn.inline(svg, alt), "note": text("distribution_note", shown=shown)}


def _heatmap(view: View, drawn: Drawn) -> dict[str, Any] | None:
    """The map as one byte a cell for the script, and as a picture for print and for pages without script."""
    ids = view.order((view.summary.get("heatmap") or {}).get("models") or [])
    values = view.matrix
    if not ids or not view.cases or not np.isfinite(values).any():
        return None
    text, error = view.text, view.task == "regress"
    low, high = 0.0, 1.0
    if error:
        high = float(np.nanquantile(values, 0.95)) or 1.0
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(axis=0)
    means = np.where(known.any(axis=0), sums / np.maximum(known.sum(axis=0), 1), np.inf)
    hardest = np.argsort(-means if error else means, kind="stable")
    labels = ["" if c.get("label") == "" else _label(c.get("label"), text) for c in view.cases]
    shown = [clean(c.get("case_id"), 80) for c in view.cases]
    by_label = sorted(range(len(labels)), key=lambda i: (labels[i], int(np.where(hardest == i)[0][0])))
    by_id = sorted(range(len(labels)), key=lambda i: shown[i])
    span = max(high, float(np.nanmax(values))) if error else 1.0
    cells = np.where(known, np.clip(np.round(254 * np.where(known, values, 0) / span), 0, 254), 255).astype(np.uint8)
    quantity = text("heatmap_error" if error else "heatmap_dice" if view.task == "segment" else "heatmap_probability")
    names = [view.names[k] for k in ids]
    scale = figures.with_unit(quantity, view.error_unit if error else "")
    svg = drawn.keep("heatmap", figures.heatmap(values[:, hardest], names, low, high, error, text("axis_cases"), scale))
    title = text("heatmap_canvas", models=text.count("models", len(ids)), cases=text.count("cases", len(shown)))
    return {
        "svg": drawn.inline(svg, title),
        "alt": title,
        "names": names,
        "quantity": quantity,
        "low": text.number(low, "case.mae" if error else view.primary),
        "high": ("≥\u00a0" if error else "")
        + text.number(high, "case.mae")
        + (f"\u00a0{view.error_unit}" if error and view.error_unit else ""),
        "reverse": error,
        "labelled": len(set(labels)) > 1 and not error,
        "data": {
            "cells": base64.b64encode(cells.tobytes()).decode("ascii"),
            "models": names,
            "cases": shown,
            "labels": labels,
            "orders": {"hardest": hardest.tolist(), "label": [int(i) for i in by_label], "id": [int(i) for i in by_id]},
            "span": span,
            "low": low,
            "high": high,
            "reverse": error,
            "colours": list(figures.HEAT),
            "unit": view.error_unit if error else "",
            "words": {
                "absent": text("heatmap_absent"),
                "mean": text("heatmap_mean"),
                "label": text("axis_reference" if error else "missed_label"),
                "quantity": quantity,
            },
        },
    }


def _label(value: Any, text: Text) -> str:
    if value is None:
        return text("none")
    return text.number(value) if finite(value) else clean(value, 60)


def _missed(view: View, dataset: Dataset | None) -> dict[str, Any]:
    """The gallery of the cases that every model misses."""
    text, rows = view.text, list(view.summary.get("missed") or [])
    ids = [str(r.get("case_id")) for r in rows[:MISSED]]
    gallery = Gallery(dataset, contours=view.task == "segment")
    gallery.prepare(ids)
    often = Counter(ids)
    items = []
    # Where all models are one network, what tells them apart is how they were begun and trained.
    told = {m["id"]: view.detail(m) for m in view.judged}
    same = (
        len({m.get("model") for m in view.judged}) == 1 and all(told.values()) and len(set(told.values())) == len(told)
    )
    short = {k: v[:1].upper() + v[1:] for k, v in told.items()} if same else view.names
    metric = {"regress": "case.mae", "segment": "case.dice"}.get(view.task, "case.auc")
    unit = f"\u00a0{view.error_unit}" if view.task == "regress" and view.error_unit else ""
    for row, case in zip(rows, ids):
        picture = gallery.picture(case) if often[case] == 1 else None
        label = "" if row.get("label") == "" else _label(row.get("label"), text)
        wrong = ", ".join(clean(t, 40) for t in listed(row.get("targets")))
        values = row.get("values") or {}
        scores = [
            {
                "name": short[k],
                "value": text.number(values[k], metric) + unit,
                "share": round(100 * min(max(values[k], 0), 1), 1),
            }
            for k in view.order(list(values))
            if finite(values[k])
        ]
        alt = text("missed_alt_strip" if picture and picture["strip"] else "missed_alt_image", case=clean(case, 80))
        alt += f" {text('missed_label')}: {label}" if label else ""
        patient = "" if view.patients_unknown or row.get("patient_id") is None else clean(row["patient_id"], 80)
        items.append(
            {
                "case": clean(case, 80),
                "label": label,
                "wrong": wrong,
                "patient": patient,
                "picture": picture,
                "masked": gallery.masked(case),
                "alt": alt,
                "scores": scores,
            }
        )
    quantity = text(
        "heatmap_error"
        if view.task == "regress"
        else "heatmap_dice"
        if view.task == "segment"
        else "heatmap_probability"
    )
    return {
        "rows": items,
        "title": text("missed_title" if view.task == "classify" else "worst_title"),  # only classes can be missed
        "none": text("missed_none" if view.task == "classify" else "worst_none"),
        "bars": view.task != "regress",
        "nav": text("nav_missed" if view.task == "classify" else "nav_worst"),
        "label_word": text("axis_reference" if view.task == "regress" else "missed_label"),
        "note": text(
            "missed_note" if view.task == "classify" else "worst_note",
            quantity=quantity[0].lower() + quantity[1:] if view.task != "segment" else quantity,
        ),
        "more": text("missed_shown", n=len(items), total=len(rows)) if len(rows) > len(items) else "",
        "contours": bool(gallery.traced),
    }
