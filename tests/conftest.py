"""Fixtures that every room may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub library is imported: no test leaves this machine

import pytest

from pictures import write_tiny_source


@pytest.fixture(scope="session")
def kit() -> Path:
    """The data kit: the folder named by HEADSTART_KIT, or ``shared`` beside the checkout."""
    place = Path(os.environ.get("HEADSTART_KIT") or Path(__file__).parents[2] / "shared")
    if not (place / "data").is_dir():
        pytest.skip(f"the data kit is not at {place} (HEADSTART_KIT names another place)")
    return place


@pytest.fixture(scope="session", autouse=True)
def _no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What wider fixtures compute lands in a cache of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone, empty."""
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HEADSTART_CACHE", str(place))
    return place


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source folder with a very small network of random weights."""
    return str(write_tiny_source(tmp_path_factory.mktemp("sources") / "tiny"))
