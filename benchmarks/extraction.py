"""Extraction of 1,000 images against the least it could cost: decoding alone and the bare network's forward alone.

Both parts of the floor are measured here on all cores, each at its best: decoding by threads or by processes, the
forward over batch size, layout and how threads share the cores, in the precision that extraction uses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from kit import kit_path, listed
from machine import cores, wait_until_quiet

from headstart import open_source
from headstart._runtime import compute_dtype, compute_dtype_name, quiet
from headstart.features import extract
from headstart.modalities import Example, modality
from headstart.sources import Source

IMAGE = modality("image")
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
BATCHES = (8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    kit = kit_path(options.kit)
    folder = kit / "data" / "image" / "chest_xray"
    files = [folder / row["file_name"] for row in listed(folder)[:: max(1, 1200 // options.images)]][: options.images]
    source = open_source(kit / "sources" / "mobilenetv2_100")
    backbone = source.backbone()
    backbone.place(torch.device("cpu"), compute_dtype())
    network = backbone.network
    way = fastest_forward(network)
    rounds = [one_round(source, files, network, way) for _ in range(options.repeats)]
    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    print(json.dumps(middle | {"images": len(files), "way": way["name"], "precision": compute_dtype_name()}))


def one_round(source: Source, files: Sequence[Path], network: torch.nn.Module, way: dict[str, Any]) -> dict[str, float]:
    """Everything once, side by side: seconds of wall time on all cores."""
    busy = wait_until_quiet()
    decoding = decode_seconds(source, files)
    forward = way["run"](network, len(files))
    wall = extract_seconds(source, files)
    floor = decoding + forward
    return {"decoding": decoding, "forward": forward, "wall": wall, "ratio": wall / floor, "busy_before": busy}


def extract_seconds(source: Source, files: Sequence[Path]) -> float:
    """The package's own extraction into an empty cache."""
    with tempfile.TemporaryDirectory() as place, quiet():
        before = os.environ.get("HEADSTART_CACHE")
        source.backbone()  # converting the weights belongs to opening a source for the first time
        os.environ["HEADSTART_CACHE"] = place
        begin = time.perf_counter()
        found = extract(source, IMAGE, [Example(file.name, file) for file in files])
        seconds = time.perf_counter() - begin
        os.environ.pop("HEADSTART_CACHE") if before is None else os.environ.update(HEADSTART_CACHE=before)
    assert found.computed > 0.98 * len(files), (found.computed, found.problems)
    return seconds


def decode_seconds(source: Source, files: Sequence[Path]) -> float:
    """Reading, decoding and scaling alone, by threads or by processes, whichever is faster."""
    parts = [(dict(source.preprocessing), files[i :: cores()]) for i in range(cores())]
    by_threads = _over(ThreadPoolExecutor(cores()), _decode, parts)
    by_processes = _over(ProcessPoolExecutor(cores(), get_context("spawn")), _decode, parts)
    return min(by_threads, by_processes)


def _decode(part: tuple[dict[str, Any], Sequence[Path]]) -> int:
    preprocessing, files = part
    for file in files:
        IMAGE.prepare(IMAGE.decode(file.read_bytes(), preprocessing), preprocessing)
    return len(files)


def _over(pool: Executor, work: Callable[[Any], Any], parts: Sequence[Any]) -> float:
    with pool:
        list(pool.map(work, [(p, files[:4]) for p, files in parts]))  # workers up, code loaded
        begin = time.perf_counter()
        list(pool.map(work, parts))
        return time.perf_counter() - begin


def fastest_forward(network: torch.nn.Module) -> dict[str, Any]:
    """The best way to run the bare network: the batch, the layout, and one thread a core or all on one batch."""
    ways: list[dict[str, Any]] = [
        {"name": f"batch {batch}, {layout}, {sharing}", "run": _forward(batch, LAYOUTS[layout], sharing)}
        for batch in BATCHES
        for layout in LAYOUTS
        for sharing in ("a batch per core", "cores share a batch")
    ]
    seconds = [way["run"](network, 128) for way in ways]
    best = min(range(len(ways)), key=lambda i: seconds[i])
    return ways[best]


def _forward(batch: int, layout: torch.memory_format, sharing: str) -> Callable[[torch.nn.Module, int], float]:
    workers = cores() if sharing == "a batch per core" else 1

    def run(network: torch.nn.Module, images: int) -> float:
        network.to(memory_format=layout)
        x = torch.randn(batch, 3, 224, 224).to(compute_dtype()).contiguous(memory_format=layout)

        def one(_: Any) -> None:
            with torch.inference_mode():
                network(x)

        before = torch.get_num_threads()
        share = max(1, cores() // workers)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            list(pool.map(one, range(2 * workers)))
            begin = time.perf_counter()
            list(pool.map(one, range(max(workers, round(images / batch)))))
            seconds = time.perf_counter() - begin
        torch.set_num_threads(before)
        return seconds * images / (batch * max(workers, round(images / batch)))

    return run


if __name__ == "__main__":
    main()
