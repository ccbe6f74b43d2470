"""What is frozen is computed once: per source, cut, preprocessing, view and content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart import features
from headstart.features import DEPTHS, INPUT, Features, extract
from headstart.modalities import Example, modality
from headstart.sources import Backbone, Source, open_source
from pictures import textures, write_folders

IMAGE = modality("image")


@pytest.fixture
def source(tiny: str) -> Source:
    return open_source(tiny)


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_PRECISION", "fp32")


def examples(n: int, seed: int = 0) -> list[Example]:
    return [Example(f"picture {i}", p) for i, p in enumerate(textures(n, seed=seed)[0])]


def run(source: Source, items: list[Example], kind: str = DEPTHS, views: int = 1) -> Features:
    return extract(source, IMAGE, items, kind=kind, views=views)


def everything(found: Features, view: int = 0) -> Any:
    return found.take(np.arange(len(found.digests)), view)


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no network can be built and nothing can be decoded."""
    monkeypatch.setattr(Source, "backbone", None)
    monkeypatch.setattr(type(IMAGE), "decode", None)


@pytest.mark.parametrize("kind", [DEPTHS, INPUT, "cut:3"])
def test_the_second_time_nothing_runs(source: Source, kind: str, request: pytest.FixtureRequest) -> None:
    first = run(source, examples(20), kind, views=2)
    assert first.computed == 40
    request.getfixturevalue("no_forward")
    again = run(source, examples(20), kind, views=2)
    assert again.computed == 0
    for view in (0, 1):
        assert np.array_equal(everything(first, view), everything(again, view))


def test_ten_new_images_cost_ten(source: Source) -> None:
    assert run(source, examples(30)).computed == 30
    assert run(source, examples(40)).computed == 10


def test_one_more_view_costs_that_view(source: Source) -> None:
    run(source, examples(8), INPUT)
    assert run(source, examples(8), INPUT, views=3).computed == 16


def test_names_and_places_do_not_matter_but_contents_do(source: Source, tmp_path: Path) -> None:
    files = sorted(write_folders(tmp_path / "a", 6).rglob("*.png"))
    assert run(source, [Example(str(f), f) for f in files]).computed == 6
    moved = [Example("moved", f.rename(tmp_path / f.name)) for f in files]
    assert run(source, moved).computed == 0
    assert run(source, [Example("bytes", e.raw()) for e in moved]).computed == 0
    moved[0].content.write_bytes(files[1].parent.joinpath(moved[1].content).read_bytes())  # type: ignore[union-attr]
    assert run(source, moved).computed == 0  # now a copy of another one
    other = textures(1, seed=9)[0][0]
    assert run(source, [*moved, Example("new", other)]).computed == 1


