"""medgraft: which pretrained model transfers best to my data, by which way, and how sure can I be?

``from medgraft import scan, audit, quick, run, predict, report`` gives the verbs as functions (``medgraft.api``,
docs/notebook.md); nothing heavy is imported before one of them is named.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medgraft.api import audit, predict, quick, report, run, scan

__all__ = ["audit", "predict", "quick", "report", "run", "scan"]

_PACKAGES = ("audit", "report")  # verbs whose name a package of their parts has too


class _VerbModule(ModuleType):
    """A package that is called like the verb of its name: ``medgraft.audit(data)`` (and still holds its parts).

    Like a function it is pickled by its name.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._act(*arguments, **options)

    @property
    def __signature__(self) -> Any:
        return self._act.__signature__

    @property
    def _act(self) -> Any:
        from medgraft import api

        return getattr(api, self.__name__.rpartition(".")[2])

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


class _Package(ModuleType):
    """medgraft itself: a package of a verb's name learns to be called when the import system puts it here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PACKAGES and isinstance(value, ModuleType):
            value.__class__ = _VerbModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in __all__:
        from medgraft import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
