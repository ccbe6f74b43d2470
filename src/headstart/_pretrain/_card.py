"""What a pre-trained source says about itself: facts for the card, and the curve of its training."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart._pretrain._trainer import Trainer
from headstart._rank import rank
from headstart._runtime import cores
from headstart.modalities import Array
from headstart.targets import Target


def facts(target: Target, trainer: Trainer, skipped: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The card: what the network was trained on, how many examples, how long, how well."""
    task, plan, state = trainer.task, trainer.plan, trainer.state
    used = len(task.train) + len(task.held_out)
    return {
        "name": options["architecture"],
        "about": f"{options['architecture']} pre-trained on {target.name}: {used:,} images in "
        f"{len(target.classes):,} classes",
        "licence": "unknown",
        "modality": target.modality.name,
        "examples": used,
        "skipped": skipped,
        "num_classes": len(target.classes),
        "held_out": len(task.held_out),
        "accuracy": round(state.history[-1]["accuracy"], 4),
        "baseline_accuracy": round(_most_frequent(task.labels[task.train], task.labels[task.held_out]), 4),
        "epochs": round(plan.steps / trainer.per_epoch, 2),
        "steps": plan.steps,
        "batch_size": trainer.batch_size,
        "seconds": round(state.seconds),
        "machine": f"{trainer.device.type}, {torch.get_num_threads()} of {cores()} cores, "
        f"{str(plan.dtype).removeprefix('torch.')}",
        "training": f"AdamW, lr {plan.lr:g}, weight decay {plan.weight_decay:g}, label smoothing "
        f"{plan.smoothing:g}, augmentation {plan.augment}",
        "seed": plan.seed,
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("torch", "timm", "headstart")},
        },
    }


def _most_frequent(train: Array, held_out: Array) -> float:
    """Accuracy of always guessing the commonest class."""
    return float((held_out == np.bincount(train).argmax()).mean())


def transfer(folder: Path, data: Any, seed: int) -> str:
    """What a probe on the source in ``folder`` reaches on a small labelled target, out of fold, in words."""
    found = rank(data, sources=[str(folder)], seed=seed)
    best = found.best.accuracy
    return f"{found.target}: {found.examples:,} labels, {best.percent() if best else ''}; {found.plain_line()}"


def draw_curve(history: list[dict[str, float]], path: Path) -> None:
    """Training loss and held-out accuracy over the steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [entry["step"] for entry in history]
    left = figure.subplots()
    left.plot(steps, [entry["loss"] for entry in history], "o-", ms=3, color="#888888")
    left.set(xlabel="step", ylabel="training loss (grey)")
    right = left.twinx()
    right.plot(steps, [100 * entry["accuracy"] for entry in history], "o-", ms=3, color="#0072b2")
    right.set(ylabel="held-out accuracy in % (blue)", ylim=(0, 100))
    figure.savefig(path, dpi=110)
