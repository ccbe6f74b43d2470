"""Machine matters: seeds, threads, precision, device, progress, atomic writes, cache place."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._errors import DataError, HeadstartError, OptionError

if TYPE_CHECKING:
    import torch

# ---------------------------------------------------------------- machine


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device() -> torch.device:
    """The best device there is: CUDA, then Apple's MPS, then the CPU. ``HEADSTART_DEVICE`` overrides."""
    import torch

    wanted = os.environ.get("HEADSTART_DEVICE")
    if wanted:
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def compute_dtype() -> torch.dtype:
    """bf16 where the processor multiplies it natively, else fp32. ``HEADSTART_PRECISION=fp32|bf16`` overrides."""
    import torch

    wanted = os.environ.get("HEADSTART_PRECISION")
    if wanted:
        names = {"fp32": torch.float32, "bf16": torch.bfloat16}
        if wanted not in names:
            raise HeadstartError(f"HEADSTART_PRECISION is {wanted!r}; it takes fp32 or bf16")
        return names[wanted]
    if device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _cpu_has_bf16() else torch.float32


def compute_dtype_name() -> str:
    """``compute_dtype`` as text; known without loading torch where the CPU computes."""
    wanted = os.environ.get("HEADSTART_PRECISION")
    if wanted or os.environ.get("HEADSTART_DEVICE") or not _cpu_only():
        import torch

        return "bf16" if compute_dtype() is torch.bfloat16 else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_only() -> bool:
    """True where no accelerator can be in play: Linux without an NVIDIA or AMD device node."""
    return sys.platform == "linux" and not any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


@cache
def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX512-BF16 or AMX; Arm's BF16 on macOS is left at fp32)."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        flags = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
        return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16"))
    import torch

    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


@cache
def reuse_memory() -> None:
    """Have glibc keep freed memory for the next activation instead of handing it back to the system.

    Activations are tens of megabytes, which malloc maps and unmaps afresh each time; on virtual machines the page
    faults took half of the time (one thread, batch 16, mobilenetv2: a forward pass 9.8 → 4.8 ms an image, a training
    step 17 → 35 images a second). It holds for the whole process; its price is that freed memory stays with it.
    Elsewhere than Linux with glibc it does nothing.
    """
    import ctypes

    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1)):
            mallopt(option, value)


_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Small matrices: BLAS threads cost more in waiting for each other than they save."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def side_by_side(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run tasks in threads that share the cores out evenly, and return their results in order.

    Several single-threaded computations beat one that many threads share: no thread waits for another, which on a
    busy machine costs far more than it saves. On an accelerator the tasks run one after the other.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    if device().type != "cpu" or not tasks:
        return [task() for task in tasks]
    if len(tasks) == 1:
        with half_the_cores():
            return [tasks[0]()]
    workers, before = min(cores(), len(tasks)), torch.get_num_threads()
    threads = max(1, cores() // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
    try:
        futures = [pool.submit(task) for task in tasks]
        return [future.result() for future in futures]
    except BaseException:
        _stop.set()  # the other tasks end at their next step
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _stop.clear()
        torch.set_num_threads(before)


_stop = threading.Event()


def check_stop() -> None:
    """To be called in long loops: ends a task whose siblings failed or whose user pressed Ctrl-C."""
    if _stop.is_set():
        raise KeyboardInterrupt


@contextmanager
def half_the_cores() -> Iterator[None]:
    """torch with one thread for two cores: on hyper-threaded machines as fast, and steady when the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------- places


def cache_dir() -> Path:
    """Where features and converted weights are kept: ``HEADSTART_CACHE`` or the platform's cache folder."""
    import platformdirs

    return Path(os.environ.get("HEADSTART_CACHE") or platformdirs.user_cache_dir("headstart", appauthor=False))


@contextmanager
def plain_disk_errors(place: Path) -> Iterator[None]:
    """A full disk or a read-only place becomes one clear line."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" in str(error) or "No space left" in str(error):
            raise _disk_full(place) from error
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else error.errno == errno.ENOSPC
        if full:
            raise _disk_full(place) from error
        if isinstance(error, PermissionError):
            raise HeadstartError(f"{place} cannot be written (permission denied); choose another folder") from error
        raise


def _disk_full(place: Path) -> HeadstartError:
    return HeadstartError(
        f"the disk is full: {place} could not be written; free some space "
        "(`headstart cache --clear` empties the feature cache) and run the same command again"
    )


@contextmanager
def plain_read_errors(place: Path) -> Iterator[None]:
    """A folder that may not be read becomes one clear line."""
    try:
        yield
    except PermissionError as error:
        where = error.filename or place
        raise DataError(f"{where} cannot be read (permission denied); check that it is yours to read") from error


def check_seed(seed: object) -> None:
    """Raises OptionError unless ``seed`` is a whole number of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"the seed is {seed!r}; it takes a whole number from 0 on")


