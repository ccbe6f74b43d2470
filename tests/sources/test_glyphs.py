"""The bundled source that learnt letters: small, opens, and gives digits a head start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headstart.modalities import modality
from headstart.sources import open_source


@pytest.fixture(scope="module")
def glyphs() -> Any:
    return open_source("bundled/glyphs")


def features(source: Any, pictures: list[Any]) -> np.ndarray[Any, Any]:
    """Pooled output of the network [n, width], pictures as its own preprocessing wants them."""
    image, network = modality("image"), source.backbone().network
    batch = np.stack([image.prepare(image.decode(p), source.preprocessing) for p in pictures])
    parts = torch.from_numpy(batch).split(256)
    with torch.inference_mode():
        return torch.cat([network(image.to_input(p, source.preprocessing)) for p in parts]).numpy()


def accuracy(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], draws: int = 3) -> float:
    """Mean accuracy on the rest of a logistic regression on ten examples a class."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        train = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:10] for c in np.unique(y)])
        test = np.setdiff1d(np.arange(len(y)), train)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(x[train], y[train])
        scores.append(probe.score(x[test], y[test]))
    return float(np.mean(scores))


def test_is_small_and_says_what_it_learnt(glyphs: Any) -> None:
    folder = Path(glyphs.weights).parent
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 6e6
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["card"]["examples"] >= 100_000
    assert config["card"]["accuracy"] > 0.5
    assert config["card"]["stored_as"] in (folder / "README.md").read_text(encoding="utf-8")


def test_no_digit_among_its_letters(glyphs: Any) -> None:
    config = json.loads((Path(glyphs.weights).parent / "config.json").read_text(encoding="utf-8"))
    assert not [name for name in config["label_names"] if name.isnumeric()]


def test_beats_raw_pixels_on_eight_pixel_digits(glyphs: Any) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = [Image.fromarray((d * 255 / 16).astype(np.uint8)).convert("RGB") for d in digits.images]
    pictures = [np.pad(np.array(p.resize((24, 24), Image.Resampling.BICUBIC)), ((4, 4), (4, 4), (0, 0))) for p in small]
    found, plain = accuracy(features(glyphs, pictures), digits.target), accuracy(digits.data, digits.target)
    assert found > max(0.94, plain + 0.05), f"{found:.3f} against {plain:.3f} on raw pixels"


@pytest.mark.field
def test_a_hundred_handwritten_digits_reach_ninety_percent(glyphs: Any, kit: Path) -> None:
    files = sorted((kit / "data" / "image" / "handwritten_digits").glob("[0-9]/*.png"))
    x = features(glyphs, [f.read_bytes() for f in files])
    assert accuracy(x, np.array([int(f.parent.name) for f in files])) >= 0.90
