"""The whole story on small generated pictures: every strategy, every layout, every message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from headstart import _fit
from headstart._errors import DataError, HeadstartError, ModelError
from headstart._fit import fit
from headstart._runtime import quiet
from headstart.deliver import load
from headstart.features import extract as real_extract
from pictures import NAMES, textures, write_folders

QUICK = {"strategy": "extract", "control": "none", "views": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 pictures, a folder per class."""
    return write_folders(tmp_path / "data", 24)


def run(data: Any, labels: Any = None, **options: Any) -> Any:
    with quiet():
        return fit(data, labels, **{**QUICK, **options})


def line(data: Any, labels: Any = None, kind: type[HeadstartError] = DataError, **options: Any) -> str:
    """The one line that this call ends with."""
    with pytest.raises(kind) as caught:
        run(data, labels, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------- what comes out


def test_a_folder_becomes_a_model_a_score_and_a_verdict(
    tiny: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fit(data, source=tiny, **QUICK, out=tmp_path / "model")
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("24 images of 2 classes", "honest score", "verdict: ", "raw pixels", "model saved in"):
        assert part in said.err
    evidence = model.evidence
    assert evidence["score"]["accuracy"]["value"] > 0.8
    assert evidence["score"]["examples"] == 24
    assert evidence["verdict"]["comparisons"][0]["control"] == "logistic regression on raw pixels"
    assert evidence["verdict"]["worth_it"] is True
    assert evidence["verdict"]["missing"] == {"scratch": "switched off"}
    assert np.array(evidence["confusion"]).sum() == 24
    assert evidence["folds"]["count"] == 5
    assert [c["name"] for c in evidence["candidates"]] == ["extract", "extract from all depths"]
    fresh, truth = textures(40, seed=3)
    assert (load(tmp_path / "model").predict(fresh) == truth).mean() > 0.8
    json.dumps(evidence)


def test_with_the_bundled_source(data: Path) -> None:
    model = run(data, source="bundled/glyphs")
    assert model.config["source"] == "bundled/glyphs"
    assert model.evidence["score"]["accuracy"]["value"] > 0.8


@pytest.mark.parametrize("strategy", ["partial", "light", "full", "scratch"])
def test_every_strategy(tiny: str, strategy: str, tmp_path: Path) -> None:
    pictures, labels = textures(18)
    model = run(pictures, labels, source=tiny, strategy=strategy, out=tmp_path / "model")
    assert model.config["strategy"] == strategy
    assert model.evidence["candidates"][0]["examples"] == 18
    fresh, truth = textures(40, seed=3)
    again = load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(fresh), model.predict_proba(fresh), atol=1e-6)
    if strategy != "scratch":
        assert (again.predict(fresh) == truth).mean() > 0.7


def test_auto_tries_in_the_order_of_cost_and_keeps_the_cheapest_on_ties(tiny: str) -> None:
    pictures, labels = textures(18)
    model = run(pictures, labels, source=tiny, strategy="auto")
    names = [c["name"] for c in model.evidence["candidates"]]
    assert names[0] == "extract"
    assert names[-1] == "full"
    assert len(names) == 5
    best = max(c["accuracy"] for c in model.evidence["candidates"] if not c["note"])
    if model.evidence["candidates"][0]["accuracy"] == best:
        assert model.evidence["chosen"] == "extract"


def test_auto_leaves_out_what_the_budget_does_not_allow(tiny: str) -> None:
    pictures, labels = textures(18)
    model = run(pictures, labels, source=tiny, strategy="auto", budget="0.1s")
    assert model.evidence["chosen"].startswith("extract")
    assert {"light", "full"} <= set(model.evidence["not_tried"])
    assert all("is left" in reason for reason in model.evidence["not_tried"].values())


def test_the_control_from_scratch(tiny: str) -> None:
    pictures, labels = textures(15)
    model = run(pictures, labels, source=tiny, control="scratch", budget="0.1s")
    controls = [c["control"] for c in model.evidence["verdict"]["comparisons"]]
    assert controls[1].startswith("the same network from scratch")
    assert "full run from scratch" in "".join(model.evidence["verdict"]["missing"])  # shortened, and said so


def test_no_time_for_the_control_is_said(tiny: str) -> None:
    pictures, labels = textures(15)
    model = run(pictures, labels, source=tiny, control="auto", budget="0.1s")
    assert "--control scratch runs it all the same" in model.evidence["verdict"]["missing"]["scratch"]


def test_the_second_time_nothing_is_extracted(tiny: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def counting(*args: Any, **options: Any) -> Any:
        found = real_extract(*args, **options)
        computed.append(found.computed)
        return found

    monkeypatch.setattr(_fit, "extract", counting)
    run(data, source=tiny)
    run(data, source=tiny)
    assert computed == [24, 0]


def test_the_same_seed_the_same_numbers(tiny: str) -> None:
    pictures, labels = textures(18)
    one, two = (run(pictures, labels, source=tiny, strategy="partial") for _ in range(2))
    assert one.evidence["score"] == two.evidence["score"]
    assert np.array_equal(one.predict_proba(pictures), two.predict_proba(pictures))
    other = run(pictures, labels, source=tiny, strategy="partial", seed=1)
    assert not np.array_equal(one.predict_proba(pictures), other.predict_proba(pictures))


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(("cut", "name"), [(2, "extract, cut after stage 2"), ("all", "extract from all depths")])
def test_extract_from_a_depth(tiny: str, cut: Any, name: str) -> None:
    model = run(*textures(18), source=tiny, cut=cut)
    assert model.evidence["chosen"] == name


def test_partial_from_a_cut(tiny: str) -> None:
    model = run(*textures(15), source=tiny, strategy="partial", cut=2)
    assert model.evidence["chosen"] == "partial, cut after stage 2"
    before = load_file(Path(tiny) / "model.safetensors")
    after = {n: t.numpy() for n, t in model._weights.items()}
    changed = {n for n, t in after.items() if not np.array_equal(t, before[n])}
    assert changed
    assert all(n.startswith(("layer2", "layer3", "layer4")) for n in changed)


def test_a_head_of_several_layers(tiny: str, tmp_path: Path) -> None:
    model = run(*textures(18), source=tiny, head="mlp", out=tmp_path / "model")
    assert model.config["head"]["layers"] == 2
    assert "mlp head" in model.evidence["chosen"]
    fresh, _ = textures(6, seed=3)
    np.testing.assert_allclose(load(tmp_path / "model").predict_proba(fresh), model.predict_proba(fresh), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"strategy": "magic"}, "choose one of auto, extract, partial, light, full, scratch"),
        ({"control": "placebo"}, "choose one of auto, scratch, none"),
        ({"head": "dragon"}, "choose linear or mlp"),
        ({"budget": "soon"}, "write it as 90s, 2m or 1h"),
        ({"budget": 0}, "write it as 90s, 2m or 1h"),
        ({"cut": 99}, "99"),
        ({"cut": 0}, "0"),
        ({"cut": -1}, "-1"),
        ({"cut": "middle"}, "middle"),
        ({"cut": 99, "strategy": "partial"}, "can be cut after stage 1 to 5"),
        ({"cut": "all", "strategy": "partial"}, "all"),
        ({"cut": 2, "strategy": "full"}, "does not go with --strategy full"),
        ({"views": 0}, "views"),
        ({"views": -2}, "views"),
        ({"groups": ["a"]}, "groups"),
    ],
    ids=str,
)
def test_options_that_cannot_be(tiny: str, options: dict[str, Any], part: str) -> None:
    assert part in line(*textures(12), kind=HeadstartError, source=tiny, **options)


