"""Where the network looked: the heat lies where the class is decided, and the figure about it can tell."""

from __future__ import annotations

import html.parser
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import headstart
from headstart import cli
from headstart._errors import DataError, ModelError, OptionError
from headstart._explain import _faithful, _network
from headstart._explain._words import percent
from headstart._runtime import quiet
from headstart.modalities import modality

GLYPHS, PHOTOS = "bundled/glyphs", "bundled/efficientnet-lite0"
COLOURS = {"red": (210, 60, 40), "blue": (40, 90, 210)}


def patches(n: int, classes: tuple[str, ...], seed: int) -> tuple[list[Any], list[str], list[tuple[slice, slice]]]:
    """Grey noise of 64 pixels; red and blue ones have a patch of 24 pixels somewhere, "plain" ones none."""
    random = np.random.default_rng(seed)
    pictures, labels, places = [], [], []
    for i in range(n):
        pixels = random.normal(110, 10, (64, 64, 3))
        label = classes[i % len(classes)]
        y, x = random.integers(4, 36, 2)
        place = slice(y, y + 24), slice(x, x + 24)
        if label in COLOURS:
            pixels[place] = np.array(COLOURS[label]) + random.normal(0, 10, (24, 24, 3))
        pictures.append(pixels.clip(0, 255).astype(np.uint8))
        labels.append(label)
        places.append(place)
    return pictures, labels, places


def fitted(source: str, **options: Any) -> Any:
    pictures, labels, _ = patches(36, ("red", "blue", "plain"), seed=0)
    with quiet():
        return headstart.fit(pictures, labels, source=source, strategy="extract", control="none", **options)


def write_source(folder: Path, architecture: str, args: dict[str, Any], size: int) -> str:
    import timm

    from headstart.sources import save_source

    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=2, **args).eval()
    folder.mkdir()
    save_source(
        folder, network, architecture=architecture, model_args=args,
        preprocessing={"size": [size, size], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear",
                       "mean": [0.5] * 3, "std": [0.25] * 3, "channels": 3},
        card={"name": architecture, "licence": "Apache-2.0"}, classes=["a", "b"],
    )  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def glyphs() -> Any:
    return fitted(GLYPHS)


