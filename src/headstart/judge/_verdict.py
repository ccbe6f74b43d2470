"""Was the transfer worth it? Paired against every control, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from headstart.judge._metrics import Estimate, paired_difference
from headstart.modalities import Array


@dataclass(frozen=True, slots=True)
class Comparison:
    """Transfer against one control on the same held-out examples; ``difference`` is in accuracy."""

    control: str
    ours: float
    theirs: float
    difference: Estimate
    examples: int

    @property
    def outcome(self) -> str:
        """ "better", "worse" or "undecided", by the interval of the difference."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "undecided"

    def sentence(self) -> str:
        """One line for the user."""
        d = self.difference
        word = {"better": "better than", "worse": "WORSE than", "undecided": "not clearly different from"}[self.outcome]
        return (
            f"{word} {self.control}: {100 * self.ours:.1f} against {100 * self.theirs:.1f} %, "
            f"difference {100 * d.value:+.1f} points (95 % interval {100 * d.low:+.1f} to {100 * d.high:+.1f}, "
            f"{self.examples} examples)"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The comparisons and the answer; ``missing`` names controls that were not run, with the reason."""

    comparisons: tuple[Comparison, ...]
    missing: Mapping[str, str]

    @property
    def worth_it(self) -> bool | None:
        """True: better than every control that ran. False: some control is better. None: not shown."""
        outcomes = {c.outcome for c in self.comparisons}
        if "worse" in outcomes:
            return False
        return True if outcomes == {"better"} else None

    def headline(self) -> str:
        """The answer in words."""
        if self.worth_it:
            return "Yes, the head start was worth it" + ("" if not self.missing else " as far as was compared") + "."
        if self.worth_it is False:
            better = " and ".join(c.control for c in self.comparisons if c.outcome == "worse")
            return f"No: {better} did better on this data; use that instead."
        open_ = " and ".join(c.control for c in self.comparisons if c.outcome == "undecided")
        return f"Not shown: with this many examples the difference from {open_ or 'any control'} may be chance."

    def lines(self) -> list[str]:
        """Headline, one line per comparison, one per control not run."""
        return [
            self.headline(),
            *(c.sentence() for c in self.comparisons),
            *(f"not compared with {name}: {reason}" for name, reason in self.missing.items()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        comparisons = [asdict(c) | {"outcome": c.outcome} for c in self.comparisons]
        return {
            "worth_it": self.worth_it,
            "headline": self.headline(),
            "comparisons": comparisons,
            "missing": dict(self.missing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict that ``to_dict`` gave. Raises KeyError, TypeError or ValueError for anything else."""
        comparisons = tuple(
            Comparison(
                str(c["control"]),
                float(c["ours"]),
                float(c["theirs"]),
                Estimate(**{name: float(c["difference"][name]) for name in ("value", "low", "high")}),
                int(c["examples"]),
            )
            for c in data["comparisons"]
        )
        return cls(comparisons, {str(name): str(reason) for name, reason in dict(data["missing"]).items()})


def compare(control: str, ours: Array, theirs: Array, groups: Array, *, seed: int = 0) -> Comparison:
    """``ours`` and ``theirs`` [n] are 1 where right, on the same examples; ``groups`` [n]."""
    difference = paired_difference(ours, theirs, groups, seed=seed)
    return Comparison(control, float(ours.mean()), float(theirs.mean()), difference, len(ours))
