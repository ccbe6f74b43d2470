"""The peers' own environment, so that what they need never meets what we need."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

from kit import HERE

PLACE = HERE / ".peers"
PACKAGES = ("fastai==2.8.*", "timm", "scikit-learn")


def python() -> Path:
    """The peers' interpreter; the first call makes the environment."""
    binary = PLACE / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (PLACE / "complete").is_file():
        print(f"installing {', '.join(PACKAGES)} into {PLACE.name}", flush=True)
        if not binary.is_file():
            venv.create(PLACE, with_pip=True)
        subprocess.run([binary, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (PLACE / "complete").touch()
    return binary


def versions() -> dict[str, str]:
    """What is installed there."""
    names = "fastai", "torch", "timm", "scikit-learn"
    code = f"from importlib.metadata import version\nfor n in {names!r}: print(n, version(n))"
    lines = subprocess.run([python(), "-c", code], check=True, capture_output=True, text=True).stdout.split("\n")
    return dict(line.split() for line in lines if line)
