"""Where the network looked: a heat map for every example, tested by hiding what it marks, as pictures and a page."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._errors import BadExample, DataError, OptionError
from headstart._runtime import atomic_folder, half_the_cores, progress, say
from headstart.deliver import Model, load
from headstart.modalities import Array, Example, digest, modality
from headstart.targets import read_examples

if TYPE_CHECKING:
    from headstart._explain._faithful import Faithfulness
    from headstart._explain._network import Explainer

__all__ = ["explain"]

FORMAT = 1
PAGE, NUMBERS = "index.html", "explain.json"
SIDE = 448  # pixels of the longer edge of what is shown
UNTRAINED = 16  # examples whose maps are compared with those of an untrained network


@dataclass(frozen=True, slots=True)
class Map:
    """Where the network looked at one example."""

    name: str
    label: str
    """The class that the model predicts."""
    probability: float
    """Its calibrated probability, as ``predict`` gives it."""
    explained: str
    """The class that the heat speaks for: the predicted one, or the one asked for."""
    before: float
    """Probability of ``explained`` in fp32, in which the maps and the deletion test are computed; where the model
    otherwise runs in bf16 it differs a little."""
    hidden: float
    """Share of the area that the deletion test hid: 0.2, less where most of the picture has no heat, 0 without heat."""
    after: float
    """Probability of ``explained`` with the hottest part hidden."""
    after_random: tuple[float, ...]
    """The same with a part of the same shape at random places hidden."""
    after_middle: float
    """The same with as much in the middle hidden."""
    centre: float
    """Share of the heat in the middle quarter of the area: 0.25 if it were spread evenly."""
    heat: Array = field(repr=False)
    """float32, by position of the network's input (images: [H, W]), sum 1; all zeros where nothing spoke for it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON data: all but the heat."""
        return {
            "file": self.name, "label": self.label, "probability": _rounded(self.probability),
            "explained": self.explained, "probability_explained": _rounded(self.before),
            "hidden_share": _rounded(self.hidden), "after_hiding_hottest": _rounded(self.after),
            "after_hiding_random": [_rounded(p) for p in self.after_random],
            "after_hiding_middle": _rounded(self.after_middle), "heat_in_middle_quarter": _rounded(self.centre),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """Maps of all examples that could be read, and what they are worth."""

    maps: list[Map]
    unreadable: dict[str, str]
    """Names with the reason."""
    method: str
    layer: str
    faithfulness: Faithfulness | None
    """The deletion test over all maps; None if every map is empty."""
    untrained: float | None
    """Mean rank correlation with the maps of the same network with random weights: near 1 the maps show the
    picture, not what was learnt (Adebayo et al., NeurIPS 2018)."""
    about: dict[str, Any]
    """Model, source, seed."""

    def headlines(self) -> list[str]:
        """What the maps are worth, a sentence each."""
        from headstart._explain._words import headlines

        return headlines(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "format": FORMAT, "tool": "headstart explain", **self.about, "method": self.method, "layer": self.layer,
            "headlines": self.headlines(),
            "faithfulness": self.faithfulness.to_dict() if self.faithfulness else None,
            "correlation_with_untrained": None if self.untrained is None else round(self.untrained, 4),
            "examples": [m.to_dict() for m in self.maps], "unreadable": self.unreadable,
        }  # fmt: skip


def explain(
    model: Model | str | Path,
    items: Any,
    *,
    out: str | Path | None = None,
    class_name: str | None = None,
    method: str = "auto",
    seed: int = 0,
) -> Explanation:
    """Show where ``model`` looked at ``items`` (files, folders, patterns, bytes, arrays), and test if that is true.

    The heat speaks for the predicted class, or for ``class_name``. ``method`` is "auto" (by what the network gives),
    "grad-cam", "gradient-x-activation" or "integrated-gradients" (computed by the library captum). ``out`` is a folder
    to write: a PNG for every example, ``index.html`` with all of them, ``explain.json`` with the numbers.

    Raises OptionError for a class or method that is not there, DataError if nothing can be read; single unreadable
    examples are in ``unreadable``.
    """
    if importlib.util.find_spec("captum") is None:
        raise OptionError("explain needs the library captum: `pip install captum`")
    model = model if isinstance(model, Model) else load(model)
    column = _column(model, class_name)
    examples = read_examples(items)
    if not examples:
        raise DataError("there is nothing to explain; give at least one file")
    final = _checked(out)
    with ExitStack() as stack:
        stack.enter_context(half_the_cores())
        folder = stack.enter_context(atomic_folder(final)) if final else None
        found = _Story(model, column, method, seed, folder).tell(examples)
        if folder:
            text = json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
            (folder / NUMBERS).write_text(text, encoding="utf-8", errors="backslashreplace")
    for line in found.headlines():
        say(line)
    if final:
        say(f"wrote {final / PAGE} and a picture for each of {len(found.maps)} files")
    return found


def _column(model: Model, class_name: str | None) -> int | None:
    known = [str(c) for c in model.classes_]
    if class_name is None:
        return None
    if class_name not in known:
        raise OptionError(f"the model knows no class {class_name!r} (it knows {', '.join(known)})")
    return known.index(class_name)


def _checked(out: str | Path | None) -> Path | None:
    """``out`` as a path. Raises OptionError if something else than an older explanation is there."""
    if out is None:
        return None
    final = Path(out)
    if final.is_dir() and (not any(final.iterdir()) or _is_ours(final / NUMBERS)):
        return final
    if final.exists() or final.is_symlink():
        raise OptionError(f"{final} exists and was not written by explain; it is left alone: choose another --out")
    return final


def _is_ours(file: Path) -> bool:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("tool") == "headstart explain"


class _Story:
    """One call of explain: the model opened, then every example in turn."""

    def __init__(self, model: Model, column: int | None, method: str, seed: int, folder: Path | None) -> None:
        self.model, self.column, self.method, self.seed, self.folder = model, column, method, seed, folder
        self.classes = [str(c) for c in model.classes_]
        self.kind, self.preprocessing = modality(model.config["modality"]), model.config["preprocessing"]
        self.cards: list[Any] = []  # what the page shows, in order
        self.kept: list[tuple[Array, Array, int]] = []  # input, heat and class of the first few maps

    def tell(self, examples: Sequence[Example]) -> Explanation:
        """Maps, tests and pages of all examples."""
        import torch

        from headstart._explain._network import METHODS, opened
        from headstart._explain._words import as_page

        head, temperature = self.model.head, float(self.model.config["temperature"])
        maps: list[Map] = []
        unreadable: dict[str, str] = {}
        with opened(self.model.fresh_backbone(torch.float32), head, temperature, self.method) as explainer:
            method, layer = explainer.method, explainer.layer
            predicted, problems = self.model.probabilities(examples)
            with progress("explaining", len(examples), "files") as advance:
                for i, example in enumerate(examples):
                    try:
                        if i in problems:
                            raise BadExample(problems[i])
                        maps.append(self._one(explainer, example, predicted[i]))
                    except BadExample as error:  # also a file that went away in between
                        unreadable[example.name] = str(error)
                    advance(1)
        if not maps:
            name, reason = next(iter(unreadable.items()))
            raise DataError(f"none of the {len(examples)} files can be read: {name} {reason}")
        found = Explanation(
            maps, unreadable, METHODS[method], layer, self._judged(maps), self._untrained(method), self._about()
        )
        if self.folder:
            page = as_page(found, self.cards)
            (self.folder / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
        return found

    def _about(self) -> dict[str, Any]:
        config = self.model.config
        place = str(self.model.path) if self.model.path else None
        return {"model": place, "source": config["source"], "strategy": config["strategy"], "seed": self.seed}

    def _one(self, explainer: Explainer, example: Example, predicted: Array) -> Map:
        """The map of one example with its deletion test. Raises BadExample."""
        from headstart._explain._faithful import DRAWS, elsewhere, hottest, middle

        raw = example.raw()
        decoded = self.kind.decode(raw, self.preprocessing)
        prepared = self.kind.prepare(decoded, self.preprocessing)
        first = explainer.probabilities(self._input([prepared]))[0]
        label = int(predicted.argmax())
        column = label if self.column is None else self.column
        heat = self._heat(explainer, prepared, column)
        shown = self.kind.shown(decoded, self.preprocessing)
        mark, middle_part = np.zeros(heat.shape, bool), np.zeros(heat.shape, bool)
        mark[shown] = hottest(heat[shown])
        share = float(mark[shown].mean())
        middle_part[shown] = middle(mark[shown].shape, share)
        random = np.random.default_rng([self.seed % 2**32, int.from_bytes(digest(raw)[:8], "big")])
        places = [np.zeros(heat.shape, bool) for _ in range(DRAWS)]
        for place in places:
            place[shown] = elsewhere(mark[shown], random)
        hidden = [self.kind.hide(prepared, where) for where in (mark, middle_part, *places)]
        after = explainer.probabilities(self._input(hidden))[:, column] if share else np.full(DRAWS + 2, first[column])
        inner = np.zeros(heat.shape, bool)
        inner[shown] = middle(heat[shown].shape, 0.25)
        found = Map(
            example.name, self.classes[label], float(predicted[label]), self.classes[column], float(first[column]),
            share, float(after[0]), tuple(float(p) for p in after[2:]), float(after[1]), float(heat[inner].sum()), heat,
        )  # fmt: skip
        if share and len(self.kept) < UNTRAINED:
            self.kept.append((prepared, heat, column))
        if self.folder:
            self._draw(self.folder, found, raw, mark)
        return found

    def _input(self, batch: list[Array]) -> Any:
        import torch

        return self.kind.to_input(torch.from_numpy(np.stack(batch)), self.preprocessing)

    def _heat(self, explainer: Explainer, prepared: Array, column: int) -> Array:
        """The heat, and the plain input that integrated gradients start from: its own mean everywhere."""
        plain = np.broadcast_to(np.rint(prepared.mean((0, 1))).astype(prepared.dtype), prepared.shape)
        return explainer.heat(self._input([prepared]), self._input([plain]), column)

    def _judged(self, maps: list[Map]) -> Faithfulness | None:
        from headstart._explain._faithful import judge_maps

        told = [m for m in maps if m.hidden]
        before, after, middles = (np.array([getattr(m, n) for m in told]) for n in ("before", "after", "after_middle"))
        return judge_maps(before, after, np.array([m.after_random for m in told]), middles, self.seed)

    def _untrained(self, method: str) -> float | None:
        """Mean rank correlation of the first maps with those of the network with random weights."""
        import torch
        from scipy.stats import spearmanr

        from headstart._explain._network import opened

        backbone = self.model.fresh_backbone(torch.float32, trained=False, seed=self.seed)
        found = []
        try:
            with opened(backbone, self.model.head, float(self.model.config["temperature"]), method) as explainer:
                for prepared, heat, column in self.kept:
                    other = self._heat(explainer, prepared, column)
                    if heat.std() > 0 and other.std() > 0:
                        found.append(float(spearmanr(heat.reshape(-1), other.reshape(-1)).statistic))
        except OptionError:  # random weights may stop every gradient: nothing to compare with
            return None
        return float(np.mean(found)) if found else None

    def _draw(self, folder: Path, found: Map, raw: bytes | Array, mark: Array) -> None:
        from headstart._explain._panel import jpeg, panel
        from headstart._explain._words import CAPTIONS, Card, lines, title

        decoded = self.kind.decode(raw)
        warmth = found.heat / max(float(found.heat.max()), 1e-12)
        picture, heated = self.kind.overlay(decoded, warmth, mark, self.preprocessing, SIDE)
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(found.name).stem)[:60].strip("-")
        file = f"{len(self.cards) + 1:04}{'-' if stem else ''}{stem}.png"
        panel(picture, heated, title(found), [found.name, *lines(found)], CAPTIONS).save(folder / file)
        self.cards.append(Card(found, file, jpeg(picture), jpeg(heated)))


def _rounded(value: float) -> float:
    return round(value, 6)
