"""Data set layouts: what lies where. A layout is one file with ``detect(source)`` and ``plan(source, options)``.

``plan`` returns a ``Plan`` (see ``medgraft.intake.plan``): the studies to read, a label table where the
layout has one, and the options that the layout fixes. To add a layout, add a file here and its name to
``LAYOUTS``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from medgraft.errors import UserError

#: In the order in which they are tried; ``folder`` takes whatever the others do not know.
LAYOUTS = ("rsna", "medmnist", "folder")


def find_layout(source: Path, name: str | None) -> ModuleType:
    """The layout given by name, or the first that knows the source."""
    if name is not None and name not in LAYOUTS:
        raise UserError(f"no layout {name}", fix=f"layouts are: {', '.join(LAYOUTS)}")
    modules = (importlib.import_module(f"medgraft.intake.layouts.{n}") for n in ([name] if name else LAYOUTS))
    return next(module for module in modules if name or module.detect(source))