def check_writable(folder: Path) -> None:
    """Raises HeadstartError if ``folder`` cannot be made: before hours of work, not after."""
    parent = next(p for p in (folder.absolute().parent, *folder.absolute().parents) if p.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".headstart.", dir=parent)).rmdir()
    except OSError as error:
        raise HeadstartError(
            f"{folder} cannot be written: {parent} takes no new folder ({error.strerror}); choose another place"
        ) from error


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A temporary sibling of ``final`` to fill; renamed into place on success, removed on any failure.

    An older folder of that name stays whole until the new one is complete.
    """
    with plain_disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
        temporary.chmod(0o755)
        try:
            yield temporary
            if final.exists():
                _exchange(temporary, final)
            else:
                temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, final: Path) -> None:
    """Put ``new`` in the place of the folder ``final``, which is put back if that fails."""
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".old", dir=final.parent))
    try:
        final.rename(aside / "old")
        new.rename(final)
    except BaseException:
        if not final.exists():
            (aside / "old").rename(final)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part."""
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


# ---------------------------------------------------------------- what the user sees while waiting

_quiet = False


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Within it no message and no progress bar."""
    global _quiet
    before, _quiet = _quiet, on or _quiet
    try:
        yield
    finally:
        _quiet = before


def shows_progress() -> bool:
    """Whether someone is watching: a terminal, and not within ``quiet``."""
    return not _quiet and sys.stderr.isatty()


def say(text: str) -> None:
    """One line for the user, on stderr so that stdout stays data."""
    if not _quiet:
        print(text, file=sys.stderr, flush=True)


class _Bars:
    """One live display for every bar that is under way, from whatever thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.live: Any = None
        self.users = 0

    def __enter__(self) -> _Bars:
        with self.lock:
            self.users += 1
        return self

    def add(self, description: str, total: int, done: int, unit: str) -> tuple[Any, Any]:
        """The display and the number of a new bar in it."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with self.lock:
            if self.live is None:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[unit]}"),
                )
                self.live = Progress(*columns, console=Console(stderr=True), transient=True)
                self.live.start()
            return self.live, self.live.add_task(description, total=total, completed=done, unit=unit)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0 and self.live is not None:
                self.live.stop()
                self.live = None


_bars = _Bars()


@contextmanager
def progress(description: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A progress bar that appears after a second; yields ``advance(n)``. Silent when not on a terminal."""
    if not shows_progress():
        yield lambda n: None
        return
    start, done, bar = time.monotonic(), 0, None
    with _bars as bars:

        def advance(n: int) -> None:
            nonlocal done, bar
            done += n
            if bar is not None:
                bar[0].advance(bar[1], n)
            elif time.monotonic() - start > 1.0:
                bar = bars.add(description, total, done, unit)

        try:
            yield advance
        finally:
            if bar is not None:
                bar[0].remove_task(bar[1])
