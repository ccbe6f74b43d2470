"""Where sources come from, and one clear line for each way in which one can be missing or wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart._errors import SourceError
from headstart.modalities import modality
from headstart.sources import list_sources, open_source, public_name
from hub_standin import Hub


@pytest.fixture
def copy(tiny: str, tmp_path: Path) -> Path:
    """The tiny source, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def change(folder: Path, **entries: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | entries), encoding="utf-8")


def message(name: str | Path) -> str:
    """The one line that opening (and converting) this source ends with."""
    with pytest.raises(SourceError) as caught:
        _ = open_source(name).facts
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- bundled


def test_efficientnet_lite0_is_the_published_one() -> None:
    source = open_source("bundled/efficientnet-lite0")
    assert source.modality == "image"
    assert source.preprocessing["size"] == [224, 224]
    assert source.facts["width"] == 1280
    assert [stage["width"] for stage in source.facts["stages"]] == [16, 24, 40, 112, 320]
    backbone = source.backbone()
    published = torch.load(source.weights, map_location="cpu", weights_only=True)
    ours = [t for n, t in backbone.network.state_dict().items() if not n.endswith("num_batches_tracked")]
    theirs = [t for n, t in published.items() if not n.endswith("num_batches_tracked")]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert modality("image").default_source == source.name


def test_a_bare_name_is_enough() -> None:
    assert open_source("glyphs").digest == open_source("bundled/glyphs").digest


def test_another_checksum_is_refused(tmp_path: Path) -> None:
    source = open_source("bundled/efficientnet-lite0")
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(source.weights.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"damaged or not the published ones: .*weights.pth has sha256 .*install"):
        _ = dataclasses.replace(source, weights=damaged).facts


def test_a_name_that_is_not_bundled() -> None:
    names = "bundled/efficientnet-lite0, bundled/efficientnet-lite1, bundled/efficientnet-lite2, bundled/glyphs"
    assert f"these are: {names}" in message("bundled/efficientnet-lite9")


def test_what_is_at_hand_can_be_opened() -> None:
    entries = [entry for entry in list_sources() if entry["at_hand"]]
    assert {"bundled/efficientnet-lite0", "bundled/glyphs"} <= {e["name"] for e in entries}
    for entry in entries:
        assert open_source(entry["name"]).architecture == entry["architecture"]
        assert {"modality", "about", "licence", "where"} <= set(entry)


# ---------------------------------------------------------------- conversion


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("bundled/glyphs", "bundled/glyphs"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("glyphs", "glyphs"),
        ("/home/jane/net", "net"),
        ("../jane/net/", "net"),
        (r"C:\jane\net", "net"),
        ("jane/net", "net"),
    ],
)
def test_a_name_without_its_place(name: str, public: str) -> None:
    assert public_name(name) == public


def test_conversion_happens_once(tiny: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source(tiny).facts
    monkeypatch.setattr("headstart.sources.builders.timm.read_weights", None)
    assert open_source(tiny).facts == first
    assert [p.name for p in (cache / "sources").iterdir() if not p.name.startswith(".")] == [
        open_source(tiny).digest[:32]
    ]


def test_the_backbone_has_the_published_weights_and_no_output_layer(tiny: str) -> None:
    state = open_source(tiny).backbone().network.state_dict()
    published = load_file(Path(tiny) / "model.safetensors")
    assert set(published) - set(state) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(t, published[n]) for n, t in state.items())


