"""Data set layouts: what lies where. A layout is one file with ``detect(source)`` and ``plan(source, options)``.

``plan`` returns a ``Plan`` (see ``medgraft.intake.plan``): the studies to read, a label table where the
layout has one, and the options that the layout fixes. To add a layout, add a file here and its line to
``LAYOUTS``.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from medgraft.errors import UserError
from medgraft.intake.layouts import folder, medmnist, rsna

#: In the order in which they are tried; ``folder`` takes whatever the others do not know.
LAYOUTS: dict[str, ModuleType] = {"rsna": rsna, "medmnist": medmnist, "folder": folder}
#: Layouts whose studies are plain files: with labels given by hand ``folder`` reads them instead.
PLAIN = ("rsna",)


def find_layout(source: Path, name: str | None, labels: str | None = None) -> ModuleType:
    """The layout given by name, or the first that knows the source; ``labels`` given by hand win over a layout that was
    only detected.

    Raises ``UserError`` for an unknown name, and where ``labels`` and the labels of the layout cannot both hold.
    """
    if name is not None and name not in LAYOUTS:
        raise UserError(f"no layout {name}", fix=f"layouts are: {', '.join(LAYOUTS)}")
    by_hand = labels not in (None, "folders")
    tried = [name] if name else [n for n in LAYOUTS if not (by_hand and n in PLAIN)]
    found = next(n for n in tried if name or LAYOUTS[n].detect(source))
    if by_hand and found != "folder":
        raise UserError(
            f"the layout {found} brings its own labels",
            case=f"labels={labels}",
            fix="leave out labels=, or say layout=folder",
        )
    return LAYOUTS[found]
