"""Which source helps, and how much: a network that `pretrain` makes here, the bundled ones, scratch and raw pixels.

Pre-trains a small network on the kit's 40,000 photos of 64 pixels (about an hour on two cores, resumable, done once),
then measures test accuracy with 20, 100 and 400 labels on four image sets, and how much `rank`'s choice of a source
loses against the best one in hindsight, over ``--draws`` draws of the labels. Features are extracted once per source
and set; every finished cell is kept in .work/sources.jsonl and the next call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from kit import WORK, kit_path
from machine import headstart, timed

from headstart import adapt, judge
from headstart._budget import Budget
from headstart._rank import rank_target
from headstart._runtime import quiet
from headstart.features import extract
from headstart.sources import open_source
from headstart.targets import Target, audit, draw, read, split

SETS = ("ants_bees", "chest_xray", "textures", "handwritten_digits")
COUNTS = (20, 100, 400)
TEST_SHARE = 0.25  # of a set, at the least: ants_bees has too few photos for 400 labels
OWN = WORK / "tiny_imagenet"
EPOCHS = 40
SOURCES = (
    "bundled/glyphs", str(OWN), "bundled/efficientnet-lite0", "bundled/efficientnet-lite1",
    "bundled/efficientnet-lite2", "mobilenetv2_100",
)  # fmt: skip
RESULTS = WORK / "sources.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit")
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    kit = kit_path(options.kit)
    pretrained(kit)
    done = {tuple(row[k] for k in ("what", "set", "count", "seed")) for row in finished()}
    for seed in range(options.draws):
        for name in SETS:
            for count in COUNTS:
                for what in ("probes", "rank", *(("scratch",) if seed == 0 else ())):
                    if (what, name, count, seed) not in done:
                        with quiet():
                            found = WHAT[what](kit, name, count, seed)
                        keep({"what": what, "set": name, "count": count, "seed": seed, **found})
    print(json.dumps({"rows": finished(), "pretraining": facts(), "throughput": throughput()}))


def pretrained(kit: Path) -> None:
    """The network that is studied; the same command goes on after a kill, and does nothing once it has ended."""
    timed(
        headstart(
            "pretrain", kit / "pretrain" / "tiny_imagenet_train-0.parquet", "--out", OWN, "--architecture",
            "resnet10t", "--size", "64", "--epochs", str(EPOCHS), "--precision", "bf16",
        ),
        {}, quiet=False,
    )  # fmt: skip


def facts() -> dict[str, Any]:
    """What the pre-trained source's card says."""
    card: dict[str, Any] = json.loads((OWN / "config.json").read_text())["card"]
    return {k: card[k] for k in ("about", "accuracy", "held_out", "epochs", "seconds", "machine", "training")}


# ---------------------------------------------------------------- data


@cache
def whole(kit: Path, name: str) -> tuple[Target, Any]:
    """A set of the kit after the audit, and its blocks (patients; duplicates)."""
    target = read(kit / "data" / "image" / name)
    pooled = extract(open_source("bundled/glyphs"), target.modality, target.examples)
    clean, found = audit(target, pooled.digests, pooled.problems, pooled.all_raw(), allow_bad=True)
    return clean, found.blocks


def drawn(kit: Path, name: str, count: int, seed: int) -> tuple[Target, Any, Any, Any]:
    """The set, its blocks, the labelled rows and the rows of the test part, which shares no block with them."""
    target, blocks = whole(kit, name)
    count = min(count, int((1 - TEST_SHARE) * len(target)))
    train = draw(target.labels, blocks, count, seed)
    test = np.flatnonzero(~np.isin(blocks, blocks[train]))
    return target, blocks, train, test


def opened(kit: Path, source: str) -> Any:
    return open_source(kit / "sources" / source if source == "mobilenetv2_100" else source)


@cache
def features(kit: Path, source: str, name: str) -> Any:
    target, _ = whole(kit, name)
    return extract(opened(kit, source), target.modality, target.examples)


# ---------------------------------------------------------------- what is measured


