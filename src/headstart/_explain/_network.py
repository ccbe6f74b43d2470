"""From an input to a heat map: the model as one differentiable function, the layer to look at, the methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart._errors import OptionError
from headstart._runtime import device
from headstart.adapt import Head
from headstart.modalities import Array
from headstart.sources import Backbone

METHODS = {
    "grad-cam": "Grad-CAM",
    "gradient-x-activation": "gradient × activation",
    "integrated-gradients": "integrated gradients",
}
COARSEST = 4  # rows or columns of a grid: with fewer there is hardly a place to point at
STEPS = 32  # of the path that integrated gradients follow
AT_ONCE = 8  # inputs that go through the network together
MOST_PREFIX_TOKENS = 8


class Grid(nn.Identity):
    """A point in the network where a stage's output passes as [n, C, h, w], whatever the stage's own layout is.

    ``order`` is "first" ([n, C, h, w]), "last" ([n, h, w, C]) or "tokens" ([n, prefix + h · w, C]).
    """

    def __init__(self, order: str, shape: tuple[int, int], prefix: int = 0) -> None:
        super().__init__()
        self.order, self.shape, self.prefix = order, shape, prefix

    def through(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` unchanged, by way of [n, C, h, w]."""
        if self.order == "first":
            return self(x)  # type: ignore[no-any-return]
        if self.order == "last":
            return self(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]
        grid = self(x[:, self.prefix :].transpose(1, 2).reshape(len(x), x.shape[2], *self.shape))
        return torch.cat([x[:, : self.prefix], grid.flatten(2).transpose(1, 2)], dim=1)

    def hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        """For ``register_forward_hook``; the stage may give its tensor in a tuple or list of one."""
        if isinstance(output, torch.Tensor):
            return self.through(output)
        return type(output)(self.through(x) for x in output)


