"""The model folder: what is saved is what is used, without a network, a cache, or code."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from headstart._errors import DataError, HeadstartError, ModelError
from headstart._fit import fit
from headstart._runtime import quiet
from headstart.deliver import Model, check_out, load
from pictures import textures, write_folders

PICTURES, LABELS = textures(24)
FRESH = textures(12, seed=5)[0]


def fitted(tiny: str, **options: Any) -> Model:
    with quiet():
        return fit(PICTURES, LABELS, source=tiny, **{"strategy": "extract", "control": "none", "views": 1, **options})


@pytest.fixture(scope="module")
def extracted(tiny: str) -> Model:
    return fitted(tiny)


@pytest.fixture(scope="module")
def tuned(tiny: str) -> Model:
    return fitted(tiny, strategy="partial")


@pytest.fixture
def folder(extracted: Model, tmp_path: Path) -> Path:
    """A saved model, to be damaged."""
    return extracted.save(tmp_path / "model")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*args: object) -> None:
        raise AssertionError("something wanted the network")

    monkeypatch.setattr(socket.socket, "connect", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)


def edit(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | entries), encoding="utf-8")


def message(folder: Path) -> str:
    """The one line that loading and using this model ends with."""
    with pytest.raises(ModelError) as caught:
        load(folder).predict(FRESH[:2])
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("which", ["extracted", "tuned"])
def test_save_load_same_predictions(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network and with an empty cache."""
    model = request.getfixturevalue(which)
    expected = model.predict_proba(FRESH)
    saved, empty = model.save(tmp_path / "model"), tmp_path / "empty"
    monkeypatch.setenv("HEADSTART_CACHE", str(empty))
    again = load(saved)
    np.testing.assert_allclose(again.predict_proba(FRESH), expected, atol=1e-6)
    assert again.predict(FRESH).tolist() == model.predict(FRESH).tolist()
    assert again.classes_.tolist() == ["across", "down"]
    assert again.config == json.loads(json.dumps(model.config))
    assert not empty.exists()


def test_tuned_weights_are_the_ones_saved(tuned: Model, extracted: Model, tmp_path: Path) -> None:
    one, other = (load_file(m.save(tmp_path / n) / "model.safetensors") for m, n in ((tuned, "a"), (extracted, "b")))
    assert one.keys() == other.keys()
    assert any(not np.array_equal(one[n], other[n]) for n in one if n.startswith("backbone.layer4"))
    assert all(np.array_equal(one[n], other[n]) for n in one if n.startswith("backbone.layer1"))


