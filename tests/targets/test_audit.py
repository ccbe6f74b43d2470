"""The audit: what is broken is counted and capped, what stands twice is found and kept together."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from headstart._errors import DataError
from headstart.modalities import digest
from headstart.targets import audit, overlap, read
from headstart.targets._blocks import merge
from pictures import textures, write_folders


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def target_of(images, labels, **more):
    target = read(list(images), labels, **more)
    return target, [digest(e.raw()) for e in target.examples], plain_of(target)


def plain_of(target):
    return np.stack([target.modality.plain(target.modality.decode(e.raw())) for e in target.examples])


def test_clean_data_is_left_alone():
    target, digests, plain = target_of(pictures(20), ["a", "b"] * 10)
    kept, found = audit(target, digests, {}, plain)
    assert len(kept) == 20
    assert found.counts == {"a": 10, "b": 10}
    assert found.blocks.tolist() == list(range(20))
    assert not found.exact
    assert not found.near
    assert found.lines() == ["the list: 20 images of 2 classes (a 10, b 10)"]


def test_duplicates_and_groups_become_blocks():
    images = pictures(10)
    images[3] = images[0]  # exact, other label
    images[4] = np.clip(images[1] * 1.02, 0, 255)  # near, same label
    target, digests, plain = target_of(images, ["a", "a", "a", "b", "a", "b", "b", "b", "a", "b"],
                                       groups=["", "p", "", "", "", "p", "q", "q", "", ""])  # fmt: skip
    kept, found = audit(target, digests, {}, plain)
    assert found.exact == (("item 0", "item 3"),)
    assert found.near == (("item 1", "item 4"),)
    assert found.conflicts == (("item 0", "a", "item 3", "b"),)
    assert found.groups == 2
    blocks = [set(np.flatnonzero(found.blocks == b)) for b in np.unique(found.blocks)]
    assert sorted(map(sorted, blocks)) == [[0, 3], [1, 4, 5], [2], [6, 7], [8], [9]]
    text = str(found)
    assert "1 exact, 1 near" in text
    assert "item 0 (a) = item 3 (b)" in text
    assert json.loads(json.dumps(found.to_dict()))["blocks"] == 6
    assert len(kept) == 10


def test_without_plain_only_exact_duplicates_are_sought():
    images = pictures(4)
    images[2] = images[0]
    target, digests, _ = target_of(images, list("abab"))
    found = audit(target, digests, {}, None)[1]
    assert found.blocks.tolist() == [0, 1, 0, 2]
    assert audit(target, [None] * 4, {}, None)[1].blocks.tolist() == [0, 1, 2, 3]


def test_unreadable_examples_are_left_out_and_listed():
    target, digests, plain = target_of(pictures(40), ["a", "b"] * 20)
    problems = dict.fromkeys((3, 5, 7, 8), "is damaged")
    kept, found = audit(target, digests, problems, plain)
    assert len(kept) == 36
    assert found.rows.tolist() == [i for i in range(40) if i not in problems]
    assert found.unreadable == {f"item {i}": "is damaged" for i in problems}
    assert "4 cannot be used" in str(found)
    assert (kept.labels == target.labels[found.rows]).all()


def test_more_than_a_tenth_stops_unless_allowed():
    target, digests, plain = target_of(pictures(40), ["a", "b"] * 20)
    problems = dict.fromkeys(range(5), "is damaged")
    with pytest.raises(DataError, match=r"5 of 40 .*item 0 is damaged.*--allow-bad"):
        audit(target, digests, problems, plain)
    kept, found = audit(target, digests, problems, plain, allow_bad=True)
    assert (len(kept), len(found.unreadable)) == (35, 5)


def test_files_named_in_vain_count_as_bad_but_others_do_not():
    target, digests, plain = target_of(pictures(10), ["a", "b"] * 5)
    target.skipped["notes.txt"] = "passed over: no known file type (.txt)"
    found = audit(target, digests, {}, plain)[1]
    assert found.passed_over == {"notes.txt": "no known file type (.txt)"}
    target.skipped.update({f"{i}.png": "named in metadata.csv but not there" for i in range(2)})
    with pytest.raises(DataError, match="2 of 12"):
        audit(target, digests, {}, plain)


def test_an_emptied_class_is_dropped_everywhere_and_said():
    images = pictures(40)
    target, digests, plain = target_of(images, ["a", "c"] * 19 + ["b", "b"], test=(images[:3] + 1, ["a", "b", "c"]))
    kept, found = audit(target, digests, {38: "is empty", 39: "is empty"}, plain)
    assert kept.classes == ("a", "c")
    assert kept.labels.tolist() == [0, 1] * 19
    assert kept.test.classes == ("a", "c")
    assert kept.test.labels.tolist() == [0, 1]
    assert found.dropped == ("b",)
    assert any("nothing of b" in note for note in found.notes)


def test_one_class_left_stops():
    target, digests, plain = target_of(pictures(21), ["a"] * 20 + ["b"])
    with pytest.raises(DataError, match="two classes are needed"):
        audit(target, digests, {20: "is empty"}, plain)


def test_imbalance_and_small_classes_are_said():
    target, digests, plain = target_of(pictures(23), ["a"] * 20 + ["b"] * 3)
    text = str(audit(target, digests, {}, plain)[1])
    assert "a has 6.7 times the examples of b" in text
    assert "fewer than 5 examples: b" in text


def test_a_file_name_cannot_steer_the_terminal():
    target, digests, plain = target_of(pictures(20), ["a", "b\x1b[31m"] * 10)
    assert "\x1b" not in str(audit(target, digests, {}, plain)[1])


def test_blocks_follow_chains():
    assert merge(6, [(0, 2), (4, 5)], [(2, 4)]).tolist() == [0, 1, 0, 2, 0, 0]
    assert merge(1000, pairwise(range(1000))).max() == 0
    assert merge(0).tolist() == []


# ---------------------------------------------------------------- across train and test


def test_test_examples_that_repeat_training_are_not_scored():
    images, kept_aside = pictures(10), pictures(6, seed=1)
    kept_aside[0] = images[3]
    kept_aside[1] = np.clip(images[4] * 1.02, 0, 255)
    target, digests, plain = target_of(images, ["a", "b"] * 5, test=(kept_aside, list("ababab")))
    test_digests = [digest(e.raw()) for e in target.test.examples]
    found = overlap(target, digests, plain, test_digests, plain_of(target.test), {5: "is damaged"})
    assert found.repeated == (("item 0", "item 3", "exact"), ("item 1", "item 4", "near"))
    assert found.rows.tolist() == [2, 3, 4]
    assert found.unreadable == {"item 5": "is damaged"}
    assert "2 test examples repeat" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["scored"] == 3


def test_nothing_left_to_score_stops():
    images = pictures(4)
    target, digests, plain = target_of(images, list("abab"), test=(images[:2], ["a", "b"]))
    with pytest.raises(DataError, match=r"nothing of .* left to score"):
        overlap(target, digests, plain, digests[:2], plain[:2])
    with pytest.raises(DataError, match="no test part"):
        overlap(target.test, digests, plain, digests, plain)


@pytest.mark.field
def test_real_xrays(kit):
    target = read(kit / "data/image/chest_xray")
    plain = plain_of(target)
    kept, found = audit(target, [digest(e.raw()) for e in target.examples], {}, plain)
    assert len(kept) == 1200
    assert not found.unreadable
    assert len(found.exact) + len(found.near) < 10
    assert found.groups is not None
    assert found.blocks.max() + 1 <= found.groups


def test_bad_rows_of_one_name_are_counted_one_by_one(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", 16)
    rows = [f"{p.relative_to(root)},{p.parent.name}" for p in sorted(root.rglob("*.png"))] + ["gone.png,down"] * 4
    (root / "list.csv").write_text("file_name,label\n" + "\n".join(rows))
    target = read(root / "list.csv")
    with pytest.raises(DataError, match="4 of 20 examples"):
        audit(target, [None] * 16, {}, None)


def test_groups_that_are_the_classes_are_refused() -> None:
    pictures, labels = textures(8)
    target = read(pictures, labels, groups=labels)
    with pytest.raises(DataError, match="the groups of the list are its classes"):
        audit(target, [None] * 8, {}, None)


def test_likely_slips_are_noted() -> None:
    pictures, labels = textures(8, classes=4)
    names = {"across": "Ant", "down": "ant", "rings": "bee", "steep": "cat"}
    target = read(pictures, [names[label] for label in labels], groups=["p1", "p2", "", "p3", "p4", "p1", "p2", ""])
    _, found = audit(target, [None] * 8, {}, None)
    assert "Ant and ant are taken as different classes" in found.lines()
    assert "2 examples name no group: each counts as one of its own" in found.lines()
