"""Memory at most of a whole ``fit --strategy extract``: 1,000 photos, and 50,000 small images from a table."""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kit import WORK, draw, kit_path
from machine import headstart, timed
from PIL import Image

SMALL, CLASSES, SIDE = 50_000, 10, 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    options = parser.parse_args()
    kit = kit_path(options.kit)
    photos = draw(kit, "chest_xray", count=1000).train
    rows = [
        peak("1,000 photos of 224 px", photos, "bundled/efficientnet-lite0"),
        peak("50,000 images of 32 px", small_images(), "bundled/glyphs"),
    ]
    print(json.dumps({"rows": rows}))


def peak(what: str, data: Path, source: str) -> dict[str, Any]:
    """The whole process with an empty cache."""
    with tempfile.TemporaryDirectory() as place:
        env = {"HEADSTART_CACHE": f"{place}/cache"}
        options = ("--source", source, "--strategy", "extract", "--control", "none", "--out", f"{place}/model")
        run = timed(headstart("fit", data, *options), env, quiet=False)
    return {"what": what, "source": source, "gigabytes": run.peak / 1e9, "seconds": run.seconds}


def small_images() -> Path:
    """A table of noisy stripes: their direction is the class, so that there is something to learn."""
    path = WORK / "stripes.parquet"
    if not path.is_file():
        random = np.random.default_rng(0)
        labels = random.integers(CLASSES, size=SMALL)
        images = [{"bytes": _stripes(label, random), "path": None} for label in labels]
        table = pa.table({"image": images, "label": [f"angle {label}" for label in labels]})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return path


def _stripes(label: int, random: np.random.Generator) -> bytes:
    y, x = np.mgrid[:SIDE, :SIDE]
    angle = np.pi * label / CLASSES
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * random.uniform(0.5, 1.0) + random.uniform(0, 6))
    pixels = 128 + 60 * wave + random.normal(0, 50, wave.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
