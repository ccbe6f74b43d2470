"""Pre-training: what it writes, that it continues after a kill, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from headstart._errors import DataError, OptionError
from headstart._pretrain import _augment, _prepare, _trainer, pretrain
from headstart.modalities import Example, modality
from headstart.targets import Target

SMALL = {
    "architecture": "resnet10t",
    "model_args": {"channels": [8, 16, 16, 32]},
    "size": 32,
    "batch_size": 16,
    "precision": "fp32",
    "augment": "shift",
}


def shapes(n: int = 48, bad: int = 0) -> Target:
    """Squares, crosses and rings on noise, 24 pixels a side; the last ``bad`` ones cannot be read."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24] - 12
    masks = [
        np.maximum(abs(x), abs(y)) < 7,
        (abs(x) < 2) | (abs(y) < 2),
        abs(np.hypot(x, y) - 8) < 2,
    ]
    examples, labels = [], []
    for i in range(n):
        picture = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8) + (masks[i % 3] * 180).astype(np.uint8)[..., None]
        content = b"not a picture" if i >= n - bad else np.roll(picture, rng.integers(-3, 4, 2), (0, 1))
        examples.append(Example(f"shape{i}", content))
        labels.append(i % 3)
    return Target(examples, np.array(labels), ("square", "cross", "ring"), modality("image"), name="shapes")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(shapes(), out=tmp_path_factory.mktemp("source") / "shapes", epochs=8, **SMALL)


def test_writes_a_complete_folder_and_leaves_nothing_else(source: Path) -> None:
    assert {f.name for f in source.iterdir()} == {"model.safetensors", "config.json", "README.md", "curve.png"}
    assert [f.name for f in source.parent.iterdir()] == ["shapes"]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    card = config["card"]
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["label_names"] == ["square", "cross", "ring"]
    assert card["examples"] == 48
    assert card["seed"] == 0
    assert card["accuracy"] > card["baseline_accuracy"]
    assert "48" in (source / "README.md").read_text(encoding="utf-8")


def test_timm_opens_the_folder_with_the_same_weights(source: Path) -> None:
    import timm

    network = timm.create_model(f"local-dir:{source}", pretrained=True).eval()
    assert network.num_classes == 3
    expected = weights(source)
    assert all(torch.equal(t, expected[name]) for name, t in network.state_dict().items())