def test_scratch_is_random_and_fixed_by_the_seed(tiny: str) -> None:
    source = open_source(tiny)
    one, same, other = (source.scratch(seed).network.conv1[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, source.backbone().network.conv1[0].weight)


def test_opening_draws_nothing_from_the_global_generator(tiny: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    open_source(tiny).scratch(3)
    assert torch.equal(torch.rand(1), expected)


# ---------------------------------------------------------------- folders


def test_a_folder_in_timms_own_layout(tmp_path: Path) -> None:
    """Flat config, as the hub's repositories have it, and a classifier that is left out."""
    import timm

    args = {"channels": [8, 16, 16, 32]}
    network = timm.create_model("resnet10t", num_classes=5, **args)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 48, 40], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]}
    config = {"architecture": "resnet10t", "num_classes": 5, "model_args": args, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = open_source(tmp_path)
    assert source.preprocessing["size"] == [48, 40]
    assert source.preprocessing["crop_pct"] == 0.9
    assert source.facts["width"] == 32
    with torch.inference_mode():
        x = torch.randn(2, 3, 48, 40)
        expected = network.eval().forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(source.backbone().network(x), expected)


def test_a_pickle_of_tensors_alone_is_read(copy: Path, tiny: str) -> None:
    torch.save({"state_dict": load_file(copy / "model.safetensors")}, copy / "model.pth")
    (copy / "model.safetensors").unlink()
    found, expected = (open_source(p).backbone().network.state_dict() for p in (copy, tiny))
    assert all(torch.equal(t, expected[n]) for n, t in found.items())


class Runs:
    """A pickle that runs code when it is loaded carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(copy: Path, tmp_path: Path, plain: bool) -> None:
    (copy / "model.safetensors").unlink()
    content = {"conv1.weight": Runs(tmp_path / "ran")}
    if plain:
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, copy / "pytorch_model.bin")
    assert "holds more than plain tensors and is not loaded" in message(copy)
    assert not (tmp_path / "ran").exists()


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "has no model.safetensors" in message(copy)


def test_damaged_weights(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:5000])
    assert "is not a readable safetensors file" in message(copy)


@pytest.mark.parametrize("content", [b"", b"not a pickle at all", b"PK\x03\x04broken"])
def test_damaged_pickles(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.pth").write_bytes(content)
    assert "model.pth" in message(copy)


def test_weights_of_another_architecture(copy: Path) -> None:
    change(copy, model_args={"channels": [8, 16, 16, 64]})
    assert "do not fit resnet10t" in message(copy)


def test_an_unknown_architecture_in_a_config(copy: Path) -> None:
    change(copy, architecture="resnet10x")
    assert "no architecture is called 'resnet10x'; did you mean" in message(copy)


def test_an_unknown_model_argument_in_a_config(copy: Path) -> None:
    change(copy, model_args={"chanels": [1]})
    assert "chanels" in message(copy)


def test_arguments_that_would_load_something_else(copy: Path, tmp_path: Path) -> None:
    for name in ("checkpoint_path", "pretrained", "pretrained_cfg"):
        change(copy, model_args={"channels": [8, 16, 16, 32], name: str(tmp_path / "other.pth")})
        assert f"{name} cannot be an argument of the architecture" in message(copy)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"architecture": "resnet10t", "pretrained_cfg": 3}', "\ud800"], ids=range(6)
)
def test_a_config_that_is_none(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    assert "config.json" in message(copy)


def test_a_source_of_another_input_type(copy: Path) -> None:
    change(copy, card={"modality": "smell"})
    assert "no input type is called 'smell'" in message(copy)


@pytest.mark.parametrize(
    "cfg",
    [
        {"input_size": [3, 32]},
        {"input_size": [3, -32, 32]},
        {"input_size": [3, 10**7, 10**7]},
        {"input_size": [0, 32, 32]},
        {"mean": "dark"},
        {"crop_pct": "all"},
        {"crop_pct": -1},
        {"std": [0, 0, 0]},
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be(copy: Path, cfg: dict[str, object]) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    change(copy, pretrained_cfg=config["pretrained_cfg"] | cfg)
    assert "config.json" in message(copy)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "it has no config.json" in message(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no source folder" in message(tmp_path / "nothing")


def test_one_grey_channel(tmp_path: Path) -> None:
    import timm

    network = timm.create_model("resnet10t", num_classes=2, in_chans=1, channels=[8, 16, 16, 32])
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5], "first_conv": "conv1.0"}
    config = {"architecture": "resnet10t", "num_classes": 2, "model_args": {"channels": [8, 16, 16, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
    source = open_source(tmp_path)
    assert source.facts["width"] == 32
    image = modality("image")
    picture = image.prepare(image.decode(np.zeros((40, 40, 3), np.uint8)), source.preprocessing)
    assert picture.shape == (32, 32, 1)
    with torch.inference_mode():
        out = source.backbone().network(image.to_input(torch.from_numpy(picture[None]), source.preprocessing))
    torch.testing.assert_close(source.backbone().network.conv1[0].weight, network.conv1[0].weight)
    assert out.shape == (1, 32)


# ---------------------------------------------------------------- timm by name


def test_an_unknown_name_says_where_it_was_looked_for() -> None:
    text = message("resnet5000")
    assert "no folder here, not bundled" in text
    assert "headstart sources" in text


def test_a_misspelt_architecture_gets_suggestions() -> None:
    assert "did you mean" in message("timm/resnet81")
    assert "resnet18" in message("timm/resnet18x")


def test_without_a_network_the_file_is_named_at_once() -> None:
    start = time.monotonic()
    text = message("timm/resnet10t.c3_in1k")
    assert "looked for timm/resnet10t.c3_in1k/model.safetensors" in text
    assert "headstart sources" in text
    assert time.monotonic() - start < 10


def test_an_architecture_without_weights() -> None:
    assert "no pre-trained weights" in message("timm/test_vit4") or "weights" in message("timm/test_vit4")


CLIENT = """
import sys
from headstart.sources import open_source, list_sources
source = open_source("timm/resnet10t.c3_in1k")
print(source.facts["width"], source.name, [e["name"] for e in list_sources()
    if e["at_hand"] and e["name"].startswith("timm/")])
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    place = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), place)
    return place


def client(home: Path, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    kept |= {
        "HF_HOME": str(home), "HEADSTART_CACHE": str(cache), "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_DISABLE_XET": "1", **env,
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", CLIENT], env=kept, capture_output=True, text=True, timeout=120)


def test_from_a_hub_and_then_without_it(published: Path, tmp_path: Path, cache: Path) -> None:
    name = "timm/resnet10t.c3_in1k"
    with Hub() as hub:
        hub.publish(name, {"model.safetensors": published.read_bytes(), "README.md": b"# a network"})
        online = client(tmp_path, cache, HF_ENDPOINT=hub.address)
        assert [a.path for a in hub.asked if a.method == "GET" and "README" in a.path] == []
    assert online.stdout.startswith(f"512 {name} ['{name}']"), online.stderr
    size = published.stat().st_size / 1e6
    assert f"downloading {name}/model.safetensors: {size:.0f} MB" in online.stderr
    offline = client(tmp_path, cache, HF_ENDPOINT=hub.address)  # the hub is gone, the cache answers
    assert offline.stdout == online.stdout, offline.stderr


def test_a_hub_that_does_not_answer(tmp_path: Path, cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    start = time.monotonic()
    done = client(tmp_path, cache, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert (
        "SourceError: the weights of timm/resnet10t.c3_in1k are not here and the hub cannot be reached"
        in (done.stderr.splitlines()[-1])
    )
    assert time.monotonic() - start < 60
