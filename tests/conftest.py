"""Fixtures that every room may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kit() -> Path:
    """The data kit: the folder named by HEADSTART_KIT, or ``shared`` beside the checkout."""
    place = Path(os.environ.get("HEADSTART_KIT") or Path(__file__).parents[2] / "shared")
    if not (place / "data").is_dir():
        pytest.skip(f"the data kit is not at {place} (HEADSTART_KIT names another place)")
    return place
