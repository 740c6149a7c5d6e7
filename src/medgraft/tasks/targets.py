"""Label columns as targets: which kind, which classes, which of them is positive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from medgraft.data.dataset import TargetSpec
from medgraft.datasets import Dataset
from medgraft.errors import UserError


def specs(dataset: Dataset, names: Sequence[str], keep: Sequence[str] = ()) -> list[TargetSpec]:
    """Targets as the data set describes them; ``keep`` names the classes of the only target that take part."""
    if keep and len(names) > 1:
        raise UserError("classes= goes with one target", fix="leave it out, or choose one target")
    return [_spec(dataset, name, several=len(names) > 1, keep=keep) for name in names]


def quantities(dataset: Dataset, names: Sequence[str]) -> list[TargetSpec]:
    """Targets taken as quantities, whatever their values look like. Raises ``UserError`` for text."""
    for name in names:
        if not len(dataset.manifest[f"label.{name}"].drop_nulls()):
            raise UserError("has no value at all", case=f"label {name}", fix="choose another target")
        if dataset.manifest[f"label.{name}"].dtype == pl.String:
            raise UserError("holds text, so it cannot be a quantity", case=f"label {name}", fix="use task=classify")
    return [TargetSpec(name, "regress", (), None) for name in names]


def _spec(dataset: Dataset, name: str, *, several: bool, keep: Sequence[str]) -> TargetSpec:
    """How a label column is learned: its kind, classes and positive class."""
    column = dataset.manifest[f"label.{name}"]
    values = column.drop_nulls()
    if not len(values):
        raise UserError("has no value at all", case=f"label {name}", fix="choose another target")
    if column.dtype != pl.String and not set(values.unique().to_list()) <= {0.0, 1.0}:
        return TargetSpec(name, "regress", (), None)
    facts = dataset.info.get("targets", {}).get(name, {})
    classes = tuple(str(c) for c in (facts.get("classes") or sorted({_text(v) for v in values.to_list()})))
    if keep:
        unknown = [c for c in keep if c not in classes]
        if unknown:
            raise UserError(f"has no class {unknown[0]!r}; there are {', '.join(classes)}", case=f"label {name}")
        classes = tuple(c for c in classes if c in keep)
    if len(classes) < 2:
        raise UserError(
            f"has one class only ({classes[0]})", case=f"label {name}", fix="a comparison needs at least two"
        )
    if len(classes) > 2:
        if several:
            raise UserError(
                "has more than two classes; several targets at once must each be yes/no", case=f"label {name}"
            )
        return TargetSpec(name, "classes", classes, None)
    positive = str(facts.get("positive") if facts.get("positive") in classes else classes[-1])
    return TargetSpec(name, "binary", classes, positive)


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
