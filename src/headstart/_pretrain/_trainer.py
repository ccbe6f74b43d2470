"""The training loop. What happens at step s follows from (seed, s) and the state before it: it can be resumed."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from headstart._errors import HeadstartError, OptionError
from headstart._pretrain._augment import crop_and_flip, shift
from headstart._runtime import atomic_write, device, progress, say
from headstart.modalities import Array, Modality, Preprocessing

_EVERY = 30.0  # seconds between checkpoints
_FEWEST = 5  # batches that a budget must leave time for


@dataclass(frozen=True)
class Task:
    """What is learnt: ``images`` uint8 [n, H, W, C], ``labels`` [n], rows to train on and rows held out."""

    images: Array
    labels: Array
    train: Array
    held_out: Array
    modality: Modality
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Plan:
    """How it is learnt. ``steps`` is the length of the cosine schedule."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    smoothing: float
    augment: str
    seed: int
    dtype: torch.dtype

    def lr_at(self, step: int) -> float:
        """Linear warm-up over the first twentieth (at most 500 steps), then a half cosine down to zero."""
        warm = min(500, self.steps // 20) + 1
        return self.lr * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass
class State:
    """Where a run stands. ``history`` has an entry per epoch, or ten in all: step, loss, accuracy, seconds."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains ``network`` in place on ``task`` by ``plan``; ``state`` moves on with it."""

    def __init__(self, network: torch.nn.Module, task: Task, plan: Plan) -> None:
        self.device = device()
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.task, self.plan, self.state = task, plan, State()
        self.optimizer = _adamw(self.network, plan)
        self.batch_size = min(plan.batch_size, len(task.train))
        self.per_epoch = len(task.train) // self.batch_size
        self._order: tuple[int, Array] = (-1, task.train)

    def run(self, checkpoint: Path) -> None:
        """Train to the end of the plan, with a checkpoint every 30 seconds and after each measurement."""
        last, measure = time.monotonic(), max(1, min(self.per_epoch, self.plan.steps // 10))
        todo = (self.plan.steps - self.state.step) * self.batch_size
        with torch.random.fork_rng(), progress("training", todo, "images") as advance:
            while self.state.step < self.plan.steps:
                start = time.monotonic()
                self.one_step()
                advance(self.batch_size)
                ended = self.state.step % measure == 0 or self.state.step == self.plan.steps
                if ended:
                    self._measure()
                self.state.seconds += time.monotonic() - start
                if ended or time.monotonic() - last > _EVERY:
                    say(self._line())
                    self.save(checkpoint)
                    last = time.monotonic()

    def one_step(self) -> None:
        """One batch: forward, loss, backward, update."""
        step = self.state.step
        rng = torch.Generator().manual_seed(_mix(self.plan.seed, 1, step))
        torch.manual_seed(_mix(self.plan.seed, 2, step))  # dropout and stochastic depth
        rows = self._rows(step)
        x = self._input(rows, rng)
        y = torch.from_numpy(self.task.labels[rows]).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr_at(step)
        self.network.train()
        loss = F.cross_entropy(self._logits(x), y, label_smoothing=self.plan.smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self._note(float(loss.detach()))

    def _note(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise HeadstartError(
                f"the training diverged at step {self.state.step} (the loss is {loss}); try a smaller lr than "
                f"{self.plan.lr:g}"
            )
        self.state.step += 1
        self.state.loss_sum += loss
        self.state.loss_steps += 1

    def _rows(self, step: int) -> Array:
        epoch, batch = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng([self.plan.seed, 3, epoch])
            self._order = (epoch, rng.permutation(self.task.train))
        return self._order[1][batch * self.batch_size : (batch + 1) * self.batch_size]

    def _input(self, rows: Array, rng: torch.Generator | None = None) -> torch.Tensor:
        order = np.sort(rows) if rng is None else rows
        batch = torch.from_numpy(np.ascontiguousarray(self.task.images[order])).to(self.device)
        if rng is not None and self.plan.augment == "shift":
            batch = shift(batch, rng)
        x = self.task.modality.to_input(batch, self.task.preprocessing)
        return crop_and_flip(x, rng) if rng is not None and self.plan.augment == "photo" else x

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.dtype == torch.bfloat16):
            logits: torch.Tensor = self.network(x)
        return logits.float()

    def accuracy(self) -> float:
        """Share of the held-out examples whose first guess is right."""
        self.network.eval()
        rows, right = np.sort(self.task.held_out), 0
        with torch.inference_mode():
            for part in np.array_split(rows, max(1, math.ceil(len(rows) / 256))):
                guess = self._logits(self._input(part)).argmax(1).cpu().numpy()
                right += int((guess == self.task.labels[part]).sum())
        return right / max(1, len(rows))

    def _measure(self) -> None:
        state = self.state
        entry = {
            "step": state.step,
            "loss": state.loss_sum / max(1, state.loss_steps),
            "accuracy": self.accuracy(),
        }
        state.history.append({**entry, "seconds": round(state.seconds, 1)})
        state.loss_sum, state.loss_steps = 0.0, 0

    def _line(self) -> str:
        """Where the run stands: the last epoch's figures, else the loss so far; speed and time left."""
        state = self.state
        if state.loss_steps or not state.history:
            said = f"loss {state.loss_sum / max(1, state.loss_steps):.3f}"
        else:
            said = f"loss {state.history[-1]['loss']:.3f}, held-out accuracy {state.history[-1]['accuracy']:.1%}"
        rate = max(1e-9, state.step * self.batch_size / max(1e-9, state.seconds))
        left = (self.plan.steps - state.step) * self.batch_size / rate
        return f"step {state.step} of {self.plan.steps}: {said}, {rate:.0f} images/s, {left / 60:.1f} min left"

    # ------------------------------------------------------------ checkpoints

    def save(self, path: Path) -> None:
        """Weights, optimizer and state as one safetensors file, replaced atomically."""
        from safetensors.torch import save

        tensors = {f"net.{name}": t for name, t in self.network.state_dict().items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"opt.{i}.{name}": t for name, t in values.items()}
        plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
        facts = {"state": vars(self.state), "steps": self.plan.steps}
        atomic_write(path, save(plain, metadata={"headstart": json.dumps(facts)}))

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same run."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            facts = json.loads(file.metadata()["headstart"])
        self.network.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
        self._load_optimizer({n[4:]: t for n, t in tensors.items() if n.startswith("opt.")})
        self.state = State(**facts["state"])

    def _load_optimizer(self, tensors: dict[str, torch.Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            like = torch.empty_like(parameter) if value.shape == parameter.shape and key != "step" else value
            self.optimizer.state[parameter][key] = like.detach().copy_(value)


def start(
    network: torch.nn.Module, task: Task, plan: Plan, checkpoint: Path,
    epochs: float | None, budget: float | None, since: float,
) -> Trainer:  # fmt: skip
    """A trainer at step 0, its schedule fitted to ``epochs`` and ``budget`` (seconds, running ``since``), or one
    that continues from ``checkpoint``."""
    if checkpoint.is_file():
        trainer = Trainer(network, task, replace(plan, steps=_planned_steps(checkpoint)))
        trainer.load(checkpoint)
        return trainer
    trainer = Trainer(network, task, plan)
    wanted = None if epochs is None and budget is not None else (epochs or 30.0) * trainer.per_epoch
    if budget is not None:
        spent = time.monotonic() - since
        fits = (budget - spent) / _seconds_per_step(trainer)
        if fits < _FEWEST:
            raise OptionError(
                f"a budget of {budget:.0f} s is too short: reading and decoding took {spent:.0f} s of it (that need "
                f"not be done again) and the rest is less than {_FEWEST} batches; give it more time"
            )
        wanted = fits if wanted is None else min(wanted, fits)
    trainer.plan = replace(plan, steps=max(1, round(wanted or 1)))
    trainer.save(checkpoint)
    return trainer


def _seconds_per_step(trainer: Trainer, steps: int = 6) -> float:
    """Measured on a copy of the network, with a share added for the held-out part and checkpoints."""
    trial = Trainer(copy.deepcopy(trainer.network), trainer.task, replace(trainer.plan, steps=1000))
    times = []
    with torch.random.fork_rng():
        for _ in range(steps):
            began = time.monotonic()
            trial.one_step()
            times.append(time.monotonic() - began)
    return 1.08 * float(np.median(times[1:]))


def _planned_steps(path: Path) -> int:
    """The length of the schedule that a checkpoint was made with."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return int(json.loads(file.metadata()["headstart"])["steps"])


def _adamw(network: torch.nn.Module, plan: Plan) -> torch.optim.AdamW:
    """Decay on weights, none on norms and biases."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.lr)


def _mix(*numbers: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
