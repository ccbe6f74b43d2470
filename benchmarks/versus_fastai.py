"""``fit --strategy extract`` against fastai's ``vision_learner(...).fine_tune(4)``: 100 photos, whole processes.

Timed is training alone (reading, learning, saving the model); the test part is predicted outside of the timing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import peers
from kit import Draw, draw, kit_path, listed
from machine import Timed, headstart, timed

SETS = ("ants_bees", "chest_xray")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    kit = kit_path(options.kit)
    rows = [compare(kit, name, options.repeats) for name in SETS]
    print(json.dumps({"rows": rows, "peers": peers.versions()}))


def compare(kit: Path, name: str, repeats: int) -> dict[str, Any]:
    """Pairs of runs, ours beside theirs; medians."""
    photos, source = draw(kit, name), kit / "sources" / "mobilenetv2_100"
    theirs: list[dict[str, Any]] = []
    ours: list[tuple[Timed, Timed, float]] = []
    for _ in range(repeats):
        theirs.append(fastai(source, photos))
        ours.append(extract(source, photos))
    cold = [first.seconds for first, _, _ in ours]
    warm = [second.seconds for _, second, _ in ours]
    peer = [run["train"] for run in theirs]
    return {
        "set": name,
        "test_images": photos.count("test"),
        "fastai_seconds": statistics.median(peer),
        "fastai_seconds_with_test": statistics.median(run["whole"] for run in theirs),
        "cold_seconds": statistics.median(cold),
        "warm_seconds": statistics.median(warm),
        "cold_ratio": statistics.median(a / b for a, b in zip(peer, cold)),
        "warm_ratio": statistics.median(a / b for a, b in zip(peer, warm)),
        "fastai_accuracy": [run["accuracy"] for run in theirs],
        "accuracy": ours[0][2],
        "pairs": [[*pair] for pair in zip(peer, cold, warm)],
        "busy_before": [[run["busy"], a.busy_before, b.busy_before] for run, (a, b, _) in zip(theirs, ours)],
    }


def fastai(source: Path, photos: Draw, seed: int = 0) -> dict[str, Any]:
    """One run of the peer in its own process."""
    with tempfile.TemporaryDirectory() as place:
        spec = Path(place) / "spec.json"
        files = {part: _pairs(getattr(photos, part)) for part in ("train", "test")}
        about = {"source": str(source), "out": f"{place}/model.pth", "size": 224, "batch": 16, "seed": seed}
        spec.write_text(json.dumps(about | files))
        run = timed([peers.python(), Path(__file__).with_name("peer_fastai.py"), spec])
    found = run.json()
    return {
        "train": found["trained"] - run.started,
        "whole": run.seconds,
        "accuracy": found["accuracy"],
        "busy": run.busy_before,
    }


def _pairs(folder: Path) -> list[tuple[str, str]]:
    return [(str(folder / row["file_name"]), row["label"]) for row in listed(folder)]


def extract(source: Path, photos: Draw) -> tuple[Timed, Timed, float]:
    """Cold with an empty cache, the same again, and the accuracy on the test part."""
    with tempfile.TemporaryDirectory() as place:
        env = {"HEADSTART_CACHE": f"{place}/cache"}
        command = headstart("fit", photos.train, "--source", source, "--strategy", "extract", "--control", "none")
        cold = timed([*command, "--out", f"{place}/cold"], env)
        warm = timed([*command, "--out", f"{place}/warm"], env)
        scored = timed(headstart("evaluate", f"{place}/cold", photos.test), env, quiet=False)
    return cold, warm, _accuracy(json.loads(scored.output))


def _accuracy(report: dict[str, Any]) -> float:
    value = report["accuracy"]
    return float(value["value"] if isinstance(value, dict) else value)


if __name__ == "__main__":
    main()
