"""Split a network after any module, exactly, without knowing its code.

The prefix runs the network until the module at the cut has given its output, keeps that output and stops. The suffix
runs the network's own ``forward`` again, with every module that had finished before the cut replaced by a stand-in:
the module at the cut returns the kept activation, the earlier ones return an empty tensor of the right shape that
costs nothing (stride 0). So the network's own norms, pooling and reshaping still apply, and the stem does not run.
Whether that is exact depends on the network; ``Cut.at`` measures it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from headstart._errors import SourceError

TOLERANCE = 1e-5  # relative; most architectures are bit-equal


class _Stop(BaseException):
    """Ends a forward pass at the cut. Not an Exception, so that no network's own ``except`` swallows it."""


def only_tensor(output: Any) -> torch.Tensor | None:
    """The one tensor of a module's output, looking through a tuple or list of one; None if there are several."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, (tuple, list)) and len(output) == 1:
        return only_tensor(output[0])
    return None


class Tap(threading.local):
    """Holds one module's latest output, separately for every thread."""

    value: Any = None

    def take(self) -> torch.Tensor:
        """The captured tensor, given up."""
        value, self.value = only_tensor(self.value), None
        if value is None:
            raise SourceError("a stage of this network gives no single tensor")
        return value


@contextmanager
def capture(module: nn.Module, *, stop: bool = False) -> Iterator[Tap]:
    """Keep what ``module`` returns; with ``stop``, end the pass there."""
    tap = Tap()

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tap.value = output
        if stop:
            raise _Stop

    handle = module.register_forward_hook(hook)
    try:
        yield tap
    finally:
        handle.remove()


@dataclass(slots=True)
class _Finished:
    """A module that was done before the cut, with the shapes it gave (one per call, batch size left out)."""

    module: nn.Module
    outputs: list[Any]
    calls: int = 0


class Cut:
    """A network split after one module: ``prefix`` and ``suffix`` as functions of tensors."""

    def __init__(
        self, network: nn.Module, module: nn.Module, finished: list[_Finished], input_shape: torch.Size
    ) -> None:
        self.network = network
        self._module = module
        self._finished = finished
        self._input_shape = input_shape[1:]

    @classmethod
    def at(cls, network: nn.Module, name: str, example: torch.Tensor) -> Cut:
        """Split after module ``name``. Raises SourceError unless suffix(prefix(x)) equals the whole network."""
        module = network.get_submodule(name)
        training = network.training
        network.eval()
        parameter = next(network.parameters(), None)
        example = example if parameter is None else example.to(parameter.device, parameter.dtype)
        try:
            with torch.inference_mode():
                cut = cls(network, module, _finished_before(network, module, example), example.shape)
                whole = network(example)
                with cut.prefix() as prefix:
                    activation = prefix(example)
                with cut.suffix() as suffix:
                    again = suffix(activation)
        finally:
            network.train(training)
        worst = float((whole - again).abs().max() / whole.abs().max().clamp_min(1e-12))
        tolerance = TOLERANCE if example.dtype == torch.float32 else 0.02
        if whole.shape != again.shape or not worst <= tolerance:
            raise SourceError(f"cutting after {name} does not reproduce this network (relative error {worst:.1g})")
        return cut

    @contextmanager
    def prefix(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Within it, a function input → activation at the cut. Safe to call from threads."""
        with capture(self._module, stop=True) as tap:

            def run(x: torch.Tensor) -> torch.Tensor:
                try:
                    self.network(x)
                except _Stop:
                    return tap.take()
                raise SourceError("this network does not pass through the stage at the cut")

            yield run

    @contextmanager
    def suffix(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Within it, a function activation → the network's output. Modules before the cut do not run."""
        held: list[torch.Tensor] = []

        def stand_in(finished: _Finished) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                spec = finished.outputs[finished.calls % len(finished.outputs)]
                finished.calls += 1
                return _empty_like(spec, held[0])

            return forward

        replaced = [self._module, *(f.module for f in self._finished)]
        before = [module.__dict__.get("forward") for module in replaced]  # an outer suffix's, when nested
        self._module.forward = lambda *args, **kwargs: held[0]
        for finished in self._finished:
            finished.module.forward = stand_in(finished)
        try:

            def run(activation: torch.Tensor) -> torch.Tensor:
                held[:] = [activation]
                for finished in self._finished:
                    finished.calls = 0
                nothing = activation.new_zeros(()).expand(len(activation), *self._input_shape)
                output: torch.Tensor = self.network(nothing)
                held.clear()
                return output

            yield run
        finally:
            for module, forward in zip(replaced, before):
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.forward = forward

    def trainable(self) -> list[str]:
        """Names of the parameters that the suffix really uses, found by one backward pass."""
        device = next(self.network.parameters()).device
        wanted = {n: p.requires_grad for n, p in self.network.named_parameters()}
        training = self.network.training
        self.network.eval().requires_grad_(True)
        try:
            with torch.enable_grad():
                example = torch.zeros(1, *self._input_shape, device=device)
                with torch.no_grad(), self.prefix() as prefix:
                    activation = prefix(example)
                with self.suffix() as suffix:
                    output = suffix(activation + 0.01).sum()
                names, parameters = zip(*self.network.named_parameters())
                if not output.requires_grad:  # nothing after the cut has parameters
                    return []
                grads = torch.autograd.grad(output, parameters, allow_unused=True)
        finally:
            self.network.train(training)
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(wanted[name])
        return [name for name, grad in zip(names, grads) if grad is not None]


def _finished_before(network: nn.Module, module: nn.Module, example: torch.Tensor) -> list[_Finished]:
    """The largest modules that ran to their end before ``module`` did and never ran again."""
    done: dict[nn.Module, list[Any]] = {}
    later: set[nn.Module] = set()
    passed = False

    def after(m: nn.Module, args: Any, output: Any) -> None:
        nonlocal passed
        if passed:
            later.add(m)
        else:
            done.setdefault(m, []).append(_spec(output, len(example)))
        passed = passed or m is module

    handles = [m.register_forward_hook(after) for m in network.modules()]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    inside = set(module.modules())
    candidates = {m for m in done if m not in later and m not in inside}
    largest = _without_children(candidates)
    return [_Finished(m, done[m]) for m in done if m in largest]


def _without_children(modules: set[nn.Module]) -> set[nn.Module]:
    children = {c for m in modules for c in m.modules() if c is not m}
    return modules - children


@dataclass(frozen=True, slots=True)
class _Shape:
    """Shape of a tensor after the batch axis; ``repeat`` is how many rows an example has (windows: more than one)."""

    rest: tuple[int, ...]
    repeat: float
    dtype: torch.dtype


def _spec(output: Any, n: int) -> Any:
    if isinstance(output, torch.Tensor):
        return _Shape(tuple(output.shape[1:]), output.shape[0] / n if output.ndim else 0, output.dtype)
    if isinstance(output, (tuple, list)):
        return type(output)(_spec(o, n) for o in output)
    return output


def _empty_like(spec: Any, activation: torch.Tensor) -> Any:
    if isinstance(spec, _Shape):
        n = round(len(activation) * spec.repeat)
        dtype = activation.dtype if spec.dtype.is_floating_point else spec.dtype
        return activation.new_zeros((), dtype=dtype).expand(n, *spec.rest)
    if isinstance(spec, (tuple, list)):
        return type(spec)(_empty_like(s, activation) for s in spec)
    return spec
