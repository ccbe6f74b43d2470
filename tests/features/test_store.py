"""The store survives what happens to files: kills, several writers, a limit, being cleared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart._errors import HeadstartError
from headstart.features import clear_cache, prune, size_limit, usage
from headstart.features._store import Rows


def digest(i: int) -> bytes:
    return i.to_bytes(32, "big")


def rows(n: int, start: int = 0) -> np.ndarray:
    return (np.arange(start, start + n, dtype=np.float32)[:, None, None] * np.ones((1, 3, 4), np.float32)).copy()


def store(name: str = "a", n: int = 0) -> Rows:
    made = Rows({"name": name})
    if n:
        made.append([digest(i) for i in range(n)], rows(n))
    return made


def check(found: Rows, numbers: list[int]) -> None:
    gathered = found.gather([digest(i) for i in numbers])
    assert np.array_equal(gathered, np.concatenate([rows(1, i) for i in numbers]))


def test_rows_come_back_in_any_order() -> None:
    store(n=6)
    again = store()
    check(again, [4, 0, 5])
    assert digest(6) not in again
    assert again.positions([digest(4), digest(0)]).tolist() == [4, 0]


def test_a_second_append_adds_and_repeats_nothing() -> None:
    found = store(n=4)
    found.append([digest(i) for i in (3, 4, 4, 5)], np.concatenate([rows(1, i) for i in (9, 4, 4, 5)]))
    check(found, [0, 3, 4, 5])
    assert len(found.mapped()) == 6


def test_another_reader_sees_what_was_added() -> None:
    reader = store(n=2)
    store().append([digest(2)], rows(1, 2))
    assert digest(2) not in reader
    reader.refresh()
    check(reader, [0, 1, 2])


@pytest.mark.parametrize("lost", [1, 31, 32, 33])
def test_a_torn_index_loses_only_its_tail(lost: int) -> None:
    found = store(n=5)
    index = found.folder / "index.bin"
    os.truncate(index, index.stat().st_size - lost)
    again = store()
    left = 5 - -(-lost // 32)
    assert [digest(i) in again for i in range(5)] == [i < left for i in range(5)]
    again.append([digest(i) for i in range(8)], rows(8))
    check(store(), list(range(8)))


@pytest.mark.parametrize("lost", [1, 47, 48, 49, 5 * 48])
def test_torn_data_loses_only_its_tail(lost: int) -> None:
    found = store(n=5)
    data = found.folder / "data.bin"
    os.truncate(data, data.stat().st_size - lost)
    again = store()
    left = 5 - -(-lost // 48)
    assert [digest(i) in again for i in range(5)] == [i < left for i in range(5)]
    again.append([digest(i) for i in range(8)], rows(8))
    check(store(), list(range(8)))


@pytest.mark.parametrize("name", ["data.bin", "index.bin", "about.json"])
def test_a_missing_file_is_an_empty_store(name: str) -> None:
    (store(n=3).folder / name).unlink()
    again = store()
    assert digest(0) not in again
    again.append([digest(7)], rows(1, 7))
    check(store(), [7])


def test_data_without_index_is_written_over() -> None:
    """A kill between the row and its digest."""
    found = store(n=2)
    with (found.folder / "data.bin").open("ab") as file:
        file.write(b"\xff" * 48)
    again = store()
    again.append([digest(2)], rows(1, 2))
    check(store(), [0, 1, 2])


@pytest.mark.parametrize("content", ["", "{", '{"shape": 3}', "[]"])
def test_a_damaged_description_is_an_empty_store(content: str) -> None:
    (store(n=2).folder / "about.json").write_text(content)
    again = store()
    again.append([digest(0), digest(9)], np.concatenate([rows(1, 0), rows(1, 9)]))
    check(store(), [0, 9])


WRITER = """
import sys
import numpy as np
from headstart.features._store import Rows
first = int(sys.argv[1])
found = Rows({"name": "a"})
for start in range(first, 200, 2):
    numbers = range(start, start + 4)  # overlaps with what the other one writes
    block = np.array(numbers, np.float32)[:, None, None] * np.ones((1, 3, 4), np.float32)
    found.append([i.to_bytes(32, "big") for i in numbers], block)
