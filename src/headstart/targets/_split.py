"""Folds and draws: stratified by class, never through a block."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from headstart._errors import DataError
from headstart.modalities import Array

_MANY_BLOCKS = 5000  # beyond it scikit-learn's group-wise search takes seconds


class Folds(list[tuple[Array, Array]]):
    """(training rows, held-out rows) of each fold; ``notes`` say in plain words what could not be done."""

    def __init__(self, folds: Iterable[tuple[Array, Array]], notes: tuple[str, ...] = ()) -> None:
        super().__init__(folds)
        self.notes = notes


def split(labels: Array, blocks: Array, *, seed: int, folds: int = 5) -> Folds:
    """At most ``folds`` stratified folds of rows: each row is held out exactly once, no block straddles.

    ``labels`` and ``blocks`` are int [n]. There are fewer folds when there are fewer blocks, or when no
    class is spread over so many groups. Raises DataError for a single block: there is nothing to hold out.
    """
    labels, blocks = np.asarray(labels), np.unique(np.asarray(blocks), return_inverse=True)[1]
    spread = _blocks_per_class(labels, blocks)
    n_blocks = int(blocks.max(initial=-1)) + 1
    if n_blocks < 2:
        raise DataError(
            f"all {len(labels)} examples belong to one group; nothing can be held out: "
            "give examples of at least two groups, or leave the groups out"
        )
    held = _assign(labels, blocks, min(folds, n_blocks), int(spread.max()), seed)
    parts = [(np.flatnonzero(held != fold), np.flatnonzero(held == fold)) for fold in np.unique(held)]
    return Folds(parts, _notes(labels, parts, spread, folds))


def draw(labels: Array, blocks: Array, n: int, seed: int) -> Array:
    """int [about n]: sorted rows of a stratified draw of whole blocks; exactly n where blocks are single rows.

    Every class is drawn at least once where ``n`` allows.
    """
    labels, blocks = np.asarray(labels), np.unique(np.asarray(blocks), return_inverse=True)[1]
    if n >= len(labels):
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    sizes, owner = np.bincount(blocks), _majority(labels, blocks)
    quotas = _quotas(np.bincount(owner, weights=sizes).astype(int), n, random)
    chosen = [np.empty(0, np.int64)]
    for label, quota in enumerate(quotas):
        order = random.permutation(np.flatnonzero(owner == label))
        chosen.append(order[_fill(sizes[order], int(quota))])
    return np.flatnonzero(np.isin(blocks, np.concatenate(chosen)))


# ---------------------------------------------------------------- folds


def _assign(labels: Array, blocks: Array, n_folds: int, spread: int, seed: int) -> Array:
    """int [n]: the fold that holds each row out; ``spread`` is the most blocks that any class has."""
    n_blocks = int(blocks.max()) + 1
    if n_blocks < len(blocks) and n_blocks <= _MANY_BLOCKS and spread > 1:
        held = _stratified_groups(labels, blocks, min(n_folds, spread), seed)
        if len(np.unique(held)) > 1:
            return held
    return _stratified(_majority(labels, blocks), n_folds, seed)[blocks]


def _stratified(labels: Array, n_folds: int, seed: int) -> Array:
    """Deal the rows of each class out in turn, the classes one after the other: fold sizes differ by one."""
    random = np.random.default_rng(seed)
    order = np.lexsort((random.permutation(len(labels)), random.permutation(labels.max() + 1)[labels]))
    held = np.empty(len(labels), np.int64)
    held[order] = np.arange(len(labels)) % n_folds
    return held


def _stratified_groups(labels: Array, blocks: Array, n_folds: int, seed: int) -> Array:
    """Deal out whole blocks, the most one-sided first, each to the fold that leaves the classes spread most evenly
    (scikit-learn's StratifiedGroupKFold, whose import alone takes longer than a small fit)."""
    counts = np.zeros((int(blocks.max()) + 1, int(labels.max()) + 1))
    np.add.at(counts, (blocks, labels), 1)
    shares = counts[:, counts.any(axis=0)] / counts.sum(axis=0)[counts.any(axis=0)]
    mixed = np.random.default_rng(seed).permutation(len(counts))
    order = mixed[np.argsort(-counts[mixed].std(axis=1), kind="stable")]
    folds, chosen = np.zeros((n_folds, shares.shape[1])), np.empty(len(counts), np.int64)
    each = np.eye(n_folds)[:, :, None]
    for block in order:
        uneven = (folds + each * shares[block]).std(axis=1).mean(axis=1)
        ties = np.flatnonzero(np.isclose(uneven, uneven.min()))
        fold = ties[folds[ties].sum(axis=1).argmin()]
        folds[fold] += shares[block]
        chosen[block] = fold
    held: Array = chosen[blocks]
    return held


def _notes(labels: Array, parts: list[tuple[Array, Array]], spread: Array, wanted: int) -> tuple[str, ...]:
    notes = []
    if len(parts) < wanted:
        notes.append(f"{len(parts)} folds instead of {wanted}: there are too few examples or groups for more")
    single = int((spread == 1).sum())
    if single:
        which = "1 class has" if single == 1 else f"{single} classes have"
        notes.append(
            f"{which} a single example or group: none is left to learn from when it is held out, "
            "so the score counts it as missed"
        )
    unseen = {int(c) for train, held in parts for c in np.setdiff1d(labels[held], labels[train])}
    others = len([c for c in unseen if spread[c] > 1])
    if others:
        notes.append(f"in some fold {others} more classes cannot be learnt: their groups could not be parted")
    return tuple(notes)


# ---------------------------------------------------------------- counting


def _blocks_per_class(labels: Array, blocks: Array) -> Array:
    pairs = np.unique(np.stack([labels, blocks]), axis=1)
    spread: Array = np.bincount(pairs[0]) if len(labels) else np.zeros(1, np.int64)
    return spread


def _majority(labels: Array, blocks: Array) -> Array:
    """int [blocks]: the commonest label of each block."""
    table, counts = np.unique(np.stack([blocks, labels]), axis=1, return_counts=True)
    order = np.lexsort((-counts, table[0]))
    first = order[np.unique(table[0][order], return_index=True)[1]]
    majority: Array = table[1][first]
    return majority


def _quotas(counts: Array, n: int, random: np.random.Generator) -> Array:
    """int [classes] that sum to ``n``: proportional, at least one for each class if there are so many."""
    present = counts > 0
    least: Array = (present & (present.sum() <= n)).astype(int)
    share = (n - least.sum()) * (counts - least) / max((counts - least).sum(), 1)
    quotas: Array = least + np.floor(share).astype(int)
    ranked = np.lexsort((random.permutation(len(counts)), -(share - np.floor(share))))
    open_classes = ranked[quotas[ranked] < counts[ranked]]
    quotas[open_classes[: n - quotas.sum()]] += 1
    return quotas


def _fill(sizes: Array, quota: int) -> Array:
    """bool: which blocks, in this order, bring the number of rows closest to ``quota``."""
    taken, have = np.zeros(len(sizes), bool), 0
    for i, size in enumerate(sizes):
        if have < quota and (have == 0 or abs(have + size - quota) <= quota - have):
            taken[i], have = True, have + int(size)
    return taken
