"""Figures of a page: each kept as a file on white for print, and given back for the page."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medgraft.files import disk_error, write_text
from medgraft.report import figures
from medgraft.report.view import View

#: Panels of a figure and missed cases that the page itself shows.
PANELS, MISSED = 6, 24


class Drawn:
    """Draws figures, keeps each as a file on white and gives it back for the page."""

    def __init__(self, view: View) -> None:
        """Makes the folder ``figures`` in the folder of the run; raises ``UserError`` where it cannot be written."""
        self.folder, self.view = (view.folder or Path()) / "figures", view
        self.ending = ".svg" if view.text.language == "en" else f".{view.text.language}.svg"
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        self._number = 0

    def keep(self, name: str, svg: str) -> str:
        """Save a figure for print."""
        write_text(self.folder / f"{name}{self.ending}", figures.standalone(svg))
        return svg

    def inline(self, svg: str, alt: str) -> Markup:
        self._number += 1
        return Markup(figures.inline(svg, f"f{self._number}", html.escape(alt, quote=True)))

    def panels(
        self,
        name: str,
        title: str,
        ids: list[str],
        draw: Callable[[list[str]], str],
        names: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Save all panels as one figure; for the page draw the first few one by one, so that they flow on a phone."""
        text, names = self.view.text, names or self.view.names
        if not ids:
            return {"panels": [], "shown": ""}
        self.keep(name, draw(ids))
        panels = [
            {
                "id": k,
                "name": names[k],
                "svg": self.inline(draw([k]), text("figure_alt", title=title, models=names[k])),
                "note": "",
            }
            for k in ids[:PANELS]
        ]
        file = f"{name}{self.ending.removesuffix('.svg')}"
        shown = text("first_shown", n=PANELS, file=file, most=figures.MOST_PANELS) if len(ids) > PANELS else ""
        return {"panels": panels, "shown": shown}
