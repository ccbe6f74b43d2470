"""Networks of the library transformers as sources: folders and hub names, exact cuts, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headstart
from headstart._errors import SourceError
from headstart._runtime import quiet
from headstart.modalities import modality
from headstart.sources import open_source
from headstart.sources.providers.hf_hub import preprocessing_of
from hub_standin import Hub
from pictures import textures

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {**SMALL, "intermediate_size": 64},
    "deit": {**SMALL, "intermediate_size": 64},
    "beit": {**SMALL, "intermediate_size": 64},
    "dinov2": SMALL,
    "swin": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    "convnextv2": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "resnet": {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8},
}
PREPARING = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "rescale_factor": 1 / 255, "resample": 3, "size": {"height": 32, "width": 32},
}  # fmt: skip


def write(folder: Path, family: str) -> Any:
    """A folder as transformers saves it; returns its network."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **FAMILIES[family])).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARING))
    return model


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "vit"
    write(folder, "vit")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_librarys_own_and_every_cut_is_exact(family: str, tmp_path: Path) -> None:
    model = write(tmp_path / family, family)
    source = open_source(tmp_path / family)
    backbone = source.backbone()
    x = backbone.example_input(3)
    with torch.inference_mode():
        ours, out = backbone.network(x), model(pixel_values=x)
        assert ours.shape == (3, source.facts["width"])
        if family in ("vit", "deit"):  # their pooler is a layer of the pre-training task
            torch.testing.assert_close(ours, out.last_hidden_state[:, 0])
        else:
            torch.testing.assert_close(ours, out.pooler_output.flatten(1))
        assert source.stages or family == "swin"
        for k in range(1, len(source.stages) + 1):
            cut = backbone.cut(k)
            with cut.prefix() as prefix:
                activation = prefix(x)
            with cut.suffix() as suffix:
                torch.testing.assert_close(suffix(activation), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["extract", "partial", "full"])
def test_fit_save_load(strategy: str, vit: Path, tmp_path: Path) -> None:
    pictures, labels = textures(16)
    with quiet():
        model = headstart.fit(pictures, labels, source=str(vit), strategy=strategy, views=1, control="none")
        model.save(tmp_path / "m")
    again = headstart.load(tmp_path / "m")
    np.testing.assert_array_equal(again.predict_proba(pictures), model.predict_proba(pictures))
    assert again.config["library"] == "transformers"


def test_the_preparation_is_transformers_own() -> None:
    from PIL import Image

    for settings in (
        PREPARING,
        {**PREPARING, "size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
    ):
        kind = transformers.BitImageProcessor if "crop_size" in settings else transformers.ViTImageProcessor
        pixels = np.linspace(0, 255, 60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
        theirs = kind(**settings)(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        preprocessing, image = preprocessing_of(settings), modality("image")
        prepared = image.prepare(image.decode(pixels), preprocessing)
        ours = image.to_input(torch.from_numpy(prepared[None]), preprocessing)[0].numpy()
        assert np.abs(ours - theirs).max() < 0.05


def test_what_is_refused(vit: Path, tmp_path: Path) -> None:
    import shutil

    def changed(**change: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(vit, folder)
        config = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SourceError) as caught:
            _ = open_source(folder).facts
        return str(caught.value)

    assert "knows no architecture 'nonsense'" in changed(model_type="nonsense")
    assert "takes no pictures alone" in changed(model_type="bert")
    assert "are missing or of another shape" in changed(hidden_size=64)
    assert "quantization_config cannot be an argument" in changed(quantization_config={"quant_method": "gptq"})
    (tmp_path / "half").mkdir()
    shutil.copy(vit / "config.json", tmp_path / "half")
    with pytest.raises(SourceError, match=r"has no model.safetensors; copy it beside its config.json"):
        open_source(tmp_path / "half")
    with pytest.raises(SourceError, match="hf/USER/NAME"):
        open_source("hf/alone")


def test_a_repositorys_own_code_is_not_run(vit: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(vit, tmp_path / "vit")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    assert open_source(folder).facts["width"] == 32
    assert not (tmp_path / "pwned").exists()


CLIENT = """
from headstart.sources import open_source
source = open_source("hf/someone/vit")
print(source.facts["width"], source.card["origin"])
"""


def test_from_a_hub_and_then_without_it(vit: Path, tmp_path: Path, cache: Path) -> None:
    files = {p.name: p.read_bytes() for p in vit.iterdir()} | {"README.md": b"# a network"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    kept |= {
        "HF_HOME": str(tmp_path), "HEADSTART_CACHE": str(cache), "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip

    def client(address: str) -> subprocess.CompletedProcess[str]:
        env = kept | {"HF_ENDPOINT": address}
        return subprocess.run([sys.executable, "-c", CLIENT], env=env, capture_output=True, text=True, timeout=120)

    with Hub() as hub:
        hub.publish("someone/vit", files)
        online = client(hub.address)
        assert not [a.path for a in hub.asked if "README" in a.path]
    assert online.stdout == "32 someone/vit\n", online.stderr
    assert "downloading someone/vit/model.safetensors, config.json, preprocessor_config.json: 0 MB" in online.stderr
    assert client(hub.address).stdout == online.stdout  # the hub is gone, the cache answers
    again = kept | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "other")}
    failed = subprocess.run([sys.executable, "-c", CLIENT], env=again, capture_output=True, text=True, timeout=120)
    assert "looked for someone/vit/model.safetensors in the local hub cache" in failed.stderr.splitlines()[-1]
