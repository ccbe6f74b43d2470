"""Test accuracy with 100 labels: every strategy, fastai and a plain logistic regression, each on the same draws.

Every finished cell is kept in .work/accuracy.jsonl and the next call goes on from there. Cheap cells come first. The
strategies that train the whole network run once (``once.py``), the others through the command with all its folds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from kit import WORK, Draw, draw, kit_path, listed
from machine import headstart, timed
from once import once
from versus_fastai import fastai

SETS = {
    "ants_bees": ("bundled/efficientnet-lite0",),
    "chest_xray": ("bundled/efficientnet-lite0",),
    "textures": ("bundled/efficientnet-lite0",),
    "handwritten_digits": ("bundled/glyphs", "bundled/efficientnet-lite0"),
}
WAYS = ("logistic regression", "extract", "extract all depths", "partial", "fastai", "light", "full", "auto", "scratch")
RESULTS = WORK / "accuracy.jsonl"
Cell = tuple[str, str, str, int]
"""Way, set, source, seed of the draw."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    parser.add_argument("--draws", type=int, default=1)
    options = parser.parse_args()
    kit = kit_path(options.kit)
    for cell in cells(options.draws):
        if cell not in {cell_of(row) for row in finished()}:
            keep(cell, one(kit, *cell))
    print(json.dumps({"rows": finished()}))


def cells(draws: int) -> list[Cell]:
    """Everything to be measured, the cheap first."""
    found = []
    for seed in range(draws):
        for way in WAYS:
            for name, sources in SETS.items():
                plain = way == "logistic regression"
                own = ("pixels",) if plain else ("mobilenetv2_100",) if way == "fastai" else sources
                found += [(way, name, source, seed) for source in own]
    return found


def one(kit: Path, way: str, name: str, source: str, seed: int) -> dict[str, float]:
    """Accuracy on the test part, and seconds of training."""
    photos = draw(kit, name, seed)
    if way == "fastai":
        run = fastai(kit / "sources" / source, photos, seed)
        return {"accuracy": run["accuracy"], "seconds": run["train"]}
    if way in ("light", "full", "scratch"):
        return once(photos, way, source, seed)
    if way == "logistic regression":
        return {"accuracy": on_pixels(photos), "seconds": 0.0}
    return fitted(photos, way, source)


def fitted(photos: Draw, way: str, source: str) -> dict[str, float]:
    """One of our strategies through the command line, one view per example."""
    strategy = way.split()[0]
    more = ["--cut", "all"] if way == "extract all depths" else []
    with tempfile.TemporaryDirectory() as place:
        env = {"HEADSTART_CACHE": str(WORK / "cache")}
        command: list[str | Path] = [
            "fit",
            photos.train,
            "--source",
            source,
            "--strategy",
            strategy,
            "--control",
            "none",
            *more,
        ]
        run = timed(headstart(*command, "--views", "1", "--budget", "1h", "--out", f"{place}/model"), env, quiet=False)
        report = json.loads(timed(headstart("evaluate", f"{place}/model", photos.test), env, quiet=False).output)
    return {"accuracy": report["accuracy"]["value"], "seconds": run.seconds}


def on_pixels(photos: Draw) -> float:
    """scikit-learn's LogisticRegression as it comes, on 32 × 32 RGB pixels between 0 and 1."""
    import numpy as np
    from PIL import Image
    from sklearn.linear_model import LogisticRegression

    def load(folder: Path) -> tuple[Any, list[str]]:
        rows = listed(folder)
        pictures = [Image.open(folder / row["file_name"]).convert("RGB").resize((32, 32)) for row in rows]
        return np.stack([np.asarray(p).ravel() / 255 for p in pictures]), [row["label"] for row in rows]

    model = LogisticRegression(max_iter=1000).fit(*load(photos.train))
    return float(model.score(*load(photos.test)))


def finished() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def cell_of(row: dict[str, Any]) -> Cell:
    return row["way"], row["set"], row["source"], row["seed"]


def keep(cell: Cell, found: dict[str, float]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    row = dict(zip(("way", "set", "source", "seed"), cell)) | found
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
