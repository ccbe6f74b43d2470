"""Writing whole or not at all, threads that share the cores, budgets."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart._budget import Budget, parse_budget
from headstart._errors import HeadstartError, OptionError
from headstart._runtime import atomic_folder, atomic_write, compute_dtype, compute_dtype_name, quiet, say, side_by_side
from headstart.features import in_parallel


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "new") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "deep" / "new").exists()
    assert contents(tmp_path) == {"deep/new/a": "1"}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("failing", ["the block", "rename 1", "rename 2"])
def test_a_failure_leaves_the_old_folder_and_no_rest(
    tmp_path: Path, old: bool, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "final"
    if old:
        final.mkdir()
        (final / "a").write_text("old")
    rename, calls = Path.rename, []

    def limited(self: Path, target: Any) -> Any:
        calls.append(1)
        if failing == f"rename {len(calls)}":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", limited)
    if failing == "rename 2" and not old:
        pytest.skip("there is one rename only")

    def write() -> None:
        with atomic_folder(final) as folder:
            (folder / "a").write_text("new")
            if failing == "the block":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert contents(tmp_path) == ({"final/a": "old"} if old else {})
    assert [p.name for p in tmp_path.iterdir()] == (["final"] if old else [])


def test_a_file_is_replaced_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "x" / "file", b"one")
    monkeypatch.setattr("headstart._runtime.os.fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x" / "file", b"two")
    assert contents(tmp_path) == {"x/file": "one"}


def test_side_by_side_keeps_the_order_and_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    found = side_by_side([lambda i=i: (time.sleep(0.01 * (5 - i)), i)[1] for i in range(5)])
    assert found == list(range(5))
    assert torch.get_num_threads() == before
    assert side_by_side([]) == []


def test_side_by_side_hands_an_error_on() -> None:
    def fail() -> None:
        raise HeadstartError("no")

    with pytest.raises(HeadstartError, match="no"):
        side_by_side([lambda: 1, fail, lambda: 2])


def test_in_parallel_does_all_once_and_stops_at_an_error() -> None:
    lock, done = threading.Lock(), []

    def work(chunk: Any) -> None:
        with lock:
            done.extend(chunk)

    before = torch.get_num_threads()
    in_parallel(range(100), work, what="x", chunk=7)
    assert sorted(done) == list(range(100))
    assert torch.get_num_threads() == before
    in_parallel([], work, what="x")

    def fail(chunk: Any) -> None:
        done.append(chunk)
        raise HeadstartError("no")

    done.clear()
    with pytest.raises(HeadstartError, match="no"):
        in_parallel(range(1000), fail, what="x", chunk=1)
    assert len(done) < 1000


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), (" 2m ", 120), ("1.5h", 5400), ("3min", 180), (7, 7), (0.5, 0.5)]
)
def test_budgets(text: Any, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "2 days", "1e9", "nan", "inf", "2m30s", None])
def test_what_is_no_budget(text: Any) -> None:
    with pytest.raises(OptionError, match="write it as 90s, 2m or 1h"):
        parse_budget(text)


def test_a_budget_runs_out() -> None:
    clock = Budget(0.01)
    assert 0 < clock.left() <= 0.01
    time.sleep(0.02)
    assert clock.left() == 0
    assert clock.spent() > 0.01


def test_quiet_within_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        with quiet(False):
            say("no")
        say("no")
    say("yes")
    assert capsys.readouterr() == ("", "yes\n")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_can_be_named(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_PRECISION", name)
    assert compute_dtype() is dtype
    assert compute_dtype_name() == name
    monkeypatch.setenv("HEADSTART_PRECISION", "fp8")
    with pytest.raises(HeadstartError, match="it takes fp32 or bf16"):
        compute_dtype()


def test_the_precision_is_the_same_with_and_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_PRECISION", raising=False)
    assert compute_dtype_name() == {torch.float32: "fp32", torch.bfloat16: "bf16"}[compute_dtype()]