def test_the_folder_is_complete_and_data_only(folder: Path, extracted: Model) -> None:
    names = {f.name for f in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "evidence.json", "README.md", "report.html"}
    assert [f.name for f in folder.parent.iterdir()] == ["model"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("format", "source", "architecture", "preprocessing", "head", "classes", "temperature", "seed"):
        assert key in config
    assert config["versions"]["headstart"]
    evidence = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
    assert evidence["score"]["accuracy"]["value"] == extracted.evidence["score"]["accuracy"]["value"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: headstart\n")
    assert card.splitlines()[1:].count("---") == 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert evidence["verdict"]["headline"] in page.replace("&#x27;", "'")


def test_what_strangers_wrote_is_escaped_in_the_pages(tiny: str, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a|b"]
    with quiet():
        model = fit(PICTURES, [names[i % 2] for i in range(24)], source=tiny, strategy="extract", control="none")
    saved = model.save(tmp_path / "model")
    assert "<script" not in (saved / "report.html").read_text(encoding="utf-8")
    assert "<script" not in (saved / "README.md").read_text(encoding="utf-8")
    assert "a\\|b" in (saved / "README.md").read_text(encoding="utf-8")
    assert load(saved).classes_.tolist() == sorted(names)


def test_the_folder_can_be_moved_and_saved_again(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    model = load(moved)
    again = load(model.save(tmp_path / "third"))
    assert np.array_equal(again.predict_proba(FRESH), model.predict_proba(FRESH))
    assert {f.name for f in (tmp_path / "third").iterdir()} == {f.name for f in moved.iterdir()}


def test_saving_onto_itself(folder: Path) -> None:
    model = load(folder)
    before = model.predict_proba(FRESH)
    model.save(folder)
    assert np.array_equal(load(folder).predict_proba(FRESH), before)


@pytest.mark.parametrize("moment", ["weights", "json", "rename"])
def test_a_kill_while_saving_leaves_the_old_one_whole(
    folder: Path, tuned: Model, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    if moment == "weights":
        monkeypatch.setattr("safetensors.numpy.save_file", killed)
    elif moment == "json":
        monkeypatch.setattr("headstart.deliver._model._write_json", killed)
    else:
        monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        tuned.save(folder)
    monkeypatch.undo()
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert [f.name for f in folder.parent.iterdir() if not f.name.endswith(".old")] == ["model"]


def test_a_full_disk_while_saving(folder: Path, tuned: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    monkeypatch.setattr("headstart.deliver._model._write_json", full)
    with pytest.raises(HeadstartError, match="the disk is full"):
        tuned.save(folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_what_is_no_model_folder_is_not_overwritten(extracted: Model, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(ModelError, match="is no model folder; it is left alone"):
        extracted.save(tmp_path)
    with pytest.raises(ModelError, match="is no model folder; it is left alone"):
        extracted.save(tmp_path / "letters.txt")
    assert (tmp_path / "letters.txt").read_text() == "mine"


# ---------------------------------------------------------------- use


def test_any_way_to_name_a_picture(extracted: Model, tmp_path: Path) -> None:
    root = write_folders(tmp_path, 4)
    files = sorted(root.rglob("*.png"))
    expected = extracted.predict_proba(files)
    assert expected.shape == (4, 2)
    np.testing.assert_allclose(expected.sum(axis=1), 1)
    same = [
        [str(f) for f in files],
        tuple(files),
        [f.read_bytes() for f in files],
        str(root),
        root,
        str(root / "*" / "*.png"),
        np.array([str(f) for f in files]),
    ]
    for items in same:
        np.testing.assert_allclose(extracted.predict_proba(items), expected, atol=1e-6)
        assert extracted.predict(items).tolist() == extracted.classes_[expected.argmax(1)].tolist()


def test_one_picture_alone(extracted: Model) -> None:
    assert extracted.predict_proba([FRESH[0]]).shape == (1, 2)
    assert extracted.predict([FRESH[0]])[0] in ("across", "down")


def test_nothing_to_predict(extracted: Model) -> None:
    assert extracted.predict([]).shape == (0,)
    assert extracted.predict_proba([]).shape == (0, 2)


def test_the_company_of_other_pictures_changes_nothing(extracted: Model) -> None:
    together = extracted.predict_proba(FRESH)
    alone = np.concatenate([extracted.predict_proba([p]) for p in FRESH])
    np.testing.assert_allclose(together, alone, atol=0.02)  # bf16 kernels differ with the batch


def test_what_cannot_be_read_is_named(extracted: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"bad\.png .*leave it out"):
        extracted.predict([FRESH[0], tmp_path / "bad.png"])
    with pytest.raises(DataError, match="there is no file"):
        extracted.predict([tmp_path / "gone.png"])


def test_many_threads_use_one_model(folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = load(folder)
    expected = model.predict_proba(FRESH)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict_proba(FRESH), range(8)):
            assert np.array_equal(found, expected)


def test_classes_go_by_name(folder: Path) -> None:
    """Columns follow classes_, whatever the order in which folders come."""
    model = load(folder)
    p = model.predict_proba(PICTURES)
    right = [p[i, model.classes_.tolist().index(label)] > 0.5 for i, label in enumerate(LABELS)]
    assert np.mean(right) > 0.9


# ---------------------------------------------------------------- damage


def test_not_a_model_folder(tmp_path: Path) -> None:
    assert "it has no config.json" in message(tmp_path)
    assert "it has no config.json" in message(tmp_path / "gone")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_torn_weights(folder: Path, share: float) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert "copy the folder again or run fit again" in message(folder)


@pytest.mark.parametrize("name", ["model.safetensors"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "damaged" in message(folder)


def test_a_missing_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in ("head.0.weight", "backbone.layer4.0.conv1.weight"):
        save_file({n: t for n, t in tensors.items() if n != name}, file)
        assert "damaged" in message(folder)


def test_a_tensor_of_another_shape(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in ("head.0.weight", "head.0.bias", "backbone.layer4.0.conv1.weight"):
        save_file(tensors | {name: np.zeros((3, 3), np.float32)}, file)
        message(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\ud800"], ids=range(6))
@pytest.mark.parametrize("name", ["config.json", "evidence.json"])
def test_a_file_that_is_not_what_it_should_be(folder: Path, name: str, text: str) -> None:
    if name == "evidence.json" and text == "{}":
        pytest.skip("an empty object is one")
    (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    assert "copy the" in message(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"format": 99},
        {"format": "new"},
        {"format": None},
        {"classes": ["only one"]},
        {"classes": ["a", "b", "c"]},
        {"classes": 7},
        {"classes": "ab"},
        {"classes": [["a"], {}]},
        {"classes": ["a", "a"]},
        {"head": {}},
        {"head": {"layers": 10**9, "first": 0, "last": 32}},
        {"head": {"layers": -1, "first": 0, "last": 32}},
        {"head": {"layers": 1, "first": 0, "last": 5}},
        {"head": {"layers": 1, "first": -9, "last": 10**9}},
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": "warm"},
        {"temperature": float("nan")},
        {"modality": "smell"},
        {"modality": "../../etc"},
        {"architecture": "os.system"},
        {"architecture": "resnet18"},
        {"architecture": ["resnet10t"]},
        {"model_args": {"pretrained": True}},
        {"model_args": {"checkpoint_path": "/etc/passwd"}},
        {"model_args": {"chanels": 1}},
        {"model_args": [1]},
        {"preprocessing": {}},
        {"preprocessing": None},
    ],
    ids=str,
)
@pytest.mark.usefixtures("no_network")
def test_a_hostile_config(folder: Path, entries: dict[str, Any]) -> None:
    edit(folder, **entries)
    message(folder)


@pytest.mark.parametrize(
    "change", [{"size": [10**6, 10**6]}, {"size": [0, 0]}, {"channels": 7}, {"std": [0, 0, 0]}, {"mean": None}], ids=str
)
def test_hostile_preprocessing(folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit(folder, preprocessing=config["preprocessing"] | change)
    message(folder)


def test_a_newer_format_says_to_upgrade(folder: Path) -> None:
    edit(folder, format=2)
    assert "newer headstart (format 2); upgrade" in message(folder)


def test_evidence_is_not_needed_to_predict(folder: Path) -> None:
    (folder / "evidence.json").unlink()
    (folder / "README.md").unlink()
    (folder / "report.html").unlink()
    assert len(load(folder).predict(FRESH)) == len(FRESH)


def test_what_lies_beside_a_model_is_not_destroyed(extracted: Model, tmp_path: Path) -> None:
    extracted.save(tmp_path / "m")
    extracted.save(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"holds 'notes.txt' beside a model; it is left alone"):
        extracted.save(tmp_path / "m")
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_takes_nothing_is_known_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HeadstartError, match="cannot be written"):
        check_out(tmp_path / "m")
