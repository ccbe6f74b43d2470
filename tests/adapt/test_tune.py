"""Training a part of the network: frozen is frozen, the cache changes nothing, a kill changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.adapt import Candidate, Job, Journal, out_of_fold, strategies_for
from headstart.adapt import _tune as module
from headstart.adapt._tune import Tuned, Tuning, build, freeze, tune
from headstart.features import extract
from headstart.modalities import Example, modality
from headstart.sources import open_source
from pictures import textures

TUNINGS = {
    "partial": Tuning(cut=3, epochs=3),
    "light": Tuning(only_vectors=True, lr=2e-3, rate_decay=1.0, epochs=3),
    "full": Tuning(epochs=3),
    "scratch": Tuning(pretrained=False, lr=2e-3, head_lr=2e-3, epochs=3),
}


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_PRECISION", "fp32")


def make(tiny: str, folder: Path, *, n: int = 20, classes: int = 2, views: int = 2, seed: int = 0) -> Job:
    source, image = open_source(tiny), modality("image")
    pictures, labels = textures(n, classes)
    examples = [Example(str(i), p) for i, p in enumerate(pictures)]
    codes = np.unique(labels, return_inverse=True)[1]
    pooled = extract(source, image, examples)
    return Job(source, image, examples, codes, classes, np.arange(n), pooled, seed, Journal(folder), views=views)


@pytest.fixture
def job(tiny: str, tmp_path: Path) -> Job:
    return make(tiny, tmp_path / "run")


def weights(tuned: Tuned) -> dict[str, torch.Tensor]:
    assert tuned.network is not None
    head = {f"head.{i}": torch.from_numpy(p) for i, p in enumerate(tuned.head.layers[0])}
    return dict(tuned.network) | head


def equal(one: Tuned, other: Tuned) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def everything(job: Job) -> Any:
    return np.arange(len(job.labels))


@pytest.mark.parametrize("name", ["partial", "light", "full"])
def test_frozen_means_frozen(job: Job, name: str) -> None:
    """Weights, buffers and outputs of the frozen part are bit-equal before and after."""
    tuning = TUNINGS[name]
    before = {n: t.clone() for n, t in job.source.backbone().network.state_dict().items()}
    trainable = set(freeze(job.source.backbone(), tuning))
    tuned = tune(job, tuning, everything(job), "step", epochs=3)
    after = tuned.network
    assert after is not None
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed <= trainable
    assert len(changed) > 0.8 * len(trainable)
    buffers = {n for n, _ in tuned.net.backbone.network.named_buffers()}
    assert not changed & buffers
    if name == "partial":
        assert not [n for n in changed if n.startswith(("conv1", "bn1", "layer1", "layer2"))]
        x = job.source.backbone().example_input()
        with torch.inference_mode():
            found = []
            for backbone in (tuned.net.backbone, job.source.backbone()):
                backbone.place(torch.device("cpu"))  # the same memory layout, so the same arithmetic
                with backbone.cut(tuning.cut).prefix() as prefix:
                    found.append(prefix(x))
        assert torch.equal(*found)
    if name == "light":
        assert all(before[n].ndim <= 1 for n in changed)


@pytest.mark.parametrize("name", ["partial", "light", "full"])
def test_depthwise_convolutions_in_bf16(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are kept in fp32, nothing is left behind, and frozen is frozen all the same."""
    import json

    import timm
    from safetensors.torch import save_file

    monkeypatch.setenv("HEADSTART_PRECISION", "bf16")
    place = tmp_path / "source"
    place.mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model("lcnet_035", num_classes=3).state_dict(), place / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "classifier": "classifier"}
    config = {"architecture": "lcnet_035", "num_classes": 3, "pretrained_cfg": cfg}
    (place / "config.json").write_text(json.dumps(config))
    job = make(str(place), tmp_path / "run", n=12, views=1)
    before = job.source.backbone().network.state_dict()
    trainable = set(freeze(job.source.backbone(), TUNINGS[name]))
    tuned = tune(job, TUNINGS[name], everything(job), "step")
    assert tuned.network is not None
    assert {n for n in before if not torch.equal(before[n], tuned.network[n])} <= trainable
    assert not [n for n, m in tuned.net.backbone.network.named_modules() if "forward" in m.__dict__]
    assert np.isfinite(tuned.logits(everything(job))).all()


def test_scratch_starts_at_random_and_learns_its_own_statistics(job: Job) -> None:
    start = job.source.scratch(job.seed).network.state_dict()
    tuned = tune(job, TUNINGS["scratch"], everything(job), "step", epochs=2)
    assert tuned.network is not None
    assert not torch.equal(tuned.network["bn1.running_mean"], start["bn1.running_mean"])
    assert not torch.equal(tuned.network["conv1.0.weight"], job.source.backbone().network.conv1[0].weight)


def test_training_starts_from_the_probe(job: Job) -> None:
    from headstart.adapt import fit_probe

    net = build(job, TUNINGS["partial"], everything(job))
    first, last = job.columns(None)
    x = job.pooled.take(everything(job))[:, first:last]
    probe = fit_probe(x, job.labels, 2, job.blocks, seed=job.seed)
    np.testing.assert_allclose(net.as_head().logits(job.pooled.take(everything(job))), probe.logits(x), atol=1e-3)
    np.testing.assert_allclose(module.predict(net, everything(job)), probe.logits(x), atol=1e-2)


