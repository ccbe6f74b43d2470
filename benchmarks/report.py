"""What was measured, as a page: RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Found = dict[str, Any]


def page(found: dict[str, Found], machine: Found) -> str:
    """Markdown of every benchmark that has run, and the machine that it ran on."""
    parts = ["# Benchmarks", "Written by `python benchmarks/run.py`; ratios are medians of pairs run side by side.", ""]
    parts += ["## Machine", _machine(machine)]
    for name, section in SECTIONS.items():
        if name in found:
            parts += [section(found[name]), f"Measured {found[name]['when']}.{_load(found[name])}", ""]
    return "\n".join(parts)


def _machine(machine: Found) -> str:
    return _table(("what", "which"), machine.items()) + "\n"


def _load(found: Found) -> str:
    busy = [float(b) for b in _numbers(found.get("busy_before") or [r.get("busy_before", []) for r in _rows(found)])]
    if not busy or max(busy) < 15:
        return ""
    return f" Others used up to {max(busy):.0f} % of the processor when some of the runs began."


def _rows(found: Found) -> list[Found]:
    return [row for row in found.get("rows", []) if isinstance(row, dict)]


def _numbers(nested: Any) -> Iterable[float]:
    if isinstance(nested, (int, float)):
        yield nested
    else:
        for part in nested:
            yield from _numbers(part)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _met(good: bool) -> str:
    return "yes" if good else "**no**"


def _fastai(found: Found) -> str:
    rows = [
        (
            row["set"],
            f"{row['fastai_seconds']:.0f} s",
            f"{row['cold_seconds']:.1f} s ({row['cold_ratio']:.1f} ×)",
            f"{row['warm_seconds']:.1f} s ({row['warm_ratio']:.0f} ×)",
            f"{100 * sum(row['fastai_accuracy']) / len(row['fastai_accuracy']):.1f} %",
            f"{100 * row['accuracy']:.1f} % of {row['test_images']}",
            _met(row["cold_ratio"] >= 10 and row["warm_ratio"] >= 30),
        )
        for row in found["rows"]
    ]
    head = ("100 photos of", "fastai", "ours, cold", "ours, second time", "fastai's test accuracy", "ours", "reached")
    peers = ", ".join(f"{name} {version}" for name, version in found["peers"].items())
    return (
        "## `fit --strategy extract` against fastai's `vision_learner(…).fine_tune(4)`\n\n"
        "mobilenetv2_100, the same weights, files and split; whole processes that read, learn and save. To reach: "
        "10 × cold, 30 × the second time, at no lower accuracy.\n\n" + _table(head, rows) + f"\nThe peer: {peers}.\n"
    )


def _extraction(found: Found) -> str:
    row = (
        f"{found['wall']:.2f} s",
        f"{found['decoding']:.2f} s",
        f"{found['forward']:.2f} s ({found['way']})",
        f"{found['ratio']:.2f}",
        _met(found["ratio"] <= 1.15),
    )
    head = ("extraction", "decoding alone", "forward alone, at its best", "ratio", "reached")
    about = f"{found['images']} X-rays, mobilenetv2_100, {found['precision']}; wall time on all cores."
    return f"## Extraction\n\n{about} To reach: at most 1.15.\n\n" + _table(head, [row])


def _partial(found: Found) -> str:
    rows = [
        (
            row["source"],
            row["precision"],
            f"{row['cut']} of {row['stages']}",
            f"{row['cached_seconds']:.2f} s",
            f"{row['recomputing_seconds']:.2f} s",
            f"{row['ratio']:.1f} ×",
            f"{row['weights_differ_by']:.0e}",
            _met(row["ratio"] >= 4),
        )
        for row in found["rows"]
    ]
    head = (
        "source",
        "precision",
        "cut after",
        "an epoch",
        "without the cache",
        "ratio",
        "weights differ by",
        "reached",
    )
    about = "100 photos. The side without the cache reads prepared input, so that decoding is not held against it."
    return f"## `partial` with and without the cache\n\n{about} To reach: 4 ×.\n\n" + _table(head, rows)


def _memory(found: Found) -> str:
    limits = (1.5, 3.0)
    rows = [
        (row["what"], row["source"], f"{row['gigabytes']:.2f} GB", f"{row['seconds']:.0f} s", limit,
         _met(row["gigabytes"] <= limit))
        for row, limit in zip(found["rows"], limits)
    ]  # fmt: skip
    head = ("what", "source", "memory at most", "time", "to reach, GB", "reached")
    return "## Memory\n\nThe whole process of `fit --strategy extract`, cold.\n\n" + _table(head, rows)


def _startup(found: Found) -> str:
    rows = [
        ("`headstart --help`", f"{found['help']:.2f} s", "0.4 s", _met(found["help"] <= 0.4)),
        ("`import headstart`", f"{found['import']:.3f} s", "0.15 s", _met(found["import"] <= 0.15)),
        ("torch loaded by either", found["torch_loaded"], False, _met(not found["torch_loaded"])),
    ]
    return "## Start\n\n" + _table(("what", "measured", "to reach", "reached"), rows)


def _accuracy(found: Found) -> str:
    sets = list(dict.fromkeys(row["set"] for row in found["rows"]))
    ways = list(dict.fromkeys((row["way"], row["source"]) for row in found["rows"]))
    rows = [(way, source, *(_cell(found["rows"], way, source, name) for name in sets)) for way, source in ways]
    about = (
        "Accuracy on all the rest, and the time of training. `light` and `full` are single trainings with four views "
        "and early stopping, `scratch` is one of its whole schedule; the others are whole fits. `extract` chooses "
        "between the network's output and all depths inside the folds."
    )
    return f"## Test accuracy with 100 labels\n\n{about}\n\n" + _table(("way", "source", *sets), rows)


def _cell(rows: Sequence[Found], way: str, source: str, name: str) -> str:
    mine = [r for r in rows if (r["way"], r["source"], r["set"]) == (way, source, name)]
    if not mine:
        return "–"
    accuracy = 100 * sum(r["accuracy"] for r in mine) / len(mine)
    seconds = sum(r["seconds"] for r in mine) / len(mine)
    return f"{accuracy:.1f} %" + (f" ({seconds:.0f} s)" if seconds else "")


def _onnx(found: Found) -> str:
    rows = [
        (
            row["network"],
            row["weights"],
            row["export"],
            row["reason"] or "yes",
            f"{100 * row['share']:.0f} %" if "share" in row else "–",
            row.get("stages", "–"),
            f"{row['onnxruntime']:.0e}" if "share" in row else "–",
            f"{row['native']:.0e}" if "native" in row else "–",
        )
        for row in found["rows"]
    ]
    head = (
        "network", "weights", "opset, exporter", "tunable", "of its values", "cuts", "from onnxruntime", "from native",
    )  # fmt: skip
    tuned = [
        (row["network"], row["way"], row["from"], f"{100 * row['accuracy']:.1f} %", f"{row['seconds']:.0f} s")
        for row in found["tuned"]
    ]
    about = (
        "Networks exported by torch and opened as ONNX sources; every cut is checked to be exact. The last two columns "
        "are the largest difference of a feature, relative to the largest feature of its example."
    )
    return (
        f"## ONNX files as sources\n\n{about}\n\n" + _table(head, rows) + "\nTuned on 100 photos of ants and bees, "
        "one training each, accuracy on all the others.\n\n"
        + _table(("network", "way", "from", "accuracy", "training"), tuned)
    )


def _sources(found: Found) -> str:
    rows = found["rows"]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    counts = sorted({row["count"] for row in rows})
    probes = {(r["set"], r["count"], r["seed"]): r["accuracy"] for r in rows if r["what"] == "probes"}
    names = list(next(iter(probes.values())))
    card, rate = found["pretraining"], found["throughput"]
    parts = [
        "## Sources: our own pre-training, the bundled networks, scratch and raw pixels\n\n"
        f"`own` is {card['about']}: {100 * card['accuracy']:.1f} % of {card['held_out']:,} held-out images, "
        f"{card['epochs']:.0f} epochs in {card['seconds'] / 60:.0f} min on a busy machine ({card['machine']}). "
        f"`pretrain` runs {rate['ours']:.0f} images/s where the bare training step runs {rate['bare']:.0f}. "
        f"Mean test accuracy in % of {1 + max(row['seed'] for row in rows)} draws; of ants_bees at most three "
        "quarters are labelled. A probe chooses between the network's output and all depths inside the folds; scratch "
        "is the architecture of `own` from random weights, one draw.\n"
    ]
    for count in counts:
        table = [[name, *(_mean(probes, name, s, count) for s in sets)] for name in names]
        table += [["own, from scratch", *(_of(rows, "scratch", s, count)[0]["accuracy"] for s in sets)]]
        shown = [
            [name, *(f"{100 * v:.1f}" for v in cells), f"{100 * sum(cells) / len(cells):.1f}"] for name, *cells in table
        ]
        mean = {name: sum(cells) / len(cells) for name, *cells in table}
        way = (mean["own"] - mean["pixels"]) / (mean["lite0"] - mean["pixels"])
        parts += [
            f"\n{count} labels\n\n" + _table(("probe on", *sets, "mean"), shown),
            f"\n`own` goes {100 * way:.0f} % of the way from raw pixels to lite0 on the mean of the four.\n",
        ]
    lost = []
    for count in counts:
        for name in sets:
            ranked = _of(rows, "rank", name, count)
            best = [max(v for k, v in probes[name, count, r["seed"]].items() if k != "pixels") for r in ranked]
            ours = [probes[name, count, r["seed"]][r["chosen"]] for r in ranked]
            lite0 = [probes[name, count, r["seed"]]["lite0"] for r in ranked]
            chosen = ", ".join(r["chosen"] for r in ranked)
            seconds = sum(r["seconds"] for r in ranked) / len(ranked)
            lost.append((count, name, chosen, _points(best, ours), _points(best, lite0), f"{seconds:.0f} s"))
    head = ("labels", "set", "chosen", "lost against the best", "always lite0 loses", "time, features cached")
    about = "What `rank` chooses, and the points that its choice loses on the test part against the best source there."
    return "".join(parts) + f"\n## Choosing a source\n\n{about}\n\n" + _table(head, lost)


def _of(rows: Sequence[Found], what: str, name: str, count: int) -> list[Found]:
    return [r for r in rows if (r["what"], r["set"], r["count"]) == (what, name, count)]


def _mean(probes: Any, name: str, where: str, count: int) -> float:
    found = [accuracy[name] for (s, c, _), accuracy in probes.items() if (s, c) == (where, count)]
    return float(sum(found) / len(found))


def _points(best: Sequence[float], ours: Sequence[float]) -> str:
    return f"{100 * sum(b - o for b, o in zip(best, ours)) / len(best):.1f}"


SECTIONS = {
    "versus_fastai": _fastai,
    "extraction": _extraction,
    "partial": _partial,
    "memory": _memory,
    "startup": _startup,
    "onnx_networks": _onnx,
    "sources": _sources,
    "accuracy": _accuracy,
}
