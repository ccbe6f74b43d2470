"""Retraining a part of the network: one loop for ``light``, ``partial``, ``full`` and ``scratch``.

The head starts from the probe (LP-FT, Kumar et al., ICLR 2022) and learning rates fall with depth. What lies before
the cut is computed once, from the cache. A part of the training rows is held out inside, for early stopping; the
weights kept are the average of the best checkpoints by held-out loss (model soups, Wortsman et al., ICML 2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart._runtime import check_stop, device, progress
from headstart.adapt._head import Head
from headstart.adapt._job import Job
from headstart.adapt._network import Network, build, freeze, predict, set_mode
from headstart.adapt._tuned import Tuning
from headstart.features import INPUT
from headstart.modalities import Array
from headstart.targets import split

CHECKPOINT_SECONDS = 10.0
SOUP = 3  # checkpoints averaged


@dataclass(slots=True)
class Tuned:
    """A tuned network; see ``Fitted``."""

    net: Network
    head: Head
    network: Mapping[str, Any] | None
    facts: Mapping[str, Any]

    def logits(self, rows: Array) -> Array:
        """[len(rows), n_classes], from the plain view."""
        return predict(self.net, rows)


def tune(job: Job, tuning: Tuning, train: Array, step: str, *, epochs: int | None = None) -> Tuned:
    """Train on rows ``train``. Without ``epochs`` a part of them is held out and decides when to stop (if the tuning
    has patience); with it, all of them are used for that many epochs of the same schedule."""
    whole_schedule = epochs is not None or tuning.patience is None
    rows, held = (train, train[:0]) if whole_schedule else _inner(job, train)
    net = build(job, tuning, rows)  # a probe that knew the held-out rows would make every step look harmful
    state = _State(net, step, last_epoch=tuning.epochs if epochs is None else epochs)
    with progress(step.replace("-fold", ", fold "), state.last_epoch) as advance:
        state.run(rows, held, advance)
    net.load(state.result())
    net.backbone.network.eval()
    whole = {n: t.detach().cpu().contiguous() for n, t in net.backbone.network.state_dict().items()}
    return Tuned(net, net.as_head(), whole, {"epochs": state.best_epoch, "ran": state.epoch})


def _inner(job: Job, train: Array) -> tuple[Array, Array]:
    """A fifth of the training rows held out for early stopping, by the same rules as every split."""
    if len(np.unique(job.blocks[train])) < 2:
        return train, train[:0]
    rows, held = split(job.labels[train], job.blocks[train], seed=job.seed + 1, folds=5)[0]
    return train[rows], train[held]


@dataclass(slots=True)
class _State:
    """Training in progress: what a checkpoint holds, and the loop."""

    net: Network
    step: str
    last_epoch: int
    epoch: int = 0
    best_epoch: int = 0
    losses: list[float] = field(default_factory=list)
    kept: list[tuple[float, int, dict[str, torch.Tensor]]] = field(default_factory=list)
    """(held-out loss, epoch, weights) of the best checkpoints; without a held-out part the latest ones."""

    def run(self, rows: Array, held: Array, advance: Callable[[int], None]) -> None:
        job, tuning = self.net.job, self.net.tuning
        kind = INPUT if not (tuning.cut and tuning.cached) else f"cut:{tuning.cut}"
        maps, places = job.inputs(kind).mapped(np.arange(len(job.labels)))
        batch = min(tuning.batch, len(rows))
        per_epoch = max(1, len(rows) // batch)
        optimizer = torch.optim.AdamW(_groups(self.net), weight_decay=tuning.weight_decay)
        self._restore(optimizer)
        advance(self.epoch)
        saved = time.monotonic()
        labels = torch.from_numpy(job.labels)
        with self.net.forward() as forward:
            if self.epoch == 0 and tuning.pretrained:  # random weights are no result to fall back on
                self._keep(held)
            while self.epoch < self.last_epoch and not self._stalled(len(held)):
                random = np.random.default_rng([job.seed, self.epoch])
                order = random.permutation(rows)
                for i in range(per_epoch):
                    check_stop()
                    part = order[i * batch : (i + 1) * batch] if i < per_epoch - 1 else order[i * batch :]
                    part = part[: 2 * batch] if len(part) > 1 else part.repeat(2)  # norms want two
                    view = random.integers(len(maps), size=len(part))
                    inputs = np.stack([maps[v][places[v][r]] for v, r in zip(view, part)])
                    _set_rate(optimizer, self.epoch * per_epoch + i, tuning.epochs * per_epoch)
                    loss = nn.functional.cross_entropy(forward(torch.from_numpy(inputs)), labels[part].to(device()))
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(loss)
                    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
                    optimizer.step()
                self.epoch += 1
                self._keep(held)
                advance(1)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save(optimizer)
                    saved = time.monotonic()
        job.journal.drop(self._name)

    def result(self) -> dict[str, torch.Tensor]:
        """The average of the kept checkpoints."""
        states = [state for _, _, state in self.kept]
        return {
            n: torch.stack([s[n] for s in states]).mean(dim=0) if states[0][n].is_floating_point() else states[0][n]
            for n in states[0]
        }

    def _keep(self, held: Array) -> None:
        loss = float(-self.epoch)
        if len(held):
            training = self.net.backbone.network.training
            self.net.backbone.network.eval()
            logits = torch.from_numpy(predict(self.net, held))
            set_mode(self.net.backbone.network, training=training)
            loss = float(nn.functional.cross_entropy(logits, torch.from_numpy(self.net.job.labels[held])))
        self.losses.append(loss)
        if len(self.kept) < SOUP or loss < self.kept[-1][0]:
            self.kept = sorted([*self.kept, (loss, self.epoch, self.net.state())], key=lambda k: k[0])[:SOUP]
            best = self.kept[0][1]
            self.kept = [k for k in self.kept if abs(k[1] - best) <= SOUP]
            self.best_epoch = best

    def _stalled(self, n_held: int) -> bool:
        patience = self.net.tuning.patience
        return bool(n_held) and patience is not None and self.epoch - self.best_epoch >= patience

    @property
    def _name(self) -> str:
        return f"{self.step}-checkpoint"

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        arrays = {f"now/{n}": t.numpy() for n, t in self.net.state().items()}
        for i, (_, _, state) in enumerate(self.kept):
            arrays |= {f"kept{i}/{n}": t.numpy() for n, t in state.items()}
        for i, memory in optimizer.state_dict()["state"].items():
            arrays |= {f"adam{i}/{n}": t.cpu().numpy() for n, t in memory.items()}
        facts = {
            "epoch": self.epoch,
            "best": self.best_epoch,
            "losses": self.losses,
            "kept": [(loss, epoch) for loss, epoch, _ in self.kept],
        }
        self.net.job.journal.put(self._name, arrays, facts)

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        known = self.net.job.journal.get(self._name)
        if known is None:
            return
        arrays, facts = known
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = torch.from_numpy(array.copy())
        self.net.load(groups["now"])
        self.epoch, self.best_epoch, self.losses = facts["epoch"], facts["best"], facts["losses"]
        self.kept = [(loss, epoch, groups[f"kept{i}"]) for i, (loss, epoch) in enumerate(facts["kept"])]
        memory = {int(g.removeprefix("adam")): tensors for g, tensors in groups.items() if g.startswith("adam")}
        optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


def _groups(net: Network) -> list[dict[str, Any]]:
    """Parameter groups with rates that fall towards the input; no weight decay on vectors."""
    stages = [name for name, _ in net.backbone.stages]
    seen = 0
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.parameters().items():
        if name.startswith("head."):
            rate = net.tuning.head_lr
        else:
            inside = next((i + 1 for i, s in enumerate(stages) if name.startswith(s + ".")), None)
            seen = max(seen, inside or 0)
            depth = inside if inside is not None else 0 if not seen else len(stages) + 1
            rate = net.tuning.lr * net.tuning.rate_decay ** (len(stages) + 1 - depth)
        decay = 0.0 if parameter.ndim <= 1 else net.tuning.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def _set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, warm: float = 0.1) -> None:
    """Linear warm-up, then a cosine to zero."""
    done = (step + 1) / max(1, steps)
    factor = min(1.0, done / warm) * 0.5 * (1 + np.cos(np.pi * min(1.0, max(0.0, (done - warm) / (1 - warm)))))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def seconds_per_example(job: Job, tuning: Tuning) -> float:
    """Measured wall time of one forward and backward pass per example, with made-up input."""
    net = build(job, tuning, np.arange(len(job.labels))[:0]) if not tuning.pretrained else _cheap(job, tuning)
    n = min(tuning.batch, max(2, len(job.labels)))
    example = net.backbone.example_input(n).to(device())
    if tuning.cut and tuning.cached:
        with torch.inference_mode(), net.backbone.cut(tuning.cut).prefix() as prefix:
            example = prefix(example.contiguous(memory_format=torch.channels_last))
        example = torch.zeros(example.shape, dtype=example.dtype)
    optimizer = torch.optim.AdamW(_groups(net))
    best = float("inf")
    with net.forward() as forward:
        for _ in range(3):
            start = time.perf_counter()
            torch.autograd.backward(forward(example).sum())
            optimizer.step()
            best = min(best, time.perf_counter() - start)
    return best / n


def _cheap(job: Job, tuning: Tuning) -> Network:
    backbone = job.source.backbone()
    first, last = job.columns(None)
    names = freeze(backbone, tuning)
    backbone.place(device())
    head, width = nn.Linear(last - first, job.n_classes), last - first
    where = device()
    return Network(
        backbone, head.to(where), torch.zeros(width).to(where), torch.ones(width).to(where), names, job, tuning
    )


def median_epochs(facts: Sequence[Mapping[str, Any]], tuning: Tuning) -> int:
    """Epochs for the final fit: the median of the folds' best ones."""
    return int(np.median([f["epochs"] for f in facts])) if facts else tuning.epochs