@pytest.fixture(scope="module")
def saved(glyphs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = glyphs.save(tmp_path_factory.mktemp("models") / "model")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(patches(3, ("red", "blue"), seed=5)[0]):
        Image.fromarray(picture).resize((96, 64)).save(folder / f"{i} <b>&'.png")
    return folder


def on_patch(found: Any, places: list[tuple[slice, slice]], margin: int, cropped: int = 0) -> list[float]:
    """Share of each map's heat within ``margin`` original pixels of the patch; ``cropped`` were cut off all around."""
    shares = []
    for one, place in zip(found.maps, places):
        scale = one.heat.shape[0] / (64 - 2 * cropped)
        edges = [(max(s.start - cropped - margin, 0), s.stop - cropped + margin) for s in place]
        shares.append(float(one.heat[tuple(slice(int(a * scale), int(b * scale)) for a, b in edges)].sum()))
    return shares


# ---------------------------------------------------------------- the heat is in the right place


def test_the_heat_falls_on_what_decides_and_the_figure_shows_it(glyphs: Any) -> None:
    pictures, labels, places = patches(6, ("red", "blue"), seed=1)
    with quiet():
        found = headstart.explain(glyphs, pictures)
    assert (found.method, found.layer) == ("integrated gradients", "input")  # the last map is 2 × 2
    assert [m.label for m in found.maps] == labels
    assert np.mean(on_patch(found, places, 2)) > 0.5  # on a fifth of the area
    test = found.faithfulness
    assert test.better_than_random
    assert test.fall > 0.5
    assert test.fall > 2 * test.fall_random
    assert found.headlines()[0].startswith("the maps mark what this network uses: hiding the hottest 20 %")
    np.testing.assert_allclose(glyphs.predict_proba(pictures).max(axis=1), [m.probability for m in found.maps])


def test_grad_cam_of_a_network_for_photographs() -> None:
    model = fitted(PHOTOS)
    pictures, _, places = patches(3, ("red", "blue"), seed=2)
    with quiet():
        found = headstart.explain(model, pictures)
    assert (found.method, found.layer) == ("Grad-CAM", "blocks.6")
    assert np.mean(on_patch(found, places, 8, cropped=4)) > 0.5  # one of its 7 × 7 places around the patch
    assert found.untrained < 0.5


@pytest.mark.field
@pytest.mark.slow
def test_the_maps_of_real_photographs_beat_random_places(kit: Path) -> None:
    folders = [kit / "data" / "image" / "ants_bees" / name for name in ("ants", "bees")]
    files = [sorted(folder.iterdir()) for folder in folders]
    learn, fresh = [[f for fs in files for f in fs[part]] for part in (slice(60), slice(60, 70))]
    with quiet():
        model = headstart.fit(learn, [f.parent.name for f in learn], source=PHOTOS, strategy="extract", control="none")
        found = headstart.explain(model, fresh)
    assert found.method == "Grad-CAM"
    assert found.faithfulness.better_than_random
    assert found.faithfulness.fall > 2 * found.faithfulness.fall_random


def test_a_map_of_nothing_is_called_that(glyphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures with heat from elsewhere: the figure has to notice."""
    pictures = patches(6, ("red", "blue"), seed=1)[0]
    random = np.random.default_rng(0)

    def heat(self: Any, x: Any, plain: Any, column: int) -> Any:
        field = np.kron(random.random((6, 6)), np.ones((8, 8))).astype(np.float32)
        return field / field.sum()

    monkeypatch.setattr(_network.Explainer, "heat", heat)
    with quiet():
        found = headstart.explain(glyphs, pictures)
    assert not found.faithfulness.better_than_random
    assert "no better than random" in found.headlines()[0]


def test_an_empty_map_is_called_that(glyphs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_network.Explainer, "heat", lambda *_: np.zeros((48, 48), np.float32))
    with quiet():
        found = headstart.explain(glyphs, patches(2, ("red", "blue"), seed=1)[0], out=tmp_path / "out")
    assert found.faithfulness is None
    assert "every map is empty" in found.headlines()[0]
    assert "The map is empty" in (tmp_path / "out" / "index.html").read_text()


def test_the_class_that_is_asked_for(glyphs: Any) -> None:
    both = np.concatenate([patches(1, (c,), seed=3)[0][0][:, :32] for c in ("red", "blue")], axis=1)
    both[:] = 110
    both[20:44, 4:28], both[20:44, 36:60] = COLOURS["red"], COLOURS["blue"]
    halves = {}
    with quiet():
        for name in COLOURS:
            (one,) = headstart.explain(glyphs, [both], class_name=name).maps
            assert one.explained == name
            halves[name] = one.heat[:, :24].sum() / one.heat.sum()
    assert halves["red"] > halves["blue"] + 0.3


# ---------------------------------------------------------------- every kind of network


SMALL_SWIN = {"img_size": 128, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 4]}
SMALL_VIT = {"img_size": 64, "patch_size": 8, "depth": 3}


@pytest.mark.parametrize(
    ("architecture", "args", "size", "methods"),
    [
        ("vit_tiny_patch16_224", SMALL_VIT, 64,
         {"auto": "input", "grad-cam": "blocks.1", "gradient-x-activation": "blocks.1"}),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, 128, {"auto": "layers.3", "integrated-gradients": "input"}),
        ("mobilenetv2_050", {}, 128, {"auto": "blocks.6"}),
        ("resnet10t", {"channels": [8, 16, 16, 32]}, 64, {"auto": "input", "grad-cam": "layer3"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_maps_of_every_kind_of_network(
    architecture: str, args: dict[str, Any], size: int, methods: dict[str, str], tmp_path: Path
) -> None:
    """Random weights with a trained head: for transformers enough to tell colours by, so the heat has a place to be."""
    model = fitted(write_source(tmp_path / "source", architecture, args, size))
    pictures, _, places = patches(3, ("red", "blue"), seed=2)
    for method, layer in methods.items():
        with quiet():
            found = headstart.explain(model, pictures, method=method)
        assert found.layer == layer
        assert all(m.heat.shape == (size, size) and m.heat.dtype == np.float32 for m in found.maps)
        assert all(m.heat.sum() == pytest.approx(1, abs=1e-3) and m.heat.min() >= 0 for m in found.maps)
        if architecture.startswith(("vit", "swin")):
            assert np.mean(on_patch(found, places, 0)) > 24 * 24 / 64 / 64, method  # more than its area


@pytest.mark.parametrize(("cut", "layer"), [(2, "layer1"), ("all", "layer4")])
def test_a_head_on_other_depths(tiny: str, cut: Any, layer: str) -> None:
    """Stages above those that the head reads do not matter, and are not looked at."""
    with quiet():
        found = headstart.explain(fitted(tiny, cut=cut), patches(2, ("red",), 1)[0], method="auto")
    if cut == "all":  # its last stage is one place
        assert found.layer == "input"
    else:
        assert found.layer == layer


@pytest.mark.parametrize(
    ("shape", "width", "sides", "prefix", "expected"),
    [
        ((2, 8, 5, 7), 8, (50, 70), None, ("first", (5, 7), 0)),
        ((2, 5, 7, 8), 8, (50, 70), None, ("last", (5, 7), 0)),
        ((2, 36, 8), 8, (50, 70), None, ("tokens", (5, 7), 1)),
        ((2, 35, 8), 8, (50, 70), 0, ("tokens", (5, 7), 0)),
        ((2, 37, 8), 8, (50, 70), 1, None),
        ((2, 8), 8, (50, 70), None, None),
    ],
)
def test_a_stage_is_laid_over_the_input(shape: Any, width: int, sides: Any, prefix: int | None, expected: Any) -> None:
    grid = _network._grid_of(shape, width, sides, prefix)
    if expected is None:
        assert grid is None
        return
    assert grid is not None
    assert (grid.order, grid.shape, grid.prefix) == expected
    seen: list[torch.Tensor] = []
    grid.register_forward_hook(lambda m, a, out: seen.append(out))
    x = torch.arange(float(np.prod(shape))).reshape(shape)
    assert torch.equal(grid.through(x), x)
    assert torch.equal(grid.hook(grid, (), [x])[0], x)
    assert seen[0].shape == (2, 8, 5, 7)
    at = {"first": lambda: x[1, 3, 2, 6], "last": lambda: x[1, 2, 6, 3],
          "tokens": lambda: x[1, grid.prefix + 2 * 7 + 6, 3]}  # fmt: skip
    assert seen[0][1, 3, 2, 6] == at[grid.order]()


def test_a_network_without_gradients_is_one_line(glyphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.sources import Backbone

    depths = Backbone.depths

    class Frozen(Backbone):
        def depths(self) -> Any:
            from contextlib import contextmanager

            @contextmanager
            def run() -> Any:
                with depths(self) as function:
                    yield lambda x: function(x).detach()

            return run()

    monkeypatch.setattr(Backbone, "depths", Frozen.depths)
    with quiet(), pytest.raises(OptionError, match="gives no gradient"):
        headstart.explain(glyphs, patches(1, ("red",), 1)[0])


def test_the_model_is_left_as_it_was(glyphs: Any) -> None:
    pictures = patches(2, ("red", "blue"), 4)[0]
    before = glyphs.predict_proba(pictures)
    with quiet():
        headstart.explain(glyphs, pictures)
    assert np.array_equal(glyphs.predict_proba(pictures), before)
    assert not [m for m in glyphs.backbone().network.modules() if m._forward_hooks]


# ---------------------------------------------------------------- the deletion test's parts


def test_the_hottest_part_and_its_copies() -> None:
    heat = np.zeros((10, 10))
    heat[2:5, 3:8] = np.arange(1, 16).reshape(3, 5)
    assert _faithful.hottest(heat).sum() == 15  # the rest has no heat
    assert _faithful.hottest(heat, 0.05).sum() == 5
    assert _faithful.hottest(heat, 0.05)[4, 3:8].all()
    assert not _faithful.hottest(np.zeros((4, 4))).any()
    mask, random = _faithful.hottest(heat), np.random.default_rng(0)
    copies = [_faithful.elsewhere(mask, random) for _ in range(2000)]
    assert {int(c.sum()) for c in copies} == {15}
    assert np.abs(np.mean(copies, axis=0) - 0.15).max() < 0.04  # every place is as likely
    assert _faithful.middle((100, 100), 0.25)[25:75, 25:75].all()
    assert _faithful.middle((100, 100), 0.25).mean() == pytest.approx(0.25)


def judged(hot: Any, random: Any) -> Any:
    n = len(hot)
    return _faithful.judge_maps(np.full(n, 0.9), np.array(hot), np.array(random), np.full(n, 0.9), 0)


def test_the_verdict_over_pictures() -> None:
    draws = np.random.default_rng(0).uniform(0.5, 0.9, (40, 20))
    assert judged(np.full(40, 0.3), draws).p_value < 0.001
    assert judged(np.full(40, 0.3), draws).better_than_random
    same = judged(draws[:, 0], draws)
    assert same.p_value > 0.05
    assert not same.better_than_random
    one = judged([0.1], draws[:1])
    assert one.p_value == pytest.approx(1 / 21)
    assert one.better_than_random
    assert not judged([0.6], draws[:1]).better_than_random
    assert not judged([0.8999], np.full((1, 20), 0.9)).better_than_random  # a difference of nothing
    two = judged([0.1, 0.1], draws[:2])
    assert two.p_value == pytest.approx(1 / 441)


def test_pointing_at_the_middle_is_held_against_the_maps() -> None:
    random = np.full((9, 20), 0.9)
    found = _faithful.judge_maps(np.full(9, 0.9), np.full(9, 0.5), random, np.full(9, 0.3), 0)
    assert found is not None
    assert "no more than the centre would" in found.headline()


def test_what_is_hidden_is_gone_and_the_rest_is_not() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(100, 120, (40, 60, 3)).astype(np.uint8)
    where = np.zeros((40, 60), bool)
    where[10:25, 20:40] = True
    pixels[where] = (255, 0, 0)
    found = modality("image").hide(pixels, where)
    assert found.dtype == np.uint8
    assert np.array_equal(found[~where], pixels[~where])
    assert (np.abs(found[where].astype(int) - 110) < 10).all()
    assert modality("image").hide(pixels, np.ones_like(where)).shape == pixels.shape


def test_heat_is_mapped_back_onto_the_upright_picture() -> None:
    """A wide picture of which the network saw the middle square: what is hot there is hot at its own place."""
    kind = modality("image")
    preprocessing = {"size": [50, 50], "crop_pct": 0.5, "crop_mode": "center", "mean": [0.5] * 3, "std": [0.5] * 3}
    picture = Image.fromarray(np.full((200, 400, 3), 90, np.uint8))
    heat = np.zeros((50, 50), np.float32)
    heat[:10, :10] = 1
    plain, heated = kind.overlay(picture, heat, heat > 0, preprocessing, 400)
    assert plain.shape == heated.shape == (200, 400, 3)
    coloured = np.ptp(heated.astype(int), axis=2) > 30
    rows, columns = np.nonzero(coloured)
    assert 48 <= rows.min() < rows.max() <= 75
    assert 148 <= columns.min() < columns.max() <= 175
    assert kind.shown(picture, preprocessing) == (slice(0, 50), slice(0, 50))
    padded = {**preprocessing, "crop_pct": 1.0, "crop_mode": "border"}
    assert kind.shown(picture, padded) == (slice(12, 37), slice(0, 50)) or kind.shown(picture, padded) == (
        slice(13, 38), slice(0, 50),
    )  # fmt: skip
    assert kind.overlay(picture, heat, heat > 0, padded, 100)[1].shape == (50, 100, 3)


# ---------------------------------------------------------------- what is written


class Page(html.parser.HTMLParser):
    """Collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, Any]] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "poster")]


