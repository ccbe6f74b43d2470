"""The README's commands and its Python run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folder that the README speaks of: twelve pictures of each of two classes."""
    random = np.random.default_rng(0)
    for label, colour in (("ants", (150, 60, 40)), ("bees", (60, 140, 60))):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(1, 13):
            noise = random.normal(0, 50, (64, 80, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:04d}.jpg")
    shutil.copytree(tmp_path / "photos", tmp_path / "more-photos")
    for i, path in enumerate(sorted((tmp_path / "more-photos").rglob("*.jpg"))):
        Image.open(path).rotate(90 + i, fillcolor=(90, 90, 90)).save(path)
    return tmp_path


def test_every_command_and_snippet_runs_in_order(photos: Path) -> None:
    assert len(BLOCKS) >= 6
    python = ""
    for kind, text in BLOCKS:
        if kind == "python":
            python += text
            continue
        for line in text.strip().splitlines():
            command = [sys.executable, "-m", *shlex.split(line)]
            done = subprocess.run(command, cwd=photos, capture_output=True, text=True, timeout=900, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    done = subprocess.run([sys.executable, "-c", python], cwd=photos, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
