"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real, openly licensed studies; a test that needs it skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real studies are absent ({SHARED_DATA.name}/ beside the repository)")
    return SHARED_DATA
