"""What a shared folder may hold: the only file names that are ever sent or fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WEIGHTS, CONFIG, EVIDENCE = "model.safetensors", "config.json", "evidence.json"
GRAPH = "network.onnx"
CARD, REPORT, LICENCE = "README.md", "report.html", "LICENSE"
FILES = {
    "model": (WEIGHTS, GRAPH, CONFIG, EVIDENCE, CARD, REPORT, LICENCE),
    "source": (WEIGHTS, CONFIG, CARD, "curve.png", LICENCE),
}
MOST = 32_000_000
"""Bytes that any file but the weights may have."""


def kind_of(config: Mapping[str, Any]) -> str | None:
    """ "model" or "source" by what ``config.json`` holds; None if it is neither."""
    if "head" in config and "classes" in config and "format" in config:
        return "model"
    return "source" if "architecture" in config else None


def megabytes(size: int) -> str:
    """A size for the user."""
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"


def several(names: Iterable[str], most: int = 8) -> str:
    """Some names in one line; what a stranger called a file must not steer the terminal."""
    shown = [printable(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def printable(text: str) -> str:
    """``text`` without line breaks and control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
