"""Pre-training, the first step of transfer: any timm architecture, any labelled target, out comes a source."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._budget import parse_budget
from headstart._errors import OptionError
from headstart._runtime import atomic_folder, check_seed, compute_dtype, plain_disk_errors, say

if TYPE_CHECKING:
    import torch

    from headstart._pretrain._trainer import Task, Trainer
    from headstart.targets import Target

__all__ = ["pretrain"]


def pretrain(
    data: Any,
    *,
    out: str | Path,
    architecture: str = "resnet10t",
    label: str | None = None,
    size: int | None = None,
    epochs: float | None = None,
    budget: str | float | None = None,
    batch_size: int = 128,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    smoothing: float = 0.1,
    augment: str = "photo",
    model_args: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    try_on: Sequence[Any] = (),
    half: bool = False,
    precision: str | None = None,
    allow_bad: bool = False,
    seed: int = 0,
    resume: bool = True,
) -> Path:
    """Train a timm ``architecture`` from random weights on labelled images and write it as a source folder.

    ``data`` is anything ``fit`` reads (folder, table, Parquet, lists) or a Target. Images are brought to
    ``size`` × ``size`` pixels (default: the architecture's own size, or less if the images are smaller). The
    length is ``epochs`` (default 30) or what fits into ``budget`` (seconds, or "20m"), measured on the first
    batches. AdamW with linear warm-up and cosine decay, label smoothing; ``augment`` is "photo" (random crops and
    mirroring), "shift" (for letters and scans) or "none". ``model_args`` go to timm, ``card`` adds facts to the
    card (name, about, licence, notes). ``try_on``: small labelled data sets, as for ``fit``, on which the finished
    source is tried: what a probe reaches out of fold, against the raw input, stands in the card. ``half`` stores
    fp16 weights, ``precision`` is "fp32" or "bf16".

    Killed at any moment, the same call continues from its last checkpoint (at most 30 s old) and ends, in fp32 and
    with the same number of threads, with the same weights; ``resume=False`` starts over. Returns ``out``. Raises
    DataError, OptionError, HeadstartError.
    """
    started = time.monotonic()
    from headstart._pretrain import _augment, _card, _pixels, _prepare, _trainer

    out, dtype = Path(out), _dtype(precision)
    seconds = None if budget is None else parse_budget(budget)
    _check_out(out)
    check_seed(seed)
    if epochs is not None and not epochs > 0:
        raise OptionError(f"epochs is {epochs}; training takes more than none")
    _augment.check_kind(augment)
    _prepare.check_architecture(architecture)
    target = _prepare.read_target(data, label)
    size = _prepare.choose_size(architecture, target, size)
    network, made_with = _prepare.new_network(architecture, model_args or {}, len(target.classes), size, seed)
    options = {
        "architecture": architecture, "model_args": made_with, "size": size, "epochs": epochs,
        "budget": seconds, "half": half, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay,
        "smoothing": smoothing, "augment": augment, "precision": str(dtype), "seed": seed,
    }  # fmt: skip
    data_digest = _pixels.fingerprint(target)
    recipe = _recipe(data_digest, options)
    if resume and _finished(out, recipe):
        say(f"{out} is already there, made by the same call")
        return out
    work = _work_folder(out, recipe, resume)
    pixels = _pixels.decode_all(target, data_digest, _prepare.image_preprocessing(size), work, allow_bad)
    task = _task(target, pixels.images, pixels.rows, size, seed)
    plan = _trainer.Plan(0, batch_size, lr, weight_decay, smoothing, augment, seed, dtype)
    trainer = _trainer.start(network, task, plan, work / "state.safetensors", epochs, seconds, started)
    trainer.run(work / "state.safetensors")
    facts = {**_card.facts(target, trainer, len(pixels.bad), options), **dict(card or {}), "recipe": recipe}
    _write(out, trainer, architecture, made_with, facts, target.classes, half, try_on)
    del task, pixels, trainer
    shutil.rmtree(work, ignore_errors=True)
    return out


def _task(target: Target, images: Any, rows: Any, size: int, seed: int) -> Task:
    from headstart._pretrain import _prepare, _trainer

    labels = target.labels[rows].astype("int64")
    groups = None if target.groups is None else target.groups[rows]
    train, held_out = _prepare.hold_out(labels, groups, seed)
    preprocessing = _prepare.image_preprocessing(size, images)
    return _trainer.Task(images, labels, train, held_out, target.modality, preprocessing)


def _write(
    out: Path, trainer: Trainer, architecture: str, model_args: Mapping[str, Any], facts: Mapping[str, Any],
    classes: tuple[str, ...], half: bool, try_on: Sequence[Any],
) -> None:  # fmt: skip
    from headstart._pretrain._card import draw_curve, transfer
    from headstart.sources._save import save_source

    def save(card: Mapping[str, Any]) -> None:
        save_source(
            folder, trainer.network, architecture=architecture, model_args=model_args,
            preprocessing=trainer.task.preprocessing, card=card, classes=classes, half=half,
        )  # fmt: skip

    with atomic_folder(out) as folder:
        save(facts)
        if try_on:
            save({**facts, "transfer": [transfer(folder, data, trainer.plan.seed) for data in try_on]})
        draw_curve(trainer.state.history, folder / "curve.png")
    say(f"{out}: {facts['accuracy']:.1%} of {facts['held_out']:,} held-out images right, {facts['seconds']:,} s")


def _recipe(fingerprint: str, options: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([fingerprint, options], sort_keys=True).encode()).hexdigest()


def _work_folder(out: Path, recipe: str, resume: bool) -> Path:
    """The run's own sibling folder, kept between attempts; the state of a run with another recipe is given up."""
    work = out.parent / f".{out.name}.pretrain"
    mark, state = work / "recipe", work / "state.safetensors"
    with plain_disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        if state.is_file() and resume and mark.is_file() and mark.read_text() == recipe:
            say(f"continuing the run in {work}")
            return work
        if state.is_file():
            say(f"starting over: the run in {work} had other data or options" if resume else "starting over")
            state.unlink()
        mark.write_text(recipe)
    return work


def _finished(out: Path, recipe: str) -> bool:
    try:
        card = json.loads((out / "config.json").read_text(encoding="utf-8"))["card"]
        return bool(card["recipe"] == recipe)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_out(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file()):
        raise OptionError(f"{out} exists and is no source folder; choose another place for the source")


def _dtype(precision: str | None) -> torch.dtype:
    import torch

    names = {None: compute_dtype(), "fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in names:
        raise OptionError(f"precision is {precision!r}; it takes fp32 or bf16")
    return names[precision]