def test_a_foreign_folder_is_not_overwritten(tiny: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    assert "it is left alone" in line(data, kind=ModelError, source=tiny, out=tmp_path)
    assert "it is left alone" in line(data, kind=ModelError, source=tiny, out=tmp_path / "letters.txt")


# ---------------------------------------------------------------- the data


def test_groups_stay_together(tiny: str) -> None:
    pictures, labels = textures(24)
    model = run(pictures, labels, source=tiny, groups=[f"patient {i // 4}" for i in range(24)])
    assert model.evidence["score"]["groups"] == 6
    assert model.evidence["audit"]["groups"] == 6


@pytest.mark.parametrize("kind", ["metadata", "csv", "parquet", "pil"])
def test_every_layout_gives_the_same_model(tiny: str, data: Path, kind: str) -> None:
    files = sorted(data.rglob("*.png"))
    names, people = [f.parent.name for f in files], [f"p{i // 3}" for i in range(24)]
    options: dict[str, Any] = {"source": tiny}
    if kind == "metadata":
        rows = [f"{f.relative_to(data)},{n},{p}" for f, n, p in zip(files, names, people)]
        (data / "metadata.csv").write_text("\n".join(["file_name,label,group", *rows]))
        model = run(data, **options)
    elif kind == "csv":
        rows = [f"{f.relative_to(data)},{n},{p}" for f, n, p in zip(files, names, people)]
        (data / "table.csv").write_text("\n".join(["path,kind,who", *rows]))
        model = run(data / "table.csv", label="kind", group="who", **options)
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        images = [{"bytes": f.read_bytes(), "path": f.name} for f in files]
        pq.write_table(pa.table({"image": images, "label": names, "group": people}), data / "table.parquet")
        model = run(data / "table.parquet", group="group", **options)
    else:
        model = run([Image.open(f) for f in files], names, groups=people, **options)
    expected = run(files, names, groups=people, source=tiny)
    assert model.evidence["score"] == expected.evidence["score"]
    assert model.evidence["score"]["groups"] == 8
    fresh, _ = textures(4, seed=3)
    assert np.array_equal(model.predict_proba(fresh), expected.predict_proba(fresh))


def test_small_sets_get_several_views(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watching(*args: Any, **named: Any) -> Any:
        asked.append((named.get("kind"), named.get("views")))
        return real_extract(*args, **named)

    monkeypatch.setattr("headstart.adapt._job.extract", watching)
    run(*textures(12), source=tiny, strategy="partial", views=None)
    assert asked == [("cut:4", 4)]
    asked.clear()
    run(*textures(12), source=tiny, strategy="partial", views=2)
    assert asked == [("cut:4", 2)]


def test_the_test_part_is_scored_and_never_learnt_from(tiny: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 20)
    write_folders(tmp_path / "test", 16, seed=5)
    model = run(tmp_path, source=tiny)
    assert model.evidence["test"]["score"]["examples"] == 16
    assert model.evidence["score"]["examples"] == 20
    alone = run(tmp_path / "train", source=tiny)
    assert "test" not in alone.evidence
    fresh, _ = textures(6, seed=9)
    assert np.array_equal(model.predict_proba(fresh), alone.predict_proba(fresh))


def test_copies_of_training_pictures_do_not_count_in_the_test(tiny: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 20)
    write_folders(tmp_path / "other", 10, seed=5)
    write_folders(tmp_path / "other" / "across" / "copies", 2)
    model = run(tmp_path / "train", source=tiny, test=tmp_path / "other")
    assert model.evidence["test"]["score"]["examples"] == 10


def test_a_test_part_of_copies_alone_cannot_be_scored(tiny: str, data: Path) -> None:
    assert "24 repeat a training example" in line(data, source=tiny, test=data)


def test_an_unreadable_test_part(tiny: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 16)
    write_folders(tmp_path / "test", 6, seed=5)
    (tmp_path / "test" / "down" / "bad.png").write_text("no")
    model = run(tmp_path, source=tiny)
    assert model.evidence["test"]["score"]["examples"] == 6
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_text("no")
    assert "7 cannot be read; give other test examples" in line(tmp_path, source=tiny)


def test_the_score_of_a_tuned_model_on_the_test_part_is_its_own(tiny: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "train", 15)
    write_folders(tmp_path / "test", 20, seed=5)
    model = run(tmp_path, source=tiny, strategy="partial")
    files = sorted((tmp_path / "test").rglob("*.png"))
    right = np.mean([label == f.parent.name for label, f in zip(model.predict(files), files)])
    assert model.evidence["test"]["score"]["accuracy"]["value"] == pytest.approx(right)


def test_duplicates_never_straddle(tiny: str) -> None:
    pictures, labels = textures(20)
    model = run([*pictures, *pictures[:6]], [*labels, *labels[:6]], source=tiny)
    assert len(model.evidence["audit"]["exact_duplicates"]) == 6
    assert model.evidence["score"]["groups"] == 20


def _pattern(kind: int, random: np.random.Generator) -> Any:
    """A wave of a direction and a length of its own, with noise."""
    y, x = np.mgrid[:32, :32]
    wave = np.sin(y * (1 + kind % 7) / 5 + x * kind / 9)[..., None] * random.uniform(0.7, 1, 3)
    return (128 + 90 * wave + random.normal(0, 8, (32, 32, 3))).clip(0, 255).astype(np.uint8)


def test_many_classes_with_few_examples(tiny: str) -> None:
    """43 classes, 100 labels, some classes with one or two."""
    random = np.random.default_rng(0)
    counts = np.concatenate([np.ones(8, int), np.full(13, 2), np.full(22, 3)])
    labels = np.repeat([f"kind {i:02}" for i in range(43)], counts)
    pictures = [_pattern(int(label[-2:]), random) for label in labels]
    model = run(pictures, labels.tolist(), source=tiny)
    assert len(labels) == 100
    assert len(model.classes_) == 43
    assert model.evidence["score"]["accuracy"]["value"] > 3 / 43
    assert np.isfinite(model.evidence["score"]["log_loss"]["value"])
    assert any("single example" in note for note in model.evidence["folds"]["notes"])
    assert model.predict_proba(pictures[:3]).shape == (3, 43)
    assert 0.05 <= model.config["temperature"] <= 20
    assert any("single example" in said for said in model.summary())


def test_many_classes_can_be_tuned_too(tiny: str) -> None:
    pictures, labels = textures(26, classes=6)
    labels[-1] = "alone"
    model = run(pictures, labels, source=tiny, strategy="partial")
    assert len(model.classes_) == 7
    assert np.isfinite(model.predict_proba(pictures)).all()


def test_two_pictures_are_enough_to_run(tiny: str) -> None:
    for strategy in ("extract", "partial", "scratch"):
        model = run(*textures(2), source=tiny, strategy=strategy)
        assert model.evidence["score"]["examples"] == 2


def test_noise_is_not_worth_it(tiny: str) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(40)]
    model = run(pictures, [str(i % 2) for i in range(40)], source=tiny)
    assert model.evidence["verdict"]["worth_it"] is not True
    assert 0.2 < model.evidence["score"]["accuracy"]["value"] < 0.8


def test_no_when_raw_pixels_do_better(tiny: str) -> None:
    """One pixel in a corner decides: a linear model on pixels sees it, averages over space do not."""
    random = np.random.default_rng(0)
    pictures, labels = [], []
    for i in range(60):
        picture = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        picture[:16] //= 2 if i % 2 else 1
        picture[16:] //= 1 if i % 2 else 2
        pictures.append(picture)
        labels.append(str(i % 2))
    model = run(pictures, labels, source=tiny, cut=1)
    verdict = model.evidence["verdict"]
    assert verdict["worth_it"] is not True
    if verdict["comparisons"][0]["difference"]["high"] < 0:
        assert verdict["headline"].startswith("No: logistic regression on raw pixels")


# ---------------------------------------------------------------- messages


def test_bad_files_are_left_out_and_listed(tiny: str, data: Path) -> None:
    (data / "across" / "zero.png").touch()
    (data / "down" / "text.png").write_text("hello")
    model = run(data, source=tiny)
    assert set(model.evidence["audit"]["unreadable"]) == {"across/zero.png", "down/text.png"}
    assert model.evidence["score"]["examples"] == 24


def test_too_many_bad_files_stop_the_run(tiny: str, data: Path, tmp_path: Path) -> None:
    for i in range(6):
        (data / "down" / f"bad{i}.png").write_bytes(b"\x89PNG broken")
    text = line(data, source=tiny, out=tmp_path / "model")
    assert text.startswith("6 of 30 examples in data cannot be used")
    assert "--allow-bad" in text
    assert not (tmp_path / "model").exists()
    assert run(data, source=tiny, allow_bad=True).evidence["score"]["examples"] == 24


def test_nothing_readable(tiny: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_text("no")
    assert "cannot be used" in line(tmp_path, source=tiny)
    assert "readable" in line(tmp_path, source=tiny, allow_bad=True)


def test_one_class_only(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for i, picture in enumerate(textures(4)[0]):
        Image.fromarray(picture).save(tmp_path / "cat" / f"{i}.png")
    assert "one class" in line(tmp_path, source=tiny).lower() or "two classes" in line(tmp_path, source=tiny)


def test_an_empty_folder(tiny: str, tmp_path: Path) -> None:
    assert str(tmp_path.name) in line(tmp_path, source=tiny)


def test_no_folder(tiny: str, tmp_path: Path) -> None:
    assert "there is no" in line(tmp_path / "gone", source=tiny)


def test_a_label_without_a_file(tiny: str, data: Path) -> None:
    rows = ["file_name,label", *(f"{f.relative_to(data)},{f.parent.name}" for f in sorted(data.rglob("*.png")))]
    (data / "metadata.csv").write_text("\n".join([*rows, "gone.png,down"]))
    model = run(data, source=tiny)
    assert list(model.evidence["audit"]["unreadable"]) == ["gone.png"]
    (data / "metadata.csv").write_text("\n".join([*rows, *(f"gone{i}.png,down" for i in range(9))]))
    assert "gone0.png" in line(data, source=tiny)


def test_a_path_outside_the_data_folder(tiny: str, data: Path) -> None:
    rows = ["file_name,label", *(f"{f.relative_to(data)},{f.parent.name}" for f in sorted(data.rglob("*.png")))]
    secret = data.parent / "secret.png"
    Image.fromarray(textures(1, seed=4)[0][0]).save(secret)
    (data / "metadata.csv").write_text("\n".join([*rows, "../secret.png,down"]))
    assert "names '../secret.png', which lies outside its folder" in line(data, source=tiny)


def test_one_group_cannot_be_split(tiny: str) -> None:
    assert "group" in line(*textures(12), source=tiny, groups=["same"] * 12)


def test_a_full_disk(tiny: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("headstart.features._store._write_at", full)
    assert "the disk is full" in line(data, kind=HeadstartError, source=tiny, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_no_such_source(data: Path) -> None:
    assert "headstart sources" in line(data, kind=HeadstartError, source="no-such-source")


# ---------------------------------------------------------------- kill and resume


def test_a_stopped_fit_goes_on_where_it_was(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, labels = textures(18)
    options = {**QUICK, "source": tiny, "strategy": "partial"}
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "one"))
    whole = run(pictures, labels, **options)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "two"))
    real, done = _fit.adapt.out_of_fold, []

    def stop(*args: Any) -> Any:
        if len(done) >= 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(_fit.adapt, "out_of_fold", stop)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, labels, **options, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr(_fit.adapt, "out_of_fold", real)
    again = fit(pictures, labels, **options, out=tmp_path / "model")
    assert "continuing an interrupted run" in capsys.readouterr().err
    assert again.evidence["score"] == whole.evidence["score"]
    assert np.array_equal(again.predict_proba(pictures), whole.predict_proba(pictures))
    assert not list((tmp_path / "two" / "runs").glob("*"))  # nothing left to go on with


KILLED = """
import sys
from headstart.adapt import _tune
_tune.CHECKPOINT_SECONDS = 0.0
sys.argv = ["headstart", "fit", *sys.argv[1:]]
from headstart.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_command_goes_on_to_the_same_model(tiny: str, data: Path, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        return [
            sys.executable, "-c", KILLED, str(data), "--source", tiny, "--strategy", "partial", "--control", "none",
            "--out", str(tmp_path / name),
        ]  # fmt: skip

    def env(name: str) -> dict[str, str]:
        return {**os.environ, "HEADSTART_CACHE": str(tmp_path / f"cache-{name}")}

    subprocess.run(command("whole"), env=env("whole"), check=True, capture_output=True)
    killed = subprocess.Popen(command("killed"), env=env("killed"), stderr=subprocess.PIPE)
    runs = tmp_path / "cache-killed" / "runs"
    until = time.monotonic() + 120
    while not list(runs.glob("*/*fold*.safetensors")) and time.monotonic() < until and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    done = subprocess.run(command("killed"), env=env("killed"), check=True, capture_output=True, text=True)
    assert "continuing an interrupted run" in done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[n], two[n]) for n in one)
    scores = [json.loads((tmp_path / n / "evidence.json").read_text())["score"] for n in ("whole", "killed")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_two_at_once_on_one_cache(tiny: str, data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "headstart", "fit", str(data), "--source", tiny, "--strategy", "partial",
             "--control", "none", "--out"]  # fmt: skip
    both = [
        subprocess.Popen([*words, str(tmp_path / name)], stderr=subprocess.PIPE, text=True) for name in ("one", "two")
    ]
    said = [running.communicate(timeout=200)[1] for running in both]
    assert [running.returncode for running in both] == [0, 0], said
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(one[n], two[n]) for n in one)


def test_the_names_are_those_of_the_textures() -> None:
    assert len(set(NAMES)) == 6
