"""The knobs of ``medgraft report``, apart from the page, so that errors are answered at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ReportOptions(BaseModel):
    """The knobs of ``medgraft report``, each as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lang: Literal["en", "zh"] = Field("en", description="language of the page: English or Chinese")