def test_the_folder_and_its_page(saved: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    (files / "bad.png").write_text("no")
    try:
        with quiet():
            found = headstart.explain(saved, [files], out=out)
    finally:
        (files / "bad.png").unlink()
    names = sorted(p.name for p in out.iterdir())
    assert names == ["0001-0-b.png", "0002-1-b.png", "0003-2-b.png", "explain.json", "index.html"]
    with Image.open(out / names[0]) as sheet:
        assert sheet.width > 2 * 448
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 6
    assert all(len(i["alt"]) > 5 and i["src"].startswith("data:image/jpeg;base64,") for i in page.images)
    assert all(r.startswith("data:") for r in page.references)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"url\(|@import|https?:", text)
    assert "<b>&" not in text  # the names of the files are text, not tags
    assert "color-scheme:light dark" in text
    assert "Adebayo" in text
    for one in found.maps:
        assert one.label in text
        assert percent(one.probability).replace(" %", "&nbsp;%") in text
    assert "bad.png: is not an image" in text
    numbers = json.loads((out / "explain.json").read_text(encoding="utf-8"))
    assert [e["file"] for e in numbers["examples"]] == [m.name for m in found.maps]
    assert list(numbers["unreadable"]) == [str(files / "bad.png")]
    assert numbers["faithfulness"]["draws"] == len(numbers["examples"][0]["after_hiding_random"]) == 20
    assert 0 <= numbers["examples"][0]["heat_in_middle_quarter"] <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_other_places(saved: Path, files: Path, tmp_path: Path) -> None:
    with quiet():
        found = [headstart.explain(saved, [files], out=tmp_path / str(i), seed=i // 2) for i in range(3)]
    names = sorted(p.name for p in (tmp_path / "0").iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    assert all(np.array_equal(a.heat, b.heat) for a, b in zip(found[0].maps, found[1].maps))
    assert found[0].maps[0].after_random != found[2].maps[0].after_random


def test_an_older_explanation_is_replaced_and_anything_else_left_alone(
    saved: Path, files: Path, tmp_path: Path
) -> None:
    one = next(files.iterdir())
    for place in ("empty", "mine", "file"):
        (tmp_path / place).mkdir() if place != "file" else (tmp_path / place).write_text("x")
    (tmp_path / "mine" / "explain.json").write_text('{"tool": "another"}')
    with quiet():
        for place in ("mine", "file"):
            with pytest.raises(OptionError, match="was not written by explain; it is left alone"):
                headstart.explain(saved, [one], out=tmp_path / place)
        headstart.explain(saved, [files], out=tmp_path / "empty")
        headstart.explain(saved, [one], out=tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "mine"]
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["explain.json"]


def test_what_cannot_be_explained_writes_nothing(
    saved: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with quiet():
        with pytest.raises(OptionError, match=r"knows no class 'green' \(it knows blue, plain, red\)"):
            headstart.explain(saved, [files], out=out, class_name="green")
        with pytest.raises(OptionError, match="no method is called 'magic'; choose auto, grad-cam"):
            headstart.explain(saved, [files], out=out, method="magic")
        with pytest.raises(DataError, match="nothing to explain"):
            headstart.explain(saved, [], out=out)
        with pytest.raises(DataError, match="none of the 2 files can be read: item 0"):
            headstart.explain(saved, [b"x", b"y"], out=out)
        with pytest.raises(ModelError, match="is not a model folder"):
            headstart.explain(tmp_path, [files], out=out)
        monkeypatch.setitem(sys.modules, "captum", None)
        with pytest.raises(OptionError, match="pip install captum"):
            headstart.explain(saved, [files], out=out)
    assert not list(tmp_path.iterdir())


def test_the_command(
    saved: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["headstart", "explain", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    out, gone = tmp_path / "out", tmp_path / "gone\udcff.png"
    assert call(saved, next(files.iterdir()), gone, "--out", out, "--class", "red", "--seed", 3) == 1
    said = capsys.readouterr()
    assert said.out == ""
    *lines, last = said.err.splitlines()
    assert last == f"headstart: 1 files could not be read; {out / 'index.html'} says why"
    assert any("hiding the hottest" in line for line in lines)
    assert "could not be read: 1" in (out / "index.html").read_text(encoding="utf-8").lower()
    assert json.loads((out / "explain.json").read_text(encoding="utf-8"))["seed"] == 3
    assert call(saved, files, "--out", out) == 0
    assert call(saved, gone, "--out", tmp_path / "none") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "none").exists()