def probes(kit: Path, name: str, count: int, seed: int) -> dict[str, Any]:
    """Test accuracy of a probe on raw pixels and on each source; the depth is chosen inside the folds."""
    target, blocks, train, test = drawn(kit, name, count, seed)
    labels, k = target.labels, len(target.classes)
    folds = split(labels[train], blocks[train], seed=seed)

    def accuracy(x: Any, columns: Sequence[tuple[int, int]]) -> float:
        rights = []
        for first, last in columns if len(columns) > 1 else ():
            held = adapt.held_out_logits(x[train][:, first:last], labels[train], k, blocks[train], folds, seed=seed)
            rights.append((held.argmax(axis=1) == labels[train]).astype(float))
        first, last = columns[judge.choose(rights, blocks[train]) if rights else 0]
        probe = adapt.fit_probe(x[train][:, first:last], labels[train], k, blocks[train], seed=seed)
        return float((probe.logits(x[test][:, first:last]).argmax(axis=1) == labels[test]).mean())

    everything = np.arange(len(target))
    raw = features(kit, SOURCES[0], name).raw(everything)
    found = {"pixels": accuracy(raw, [(0, raw.shape[1])])}
    for source in SOURCES:
        net, x = opened(kit, source), features(kit, source, name).take(everything)
        found[label(source)] = accuracy(x, [net.columns(None), net.columns("all")])
    return {"accuracy": found, "labels": len(train), "test": len(test)}


def choice(kit: Path, name: str, count: int, seed: int) -> dict[str, Any]:
    """What `rank` chooses from the same labels."""
    target, _, train, _ = drawn(kit, name, count, seed)
    names = [str(kit / "sources" / s) if s == "mobilenetv2_100" else s for s in SOURCES]
    start = time.monotonic()
    ranking = rank_target(target.take(train), names, Budget(600), seed=seed, allow_bad=True)
    return {"chosen": label(ranking.best.name), "seconds": time.monotonic() - start}


def scratch(kit: Path, name: str, count: int, seed: int) -> dict[str, Any]:
    """Test accuracy of the same architecture as our own source from random weights, by the tool's own control."""
    target, blocks, train, test = drawn(kit, name, count, seed)
    net = opened(kit, str(OWN))
    with tempfile.TemporaryDirectory() as place:
        job = adapt.Job(
            net, target.modality, target.examples, target.labels, len(target.classes), blocks,
            features(kit, str(OWN), name), seed, adapt.Journal(Path(place)), views=4 if count < 400 else 1,
        )  # fmt: skip
        (candidate,) = adapt.strategies_for("scratch")[0].candidates(job)
        right = candidate.fit(job, train, "scratch").logits(test).argmax(axis=1) == target.labels[test]
    return {"accuracy": float(right.mean())}


WHAT = {"probes": probes, "rank": choice, "scratch": scratch}


def label(source: str) -> str:
    return "own" if source == str(OWN) else source.rpartition("/")[2].removeprefix("efficientnet-")


def throughput(steps: int = 30) -> dict[str, float]:
    """Images per second of `pretrain`'s step, and of the bare one: forward, backward and update on one fixed batch."""
    import torch

    from headstart._pretrain import _trainer
    from headstart.modalities import modality

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2048, 64, 64, 3), dtype=np.uint8)
    labels = random.integers(0, 200, 2048)
    preprocessing = {"size": [64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "channels": 3}
    rows = np.arange(2048)
    task = _trainer.Task(images, labels, rows, rows[:1], modality("image"), preprocessing)
    plan = _trainer.Plan(10**6, 128, 3e-3, 0.05, 0.1, "photo", 0, torch.bfloat16)
    import timm

    trainer = _trainer.Trainer(timm.create_model("resnet10t", num_classes=200), task, plan)
    x = trainer._input(rows[:128])
    y = torch.from_numpy(labels[:128])

    def bare() -> None:
        loss = torch.nn.functional.cross_entropy(trainer._logits(x), y)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()

    trainer.network.train()
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(steps):
        for name, step in (("ours", trainer.one_step), ("bare", bare)):
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: 128 / float(np.median(found[2:])) for name, found in times.items()}


# ---------------------------------------------------------------- keeping


def finished() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def keep(row: dict[str, Any]) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
