"""Does the heat mark what the network uses? Hide the hottest part, and compare with hiding as much elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np

from headstart.modalities import Array

SHARE = 0.2  # of the area that is hidden
DRAWS = 20  # random places: the fewest with which one picture alone can reach 5 %
LEVEL = 0.05
LEAST_GAIN = 0.005  # in probability: below half a point the difference is none
EXACT = 3  # pictures up to which every combination is counted


def hottest(heat: Array, share: float = SHARE) -> Array:
    """The hottest ``share`` of the positions (bool, shaped as ``heat``); fewer where the rest has no heat at all."""
    flat = heat.reshape(-1)
    order = np.argsort(-flat, kind="stable")[: round(share * flat.size)]
    mask = np.zeros(flat.size, bool)
    mask[order] = flat[order] > 0
    return mask.reshape(heat.shape)


def elsewhere(mask: Array, random: np.random.Generator) -> Array:
    """The same shape at a random place, perhaps mirrored: as large, as compact, as much edge."""
    moved = mask
    for axis, side in enumerate(mask.shape):
        if random.random() < 0.5:
            moved = np.flip(moved, axis)
        moved = np.roll(moved, int(random.integers(side)), axis)
    return moved


def middle(shape: Sequence[int], share: float) -> Array:
    """A centred part with about ``share`` of the area."""
    mask = np.zeros(shape, bool)
    edge = (1 - share ** (1 / len(shape))) / 2
    mask[tuple(slice(round(side * edge), max(round(side * (1 - edge)), 1)) for side in shape)] = True
    return mask


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """The deletion test over all pictures; falls are in probability of the explained class, averaged."""

    examples: int
    fall: float
    """When the hottest part is hidden."""
    fall_random: float
    """When a part of the same shape at a random place is hidden."""
    fall_middle: float
    """When as much in the middle is hidden: what pointing at the centre would do."""
    p_value: float
    """How often random places do as well; one-sided randomisation test."""
    share: float = SHARE
    draws: int = DRAWS

    @property
    def better_than_random(self) -> bool:
        """Whether the heat may be read at all."""
        return self.p_value <= LEVEL and self.fall - self.fall_random >= LEAST_GAIN

    def headline(self) -> str:
        """The figure and what follows from it, in one sentence or two."""
        n = "1 example" if self.examples == 1 else f"{self.examples} examples"
        figures = (
            f"hiding the hottest {self.share:.0%} costs {_points(self.fall)} of probability, "
            f"a random {self.share:.0%} {_points(self.fall_random)} ({n}, p {_p(self.p_value)})"
        ).replace("%", " %")
        if not self.better_than_random:
            advice = "do not read them as where the network looked (another method may do better)"
            return f"these maps are no better than random: {figures}; {advice}"
        more = ""
        if self.fall_middle >= self.fall:
            more = f"; hiding the middle costs {_points(self.fall_middle)}: the maps say no more than the centre would"
        return f"the maps mark what this network uses: {figures}{more}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {**asdict(self), "better_than_random": self.better_than_random}


def judge_maps(before: Array, hot: Array, random: Array, middles: Array, seed: int) -> Faithfulness | None:
    """From the probabilities [n] before hiding, after hiding the hottest part, random parts [n, draws] and the middle;
    None without a single map."""
    if not len(before):
        return None
    falls, others = before - hot, before[:, None] - random
    return Faithfulness(
        examples=len(before), fall=float(falls.mean()), fall_random=float(others.mean()),
        fall_middle=float((before - middles).mean()), p_value=_randomised(falls, others, seed),
    )  # fmt: skip


def _randomised(falls: Array, others: Array, seed: int, draws: int = 20_000) -> float:
    """If the heat meant nothing, its place would be one of the random ones: the share of all choices of one place per
    picture whose mean fall is at least the observed one (exact for few pictures, else sampled)."""
    every = np.concatenate([falls[:, None], others], axis=1)
    seen = falls.sum() - 1e-12
    if len(every) <= EXACT:
        return float((reduce(np.add.outer, every) >= seen).mean())
    generator = np.random.default_rng(seed % 2**32)
    sums = np.zeros(draws)
    for row in every:
        sums += row[generator.integers(len(row), size=draws)]
    return float((1 + (sums >= seen).sum()) / (1 + draws))


def _points(change: float) -> str:
    points = 100 * change
    return "1 point" if f"{points:.0f}" == "1" else f"{points:.0f} points".replace("-0 ", "0 ")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