@dataclass(frozen=True, slots=True)
class Explainer:
    """Heat maps and probabilities of one model. Made by ``opened``; single-threaded."""

    run: Callable[[torch.Tensor], torch.Tensor]
    head: nn.Sequential
    columns: slice
    temperature: float
    method: str
    layer: str
    """Name of the stage that is looked at; "input" for integrated gradients."""
    grid: Grid | None

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Network input [n, …] → calibrated logits [n, k]."""
        return self.head(self.run(x)[:, self.columns].float()) / self.temperature  # type: ignore[no-any-return]

    def probabilities(self, x: torch.Tensor) -> Array:
        """Network input [n, …] → calibrated probabilities [n, k], a few at a time."""
        with torch.no_grad():
            parts = [self.scores(part.to(device())).cpu().double().softmax(1) for part in torch.split(x, AT_ONCE)]
        return torch.cat(parts).numpy()

    def odds(self, x: torch.Tensor, column: int) -> torch.Tensor:
        """Log-odds [n] of one class against all others: unlike its logit it says what tells the classes apart, and
        unlike its probability it has a gradient however sure the network is."""
        z = self.scores(x)
        others = [i for i in range(z.shape[1]) if i != column]
        return z[:, column] - z[:, others].logsumexp(1)

    def heat(self, x: torch.Tensor, plain: torch.Tensor, column: int) -> Array:
        """What speaks for class ``column`` at each position of the input ``x`` [1, C, H, W]: float32 [H, W], sum 1,
        or all zeros where nothing does. ``plain`` is the input with nothing in it, for integrated gradients."""
        from captum.attr import IntegratedGradients, LayerGradCam, LayerGradientXActivation

        def score(batch: torch.Tensor) -> torch.Tensor:
            return self.odds(batch, column)

        x = x.to(device()).requires_grad_()
        if self.grid is None:
            found = IntegratedGradients(score).attribute(
                x, baselines=plain.to(device()), n_steps=STEPS, internal_batch_size=AT_ONCE
            )
            heat = _smoothed(found.detach().sum(1)[0].clamp_min(0).cpu().numpy())
        else:
            way = LayerGradCam if self.method == "grad-cam" else LayerGradientXActivation
            found = way(score, self.grid).attribute(x).detach().sum(1, keepdim=True).clamp_min(0)
            size = tuple(x.shape[2:])
            heat = nn.functional.interpolate(found, size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
        total = float(heat.sum(dtype=np.float64))
        return (heat / total if total > 0 and np.isfinite(total) else np.zeros_like(heat)).astype(np.float32)


@contextmanager
def opened(backbone: Backbone, head: Head, temperature: float, method: str = "auto") -> Iterator[Explainer]:
    """Within it, an Explainer; the network gets its hooks and loses them again.

    "auto" looks at the last stage that the score depends on: with Grad-CAM where it is a map of at least 4 × 4 places,
    else with integrated gradients on the input. (Grad-CAM half-way down, on small digits, was no better than random:
    its weights are averages over places, which only the last map allows; integrated gradients cost 77 points of
    probability where chance cost 16. On a small vision transformer of random weights with a trained head they cost 96,
    gradient × activation 15, chance 0.)
    Raises OptionError for a method that this network does not allow, or a network without gradients.
    """
    if method not in ("auto", *METHODS):
        raise OptionError(f"no method is called {method!r}; choose auto, {', '.join(METHODS)}")
    for parameter in backbone.network.parameters():
        parameter.requires_grad_(False)
    layers = _layers(head).to(device())
    with ExitStack() as stack:
        grids = {name: grid for name, grid in _grids(backbone).items() if grid is not None}
        for name, grid in grids.items():
            handle = backbone.network.get_submodule(name).register_forward_hook(grid.hook)
            stack.callback(handle.remove)
        run = stack.enter_context(backbone.depths())  # after the hooks, so that the head reads what passed the grids
        plain = Explainer(run, layers, slice(head.first, head.last), temperature, "", "input", None)
        matter = _that_matter(plain, backbone.example_input(), grids)
        fine = [name for name in matter if min(grids[name].shape) >= COARSEST]
        if method == "auto":
            last = matter[-1] if matter else ""
            method = "grad-cam" if last in fine and grids[last].order != "tokens" else "integrated-gradients"
        if method == "integrated-gradients":
            yield Explainer(run, layers, plain.columns, temperature, method, "input", None)
            return
        if not matter:
            raise OptionError(
                f"this network has no stage that is a map of places, so {method} cannot be; "
                "use --method integrated-gradients"
            )
        name = fine[-1] if fine else max(matter, key=lambda name: min(grids[name].shape))
        yield Explainer(run, layers, plain.columns, temperature, method, name, grids[name])


def _layers(head: Head) -> nn.Sequential:
    """The head as a module, fp32, fixed."""
    modules: list[nn.Module] = []
    for weight, bias in head.layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta").to_empty(device="cpu")
        linear.weight.data.copy_(torch.from_numpy(np.array(weight, np.float32)))
        linear.bias.data.copy_(torch.from_numpy(np.array(bias, np.float32)))
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1]).requires_grad_(False)


def _grids(backbone: Backbone) -> dict[str, Grid | None]:
    """For every stage the way its output lies over the input; None where it does not."""
    example = backbone.example_input().to(device())
    prefix = getattr(backbone.network, "num_prefix_tokens", None)
    found: dict[str, Grid | None] = {}

    def note(name: str, width: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            while isinstance(output, (tuple, list)) and len(output) == 1:
                output = output[0]
            if isinstance(output, torch.Tensor) and len(output) == len(example):
                found[name] = _grid_of(tuple(output.shape), width, tuple(example.shape[2:]), prefix)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, width in backbone.stages:
            stack.callback(backbone.network.get_submodule(name).register_forward_hook(note(name, width)).remove)
        backbone.network(example)
    return found


def _grid_of(shape: tuple[int, ...], width: int, sides: tuple[int, ...], prefix: int | None) -> Grid | None:
    if len(shape) == 4:
        if shape[1] == width:  # the same order of trying as in the pooling of depths
            return Grid("first", (shape[2], shape[3]))
        return Grid("last", (shape[1], shape[2])) if shape[3] == width else None
    if len(shape) != 3 or shape[2] != width:
        return None
    for before in range(MOST_PREFIX_TOKENS) if prefix is None else [prefix]:
        places = shape[1] - before
        rows = round((places * sides[0] / sides[1]) ** 0.5) if places > 0 else 0
        if rows and places % rows == 0 and rows * sides[1] == places // rows * sides[0]:
            return Grid("tokens", (rows, places // rows), before)
    return None


def _that_matter(explainer: Explainer, example: torch.Tensor, grids: dict[str, Grid]) -> list[str]:
    """The stages that the score depends on, in order.

    The head may read lower stages only, and where it reads the class token, the last stage's other tokens do not
    matter: so it is measured. Raises OptionError for a network without gradients.
    """
    passed: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for name, grid in grids.items():
            stack.callback(
                grid.register_forward_hook(lambda m, a, out, name=name: passed.__setitem__(name, out)).remove
            )
        x = example.to(device()).requires_grad_()
        score = explainer.odds(x, 0).sum()
    if not score.requires_grad:
        raise OptionError("this model's network gives no gradient, so nothing can be said about where it looked")
    gradients = torch.autograd.grad(score, list(passed.values()), allow_unused=True) if passed else ()
    return [name for name, g in zip(passed, gradients) if g is not None and bool((g != 0).any())]


def _smoothed(values: Array) -> Array:
    """Attributions of single pixels are too fine to be seen; the blur is a fortieth of the shorter side."""
    from scipy.ndimage import gaussian_filter

    smooth: Array = gaussian_filter(values, max(0.5, min(values.shape) / 40))
    return smooth