"""


def test_two_processes_append_at_once() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(first)]) for first in (0, 1)]
    assert [w.wait(60) for w in writers] == [0, 0]
    found = store()
    check(found, list(range(200)))
    assert len(found.mapped()) == found._read == len(found._position)


def test_rows_of_another_shape_are_refused() -> None:
    found = store(n=1)
    with pytest.raises(HeadstartError, match=r"holds rows of .*cache --clear"):
        found.append([digest(1)], np.zeros((1, 5), np.float32))


def test_cleared_by_another_run_while_in_use() -> None:
    found = store(n=3)
    clear_cache()
    found.append([digest(i) for i in range(5)], rows(5))
    check(found, [3, 4])
    check(store(), list(range(5)))


def test_rows_that_another_run_deleted_are_an_error_and_not_zeros() -> None:
    found = store(n=3)
    clear_cache()
    with pytest.raises(HeadstartError, match=r"cleared while in use; run the same command again"):
        found.gather([digest(0)])
    found.append([digest(5)], rows(1, 5))
    with pytest.raises(HeadstartError, match=r"cleared while in use"):
        found.positions([digest(0)])


# ---------------------------------------------------------------- the limit


def used(names: str) -> dict[str, int]:
    """Stores of 100 rows, the first named the least recently used; name → bytes."""
    sizes = {}
    for age, name in enumerate(reversed(names)):
        folder = store(name, 100).folder
        os.utime(folder / "about.json", (1e9 - age, 1e9 - age))
        sizes[name] = sum(f.stat().st_size for f in folder.iterdir())
    return sizes


def left(names: str) -> str:
    return "".join(n for n in names if (Rows({"name": n}).folder / "data.bin").is_file())


def test_usage_is_in_the_order_of_last_use() -> None:
    sizes = used("abc")
    assert [size for _, size, _ in usage()] == [sizes[n] for n in "abc"]
    store("a")  # opening is using
    assert usage()[-1][0] == store("a").folder


def test_pruning_goes_by_last_use_and_stops_at_the_limit() -> None:
    sizes = used("abcd")
    total = sum(sizes.values())
    assert prune(total) == 0
    assert left("abcd") == "abcd"
    used("abcd")
    assert prune(total - 1) == sizes["a"]
    assert left("abcd") == "bcd"


def test_pruning_spares_what_is_in_use() -> None:
    used("abc")
    keep = Rows({"name": "a"})
    prune(0)
    assert left("abc") == "a"
    del keep
    prune(0)
    assert left("abc") == ""


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size_limit() == 20 * 10**9
    monkeypatch.setenv("HEADSTART_CACHE_LIMIT", "0.5")
    assert size_limit() == 5 * 10**8
    for wrong in ("much", "nan", "-1", "inf"):
        monkeypatch.setenv("HEADSTART_CACHE_LIMIT", wrong)
        with pytest.raises(HeadstartError, match=r"HEADSTART_CACHE_LIMIT is .* a number of GB"):
            size_limit()


def test_clearing_empties_and_counts(cache: Path) -> None:
    size = used("ab")
    (cache / "runs" / "x").mkdir(parents=True)
    (cache / "runs" / "x" / "step.safetensors").write_bytes(b"12345")
    (cache / "mine.txt").write_text("not ours")
    assert clear_cache() == sum(size.values()) + 5
    assert [p.name for p in cache.iterdir()] == ["mine.txt"]
    assert usage() == []
    assert clear_cache() == 0


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.chmod(0o500)
    with pytest.raises(HeadstartError, match="cannot be written"):
        store(n=1)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    found = store(n=2)
    monkeypatch.setattr("headstart.features._store._write_at", full)
    with pytest.raises(HeadstartError, match=r"the disk is full: .*cache --clear.* same command again"):
        found.append([digest(2)], rows(1, 2))
    monkeypatch.undo()
