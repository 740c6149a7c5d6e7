"""The knobs of the verbs whose acts import torch, apart from them, so that help and errors are answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class NoOptions(BaseModel):
    """A verb without knobs: ``medgraft status``, ``models``, ``checks``."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DemoOptions(BaseModel):
    """The knobs of ``medgraft demo``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path = Field(Path("demo"), description="folder for studies, data set and run")
    patients: int = Field(90, ge=6, description="patients to simulate, two radiographs each")
    size: int = Field(128, ge=32, description="height and width of what the networks see, in pixels")
    difficulty: float = Field(0.35, ge=0, le=1, description="how faint the opacities are: 0 plain, 1 hardly there")


class PredictOptions(BaseModel):
    """The knobs of ``medgraft predict``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    out: Path | None = Field(
        None, description="CSV table to write; default: none (predictions.csv where masks are served)"
    )
    model: str | None = Field(
        None, description="another arm of the run, by id, network or part of it; default: the best by inner scores"
    )
    as_: Literal["model", "judged"] = Field(
        "model",
        alias="as",
        description="model: the mean of all its networks; judged: each study by the networks that had it in their test "
        "part, the run's own numbers",
    )
    weights: list[Path] = Field([], description="folders with weight files, asked before those of the run")
    download: bool = Field(False, description="fetch absent weights from their address")
    flagged: Literal["keep", "refuse"] = Field(
        "keep", description="studies outside the training acquisition: flagged, or refused"
    )
    identity: Literal["code", "keep"] = Field(
        "code", description="studies within folders as keyed codes, or as they are called"
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else [value]
