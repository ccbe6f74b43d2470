"""From an ONNX file to a model: every strategy where it converts, a head where it does not; then without the file."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from headstart._errors import DataError, HeadstartError, ModelError, OptionError
from headstart._fit import fit
from headstart.deliver import Model, load
from onnx_files import describe, export, small_resnet, stays
from pictures import textures, write_folders

PICTURES, LABELS = textures(24)
FRESH = textures(12, seed=5)[0]


def fitted(source: Path | str, **options: Any) -> Model:
    return fit(PICTURES, LABELS, source=source, **{"control": "none", "views": 1, **options})


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = export(small_resnet(), tmp_path_factory.mktemp("onnx") / "network.onnx")
    describe(path, card={"about": "nothing: random weights", "licence": "MIT"})
    return path


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    path = stays(tmp_path / "frozen.onnx")
    describe(path)
    return path


@pytest.fixture
def model(resnet: Path, tmp_path: Path) -> Path:
    """A model folder made from an ONNX file, to be damaged."""
    return fitted(resnet, strategy="extract").save(tmp_path / "model")


@pytest.mark.parametrize(
    "strategy", ["extract", "partial", "light", "full", pytest.param("scratch", marks=pytest.mark.slow)]
)
def test_what_is_saved_needs_neither_the_file_nor_the_cache(
    resnet: Path, strategy: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copyfile(resnet, tmp_path / "network.onnx"))
    describe(path)
    data = write_folders(tmp_path / "pictures", 24)
    model = fit(data, source=path, strategy=strategy, control="none", views=1, out=tmp_path / "model")
    expected = model.predict_proba(FRESH)
    path.unlink()
    shutil.rmtree(cache)
    monkeypatch.setattr(socket.socket, "connect", None)
    loaded = load(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(FRESH), expected)
    assert np.array_equal(loaded.save(tmp_path / "again").joinpath("network.onnx").read_bytes(),
                          (tmp_path / "model" / "network.onnx").read_bytes())  # fmt: skip
    assert np.array_equal(load(tmp_path / "again").predict_proba(FRESH), expected)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["library"], config["files"]) == ("onnx", ["network.onnx"])


def test_tuning_changes_the_weights_and_partial_only_those_above_the_cut(resnet: Path) -> None:
    start = fitted(resnet, strategy="extract").backbone().network.float().state_dict()
    changed = {}
    for strategy in ("partial", "full"):
        tuned = fitted(resnet, strategy=strategy).backbone().network.float().state_dict()
        changed[strategy] = {n for n in start if not np.array_equal(tuned[n].numpy(), start[n].numpy())}
    assert changed["partial"] < changed["full"] == set(start)
    assert changed["partial"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(resnet: Path, cache: Path) -> None:
    one = fitted(resnet, strategy="full").predict_proba(FRESH)
    shutil.rmtree(cache)
    assert np.array_equal(fitted(resnet, strategy="full").predict_proba(FRESH), one)


def test_a_copy_of_a_model_brings_its_graph_along(resnet: Path, frozen: Path, cache: Path) -> None:
    for path in (resnet, frozen):
        model = fitted(path, strategy="extract")
        expected = model.predict_proba(FRESH)
        twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))  # noqa: S301 - our own object
        shutil.rmtree(cache)
        for twin in twins:
            assert np.array_equal(twin.predict_proba(FRESH), expected)


# ---------------------------------------------------------------- frozen


def test_auto_skips_what_a_frozen_network_cannot_do(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fitted(frozen, strategy="auto", control="scratch", out=tmp_path / "model")
    said = capsys.readouterr().err
    why = "the network stays frozen: onnx2torch does not know ThresholdedRelu (opset 18)"
    assert f"partial, light, full: not tried, {why}" in said
    assert model.evidence["not_tried"] == dict.fromkeys(("partial", "light", "full"), why)
    assert model.evidence["verdict"]["missing"]["scratch"] == why
    assert [c["name"] for c in model.evidence["candidates"]] == ["extract"]
    expected = model.predict_proba(FRESH)
    frozen.unlink()
    again = load(tmp_path / "model")
    assert np.array_equal(again.predict_proba(FRESH), expected)
    from safetensors.numpy import load_file

    assert all(name.startswith("head.") for name in load_file(tmp_path / "model" / "model.safetensors"))


@pytest.mark.parametrize("strategy", ["partial", "light", "full", "scratch"])
def test_training_a_frozen_network_is_refused_in_one_line(frozen: Path, strategy: str) -> None:
    with pytest.raises(OptionError, match=f"--strategy {strategy} trains the network, but .* stays frozen: onnx2torch"):
        fitted(frozen, strategy=strategy)


def test_a_stage_of_a_frozen_network(frozen: Path) -> None:
    with pytest.raises(OptionError, match=r"--cut 2 does not exist: .* has no stages"):
        fitted(frozen, strategy="extract", cut=2)


def test_pictures_and_a_network_for_sound(resnet: Path, tmp_path: Path, cache: Path) -> None:
    path = Path(shutil.copyfile(resnet, tmp_path / "sound.onnx"))
    path.with_suffix(".json").write_text('{"modality": "audio"}')
    with pytest.raises(OptionError, match="is for the input type audio, but these examples are of the type image"):
        fitted(path, strategy="partial")
    assert not (cache / "sources").exists()  # refused before any work


# ---------------------------------------------------------------- hostile model folders


def damage(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | entries), encoding="utf-8")


def message(folder: Path) -> str:
    with pytest.raises(HeadstartError) as caught:
        load(folder).predict_proba(FRESH)
    assert isinstance(caught.value, ModelError)
    assert not isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "files",
    ["network.onnx", ["../network.onnx"], ["/etc/passwd"], ["model.safetensors"], ["missing.onnx"], [7], ["link.onnx"],
     [".."], ["sub/network.onnx"], {}, []],
)  # fmt: skip
def test_files_that_the_config_may_not_name(model: Path, files: Any) -> None:
    (model.parent / "secret").write_bytes(b"x")
    (model / "link.onnx").symlink_to(model.parent / "secret")
    damage(model, files=files)
    assert "is damaged" in message(model)


@pytest.mark.parametrize("library", ["os", "../timm", "timm", "", 7, "__init__", "_base"])
def test_a_library_that_is_none(model: Path, library: Any) -> None:
    damage(model, library=library)
    assert "is damaged" in message(model)


def test_a_graph_that_is_missing_cut_short_or_another(model: Path) -> None:
    graph = model / "network.onnx"
    whole = graph.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"garbage", whole.replace(b"headstart", b"headstort")):
        graph.write_bytes(content)
        assert "is damaged" in message(model)
    graph.unlink()
    assert "is damaged" in message(model)


def rewritten(model: Path, change: Any) -> str:
    graph = onnx.load(model / "network.onnx")
    change(graph)
    (model / "network.onnx").write_bytes(graph.SerializeToString())
    return message(model)


def test_no_name_in_a_model_folder_is_run(model: Path, tmp_path: Path) -> None:
    pwned = tmp_path / "pwned"
    bad = f'training"); open("{pwned}", "w")#'

    def rename(graph: Any) -> None:
        graph.graph.node[0].name = bad

    assert "is damaged" in rewritten(model, rename)
    assert not pwned.exists()


@pytest.mark.parametrize("kind", ["domain", "outside", "huge", "note", "stage", "twice"])
def test_graphs_that_headstart_did_not_write(model: Path, kind: str) -> None:
    def change(graph: Any) -> None:
        (note,) = graph.metadata_props
        tensor = next(t for t in graph.graph.initializer if not t.raw_data)
        if kind == "domain":
            graph.graph.node[0].domain = "my.company"
        elif kind == "outside":
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../secret")
        elif kind == "huge":
            tensor.dims[0] = 2**40
        elif kind == "note":
            note.value = "[1]"
        elif kind == "stage":
            note.value = json.dumps(json.loads(note.value) | {"stages": ["nowhere"]})
        else:
            graph.graph.node[0].name = graph.graph.node[1].name

    assert "is damaged" in rewritten(model, change)
