"""The knobs of ``medgraft weights``, apart from what reads the files, so that errors are answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class WeightsOptions(BaseModel):
    """The knobs of ``medgraft weights list`` and ``verify``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: list[Path] = Field([], description="folders with weight files, looked into first")

    @field_validator("weights", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [] if value is None else value if isinstance(value, (list, tuple)) else [value]


class PackOptions(WeightsOptions):
    """The knobs of ``medgraft weights pack``, each as ``key=value``."""


class UnpackOptions(BaseModel):
    """The knobs of ``medgraft weights unpack``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    into: Path | None = Field(None, description="folder to put the files into; default: where weights are looked for")


class ConvertOptions(BaseModel):
    """The knobs of ``medgraft weights convert``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = Field(None, description="file to write, ending in .safetensors; default: beside the source")
