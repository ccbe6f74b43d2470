"""The catalogue: a data file of networks worth starting from, with what is known of each without opening it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


@cache
def catalogue() -> Mapping[str, Mapping[str, Any]]:
    """Every entry of ``data/catalogue.toml`` by name, in the file's order."""
    entries = tomllib.loads((DATA / "catalogue.toml").read_text(encoding="utf-8"))["source"]
    return {entry["name"]: entry for entry in entries}


def known_of(name: str) -> dict[str, Any]:
    """What the catalogue knows of a network for its card: what and how much it was trained on."""
    entry = catalogue().get(name, {})
    return {key: entry[key] for key in ("trained_on", "examples") if key in entry}


def listed(entry: Mapping[str, Any], where: str | None) -> dict[str, Any]:
    """An entry as it is shown; ``where`` is the place of its weights, None if they are not at hand."""
    shown = ("name", "modality", "architecture", "parameters", "input", "trained_on", "examples", "licence", "about")
    return {**{key: entry.get(key) for key in shown}, "at_hand": where is not None, "where": where}
