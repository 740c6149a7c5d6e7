"""The knobs of ``medgraft simulate``, a class for each kind of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SimulateOptions(BaseModel):
    """The knobs of ``medgraft simulate chest_xray``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path = Field(Path("simulated"), description="folder to write, in the layout of the RSNA challenge")
    patients: int = Field(200, ge=1, description="patients to draw")
    images_per_patient: int | tuple[int, int] = Field(
        2, description="radiographs of each patient: a number, or [fewest, most]"
    )
    size: int = Field(256, ge=64, le=4096, description="side of a radiograph in pixels")
    difficulty: float = Field(0.5, ge=0, le=1, description="how faint the opacities are: 0 plain, 1 hardly there")
    prevalence: float = Field(0.4, ge=0, le=1, description="share of images with an opacity")
    seed: int = Field(0, ge=0, description="another seed draws other patients")
    encoding: Literal["jpeg", "raw"] = Field("jpeg", description="how pixels lie in the DICOM files")
