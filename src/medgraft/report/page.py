"""Build ``report.html`` and ``figures/*.svg`` from a run folder: the frame around the sections.

One file holds everything it shows: style, script, figures and thumbnails are inlined, and no network
address stands in it. Every string of the user goes through the template engine's escaping.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medgraft import __version__
from medgraft.datasets import Dataset, load_dataset
from medgraft.errors import UserError
from medgraft.files import read_json, write_text
from medgraft.notices import from_json
from medgraft.report.drawn import Drawn
from medgraft.report.sections import SECTIONS, answers
from medgraft.report.text import Text, clean
from medgraft.report.view import View, listed

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
    said = [*listed(facts.get("warnings")), *listed((summary.get("run") or {}).get("warnings"))]
    run["warnings"] = list(dict.fromkeys(map(from_json, said)))
    dataset = _dataset(run_dir, facts)
    if dataset is not None and not run.get("units"):
        described = dataset.info.get("targets") or {}
        run["units"] = {
            t: (described.get(t) or {}).get("unit") for t in listed(run.get("targets")) if isinstance(described, dict)
        }
    view = View({**summary, "run": run}, text, run_dir, dataset)
    return write_page(run_dir, "report", text, {"title": answers.title(view), "parts": _parts(view)})


def _dataset(run_dir: Path, facts: dict[str, Any]) -> Dataset | None:
    """The data set of the run where it is still there; the report does without."""
    where = facts.get("dataset")
    if not isinstance(where, str) or not where:
        return None
    try:
        return load_dataset((run_dir / where).resolve())  # an absolute path replaces the run folder
    except (UserError, OSError):
        return None


def _parts(view: View) -> list[dict[str, Any]]:
    """The sections of the page that have something to show: ``{nav: [(anchor, word)], html}``."""
    drawn, environment = Drawn(view), _environment()
    frame = {"t": view.text, "warning_line": _warning_line(view.warnings, view.text)}
    parts = []
    for section in SECTIONS:
        shown = section.make(view, drawn)
        if shown:
            template = environment.get_template(f"sections/{section.__name__.rpartition('.')[2]}.html")
            parts.append({"nav": shown["nav"], "html": Markup(template.render(**frame, **shown))})
    return parts


def _warning_line(warnings: list[str], text: Text) -> str:
    """The short form that stands at the head of every section."""
    if not warnings:
        return ""
    more = text("warnings_more", more=len(warnings) - 1) if len(warnings) > 1 else ""
    return text("warnings_line", first=clean(warnings[0], 160)) + more


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(folder: Path, name: str, text: Text, page: dict[str, Any], styles: Sequence[str] = ()) -> Path:
    """Render ``templates/NAME.html`` into one file ``NAME.html`` (``NAME.zh.html``) of ``folder`` and return its path.

    Style (with the further ``styles``) and script are inlined; what a user wrote is escaped, and an address that it may
    quote stays readable but cannot be followed.
    """
    style = Markup(
        "".join((TEMPLATES / file).read_text(encoding="utf-8") for file in ("style.css", *styles))
    )  # ours, not a user's
    script = Markup((TEMPLATES / "page.js").read_text(encoding="utf-8"))
    rendered = (
        _environment()
        .get_template(f"{name}.html")
        .render(t=text, style=style, script=script, version=__version__, **page)
    )
    return write_text(
        folder / (f"{name}.html" if text.language == "en" else f"{name}.{text.language}.html"),
        _ADDRESS.sub("", rendered),
    )
