"""Choosing a source by measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import _rank
from headstart._errors import SourceError
from headstart._runtime import quiet
from headstart.judge import Rivals, cross_fitted
from pictures import textures, write_folders, write_tiny_source


@pytest.fixture(scope="module")
def sources(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tiny random network, the same with its weights at zero (which knows nothing), and glyphs."""
    import torch
    from safetensors.torch import load_file, save_file

    empty = write_tiny_source(tmp_path_factory.mktemp("rank") / "empty")
    weights = load_file(empty / "model.safetensors")
    save_file(
        {n: torch.zeros_like(t) if t.ndim > 1 else t for n, t in weights.items()},
        empty / "model.safetensors",
        metadata={"format": "pt"},
    )
    return [tiny, str(empty), "bundled/glyphs"]


@pytest.fixture(scope="module")
def ranking(sources: list[str]) -> Any:
    with quiet():
        return headstart.rank(*textures(36, 3), sources=sources)


def test_a_source_that_knows_nothing_is_last_and_never_chosen(ranking: Any, sources: list[str]) -> None:
    assert ranking.rows[-1].name == sources[1]
    assert ranking.best.name != sources[1]
    assert ranking.rows[-1].log_me < min(row.log_me for row in ranking.rows[:2])


def test_what_a_row_says(ranking: Any) -> None:
    for row in ranking.rows:
        assert row.milliseconds > 0
        assert row.accuracy.low <= row.accuracy.value <= row.accuracy.high
        assert {"output", "all depths", "stage 1", "stage 5"} <= set(row.profile)
        assert row.logits.shape == (36, 3)
    assert json.dumps(ranking.to_dict())
    table = "\n".join(ranking.lines())
    assert "<- chosen" in table
    assert "depth: a probe is right on" in table


def test_the_choice_does_not_depend_on_the_clock(sources: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for slow in sources:
        monkeypatch.setattr(_rank, "per_prediction", lambda source, slow=slow: 1e3 if source.name == slow else 1.0)
        with quiet():
            found.append(headstart.rank(*textures(36, 3), sources=sources).best.name)
    assert len(set(found)) == 1


def test_only_the_shortlist_is_probed(sources: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rank, "SHORTLIST", 1)
    with quiet():
        found = headstart.rank(*textures(36, 3), sources=sources)
    assert [row.accuracy is not None for row in found.rows] == [True, False, False]
    assert "not in the shortlist" in "\n".join(found.lines())
    assert found.rivals() is None


def test_what_is_too_dear_for_the_budget_is_named(sources: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rank, "per_prediction", lambda source: 1e9)
    with quiet():
        found = headstart.rank(*textures(36, 3), sources=sources[:2], budget="1s")
    assert len(found.rows) == 1
    assert "would take about" in next(iter(found.skipped.values()))


def test_a_source_for_other_input_is_refused(tmp_path: Path) -> None:
    place = write_tiny_source(tmp_path / "ears")
    config = json.loads((place / "config.json").read_text())
    config["card"]["modality"] = "audio"
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(headstart.HeadstartError, match="audio"):
        headstart.rank(*textures(12), sources=[str(place)])


def test_no_source_at_all() -> None:
    with pytest.raises(SourceError, match="no source for image input"):
        headstart.rank(*textures(12), sources=" , ")


def test_a_source_that_saw_hardly_more_than_the_target(tmp_path: Path) -> None:
    place = write_tiny_source(tmp_path / "poor")
    config = json.loads((place / "config.json").read_text())
    config["card"]["examples"] = 40
    (place / "config.json").write_text(json.dumps(config))
    with quiet():
        found = headstart.rank(*textures(12), sources=[str(place)])
    assert "caution" in found.notes[0]
    assert "40 examples" in found.notes[0]


def test_fit_chooses_the_source_and_keeps_why(monkeypatch: pytest.MonkeyPatch, sources: list[str]) -> None:
    def here() -> list[dict[str, Any]]:
        return [{"name": name, "modality": "image", "at_hand": True} for name in sources]

    monkeypatch.setattr(_rank, "list_sources", here)
    with quiet():
        model = headstart.fit(*textures(36, 3), source="auto", strategy="extract", control="none")
    kept = model.evidence["ranking"]
    assert model.config["source"] == kept["chosen"] != sources[1]
    assert {row["name"] for row in kept["sources"]} == set(sources)


def test_the_choice_of_a_source_is_scored_too() -> None:
    """Two sources that know nothing, of which one was lucky on the first half: the lucky one must not be believed."""
    random = np.random.default_rng(0)
    labels = random.integers(2, size=400)
    folds = np.array_split(random.permutation(400), 5)
    logits = [random.normal(size=(400, 2)) for _ in range(2)]
    rights = [(part.argmax(1) == labels).astype(float) for part in logits]
    best = int(np.argmax([r.mean() for r in rights]))
    found = Rivals(logits, best).honest(logits[best], labels, np.arange(400), folds)
    pick = cross_fitted(rights, np.arange(400), folds)
    assert ((found.argmax(1) == labels) == np.stack(rights)[pick, np.arange(400)]).all()
    assert (found.argmax(1) == labels).mean() <= rights[best].mean()


def test_the_command(tmp_path: Path, tiny: str) -> None:
    from typer.testing import CliRunner

    from headstart.cli import app

    data = write_folders(tmp_path / "data", 16)
    done = CliRunner().invoke(app, ["rank", str(data), "--sources", tiny, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["chosen"] == tiny


def test_a_network_at_hand_that_does_not_open_is_left_out(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_tiny_source(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"none")
    here = [{"name": name, "modality": "image", "at_hand": True} for name in (str(broken), tiny)]
    monkeypatch.setattr(_rank, "list_sources", lambda: here)
    found = headstart.rank(*textures(12))
    assert [row.name for row in found.rows] == [tiny]
    assert "left out: " in capsys.readouterr().err
    with pytest.raises(SourceError, match="not a readable safetensors file"):
        headstart.rank(*textures(12), sources=[str(broken), tiny])
