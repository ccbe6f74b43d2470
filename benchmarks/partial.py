"""Time of an epoch of ``partial`` on cached activations against the same training that recomputes the frozen part.

The recomputing side reads the prepared input from the cache, so that decoding is not held against it. In fp32 both
must end with equal weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kit import draw, kit_path
from machine import wait_until_quiet

from headstart import audit, open_source, read
from headstart._runtime import cores, half_the_cores, quiet
from headstart.adapt import Job, Journal
from headstart.adapt._tune import Tuned, tune
from headstart.adapt._tuned import Tuning
from headstart.features import extract

EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sources", nargs="*", default=["mobilenetv2_100", "bundled/efficientnet-lite0"])
    options = parser.parse_args()
    kit = kit_path(options.kit)
    rows = []
    with tempfile.TemporaryDirectory() as place, quiet(), half_the_cores():
        os.environ["HEADSTART_CACHE"] = place
        for name in options.sources:
            for precision in ("fp32", "bf16"):
                os.environ["HEADSTART_PRECISION"] = precision
                job = make_job(kit, name, Path(place))
                n = len(job.source.stages)
                rows += [measure(job, cut, options.repeats) for cut in dict.fromkeys((n // 2, max(1, int(0.8 * n))))]
    print(json.dumps({"rows": rows, "threads": max(1, cores() // 2)}))


def make_job(kit: Path, name: str, place: Path) -> Job:
    """100 photos as the strategies see them."""
    local = kit / "sources" / name
    source = open_source(local if local.is_dir() else name)
    target = read(draw(kit, "ants_bees").train)
    pooled = extract(source, target.modality, target.examples)
    target, found = audit(target, pooled.digests, pooled.problems, pooled.all_raw())
    return Job(
        source, target.modality, target.examples, target.labels, len(target.classes), found.blocks,
        pooled.subset(found.rows), 0, Journal(place / "runs"),
    )  # fmt: skip


def measure(job: Job, cut: int, repeats: int) -> dict[str, Any]:
    """Pairs of runs, with and without the cache."""
    with_cache, without = Tuning(cut=cut), Tuning(cut=cut, cached=False)
    pairs, busy = [], []
    for _ in range(repeats):
        busy.append(wait_until_quiet())
        pairs.append([epoch(job, tuning) for tuning in (with_cache, without)])
    trained = [tune(job, tuning, np.arange(len(job.labels)), "equal", epochs=1) for tuning in (with_cache, without)]
    return {
        "source": Path(job.source.name).name,
        "precision": os.environ["HEADSTART_PRECISION"],
        "cut": cut,
        "stages": len(job.source.stages),
        "cached_seconds": statistics.median(a for a, _ in pairs),
        "recomputing_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "weights_differ_by": difference(*trained),
        "busy_before": busy,
    }


def epoch(job: Job, tuning: Tuning) -> float:
    """Seconds per epoch: a longer run less a shorter one, so that setting up does not count."""
    rows = np.arange(len(job.labels))
    tune(job, tuning, rows, "warm", epochs=0)  # what is cached is computed here
    seconds = []
    for epochs in (0, EPOCHS):
        begin = time.perf_counter()
        tune(job, tuning, rows, "time", epochs=epochs)
        seconds.append(time.perf_counter() - begin)
    return (seconds[1] - seconds[0]) / EPOCHS


def difference(one: Tuned, two: Tuned) -> float:
    """The largest difference of a weight, relative to the largest weight of its tensor."""
    assert one.network is not None
    assert two.network is not None
    gaps = [
        float((a - two.network[n]).abs().max() / a.abs().max().clamp_min(1e-12))
        for n, a in one.network.items()
        if isinstance(a, torch.Tensor) and a.is_floating_point()
    ]
    return max(gaps)


if __name__ == "__main__":
    main()
