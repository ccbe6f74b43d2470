"""What a run has done survives a kill, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.adapt import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "run")


def test_what_is_put_comes_back(journal: Journal) -> None:
    assert not journal.begun
    arrays = {"logits": np.arange(6, dtype=np.float32).reshape(2, 3), "counter": np.array(3)}
    facts = {"losses": [0.1, 1 / 3, 1e-300], "name": "é"}
    journal.put("partial from stage 4-fold0", arrays, facts)
    assert journal.begun
    found = Journal(journal.folder).get("partial from stage 4-fold0")
    assert found is not None
    assert all(np.array_equal(found[0][n], a) and found[0][n].shape == a.shape for n, a in arrays.items())
    assert found[1] == facts  # numbers to the last digit
    assert journal.get("partial from stage 4-fold1") is None


def test_the_order_in_memory_does_not_matter(journal: Journal) -> None:
    """Weights of networks in channels-last memory are such arrays."""
    array = np.arange(24.0).reshape(2, 3, 4).transpose(0, 2, 1)
    journal.put("step", {"x": array, "y": array[:, ::2]})
    found = journal.get("step")
    assert found is not None
    assert np.array_equal(found[0]["x"], array)
    assert np.array_equal(found[0]["y"], array[:, ::2])


def test_a_later_record_replaces(journal: Journal) -> None:
    for value in (1.0, 2.0):
        journal.put("step", {"x": np.array([value])})
    found = journal.get("step")
    assert found is not None
    assert found[0]["x"] == [2.0]


def test_a_kill_while_writing_leaves_the_old_record(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.put("step", {"x": np.array([1.0])})

    def killed(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headstart._runtime.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.put("step", {"x": np.array([2.0])})
    found = journal.get("step")
    assert found is not None
    assert found[0]["x"] == [1.0]
    assert len(list(journal.folder.iterdir())) == 1


@pytest.mark.parametrize("size", [0, 5, 40, -3])
def test_a_damaged_record_counts_as_not_done(journal: Journal, size: int) -> None:
    journal.put("step", {"x": np.zeros(50)}, {"a": 1})
    (file,) = journal.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:size])
    assert journal.get("step") is None
    journal.put("step", {"x": np.zeros(50)})
    assert journal.get("step") is not None


def test_steps_with_odd_names_stay_apart_and_inside(journal: Journal) -> None:
    names = ["a b", "a/b", "../../a", "a", "extract from all depths-fold0", "extract-fold0"]
    for i, name in enumerate(names):
        journal.put(name, {"x": np.array([i])})
    assert all(f.parent == journal.folder for f in journal.folder.parent.rglob("*.safetensors"))


def test_dropping_and_finishing(journal: Journal) -> None:
    journal.put("a", {"x": np.zeros(1)})
    journal.put("b", {"x": np.zeros(1)})
    journal.drop("a")
    journal.drop("a")
    assert journal.get("a") is None
    assert journal.get("b") is not None
    journal.finish()
    assert not journal.folder.exists()
    journal.finish()
