"""Small generated pictures and a small source, for tests that need real work but not real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("across", "down", "rings", "steep", "checks", "blobs")


def textures(n: int, classes: int = 2, size: int = 32, seed: int = 0) -> tuple[list[Any], list[str]]:
    """``n`` noisy uint8 textures [size, size, 3] of random phase, and their class names in turn."""
    random = np.random.default_rng(seed)
    pictures, labels = [], []
    for i in range(n):
        kind = i % classes
        pictures.append(_texture(kind, size, random))
        labels.append(NAMES[kind])
    return pictures, labels


def _texture(kind: int, size: int, random: np.random.Generator) -> Any:
    y, x = np.mgrid[:size, :size] / size
    wave, phase, other = random.uniform(3, 5), *random.uniform(0, 2 * np.pi, 2)
    along = 2 * np.pi * wave
    field = [
        np.sin(along * y + phase),
        np.sin(along * x + phase),
        np.sin(along * 1.5 * np.hypot(x - random.uniform(0.3, 0.7), y - random.uniform(0.3, 0.7)) + phase),
        np.sin(along * (x + y) / 1.4 + phase),
        np.sign(np.sin(along * x + phase) * np.sin(along * y + other)),
        np.sin(along * x / 3 + phase) * np.sin(along * y / 3 + other),
    ][kind]
    tint = random.uniform(0.6, 1.0, 3)
    noisy = 128 + 70 * field[..., None] * tint + random.normal(0, 25, (size, size, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def write_folders(root: Path, n: int, classes: int = 2, size: int = 32, seed: int = 0) -> Path:
    """The textures as PNG files, a folder per class."""
    for i, (picture, label) in enumerate(zip(*textures(n, classes, size, seed))):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / label / f"{i:03}.png")
    return root


def with_statistics(network: Any) -> Any:
    """Random norm statistics, as a trained network has; returns the generator that drew them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return generator


def write_tiny_source(folder: Path) -> Path:
    """A source of random weights that is quick in every way: five stages, 32 pixels, 20,000 values."""
    import timm
    import torch

    from headstart.sources import save_source

    torch.manual_seed(0)
    args = {"channels": [8, 16, 16, 32]}
    network = timm.create_model("resnet10t", num_classes=7, **args).eval()
    with_statistics(network)
    preprocessing = {
        "size": [32, 32], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "channels": 3,
    }  # fmt: skip
    folder.mkdir(parents=True)
    save_source(
        folder, network, architecture="resnet10t", model_args=args, preprocessing=preprocessing,
        card={"name": "tiny", "about": "nothing: random weights", "licence": "Apache-2.0"},
        classes=[f"class {i}" for i in range(7)],
    )  # fmt: skip
    return folder