def test_another_source_precision_or_preprocessing_is_another_key(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    run(source, examples(4))
    larger = dataclasses.replace(source, preprocessing=dict(source.preprocessing) | {"crop_pct": 0.9})
    assert run(larger, examples(4)).computed == 4
    assert run(source, examples(4), "cut:2").computed == 4
    assert run(open_source("bundled/glyphs"), examples(4)).computed == 4
    monkeypatch.setenv("HEADSTART_PRECISION", "bf16")
    assert run(source, examples(4)).computed == 4


def test_cached_equals_fresh(source: Source) -> None:
    items = examples(20)
    run(source, items)
    cached = everything(run(source, items))
    backbone: Backbone = source.backbone()
    batch = np.stack([IMAGE.prepare(IMAGE.decode(e.raw()), source.preprocessing) for e in items])
    with torch.inference_mode(), backbone.depths() as depths:
        fresh = depths(IMAGE.to_input(torch.from_numpy(batch), source.preprocessing))
    np.testing.assert_allclose(cached, fresh.numpy(), rtol=1e-4, atol=1e-5)


def test_cached_activations_equal_fresh_ones(source: Source) -> None:
    items = examples(5)
    cached = everything(run(source, items, "cut:3", views=2), view=1)
    batch = np.stack([IMAGE.prepare(IMAGE.decode(e.raw()), source.preprocessing, 1) for e in items])
    with torch.inference_mode(), source.backbone().cut(3).prefix() as prefix:
        fresh = prefix(IMAGE.to_input(torch.from_numpy(batch), source.preprocessing))
    assert cached.shape == tuple(fresh.shape)
    np.testing.assert_allclose(cached, fresh.numpy(), rtol=1e-4, atol=1e-5)


def test_bf16_activations_keep_their_bits(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = everything(run(source, examples(4), "cut:3"))
    monkeypatch.setenv("HEADSTART_PRECISION", "bf16")
    stored = everything(run(source, examples(4), "cut:3"))
    assert stored.dtype == np.int16
    restored = torch.from_numpy(stored).view(torch.bfloat16).float().numpy()
    assert np.abs(restored - exact).max() <= 0.03 * np.abs(exact).max()


def test_views_differ_and_are_the_same_every_time(source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(source, examples(4), INPUT, views=3)
    one, two, three = (everything(first, v) for v in range(3))
    assert not np.array_equal(one, two)
    assert not np.array_equal(two, three)
    assert one.dtype == np.uint8
    monkeypatch.setenv("HEADSTART_CACHE", str(cache / "other"))
    assert np.array_equal(everything(run(source, examples(4), INPUT, views=3), 2), three)


def test_unreadable_ones_are_named_and_the_rest_goes_on(source: Source, tmp_path: Path) -> None:
    good = examples(20)
    (tmp_path / "empty.png").touch()
    bad = [
        Example("text", b"hello"),
        Example("empty", tmp_path / "empty.png"),
        Example("gone", tmp_path / "gone.png"),
    ]
    found = run(source, [*good[:10], *bad, *good[10:]])
    assert sorted(found.problems) == [10, 11, 12]
    assert all("\n" not in reason for reason in found.problems.values())
    assert [i for i, d in enumerate(found.digests) if d is None] == [10, 11, 12]
    assert found.computed == 20
    again = run(source, [*good[:10], *bad, *good[10:]])
    assert again.computed == 0
    assert again.problems == found.problems
    raw = found.all_raw()
    assert raw.shape == (23, 3072)
    assert not raw[10:13].any()
    with pytest.raises(features._extract.BadExample):
        found.take(np.array([11]))


def test_nothing_readable_at_all(source: Source) -> None:
    found = run(source, [Example("text", b"hello"), Example("more", b"")])
    assert len(found.problems) == 2
    assert len(found.all_raw()) == 2


def test_copies_are_computed_once_and_given_to_all(source: Source) -> None:
    item = examples(1)[0]
    found = run(source, [item] * 40)
    rows = everything(found)
    assert len(np.unique(rows, axis=0)) == 1
    assert len(found.views[0].mapped()) == 1


def test_features_are_memory_mapped_and_read_only(source: Source) -> None:
    found = run(source, examples(6), "cut:2", views=2)
    maps, places = found.mapped(np.arange(6))
    assert len(maps) == len(places) == 2
    assert all(isinstance(m, np.memmap) and not m.flags.writeable for m in maps)
    assert np.array_equal(maps[1][places[1]], everything(found, 1))


def test_a_subset_keeps_rows_and_order(source: Source) -> None:
    found = run(source, examples(8))
    rows = np.array([5, 2])
    assert np.array_equal(everything(found.subset(rows)), found.take(rows))
    assert np.array_equal(found.subset(rows).raw(np.arange(2)), found.raw(rows))


def test_an_error_in_the_middle_loses_only_what_was_not_done(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = type(IMAGE).decode, []

    def decode(self: Any, raw: Any, preprocessing: Any = None) -> Any:
        if len(done) >= 40:
            raise KeyboardInterrupt
        done.append(1)
        return real(self, raw, preprocessing)

    monkeypatch.setattr(type(IMAGE), "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        run(source, examples(80))
    monkeypatch.setattr(type(IMAGE), "decode", real)
    assert run(source, examples(80)).computed < 80
    assert run(source, examples(80)).computed == 0
