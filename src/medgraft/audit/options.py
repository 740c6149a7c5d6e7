"""The knobs of ``medgraft audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from medgraft.audit.leaks import ALIKE


class AuditOptions(BaseModel):
    """The knobs of ``medgraft audit``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: list[str] = Field(
        [], description="split columns whose roles are checked; default: all that the data set has"
    )
    run: Path | None = Field(None, description="run folder whose folds (splits.json) are checked")
    test: Path | None = Field(None, description="external test set: a second data set folder")
    near: bool = Field(True, description="look for near-duplicates too, not only for the same stored pixels")
    alike: float = Field(ALIKE, gt=0.5, le=1, description="likeness from which two pictures count as one")
    permutations: int = Field(999, ge=99, description="for the p values of acquisition facts")
    seed: int = 0
    lang: Literal["en", "zh"] = Field("en", description="language of the page")
    progress: bool | None = Field(None, description="show progress; default: on a terminal")

    @field_validator("split", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [] if value is None else [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