def test_our_own_sources_open_it_with_the_same_features(source: Path) -> None:
    import timm

    from headstart.sources import open_source

    opened = open_source(str(source))
    x = torch.randn(2, 3, 32, 32)
    network = timm.create_model(f"local-dir:{source}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        assert torch.equal(opened.backbone().network(x), network(x))
    assert opened.preprocessing["size"] == [32, 32]


def test_half_is_half_the_size_and_opens(source: Path, tmp_path: Path) -> None:
    half = pretrain(shapes(), out=tmp_path / "half", epochs=1, half=True, **SMALL)
    sizes = [(f / "model.safetensors").stat().st_size for f in (source, half)]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_stopped_run_continues_to_the_same_weights(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = _trainer.Trainer.one_step

    def stop_at_9(self: _trainer.Trainer) -> None:
        if self.state.step == 9:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(_trainer, "_EVERY", 0.0)
    monkeypatch.setattr(_trainer.Trainer, "one_step", stop_at_9)
    with pytest.raises(KeyboardInterrupt):
        pretrain(shapes(), out=tmp_path / "again", epochs=8, **SMALL)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(_trainer.Trainer, "one_step", step)
    again = pretrain(shapes(), out=tmp_path / "again", epochs=8, **SMALL)
    assert all(torch.equal(t, weights(source)[name]) for name, t in weights(again).items())


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_weights(source: Path, tmp_path: Path) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_pretrain import SMALL, _trainer, pretrain, shapes
_trainer._EVERY, step = 0.0, _trainer.Trainer.one_step
def die(self):
    step(self)
    if self.state.step == 11:
        os._exit(9)
_trainer.Trainer.one_step = die
pretrain(shapes(), out={str(tmp_path / "killed")!r}, epochs=8, **SMALL)
"""
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ}, check=False)
    assert done.returncode == 9
    checkpoint = tmp_path / ".killed.pretrain" / "state.safetensors"
    assert checkpoint.is_file()
    killed = pretrain(shapes(), out=tmp_path / "killed", epochs=8, **SMALL)
    assert not checkpoint.exists()
    assert all(torch.equal(t, weights(source)[name]) for name, t in weights(killed).items())


def test_the_same_call_again_trains_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trainer.Trainer, "one_step", None)
    assert pretrain(shapes(), out=source, epochs=8, **SMALL) == source


def test_other_options_start_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trainer.Trainer, "run", _stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(shapes(), out=tmp_path / "a", epochs=1, **SMALL)
    mark = (tmp_path / ".a.pretrain" / "recipe").read_text()
    decoded = (tmp_path / ".a.pretrain" / "pixels.u8").stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        pretrain(shapes(), out=tmp_path / "a", epochs=2, **SMALL)
    assert (tmp_path / ".a.pretrain" / "recipe").read_text() != mark
    assert (tmp_path / ".a.pretrain" / "pixels.u8").stat().st_mtime_ns == decoded  # other epochs, the same images


def _stop(self: _trainer.Trainer, checkpoint: Path) -> None:
    raise KeyboardInterrupt


def test_a_budget_bounds_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trainer, "_seconds_per_step", lambda trainer: 1.0)
    out = pretrain(shapes(), out=tmp_path / "b", budget="10s", **SMALL)
    assert 1 <= json.loads((out / "config.json").read_text(encoding="utf-8"))["card"]["steps"] <= 10


def test_a_budget_that_leaves_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give it more time"):
        pretrain(shapes(), out=tmp_path / "b", budget=0.001, **SMALL)


def test_unreadable_images_are_counted_up_to_a_tenth(tmp_path: Path) -> None:
    out = pretrain(shapes(bad=3), out=tmp_path / "few", epochs=1, **SMALL)
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["card"]["skipped"] == 3
    with pytest.raises(DataError, match=r"6 of 48 .*shape42.*allow_bad"):
        pretrain(shapes(bad=6), out=tmp_path / "many", epochs=1, **SMALL)
    assert not (tmp_path / "many").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnet10"}, "resnet10t"),
        ({"augment": "mixup"}, "photo, shift, none"),
        ({"precision": "fp8"}, "fp32 or bf16"),
        ({"budget": "soon"}, "2m or 1h"),
        ({"epochs": 0}, "more than none"),
        ({"seed": -1}, "from 0 on"),
        ({"size": 2}, "at least 8"),
        ({"model_args": {"chanels": [1]}}, "chanels"),
    ],
)
def test_wrong_options_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        pretrain(shapes(), out=tmp_path / "x", **{**SMALL, **change})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_one_class_is_refused(tmp_path: Path) -> None:
    one = shapes().take(np.arange(0, 48, 3))
    with pytest.raises(DataError, match=r"one class only \(square\)"):
        pretrain(one, out=tmp_path / "x", **SMALL)


def test_a_folder_that_is_no_source_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(OptionError, match="is no source folder"):
        pretrain(shapes(), out=tmp_path, **SMALL)


def test_the_size_follows_small_images() -> None:
    assert _prepare.choose_size("resnet10t", shapes(), None) == 32
    assert _prepare.choose_size("resnet10t", shapes(), 48) == 48


def test_a_vision_transformer_gets_its_size() -> None:
    _, args = _prepare.new_network("vit_tiny_patch16_224", {"depth": 1}, 3, 32, 0)
    assert args == {"depth": 1, "img_size": 32}


def test_groups_stay_together_when_some_are_held_out() -> None:
    labels, groups = np.arange(60) % 3, np.repeat([f"g{i}" for i in range(12)], 5)
    train, held_out = _prepare.hold_out(labels, groups, 0)
    assert not set(groups[train]) & set(groups[held_out])
    assert len(train) + len(held_out) == 60


def test_variations_depend_on_the_seed_alone() -> None:
    batch = torch.arange(2 * 16 * 16 * 3).view(2, 16, 16, 3).to(torch.uint8)
    once, again = (_augment.shift(batch, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    photo = batch.permute(0, 3, 1, 2).float()
    a, b = (_augment.crop_and_flip(photo, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == photo.shape


def test_the_card_says_what_was_measured(source: Path, tmp_path: Path) -> None:
    tried = pretrain(
        shapes(), out=tmp_path / "tried", epochs=8, card={"licence": "CC0-1.0"}, try_on=[shapes(30)], **SMALL
    )
    card = json.loads((tried / "config.json").read_text())["card"]
    assert re.fullmatch(
        r"shapes: 30 labels, [\d.]+ % \(.+\); logistic regression on raw pixels: .+", card["transfer"][0]
    )
    page = (tried / "README.md").read_text()
    assert card["transfer"][0] in page
    assert "license: cc0-1.0" in page
    assert all(torch.equal(t, weights(source)[n]) for n, t in weights(tried).items())
