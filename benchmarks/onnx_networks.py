"""ONNX files as sources: what converts, how equal the features are, and whether tuning from ONNX is tuning.

Networks of eight families are exported by torch's two exporters, with a batch of any size and (the exporters' default)
of one. Two have real weights, and are tuned from the ONNX file and from the native source on one draw of 100 photos.
The kit's own ONNX networks are opened too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from kit import WORK, draw, kit_path
from once import once

from headstart import open_source
from headstart._runtime import quiet
from headstart.sources import Source

REAL = {"tf_efficientnet_lite0": "bundled/efficientnet-lite0", "mobilenetv2_100": "mobilenetv2_100"}
RANDOM = (
    "resnet18",
    "regnetx_002",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "densenet121",
)
EXPORTS = ("18, dynamo", "18, dynamo, batch 1", "13, legacy", "13, legacy, batch 1")
WAYS = ("light", "full")
KIT = {
    "yamnet": ("yamnet/yamnet.onnx", {}),
    "speech embedding": ("speech_embedding/embedding_model.onnx", {}),
    "mel spectrogram": ("speech_embedding/melspectrogram.onnx", {"preprocessing": {"input_shape": [16000]}}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    kit = kit_path(options.kit)
    warnings.simplefilter("ignore")
    tuned: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place, quiet():
        os.environ["HEADSTART_CACHE"] = f"{place}/cache"
        rows = [row for name in (*REAL, *RANDOM) for row in exported(kit, name, Path(place))]
        rows += [of_the_kit(kit, name, Path(place)) for name in KIT]
        for name in REAL:
            for way in WAYS:
                for label, source in (
                    ("native", native(kit, name).name),
                    ("ONNX", f"{place}/{name}/{EXPORTS[0]}.onnx"),
                ):
                    found = once(draw(kit, "ants_bees", options.seed), way, source, options.seed)
                    tuned.append({"network": name, "way": way, "from": label, **found})
    print(json.dumps({"rows": rows, "tuned": tuned}))


def native(kit: Path, name: str) -> Source:
    """The source with real weights that is exported."""
    local = kit / "sources" / REAL[name]
    return open_source(local if local.is_dir() else REAL[name])


def exported(kit: Path, name: str, place: Path) -> Iterator[dict[str, Any]]:
    """A row per exporter: the file is written, opened as a source, and compared with the network it came from."""
    network, preprocessing = _network(kit, name)
    (place / name).mkdir()
    for export in EXPORTS:
        path = place / name / f"{export}.onnx"
        row = {"network": name, "export": export, "weights": "real" if name in REAL else "random"}
        try:
            _export(network, path, export, preprocessing["size"])
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            yield row | {"reason": f"torch cannot export it ({type(error).__name__})"}
            continue
        path.with_suffix(".json").write_text(json.dumps({"preprocessing": preprocessing}))
        yield row | _opened(path, network)


def _network(kit: Path, name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """With a layer of class scores, as people export it: its features are what goes into that."""
    if name in REAL:
        source = native(kit, name)
        backbone = source.backbone().network
        scores = torch.nn.Linear(int(source.facts["width"]), 1000)
        return torch.nn.Sequential(backbone, scores).eval(), dict(source.preprocessing)
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0).eval()
    scores = torch.nn.Linear(backbone.num_features, 1000)
    side = {"size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    return torch.nn.Sequential(backbone, scores).eval(), side


def _export(network: torch.nn.Module, path: Path, export: str, size: list[int]) -> None:
    new, one = "dynamo" in export, "batch 1" in export
    x = torch.randn(1 if one else 2, 3, *size)
    options: dict[str, Any] = {
        "input_names": ["picture"],
        "output_names": ["scores"],
        "opset_version": 18 if new else 13,
    }
    if not one:
        axis = (
            {"dynamic_shapes": ({0: torch.export.Dim("n", min=1)},)} if new else {"dynamic_axes": {"picture": {0: "n"}}}
        )
        options |= axis
    if not new:  # at version 13 there is no fused attention; the newer exporter's files come first
        for module in network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    torch.onnx.export(network, (x,), path, dynamo=new, **({"verbose": False} if new else {}), **options)


def _opened(path: Path, network: torch.nn.Module | None) -> dict[str, Any]:
    source = open_source(path)
    facts = source.facts
    row = {
        "share": facts["trainable"] / max(1, facts["parameters"]),
        "stages": len(facts["stages"]),
        "reason": facts.get("frozen_because", ""),
        "onnxruntime": facts.get("differs_by", 0.0),
    }
    if network is not None:
        backbone = source.backbone()
        x = backbone.example_input(4)
        with torch.inference_mode():
            theirs, ours = network[0](x).flatten(1), backbone.network(x).flatten(1)  # type: ignore[index]
        row["native"] = float(((theirs - ours).abs().amax(1) / theirs.abs().amax(1)).max())
        for cut in range(1, len(backbone.stages) + 1):
            backbone.cut(cut)  # raises unless it is exact
    return row


def of_the_kit(kit: Path, name: str, place: Path) -> dict[str, Any]:
    """A row for one of the kit's own files, copied to have a JSON file beside it."""
    file, settings = KIT[name]
    path = place / Path(file).name
    shutil.copyfile(kit / "sources" / file, path)
    path.with_suffix(".json").write_text(json.dumps({"modality": "audio", **settings}))
    return {"network": name, "export": "as published", "weights": "real"} | _opened(path, None)


if __name__ == "__main__":
    WORK.mkdir(exist_ok=True)
    main()
