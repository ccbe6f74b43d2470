"""The command: help at once, data on stdout, one line and an exit code when something is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import cli
from pictures import write_folders

COMMANDS = (
    "fit", "predict", "explain", "evaluate", "sources", "rank", "inspect", "pretrain", "push", "pull", "cache",
)  # fmt: skip


class Done:
    """What a command left: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command inside this process."""

    def run(*words: object, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        found = capsys.readouterr()
        return Done(code, found.out, found.err)

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("data") / "pictures", 16)


@pytest.fixture(scope="module")
def model(tiny: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model made by the command itself, in a process of its own."""
    out = tmp_path_factory.mktemp("models") / "model"
    words = ["fit", data, "--source", tiny, "--strategy", "extract", "--control", "none", "--out", out]
    done = process(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "verdict: " in done.stderr
    return out


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headstart", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def one_line(done: Done) -> str:
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("headstart: ")
    return line


# ---------------------------------------------------------------- help


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['headstart', '--help']\nfrom headstart.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'timm', 'sklearn', 'numpy', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(call: Any, name: str) -> None:
    done = call(name, "--help")
    assert done.code == 0
    assert "Usage: headstart " + name in done.out.replace("\n", " ").replace("  ", " ") or name in done.out


def test_fit_offers_what_the_function_takes(call: Any) -> None:
    import inspect

    from headstart import fit

    shown = re.sub(r"\x1b\[[0-9;]*m", "", call("fit", "--help").out)
    for name in inspect.signature(fit).parameters:
        if name not in ("data", "labels", "groups"):  # lists are for Python
            assert "--" + name.replace("_", "-") in shown


def test_the_version(call: Any) -> None:
    import headstart

    assert call("--version").out.strip() == headstart.__version__


def test_an_unknown_option_is_a_usage_error(call: Any) -> None:
    done = call("fit", "x", "--sauce", "y")
    assert done.code == 2
    assert "--sauce" in done.err


# ---------------------------------------------------------------- predict


def test_predict_writes_csv(call: Any, model: Path, data: Path) -> None:
    files = sorted(data.rglob("*.png"))
    done = call("predict", model, *files)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert done.code == 0
    assert list(rows[0]) == ["file", "label", "across", "down", "error"]
    assert [r["file"] for r in rows] == [str(f) for f in files]
    for row in rows:
        p = {c: float(row[c]) for c in ("across", "down")}
        assert sum(p.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(p, key=lambda c: p[c])
        assert row["error"] == ""
    assert np.mean([r["label"] == Path(r["file"]).parent.name for r in rows]) > 0.9


def test_predict_writes_json_lines(call: Any, model: Path, data: Path) -> None:
    done = call("predict", model, data, "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == 16
    for row in rows:
        assert set(row) == {"file", "label", "probabilities"}
        assert set(row["probabilities"]) == {"across", "down"}
    table = list(csv.DictReader(io.StringIO(call("predict", model, data).out)))
    assert [r["label"] for r in table] == [r["label"] for r in rows]


def test_predict_reads_names_from_stdin(call: Any, model: Path, data: Path) -> None:
    files = [str(f) for f in sorted(data.rglob("*.png"))[:3]]
    done = call("predict", model, "-", "--json", stdin="\n".join([*files, "", ""]))
    assert [json.loads(line)["file"] for line in done.out.splitlines()] == files


def test_predict_names_what_cannot_be_read_and_goes_on(call: Any, model: Path, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / 'a "bad", one.png'
    bad.write_text("no")
    good = next(data.rglob("*.png"))
    done = call("predict", model, good, bad, good)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert one_line(done).startswith("headstart: 1 file")
    assert [r["file"] for r in rows] == [str(good), str(bad), str(good)]
    assert rows[1]["label"] == rows[1]["across"] == ""
    assert rows[1]["error"]
    assert rows[0]["label"] == rows[2]["label"] != ""
    (row,) = [json.loads(line) for line in call("predict", model, bad, "--json").out.splitlines()]
    assert row == {"file": str(bad), "error": rows[1]["error"]}


def test_predict_with_a_missing_file(call: Any, model: Path, tmp_path: Path) -> None:
    done = call("predict", model, tmp_path / "gone.png")
    assert "could not be read" in one_line(done)
    (row,) = csv.DictReader(io.StringIO(done.out))
    assert row["file"].endswith("gone.png")
    assert row["error"]


def test_a_reader_that_goes_away_is_no_error(model: Path, data: Path) -> None:
    words = [sys.executable, "-m", "headstart", "predict", str(model), *[str(data)] * 3]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert "Traceback" not in running.stderr.read()
    running.wait()
    running.stderr.close()


# ---------------------------------------------------------------- evaluate, inspect, sources, cache


def test_evaluate_prints_json(call: Any, model: Path, tmp_path: Path) -> None:
    fresh = write_folders(tmp_path / "fresh", 12, seed=8)
    (fresh / "down" / "bad.png").write_text("no")
    done = call("evaluate", model, fresh)
    found = json.loads(done.out)
    assert done.code == 0
    assert found["examples"] == 12
    assert found["accuracy"]["value"] > 0.8
    assert set(found) >= {"accuracy", "balanced_accuracy", "auroc", "log_loss", "calibration_error", "unreadable"}
    assert list(found["unreadable"]) == ["down/bad.png"]


def test_evaluate_goes_by_the_names_of_classes(call: Any, tiny: str, tmp_path: Path) -> None:
    """Of three classes the first is not in the data: the numbers of the others must not move up."""
    import shutil

    learn, out = write_folders(tmp_path / "learn", 24, classes=3), tmp_path / "model"
    made = call("fit", learn, "--source", tiny, "--strategy", "extract", "--control", "none", "--out", out)
    assert made.code == 0, made.err
    fresh = write_folders(tmp_path / "fresh", 24, classes=3, seed=8)
    shutil.rmtree(fresh / "across")
    done = call("evaluate", out, fresh)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["examples"] == 16
    assert found["accuracy"]["value"] > 0.8


def test_evaluate_with_a_class_that_the_model_does_not_know(call: Any, model: Path, tmp_path: Path) -> None:
    fresh = write_folders(tmp_path / "fresh", 9, classes=3)
    assert "the model knows no class 'rings' (it knows across, down)" in one_line(call("evaluate", model, fresh))


def test_sources(call: Any) -> None:
    done = call("sources")
    assert done.code == 0
    assert "bundled/efficientnet-lite0" in done.out
    assert "bundled/glyphs" in done.out
    assert "timm/NAME" in done.out


def test_inspect_a_model_and_a_source(call: Any, model: Path, tiny: str) -> None:
    found = json.loads(call("inspect", model).out)
    assert found["config"]["classes"] == ["across", "down"]
    assert "score" in found["evidence"]
    source = json.loads(call("inspect", tiny).out)
    assert source["architecture"] == "resnet10t"
    assert len(source["stages"]) == 5
    assert json.loads(call("inspect", "bundled/glyphs").out)["width"] == 256


def test_cache_shows_and_clears(call: Any, cache: Path, data: Path, tiny: str, tmp_path: Path) -> None:
    assert "0 sets of features" in call("cache").out
    done = call("fit", data, "--source", tiny, "--strategy", "extract", "--control", "none", "--out", tmp_path / "m")
    assert done.code == 0
    assert re.search(r"[1-9] sets of features, .* MB of at most 20 GB", call("cache").out)
    assert f"MB in {cache}" in call("cache", "--clear").out
    assert "0 sets of features" in call("cache").out


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fit", "no/such/folder"], "there is no no/such/folder"),
        (["predict", "no/model", "x.png"], "no/model is not a model folder"),
        (["evaluate", "no/model", "data"], "no/model is not a model folder"),
        (["inspect", "nothing-here"], "no source is called 'nothing-here'"),
        (["inspect", "./nothing-here"], "there is no source folder"),
        (["fit", ".", "--strategy", "magic"], "no strategy is called 'magic'"),
        (["fit", ".", "--cut", "middle"], "--cut middle is no stage"),
        (["fit", ".", "--cut", "-1"], "--cut -1"),
        (["fit", ".", "--views", "0"], "views is 0"),
        (["fit", ".", "--budget", "soon"], "write it as 90s, 2m or 1h"),
        (["push", "no/model", "ada/x", "--dry-run"], "there is no folder no/model"),
        (["push", ".", "x"], "is no name on a hub"),
        (["pull", "ada/x", "--out", "/nothing/x"], "HF_HUB_OFFLINE is set"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_one_line_and_exit_code_one(call: Any, words: list[str], part: str) -> None:
    assert part in one_line(call(*words))


def test_odd_bytes_in_a_name_do_not_break_the_terminal(call: Any, model: Path, tmp_path: Path) -> None:
    name = tmp_path / "\udcff\x1b[31m.png"
    name.write_text("no")
    done = call("predict", model, name, "--json")
    assert done.code == 1
    assert "\x1b" not in done.out


def test_a_damaged_model_is_one_line_in_a_real_process(model: Path, data: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"short")
    done = process("predict", copy, data)
    assert done.returncode == 1
    assert done.stderr.startswith(f"headstart: {copy} is damaged")
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_ctrl_c_leaves_nothing_half_written(tiny: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    words = [
        sys.executable, "-m", "headstart", "fit", str(data), "--source", tiny, "--strategy", "partial",
        "--control", "none", "--out", str(out),
    ]  # fmt: skip
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert running.stderr is not None
    runs = Path(os.environ["HEADSTART_CACHE"]) / "features"
    until = time.monotonic() + 60
    while len(list(runs.glob("*/index.bin"))) < 3 and time.monotonic() < until and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("headstart: stopped; the same command goes on from what was finished")
    assert not list(tmp_path.iterdir())
    again = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
