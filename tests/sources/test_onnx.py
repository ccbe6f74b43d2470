"""ONNX files as sources: equal to onnxruntime and to the network they came from, tunable, cut exactly; or refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from headstart._errors import OptionError, SourceError
from headstart.features import DEPTHS, extract
from headstart.modalities import Example, modality
from headstart.sources import Backbone, Source, open_source
from onnx_files import convolution, describe, export, small_resnet, small_vit, stays, weights, write
from pictures import textures

EXPORTS = {
    "13": {"opset": 13},
    "13, batch 1": {"opset": 13, "free": False},
    "18": {"opset": 18},
    "13, norms kept": {"opset": 13, "folded": False},
}


def opened(path: Path, **entries: Any) -> Source:
    describe(path, **entries)
    return open_source(path)


def features(source: Source, n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Input, and what the source makes of it."""
    backbone = source.backbone()
    x = backbone.example_input(n)
    with torch.inference_mode():
        return x, backbone.network(x)


def in_two_parts(backbone: Backbone, k: int, x: torch.Tensor) -> torch.Tensor:
    cut = backbone.cut(k)
    with cut.prefix() as prefix:
        activation = prefix(x)
    with cut.suffix() as suffix:
        return suffix(activation)


def by_onnxruntime(path: Path, x: torch.Tensor, output: str) -> np.ndarray:
    """The tensor ``output`` of the file, example by example."""
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name=output))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run([output], {name: row[None]})[0] for row in x.numpy()])


def close(ours: Any, theirs: Any, tolerance: float = 2e-5) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
    assert np.abs(theirs).max() > 1e-3  # there is something to compare


