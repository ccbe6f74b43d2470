"""Folds and draws hold their promises for any labels and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart._errors import DataError
from headstart.targets import draw, split


@st.composite
def tasks(draw_from):
    n = draw_from(st.integers(2, 60))
    labels = draw_from(st.lists(st.integers(0, draw_from(st.integers(0, 8))), min_size=n, max_size=n))
    blocks = draw_from(st.lists(st.integers(0, draw_from(st.integers(1, 60))), min_size=n, max_size=n))
    return np.array(labels), np.array(blocks)


@settings(max_examples=150, deadline=None)
@given(tasks(), st.integers(2, 7), st.integers(0, 3))
def test_every_row_is_held_out_once_and_no_block_straddles(task, folds, seed):
    labels, blocks = task
    if len(np.unique(blocks)) < 2:
        with pytest.raises(DataError, match="one group"):
            split(labels, blocks, seed=seed, folds=folds)
        return
    parts = split(labels, blocks, seed=seed, folds=folds)
    assert 2 <= len(parts) <= folds
    held = np.concatenate([h for _, h in parts])
    assert sorted(held.tolist()) == list(range(len(labels)))
    for train, out in parts:
        assert len(train)
        assert len(out)
        assert len(train) + len(out) == len(labels)
        assert not set(blocks[train]) & set(blocks[out])
    again = split(labels, blocks, seed=seed, folds=folds)
    assert all((a[1] == b[1]).all() for a, b in zip(parts, again))


def test_folds_are_stratified():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    for blocks in (np.arange(100), np.arange(100) // 2):
        parts = split(labels, blocks, seed=0)
        assert len(parts) == 5
        assert parts.notes == ()
        for _, held in parts:
            assert np.abs(np.bincount(labels[held], minlength=3) - [10, 6, 4]).max() <= 2


def test_another_seed_gives_other_folds():
    labels, blocks = np.arange(100) % 2, np.arange(100)
    assert any((a[1] != b[1]).any() for a, b in zip(split(labels, blocks, seed=0), split(labels, blocks, seed=1)))


def test_many_classes_with_one_or_two_examples():
    labels = np.concatenate([np.arange(43), np.arange(36), np.arange(15), np.arange(6)])
    parts = split(labels, np.arange(100), seed=0)
    assert [len(held) for _, held in parts] == [20] * 5
    for train, held in parts:  # every class with two examples can be learnt in every fold
        unseen = set(labels[held]) - set(labels[train])
        assert all((labels == c).sum() == 1 for c in unseen)
    assert any("7 classes have a single example or group" in note for note in parts.notes)


def test_classes_of_one_example_within_groups():
    parts = split(np.array([0, 1, 2]), np.array([0, 0, 1]), seed=0)
    assert sorted(held.tolist() for _, held in parts) == [[0, 1], [2]]


def test_few_groups_make_few_folds_and_are_said():
    labels, blocks = np.tile([0, 1], 30), np.repeat([0, 1, 2], 20)
    parts = split(labels, blocks, seed=0)
    assert len(parts) == 3
    assert "3 folds instead of 5" in parts.notes[0]


def test_a_class_within_one_group_is_said():
    labels = np.array([0] * 20 + [1] * 20)
    blocks = np.array([*range(20), *([99] * 20)])
    parts = split(labels, blocks, seed=0)
    assert any("1 class has a single example or group" in note for note in parts.notes)


def test_many_blocks_are_quick_and_whole():
    random = np.random.default_rng(0)
    labels, blocks = random.integers(0, 10, 20_000), random.integers(0, 12_000, 20_000)
    parts = split(labels, blocks, seed=0)
    assert all(not np.intersect1d(blocks[train], blocks[held]).size for train, held in parts)
    assert max(abs(len(held) - 4000) for _, held in parts) < 300


@settings(max_examples=150, deadline=None)
@given(tasks(), st.integers(1, 60), st.integers(0, 3))
def test_a_draw_is_of_whole_blocks_and_exact_for_singletons(task, n, seed):
    labels, blocks = task
    rows = draw(labels, blocks, n, seed)
    assert not set(blocks[rows]) & set(np.delete(blocks, rows))
    assert (rows == np.unique(rows)).all()
    singles = draw(labels, np.arange(len(labels)), n, seed)
    assert len(singles) == min(n, len(labels))
    if n >= len(np.unique(labels)):
        assert set(labels[singles]) == set(labels)
    assert (draw(labels, blocks, n, seed) == rows).all()


def test_a_draw_is_stratified_and_near_its_size():
    labels = np.repeat([0, 1], [300, 100])
    assert np.bincount(labels[draw(labels, np.arange(400), 40, 0)]).tolist() == [30, 10]
    rows = draw(labels, np.arange(400) // 7, 80, 0)
    assert abs(len(rows) - 80) <= 7