@pytest.mark.parametrize("epochs", [4, None], ids=["fixed", "early stopping"])
def test_the_cache_changes_no_weight(job: Job, epochs: int | None) -> None:
    cached = tune(job, Tuning(cut=3, epochs=4), everything(job), "a", epochs=epochs)
    fresh = tune(job, Tuning(cut=3, epochs=4, cached=False), everything(job), "b", epochs=epochs)
    for name, tensor in weights(cached).items():
        torch.testing.assert_close(tensor, weights(fresh)[name], rtol=1e-4, atol=1e-5)
    rows = everything(job)
    np.testing.assert_allclose(cached.logits(rows), fresh.logits(rows), atol=1e-3)


@pytest.mark.parametrize("name", list(TUNINGS))
def test_a_stopped_training_continues_to_the_same_weights(job: Job, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    whole = tune(job, TUNINGS[name], everything(job), "whole")
    keep, calls = module._State._keep, []

    def stop(self: Any, *args: Any) -> None:
        keep(self, *args)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module._State, "_keep", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(job, TUNINGS[name], everything(job), "again")
    assert job.journal.get("again-checkpoint") is not None
    ran: list[int] = []
    monkeypatch.setattr(module._State, "_keep", lambda self, *args: (ran.append(self.epoch), keep(self, *args))[1])
    again = tune(job, TUNINGS[name], everything(job), "again")
    assert ran == ([3] if name == "scratch" else [2, 3])  # what was done is not done again
    assert equal(whole, again)
    assert whole.facts == again.facts
    assert job.journal.get("again-checkpoint") is None


def test_the_same_seed_the_same_weights_and_another_seed_others(tiny: str, tmp_path: Path) -> None:
    found = [
        tune(make(tiny, tmp_path / str(i), seed=seed), TUNINGS["partial"], np.arange(20), "step", epochs=2)
        for i, seed in enumerate((0, 0, 1))
    ]
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


def test_training_touches_the_global_random_numbers_of_nobody(job: Job) -> None:
    torch.manual_seed(4)
    np.random.seed(4)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(4)
    np.random.seed(4)
    tune(job, TUNINGS["scratch"], everything(job), "step", epochs=1)
    assert (torch.rand(1), np.random.rand()) == expected


def test_only_the_training_rows_are_learnt_from(job: Job) -> None:
    """Other labels outside the training rows change nothing."""
    train = np.arange(14)
    one = tune(job, TUNINGS["partial"], train, "a")
    job.labels[14:] = 1 - job.labels[14:]
    assert equal(one, tune(job, TUNINGS["partial"], train, "b"))


def test_early_stopping_and_the_average_of_the_best(job: Job) -> None:
    tuned = tune(job, Tuning(cut=3, epochs=30, patience=2, lr=0.0, head_lr=0.0), everything(job), "step")
    assert tuned.facts["ran"] < 30  # nothing gets better at a rate of zero
    start = build(job, Tuning(cut=3), module._inner(job, everything(job))[0])
    np.testing.assert_allclose(
        tuned.head.logits(job.pooled.take(everything(job))),
        start.as_head().logits(job.pooled.take(everything(job))),
        atol=1e-3,
    )


@pytest.mark.parametrize("n", [2, 3, 5, 17])
@pytest.mark.parametrize("name", ["partial", "scratch"])
def test_very_few_examples(tiny: str, tmp_path: Path, n: int, name: str) -> None:
    job = make(tiny, tmp_path, n=n, views=1)
    tuned = tune(job, TUNINGS[name], everything(job), "step")
    assert np.isfinite(tuned.logits(everything(job))).all()


def test_the_tuned_network_and_head_give_the_tuned_logits(job: Job) -> None:
    """What is saved (network, head on pooled features) is what was validated (suffix on cached activations)."""
    tuned = tune(job, TUNINGS["partial"], everything(job), "step", epochs=3)
    backbone = job.source.backbone()
    assert tuned.network is not None
    backbone.network.load_state_dict(dict(tuned.network))
    image = job.modality
    batch = np.stack([image.prepare(image.decode(e.raw()), job.source.preprocessing) for e in job.examples])
    with torch.inference_mode(), backbone.depths() as depths:
        pooled = depths(image.to_input(torch.from_numpy(batch), job.source.preprocessing)).numpy()
    np.testing.assert_allclose(tuned.head.logits(pooled), tuned.logits(everything(job)), atol=1e-3)


def test_a_fold_that_was_finished_is_not_trained_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (candidate,) = strategies_for("extract")[0].candidates(job)[:1]
    train, held = np.arange(15), np.arange(15, 20)
    logits, facts = out_of_fold(candidate, job, 0, train, held)
    monkeypatch.setattr(type(candidate), "fit", None)
    again, known = out_of_fold(candidate, job, 0, train, held)
    assert np.array_equal(logits, again)
    assert dict(facts) == known


def candidates(job: Job, name: str) -> list[Candidate]:
    return strategies_for(name)[0].candidates(job)


def test_strategies_are_in_the_order_of_cost() -> None:
    assert [s.name for s in strategies_for("auto")] == ["extract", "partial", "light", "full"]
    assert [s.name for s in strategies_for("scratch")] == ["scratch"]


@pytest.mark.parametrize("name", ["extract", "partial", "light", "full", "scratch"])
def test_every_strategy_estimates_its_time(job: Job, name: str) -> None:
    for candidate in candidates(job, name):
        one, five = (candidate.seconds(job, n) for n in (1, 5))
        assert 0 < one < 600
        assert five > one