def message(path: Path | str) -> str:
    """The one line that opening (and converting) this source ends with."""
    with pytest.raises(SourceError) as caught:
        _ = open_source(path).facts
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both small networks by every exporter."""
    place = tmp_path_factory.mktemp("exported")
    for name, network in (("resnet", small_resnet()), ("vit", small_vit())):
        for label, options in EXPORTS.items():
            export(network, place / f"{name} {label}.onnx", **options)
    return place


@pytest.fixture
def resnet(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(exported / "resnet 13.onnx", tmp_path / "network.onnx"))


@pytest.fixture
def nothing_left(cache: Path) -> Iterator[None]:
    """Nothing half written is in the cache afterwards."""
    yield
    assert not list(cache.rglob("*"))[1:]  # at most the folder `sources`


# ---------------------------------------------------------------- equal, and tunable


@pytest.mark.parametrize("label", EXPORTS)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_features_are_those_of_the_network_that_was_exported(exported: Path, name: str, label: str) -> None:
    source = opened(exported / f"{name} {label}.onnx")
    x, ours = features(source)
    network = small_resnet() if name == "resnet" else small_vit()
    with torch.inference_mode():
        theirs = network.forward_head(network.forward_features(x), pre_logits=True)
    close(ours.flatten(1), theirs)
    facts = source.facts
    assert facts["trainable"] == facts["parameters"] > 15_000
    assert source.frozen_because == ""
    assert len(facts["stages"]) >= 4
    assert facts["differs_by"] < 1e-5


@pytest.mark.parametrize("name", ["resnet 13", "resnet 18", "vit 13, batch 1"])
def test_every_cut_is_exact(exported: Path, name: str) -> None:
    backbone = opened(exported / f"{name}.onnx").backbone()
    x = backbone.example_input(3)
    with torch.inference_mode():
        whole = backbone.network(x)
        for k in range(1, len(backbone.stages) + 1):
            assert torch.equal(in_two_parts(backbone, k, x), whole)


def test_what_lies_above_a_cut_is_what_trains(resnet: Path) -> None:
    backbone = opened(resnet).backbone()
    everything = [name for name, _ in backbone.network.named_parameters()]
    for k, (stage, _) in enumerate(backbone.stages, 1):
        own = [n for n in everything if n.startswith(f"{stage}.")]
        assert own
        trainable = backbone.cut(k).trainable()
        assert trainable == everything[everything.index(own[-1]) + 1 :]


def test_weights_that_were_constants_are_parameters(exported: Path) -> None:
    network = opened(exported / "vit 13.onnx").backbone().network
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert (1, 1, 24) in shapes  # the class token
    assert (1, 17, 24) in shapes  # where a patch lies
    assert (24, 72) in shapes  # a factor of a MatMul
    assert not [n for n, b in network.named_buffers() if b.is_floating_point() and b.numel() > 1]


def test_a_mask_is_no_weight(tmp_path: Path) -> None:
    mask = np.where(np.arange(8 * 16 * 16).reshape(1, 8, 16, 16) % 3, np.float32(0), np.float32(-100))
    path = convolution(tmp_path / "m.onnx", ("Add", ["a", "mask"], ["m"], {}), last="m", constants={"mask": mask})
    facts = opened(path).facts
    assert facts["trainable"] == 8 * 27 + 8
    assert facts["parameters"] == facts["trainable"] + mask.size


@pytest.mark.slow
def test_the_newer_exporter_with_weights_in_a_second_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network, path = small_resnet(), tmp_path / "new.onnx"
    torch.onnx.export(network, (torch.randn(1, 3, 32, 32),), path, opset_version=18, dynamo=True, verbose=False)
    assert (tmp_path / "new.onnx.data").is_file()
    source = opened(path)
    assert set(source.files) == {"new.onnx.data"}
    x, ours = features(source)
    with torch.inference_mode():
        close(ours, network.forward_head(network.forward_features(x), pre_logits=True))
    assert source.facts["trainable"] == source.facts["parameters"]
    changed = bytearray((tmp_path / "new.onnx.data").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "new.onnx.data").write_bytes(changed)
    assert open_source(path).digest != source.digest


RULES: dict[str, tuple[tuple[Any, ...], str, dict[str, Any], int]] = {
    "ReduceMean": (
        (("ReduceMean", ["a", "axes"], ["r"], {}), ("Mul", ["a", "r"], ["m"], {})), "m", {"axes": [2, 3]}, 18,
    ),
    "ReduceMax, nothing to do": ((("ReduceMax", ["a"], ["m"], {"noop_with_empty_axes": 1}),), "m", {}, 18),
    "Pad": ((("Pad", ["a", "pads", "", "axes"], ["m"], {}),), "m", {"pads": [1, 0, 2, 1], "axes": [2, -1]}, 18),
    "Split": (
        (("Split", ["a"], ["p", "q"], {"num_outputs": 2, "axis": 1}), ("Concat", ["q", "p"], ["m"], {"axis": 1})),
        "m", {}, 18,
    ),
    "Reshape": ((("Reshape", ["a", "shape"], ["m"], {"allowzero": 1}),), "m", {"shape": [-1, 8, 32, 8]}, 18),
    "Gelu": ((("Gelu", ["a"], ["m"], {}),), "m", {}, 20),
    "Gelu, tanh": ((("Gelu", ["a"], ["m"], {"approximate": "tanh"}),), "m", {}, 20),
    "Mish": ((("Mish", ["a"], ["m"], {}),), "m", {}, 18),
    "GlobalMaxPool": ((("GlobalMaxPool", ["a"], ["m"], {}),), "m", {}, 18),
    "Clip": (
        (("ReduceMax", ["a", "axes"], ["r"], {}), ("Mul", ["r", "half"], ["h"], {}), ("Max", ["a", "h"], ["m"], {})),
        "m", {"axes": [1, 2, 3], "half": np.float32(0.5)}, 18,
    ),
    "as_strided": (
        (
            ("Shape", ["a"], ["s"], {}), ("ReduceProd", ["s"], ["all"], {"keepdims": 0}),
            ("Range", ["zero", "all", "one"], ["r"], {}), ("Reshape", ["r", "places"], ["i"], {}),
            ("Reshape", ["a", "flat"], ["f"], {}), ("Gather", ["f", "i"], ["m"], {}),
        ),
        "m", {"zero": np.int64(0), "one": np.int64(1), "places": [-1, 8, 16, 16], "flat": [-1]}, 18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_operators_of_newer_versions(tmp_path: Path, rule: str) -> None:
    middle, last, constants, opset = RULES[rule]
    path = convolution(tmp_path / "r.onnx", *middle, last=last, constants=constants, opset=opset)
    source = opened(path)
    assert source.frozen_because == ""
    x, ours = features(source)
    close(ours, by_onnxruntime(path, x, "y"))


def test_reading_in_order_with_a_fixed_batch_is_a_change_of_shape(tmp_path: Path) -> None:
    middle = [("Reshape", ["a", "flat"], ["f"], {}), ("Gather", ["f", "i"], ["m"], {})]
    places = {"flat": [-1], "i": np.arange(8 * 16 * 16).reshape(1, 8, 16, 16)}
    path = convolution(tmp_path / "r.onnx", *middle, last="m", constants=places, shape=[1, 3, 32, 32])
    x, ours = features(opened(path))
    close(ours, by_onnxruntime(path, x, "y"))
    assert opened(path).frozen_because == ""
    places["i"] = places["i"][:, ::-1].copy()  # another order is not one
    path = convolution(tmp_path / "s.onnx", *middle, last="m", constants=places, shape=[1, 3, 32, 32])
    x, ours = features(opened(path))
    close(ours, by_onnxruntime(path, x, "y"))
    assert "differs from onnxruntime" in opened(path).frozen_because


def test_a_network_that_wants_channels_last(tmp_path: Path) -> None:
    turn = ("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]})
    nodes = [
        turn,
        ("Conv", ["t", "w"], ["a"], {}),
        ("GlobalAveragePool", ["a"], ["g"], {}),
        ("Flatten", ["g"], ["y"], {}),
    ]
    path = write(tmp_path / "last.onnx", nodes, {"w": weights(8, 3, 3, 3)}, shape=["n", 32, 48, 3])
    source = opened(path, preprocessing={"size": [32, 48]})
    x, ours = features(source)
    assert x.shape[1:] == (3, 32, 48)
    close(ours, by_onnxruntime(path, x.permute(0, 2, 3, 1).contiguous(), "y"))
    assert source.facts["trainable"] == 8 * 27


def test_features_with_places_are_averaged(resnet: Path) -> None:
    source = opened(resnet, output="/layer3/layer3.0/act2/Relu_output_0")
    x, ours = features(source)
    close(ours.flatten(1), by_onnxruntime(resnet, x, "/layer3/layer3.0/act2/Relu_output_0").mean((2, 3)))
    assert "averaged over all but 16 channels" in source.facts["notes"][0]


def test_half_precision_networks_are_opened(tmp_path: Path) -> None:
    nodes = [("Conv", ["x", "w"], ["a"], {}), ("GlobalAveragePool", ["a"], ["g"], {}), ("Flatten", ["g"], ["h"], {}),
             ("Cast", ["h"], ["y"], {"to": TensorProto.FLOAT})]  # fmt: skip
    half = weights(8, 3, 3, 3).astype(np.float16)
    path = write(tmp_path / "half.onnx", nodes, {"w": half}, kind=TensorProto.FLOAT16)
    x, ours = features(opened(path))
    close(ours, by_onnxruntime(path, x.half(), "y"), 2e-3)


# ---------------------------------------------------------------- what the feature is


def test_the_feature_is_what_the_class_scores_are_made_from(resnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = opened(resnet)
    assert source.facts["width"] == 32
    assert "which its layer of class scores takes" in source.facts["notes"][0]
    assert "which its layer of class scores takes" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["Gemm", "MatMul", "MatMul, Add, Softmax", "Gemm, Sigmoid"])
def test_class_scores_are_recognised(tmp_path: Path, ending: str) -> None:
    scores, chain, now = {"s": weights(8, 5), "o": weights(5)}, [], "f"
    for i, kind in enumerate(ending.split(", ")):
        new = f"t{i}"
        inputs = {"Gemm": [now, "s", "o"], "MatMul": [now, "s"], "Add": ["o", now]}.get(kind, [now])
        chain.append((kind, inputs, [new], {}))
        now = new
    nodes = [("Conv", ["x", "w"], ["a"], {}), ("GlobalAveragePool", ["a"], ["g"], {}), ("Flatten", ["g"], ["f"], {})]
    path = write(tmp_path / "s.onnx", [*nodes, *chain], {"w": weights(8, 3, 3, 3), **scores}, outputs=[now])
    assert opened(path).facts["width"] == 8


def test_the_only_output_is_the_feature_where_it_is_no_score(tmp_path: Path) -> None:
    source = opened(convolution(tmp_path / "c.onnx"))
    assert source.facts["width"] == 8
    assert "only output, 'y'" in source.facts["notes"][0]


def test_an_output_by_name(resnet: Path) -> None:
    assert opened(resnet, output="scores").facts["width"] == 7
    assert opened(resnet, output="scores").digest != opened(resnet).digest


def test_several_outputs_and_none_named(tmp_path: Path) -> None:
    path = convolution(tmp_path / "c.onnx", outputs=["y", "a"])
    describe(path)
    assert "has 2 outputs (y, a); name the one that is the feature" in message(path)
    describe(path, output="y")
    assert open_source(path).facts["width"] == 8


# ---------------------------------------------------------------- the JSON file


def test_without_a_json_file_what_is_assumed_is_said(resnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source(resnet)
    assert source.preprocessing["size"] == [32, 32]
    assert source.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert "assumed are 32 × 32 pixels and ImageNet's mean" in capsys.readouterr().err
    describe(resnet)
    source = open_source(resnet)
    assert source.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert capsys.readouterr().err == ""


def test_a_network_that_takes_0_to_255(resnet: Path) -> None:
    source = opened(resnet, preprocessing={"mean": [0, 0, 0], "std": [1 / 255] * 3})
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    given = modality("image").to_input(pixels, source.preprocessing)
    assert torch.allclose(given, pixels.permute(0, 3, 1, 2).float(), atol=1e-3)


def test_a_folder_with_one_onnx_file_and_a_config(resnet: Path) -> None:
    config = {"preprocessing": {"std": [0.1, 0.1, 0.1]}, "card": {"licence": "MIT"}, "model_type": "another tool's"}
    (resnet.parent / "config.json").write_text(json.dumps(config))
    source = open_source(resnet.parent)
    assert source.preprocessing["std"] == [0.1, 0.1, 0.1]
    assert source.card["licence"] == "MIT"
    assert open_source(str(resnet)).digest == source.digest
    shutil.copyfile(resnet, resnet.with_name("other.onnx"))
    assert "has 2 ONNX files (network.onnx, other.onnx); name one" in message(resnet.parent)


def test_stages_by_name(resnet: Path) -> None:
    wanted = ["/layer1/layer1.0/act2/Relu_output_0", "/layer3/layer3.0/act2/Relu"]  # a tensor, a node
    source = opened(resnet, stages=wanted)
    assert [stage["width"] for stage in source.facts["stages"]] == [8, 16]
    source.backbone().cut(2)
    assert opened(resnet, stages=[]).facts["stages"] == []


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"output": "nowhere"}, "has no output 'nowhere'; its outputs are scores"),
        ({"input": "nowhere"}, "has no input 'nowhere'; it has: picture"),
        ({"stages": ["nowhere"]}, "no node or tensor 'nowhere' before its features"),
        ({"stages": ["/layer1/layer1.0/act1/Relu"]}, "cannot be cut after '/layer1/layer1.0/act1/Relu': more than one"),
        ({"preprocessing": {"size": 64}}, "not the 64 × 64 pixels of its JSON file"),
        ({"preprocessing": {"std": [0, 1, 1]}}, "the preprocessing in .*network.json cannot be"),
        ({"preprocessing": {"size": "large"}}, "the preprocessing in .*network.json cannot be"),
        ({"outputs": "x"}, "has an entry 'outputs', which means nothing here; it takes modality"),
        ({"stages": "x"}, "network.json: stages is to be a list of names"),
        ({"modality": "audio"}, ""),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_a_json_file_that_does_not_fit(resnet: Path, entries: dict[str, Any], expected: str) -> None:
    describe(resnet, **entries)
    if not expected:  # another modality needs no pictures
        assert open_source(resnet).modality == "audio"
        return
    with pytest.raises(SourceError, match=expected):
        _ = open_source(resnet).facts


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_json_file_that_is_none(resnet: Path, text: str) -> None:
    resnet.with_suffix(".json").write_bytes(text.encode("latin-1"))
    assert "network.json" in message(resnet)


# ---------------------------------------------------------------- other input than pictures


def waves(path: Path) -> Path:
    nodes = [
        ("Unsqueeze", ["x", "one"], ["u"], {}), ("Conv", ["u", "w"], ["a"], {"strides": [10]}),
        ("Relu", ["a"], ["r"], {}),
        ("Conv", ["r", "v"], ["c"], {"strides": [4]}), ("ReduceMean", ["c"], ["y"], {"axes": [2], "keepdims": 0}),
    ]  # fmt: skip
    constants = {"one": [1], "w": weights(8, 1, 40), "v": weights(16, 8, 5)}
    return write(path, nodes, constants, shape=["n", 4000], opset=13)


def test_a_network_for_sound_is_opened_checked_and_cut(tmp_path: Path) -> None:
    path = waves(tmp_path / "w.onnx")
    path.with_suffix(".json").write_text('{"modality": "audio"}')
    source = open_source(path)
    assert source.modality == "audio"
    assert source.preprocessing == {"input_shape": [4000]}
    x, ours = features(source)
    close(ours, by_onnxruntime(path, x, "y"))
    backbone = source.backbone()
    assert [width for _, width in backbone.stages][:1] == [8]
    with torch.inference_mode():
        for k in range(1, len(backbone.stages) + 1):
            assert torch.equal(in_two_parts(backbone, k, x), ours)
    example = Example("a", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(OptionError, match="is for the input type audio, but these examples are of the type image"):
        extract(source, modality("image"), [example])


def test_a_network_for_sound_without_a_json_file_is_no_picture(tmp_path: Path) -> None:
    assert "takes [any, 4000], which is no picture; say what it takes in w.json" in message(waves(tmp_path / "w.onnx"))


# ---------------------------------------------------------------- frozen


def test_what_does_not_convert_stays_in_onnxruntime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stays(tmp_path / "s.onnx")
    source = opened(path)
    assert source.frozen_because == "onnx2torch does not know ThresholdedRelu (opset 18)"
    assert source.facts["trainable"] == 0
    assert source.facts["parameters"] == 8 * 27 + 8
    assert source.facts["stages"] == []
    assert "used frozen, through onnxruntime, because onnx2torch does not know" in capsys.readouterr().err
    x, ours = features(source)
    close(ours, by_onnxruntime(path, x, "y"))
    with pytest.raises(SourceError, match="has no stages to cut between"):
        source.backbone().cut(1)


def test_a_frozen_network_computes_in_fp32_from_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(stays(tmp_path / "s.onnx"))
    examples = [Example(str(i), picture) for i, picture in enumerate(textures(48)[0])]
    found = []
    for precision in ("fp32", "bf16"):
        monkeypatch.setenv("HEADSTART_PRECISION", precision)
        found.append(extract(source, modality("image"), examples, kind=DEPTHS).take(np.arange(48)))
    assert found[0].dtype == np.float32
    assert np.array_equal(*found)


def test_examples_that_change_each_other_go_through_one_by_one(tmp_path: Path) -> None:
    loudest = [("ReduceMax", ["a", "axes"], ["r"], {}), ("Div", ["a", "r"], ["m"], {})]
    path = convolution(tmp_path / "m.onnx", *loudest, last="m", constants={"axes": [0, 1, 2, 3]})
    source = opened(path)
    assert source.frozen_because == "in a batch its examples change each other's features"
    x, ours = features(source)
    close(ours, by_onnxruntime(path, x, "y"))


def test_a_fixed_batch_that_cannot_be_loosened_is_filled_up(tmp_path: Path) -> None:
    path = stays(tmp_path / "s.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, path)
    x, ours = features(opened(path), 5)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = torch.cat([x, x[:1]]).numpy()
    close(ours, np.concatenate([session.run(["y"], {"x": rows[i : i + 3]})[0] for i in (0, 3)])[:5])


# ---------------------------------------------------------------- from scratch


def test_scratch_is_random_and_fixed_by_the_seed(exported: Path) -> None:
    source = opened(exported / "vit 13, norms kept.onnx")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (dict(source.scratch(seed).network.named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # nothing drawn from the global generator
    published = dict(source.backbone().network.named_parameters())
    assert all(torch.equal(one[n], same[n]) for n in one)
    factors = [n for n, p in one.items() if p.ndim == 2]
    assert factors
    for name in factors:
        assert not torch.equal(one[name], other[name])
        assert not torch.equal(one[name], published[name])
        deviation = float(one[name].detach().std()) * (one[name].shape[0] / 2) ** 0.5
        assert 0.8 < deviation < 1.2  # variance 2 / inputs


def test_scratch_resets_norms_and_their_statistics(exported: Path) -> None:
    network = opened(exported / "resnet 13, norms kept.onnx").scratch(0).network
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert not norm.bias.any()
        assert not norm.running_mean.any()
        assert torch.equal(norm.running_var, torch.ones_like(norm.running_var))
    with torch.inference_mode():
        out = network(torch.randn(2, 3, 32, 32))
    assert torch.isfinite(out).all()
    assert out.std() > 1e-3


# ---------------------------------------------------------------- digests and the cache


def test_digests_of_other_sources_are_what_they_were(tiny: str) -> None:
    source = open_source(tiny)
    found = hashlib.sha256((Path(tiny) / "model.safetensors").read_bytes()).hexdigest()
    text = json.dumps(["1", found, source.architecture, dict(source.model_args)], sort_keys=True)
    assert source.digest == hashlib.sha256(text.encode()).hexdigest()


def test_conversion_happens_once(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(resnet).facts
    monkeypatch.setattr("headstart.sources._onnx._prepare.prepare", None)
    again = open_source(resnet)
    assert again.facts == first
    assert set(again.build_files) == {"network.onnx"}
    assert again.build_files["network.onnx"].stat().st_size < resnet.stat().st_size / 2  # weights are kept once
    features(again)


# ---------------------------------------------------------------- bad and hostile files


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(resnet: Path, share: float) -> None:
    content = resnet.read_bytes()
    resnet.write_bytes(content[: int(share * len(content))])
    assert "no ONNX file, or a damaged one" in message(resnet)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("content", [b"\x00" * 100, b"not a network", bytes(range(256)) * 20, b"PK\x03\x04" * 9])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    assert "no ONNX file, or a damaged one" in message(tmp_path / "x.onnx")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no ONNX file" in message(tmp_path / "x.onnx")


@pytest.mark.usefixtures("nothing_left")
def test_a_tensor_with_too_few_bytes(resnet: Path) -> None:
    model = onnx.load(resnet)
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.raw_data = tensor.raw_data[:-4]
    resnet.write_bytes(model.SerializeToString())
    assert "bytes, not" in message(resnet)


def outside(path: Path, location: str, **entries: str) -> Path:
    """A network whose weights are said to lie in another file."""
    model = onnx.load(convolution(path))
    (tensor,) = [t for t in model.graph.initializer if t.name == "w"]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    describe(path)
    return path


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "sub/../../secret", "C:\\secret", "..\\secret", "link", ""]
)
def test_weights_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(weights(8, 3, 3, 3).tobytes())
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    assert "which is not in its folder, and is not opened" in message(outside(folder / "n.onnx", location))


@pytest.mark.usefixtures("nothing_left")
def test_weights_in_a_file_that_is_missing_or_too_short(tmp_path: Path) -> None:
    path = outside(tmp_path / "n.onnx", "n.data")
    assert "keeps its weights in n.data, which is not beside it" in message(path)
    (tmp_path / "n.data").write_bytes(b"\x00" * 100)
    assert "n.data ends before the weights of 'w'" in message(path)
    for offset in ("-5", "many"):
        assert "n.onnx" in message(outside(tmp_path / "n.onnx", "n.data", offset=offset))


@pytest.mark.usefixtures("nothing_left")
def test_operators_of_somebodys_own(tmp_path: Path) -> None:
    path = convolution(tmp_path / "n.onnx", ("Gadget", ["a"], ["m"], {"domain": "my.company"}), last="m")
    describe(path)
    assert "uses operators that ONNX does not define (my.company.Gadget)" in message(path)


@pytest.mark.usefixtures("nothing_left")
def test_operators_of_somebodys_own_inside_a_branch(tmp_path: Path) -> None:
    from onnx import helper

    gadget = helper.make_node("Gadget", ["a"], ["t"], domain="my.company")
    then = helper.make_graph([gadget], "then", [], [helper.make_tensor_value_info("t", 1, None)])
    path = convolution(
        tmp_path / "n.onnx", ("If", ["yes"], ["m"], {"then_branch": then, "else_branch": then}), last="m",
        constants={"yes": np.array(True)},
    )  # fmt: skip
    describe(path)
    assert "my.company.Gadget" in message(path)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"more_inputs": ["z"]}, r"takes 2 inputs \(x, z\); a source takes exactly one"),
        ({"kind": TensorProto.INT64}, "takes INT64 values as its input x"),
        ({"shape": ["n", 7, 32, 32]}, "which is no picture"),
        ({"constants": {"w": weights(8, 4, 3, 3)}}, "onnxruntime cannot run"),
    ],
)
def test_graphs_that_cannot_be_a_source(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = convolution(tmp_path / "n.onnx", **change)
    describe(path)
    with pytest.raises(SourceError, match=expected):
        _ = open_source(path).facts


@pytest.mark.usefixtures("nothing_left")
def test_features_that_are_no_numbers(tmp_path: Path) -> None:
    path = convolution(tmp_path / "n.onnx", ("Log", ["a"], ["m"], {}), last="m")
    describe(path)
    assert "features that are no numbers" in message(path)


HOSTILE = [
    'training"); open("{0}","w")#',
    '"]; open("{0}", "w") #',
    "a\nopen('{0}','w')",
    "forward",
    "class",
    "9 lives",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_in_a_file_is_run(tmp_path: Path, name: str) -> None:
    bad = name.format(tmp_path / "pwned")
    path = convolution(tmp_path / "n.onnx", ("Relu", ["a"], ["m"], {"name": bad}), last="m")
    model = onnx.load(path)
    model.graph.node[0].name = f"{bad} again"
    path.write_bytes(model.SerializeToString())
    source = opened(path)
    x, ours = features(source)
    close(ours, by_onnxruntime(path, x, "y"))
    assert source.frozen_because == ""
    assert not (tmp_path / "pwned").exists()


def test_the_packages_may_be_missing(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx2torch" else find(name))
    assert "ONNX files need the packages onnx2torch; `pip install onnx2torch`" in message(resnet)


# ---------------------------------------------------------------- the kit's own


@pytest.mark.field
@pytest.mark.parametrize(
    ("file", "settings", "width", "trainable"),
    [
        ("yamnet/yamnet.onnx", {}, 1024, 3_000_000),
        ("speech_embedding/embedding_model.onnx", {}, 96, 300_000),
        ("speech_embedding/melspectrogram.onnx", {"preprocessing": {"input_shape": [16000]}}, 97 * 32, 0),
    ],
)
def test_networks_of_the_kit(
    kit: Path, tmp_path: Path, file: str, settings: dict[str, Any], width: int, trainable: int
) -> None:
    path = Path(shutil.copyfile(kit / "sources" / file, tmp_path / Path(file).name))
    path.with_suffix(".json").write_text(json.dumps({"modality": "audio", **settings}))
    source = open_source(path)
    assert source.facts["width"] == width
    assert bool(source.frozen_because) == (not trainable)
    assert source.facts["trainable"] >= trainable
    backbone = source.backbone()
    assert bool(backbone.stages) == bool(trainable)
    for k in range(1, len(backbone.stages) + 1):
        backbone.cut(k)
    x, ours = features(source, 2)
    output = {"yamnet": "embedding", "embedding_model": "conv2d_19", "melspectrogram": "output"}[path.stem]
    close(ours, by_onnxruntime(path, x, output), 1e-5)


def test_numbers_of_other_kinds_are_kept(tmp_path: Path) -> None:
    """Whole-number constants keep their type on the way through the prepared file."""
    picked = ("Gather", ["a", "which"], ["m"], {"axis": 1})
    path = convolution(tmp_path / "g.onnx", picked, last="m", constants={"which": np.array([5, 0, 5], np.int32)})
    x, ours = features(opened(path))
    assert ours.shape == (4, 3)
    close(ours, by_onnxruntime(path, x, "y"))
    kept = onnx.load(opened(path).build_files["network.onnx"])
    assert np.int32 in {numpy_helper.to_array(t).dtype.type for t in kept.graph.initializer}
