"""Predictions as rows, and a model's score on labelled data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import _use
from headstart._errors import DataError, ModelError
from headstart._fit import fit
from headstart._runtime import quiet
from headstart._use import as_csv, as_json_lines, evaluate, predictions
from headstart.modalities import Example
from pictures import textures, write_folders

CLASSES = ["a,b", 'say "x"', "ünï"]
ROWS: list[Any] = [
    ("one.png", np.array([0.2, 0.7, 0.1]), ""),
    ("two, three.png", None, "is no image"),
    ('"quoted"\n.png', np.array([0.9, 0.05, 0.05]), ""),
]


@pytest.fixture(scope="module")
def model(tiny: str) -> Any:
    with quiet():
        return fit(*textures(16), source=tiny, strategy="extract", control="none")


def test_csv_survives_any_name() -> None:
    text = "\n".join(as_csv(CLASSES, ROWS))
    head, *rows = csv.reader(text.splitlines(keepends=True))
    assert head == ["file", "label", *CLASSES, "error"]
    assert rows[0] == ["one.png", 'say "x"', "0.200000", "0.700000", "0.100000", ""]
    assert rows[1] == ["two, three.png", "", "", "", "", "is no image"]
    assert rows[2][0] == '"quoted"\n.png'


def test_json_lines_are_one_object_a_line() -> None:
    lines = list(as_json_lines(CLASSES, ROWS))
    assert all("\n" not in line for line in lines)
    rows = [json.loads(line) for line in lines]
    assert rows[0] == {"file": "one.png", "label": 'say "x"', "probabilities": dict(zip(CLASSES, [0.2, 0.7, 0.1]))}
    assert rows[1] == {"file": "two, three.png", "error": "is no image"}


def test_predictions_come_in_order_batch_by_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_use, "BATCH", 4)
    pictures = textures(10, seed=2)[0]
    asked = []

    def stream() -> Any:
        for i, picture in enumerate(pictures):
            asked.append(i)
            yield Example(str(i), picture if i != 5 else b"broken")

    rows = predictions(model, stream())
    assert next(rows)[0] == "0"
    assert len(asked) == 4  # the rest has not been looked at
    rest = list(rows)
    assert [name for name, _, _ in rest] == [str(i) for i in range(1, 10)]
    assert rest[4][1] is None
    assert rest[4][2]
    found = np.stack([p for _, p, _ in rest if p is not None])
    np.testing.assert_allclose(found[0], model.predict_proba([pictures[1]])[0], atol=0.02)


def test_a_score_on_fresh_data(model: Any) -> None:
    pictures, labels = textures(20, seed=4)
    found = evaluate(model, pictures, labels)
    right = (model.predict(pictures) == np.array(labels)).mean()
    assert found["accuracy"]["value"] == pytest.approx(right)
    assert found["examples"] == found["groups"] == 20
    assert found["unreadable"] == {}
    json.dumps(found)


def test_by_path_and_with_groups_from_a_table(model: Any, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "fresh", 12, seed=4)
    files = sorted(root.rglob("*.png"))
    rows = ["file,kind,who", *(f"{f},{f.parent.name},p{i // 3}" for i, f in enumerate(files))]
    (root / "table.csv").write_text("\n".join(rows))
    found = evaluate(model.save(tmp_path / "model"), root / "table.csv", label="kind", group="who")
    assert (found["examples"], found["groups"]) == (12, 4)


def test_files_that_are_no_pictures_are_not_called_unreadable(model: Any, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "fresh", 12, seed=4)
    (root / "down" / "notes.txt").write_text("hello")
    (root / "down" / "bad.png").write_text("hello")
    assert list(evaluate(model, root)["unreadable"]) == ["down/bad.png"]


def test_what_cannot_be_scored(model: Any, tmp_path: Path) -> None:
    pictures, labels = textures(6, classes=3)
    with pytest.raises(DataError, match=r"knows no class 'rings' \(it knows across, down\)"):
        evaluate(model, pictures, labels)
    with pytest.raises(DataError, match="can be read"):
        evaluate(model, [b"x", b"y"], ["across", "down"])
    with pytest.raises(ModelError, match="is not a model folder"):
        evaluate(tmp_path, pictures, labels)


def test_what_the_model_was_trained_on_is_no_test(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, labels = textures(16)
    fresh, fresh_labels = textures(20, seed=4)
    mixed = evaluate(model, [*pictures, *fresh], [*labels, *fresh_labels])
    assert mixed["trained_on"] == 16
    assert mixed["accuracy"] == evaluate(model, fresh, fresh_labels)["accuracy"]
    assert "16 of 36 examples were trained on and are left out" in capsys.readouterr().err
    alone = evaluate(model, pictures, labels)
    assert "shows what it remembers" in alone["warning"]
    assert "warning" not in evaluate(model, fresh, fresh_labels)


def test_a_saved_model_still_knows_what_it_was_trained_on(model: Any, tmp_path: Path) -> None:
    from headstart.deliver import load

    model.save(tmp_path / "kept")
    assert evaluate(load(tmp_path / "kept"), *textures(16))["trained_on"] == 16


def test_the_test_part_of_a_folder_is_what_is_scored(model: Any, tmp_path: Path) -> None:
    write_folders(tmp_path / "both" / "train", 8, seed=5)
    write_folders(tmp_path / "both" / "test", 6, seed=6)
    assert evaluate(model, tmp_path / "both")["examples"] == 6


def test_one_class_can_be_scored(model: Any) -> None:
    pictures, labels = textures(12, seed=7)
    found = evaluate(model, pictures[::2], labels[::2])
    assert found["examples"] == 6
    assert found["auroc"] is None


def test_too_many_bad_examples_stop_a_score(model: Any, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "bad", 6, seed=8)
    (root / "down" / "bad.png").write_text("hello")
    with pytest.raises(DataError, match="1 of 7 examples in bad cannot be used"):
        evaluate(model, root)
    assert evaluate(model, root, allow_bad=True)["examples"] == 6
