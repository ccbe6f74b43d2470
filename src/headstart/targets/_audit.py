"""Reading is auditing: what is there, what is broken, what stands twice. Said before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart._errors import DataError
from headstart.modalities import Array
from headstart.targets._blocks import equal_content, equal_groups, merge
from headstart.targets._found import PASSED_OVER
from headstart.targets._target import Target

BAD_SHARE = 0.10
_FEW = 5
_LISTED = 10

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """What reading found out about the training part. ``rows`` and ``blocks`` are for the next steps."""

    name: str
    kind: str
    """Name of the modality."""
    counts: dict[str, int]
    """Class → readable examples."""
    groups: int | None
    """How many groups the user named; None without."""
    exact: tuple[Pair, ...]
    """Names of examples of equal content: (first, later)."""
    near: tuple[Pair, ...]
    """Names of examples that differ by re-encoding or resizing only."""
    conflicts: tuple[tuple[str, str, str, str], ...]
    """Duplicates under different labels: (name, label, name, label)."""
    unreadable: dict[str, str]
    """Name → reason, of everything that claimed to be an example and is none."""
    passed_over: dict[str, str]
    """Name → reason, of other files that lay there."""
    dropped: tuple[str, ...]
    """Classes of which nothing could be read."""
    notes: tuple[str, ...]
    rows: Array
    """int [n]: positions of the kept examples in the target that was audited."""
    blocks: Array
    """int [n]: rows of equal block (group, duplicate) must not be split."""

    def to_dict(self) -> dict[str, Any]:
        """JSON data: all but the row numbers."""
        return {
            "name": self.name,
            "modality": self.kind,
            "examples": len(self.rows),
            "classes": dict(self.counts),
            "groups": self.groups,
            "blocks": len(np.unique(self.blocks)),
            "exact_duplicates": [list(pair) for pair in self.exact],
            "near_duplicates": [list(pair) for pair in self.near],
            "label_conflicts": [list(pair) for pair in self.conflicts],
            "unreadable": dict(self.unreadable),
            "passed_over": dict(self.passed_over),
            "dropped_classes": list(self.dropped),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The same for the terminal, one finding a line."""
        n, k = len(self.rows), len(self.counts)
        head = f"{_shown(self.name)}: {n} {self.kind}s of {k} classes ({_counts(self.counts)})"
        return [head, *_balance(self.counts), *_repeats(self), *_broken(self), *map(_shown, self.notes)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def audit(
    target: Target,
    digests: Sequence[bytes | None],
    problems: Mapping[int, str],
    plain: Array | None,
    *,
    allow_bad: bool = False,
) -> tuple[Target, Audit]:
    """The target without what cannot be read, and what was found.

    ``digests`` [n] identify the contents (None: unknown), ``problems`` maps rows to the reason why they cannot
    be read, ``plain`` [n, p] is the plain view of every row (that of a bad row is not looked at) or None, when
    near duplicates are not searched. Raises DataError if more than a tenth is bad and ``allow_bad`` is not set,
    or if fewer than two classes are left.
    """
    unreadable = _unreadable(target, problems)
    stop_if_too_many(target, problems, allow_bad=allow_bad)
    rows = np.array([row for row in range(len(target)) if row not in problems], np.int64)
    kept, dropped = _without_empty_classes(target, target.take(rows))
    _check_groups(kept)
    exact = equal_content([digests[row] for row in rows])
    near = target.modality.near_duplicates(plain[rows]) if plain is not None else []
    near = [pair for pair in near if not _same_content(digests, rows, pair)]
    passed_over = {k: v.removeprefix(PASSED_OVER) for k, v in target.skipped.items() if v.startswith(PASSED_OVER)}
    found = Audit(
        name=target.name,
        kind=target.modality.name,
        counts={c: int((kept.labels == i).sum()) for i, c in enumerate(kept.classes)},
        groups=None if kept.groups is None else len({g for g in kept.groups if g}),
        exact=_names(kept, exact),
        near=_names(kept, near),
        conflicts=_conflicts(kept, exact + near),
        unreadable=unreadable,
        passed_over=passed_over,
        dropped=dropped,
        notes=(*kept.notes, *_alike(kept.classes, kept.groups)),
        rows=rows,
        blocks=merge(len(kept), equal_groups(kept.groups), exact, near),
    )
    return kept, found


# ---------------------------------------------------------------- finding


def _unreadable(target: Target, problems: Mapping[int, str]) -> dict[str, str]:
    claimed = {k: v for k, v in target.skipped.items() if not v.startswith(PASSED_OVER)}
    return claimed | {target.examples[row].name: reason for row, reason in sorted(problems.items())}


def stop_if_too_many(target: Target, problems: Mapping[int, str], *, allow_bad: bool) -> None:
    """Raises DataError if more than a tenth of what claims to be an example is bad and that is not allowed."""
    missing = {k: v for k, v in target.skipped.items() if not v.startswith(PASSED_OVER)}
    bad, total = len(missing) + len(problems), len(target) + len(missing)
    if allow_bad or bad <= BAD_SHARE * total:
        return
    some = "; ".join(f"{_shown(name)} {reason}" for name, reason in list(_unreadable(target, problems).items())[:3])
    raise DataError(
        f"{bad} of {total} examples in {_shown(target.name)} cannot be used ({some}{' …' if bad > 3 else ''}); "
        "repair or remove them, or go on without them with --allow-bad (allow_bad=True)"
    )


def _check_groups(target: Target) -> None:
    """Raises DataError where every class is one group: then no class could be learnt when its group is held out."""
    if target.groups is None or "" in target.groups:
        return
    pairs = {(group, label) for group, label in zip(target.groups, target.labels)}
    if len(pairs) == len({group for group, _ in pairs}) == len({label for _, label in pairs}) < len(target):
        raise DataError(
            f"the groups of {_shown(target.name)} are its classes: with a group held out nothing of its class is left "
            "to learn from; name another column as --group, or leave it out"
        )


def _alike(classes: Sequence[str], groups: Array | None) -> list[str]:
    """Notes on what may be a slip: classes that differ by case alone, examples without a group."""
    notes = []
    folded: dict[str, list[str]] = {}
    for name in classes:
        folded.setdefault(name.casefold(), []).append(name)
    for names in folded.values():
        if len(names) > 1:
            notes.append(f"{' and '.join(names)} are taken as different classes")
    if groups is not None and (none := int((groups == "").sum())):
        notes.append(f"{none} examples name no group: each counts as one of its own")
    return notes


def _without_empty_classes(target: Target, kept: Target) -> tuple[Target, tuple[str, ...]]:
    present = np.unique(kept.labels)
    if len(present) < 2:
        raise DataError(
            f"only {len(present)} class of {_shown(target.name)} has readable examples; "
            "repair the files of the others, two classes are needed"
        )
    if len(present) == len(target.classes):
        return kept, ()
    dropped = tuple(c for i, c in enumerate(target.classes) if i not in present)
    note = f"nothing of {', '.join(dropped)} can be read: left out of the classes"
    test = None if kept.test is None else _renumbered(kept.test, present)
    return replace(_renumbered(kept, present), test=test, notes=(*kept.notes, note)), dropped


def _renumbered(target: Target, present: Array) -> Target:
    left = target.take(np.isin(target.labels, present))
    classes = tuple(target.classes[i] for i in present)
    return replace(left, labels=np.searchsorted(present, left.labels), classes=classes)


def _same_content(digests: Sequence[bytes | None], rows: Array, pair: tuple[int, int]) -> bool:
    one, two = (digests[rows[i]] for i in pair)
    return one is not None and one == two


def _names(target: Target, pairs: Sequence[tuple[int, int]]) -> tuple[Pair, ...]:
    return tuple((target.examples[a].name, target.examples[b].name) for a, b in pairs)


def _conflicts(target: Target, pairs: Sequence[tuple[int, int]]) -> tuple[tuple[str, str, str, str], ...]:
    def side(row: int) -> tuple[str, str]:
        return target.examples[row].name, target.classes[target.labels[row]]

    return tuple((*side(a), *side(b)) for a, b in pairs if target.labels[a] != target.labels[b])


# ---------------------------------------------------------------- telling


def _shown(text: str) -> str:
    """File names are a stranger's text: nothing in them may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _counts(counts: Mapping[str, int]) -> str:
    if len(counts) <= _LISTED:
        return ", ".join(f"{_shown(c)} {n}" for c, n in counts.items())
    return f"{min(counts.values())} to {max(counts.values())} each"


def _balance(counts: Mapping[str, int]) -> list[str]:
    lines = []
    small, large = (pick(counts, key=lambda c: counts[c]) for pick in (min, max))
    if counts[large] > 1.5 * counts[small]:
        ratio = counts[large] / counts[small]
        lines.append(f"unbalanced: {_shown(large)} has {ratio:.1f} times the examples of {_shown(small)}")
    few = [c for c, n in counts.items() if n < _FEW]
    if few:
        lines.append(f"fewer than {_FEW} examples: {_several(few)}")
    return lines


def _repeats(audit: Audit) -> list[str]:
    lines = [] if audit.groups is None else [f"{audit.groups} groups, each kept on one side of every split"]
    if audit.exact or audit.near:
        lines.append(
            f"duplicates: {len(audit.exact)} exact, {len(audit.near)} near, kept on one side of every split "
            f"({_several([f'{b} = {a}' for a, b in audit.exact] + [f'{b} ~ {a}' for a, b in audit.near], 3)})"
        )
    if audit.conflicts:
        pairs = [f"{a} ({x}) = {b} ({y})" for a, x, b, y in audit.conflicts]
        lines.append(f"the same content under different labels, {len(pairs)} times: {_several(pairs, 3)}")
    return lines


def _broken(audit: Audit) -> list[str]:
    lines = [f"  {_shown(name)} {_shown(why)}" for name, why in list(audit.unreadable.items())[:_LISTED]]
    if lines:
        more = len(audit.unreadable) - len(lines)
        lines = [f"{len(audit.unreadable)} cannot be used and are left out:", *lines]
        lines += [f"  … and {more} more"] if more else []
    if audit.passed_over:
        lines.append(f"{len(audit.passed_over)} other files passed over ({_several(list(audit.passed_over), 3)})")
    return lines


def _several(names: Sequence[str], most: int = _LISTED) -> str:
    shown = ", ".join(_shown(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
