"""The knobs of ``medgraft bench``, apart from what it measures, so that errors are answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class BenchOptions(BaseModel):
    """The knobs of ``medgraft bench``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: list[str] = Field(["efficientnet_lite0", "r3d_18"], min_length=1, description="networks to time")
    batch_size: int = Field(4, ge=1)
    steps: int = Field(4, ge=1, description="optimiser steps in one timing")
    repeats: int = Field(7, ge=1, description="timings of each contestant, interleaved")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = Field(0, ge=0, description="CPU threads; 0 = all cores")

    @field_validator("models", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]


class OfficialOptions(BaseModel):
    """The knobs of ``medgraft bench official=DIR``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    official: Path = Field(description="folder with the official projects checked out")
    record: Path | None = Field(None, description="folder to write goldens into")
    table: Path | None = Field(None, description="JSON file to write the rows into")
    only: str = Field("", description="one family or project; default: all that are there")
    repeats: int = Field(5, ge=1, description="timings of each contestant, interleaved")
    threads: int = Field(1, ge=1, description="CPU threads")
