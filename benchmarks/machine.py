"""The machine: what it is, whether it is quiet, and processes timed on it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

BUSY = 15.0  # per cent of the processor in use by others above which a timed run waits
PACKAGES = ("headstart", "torch", "timm", "numpy", "scikit-learn", "pillow")


def facts() -> dict[str, Any]:
    """What a reader needs to judge the numbers."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def wait_until_quiet(limit: float | None = None) -> float:
    """Wait until others use little of the processor, ``limit`` seconds at most; returns per cent in use by them."""
    limit = float(os.environ.get("BENCHMARK_WAIT", "60")) if limit is None else limit
    end = time.monotonic() + limit
    while (used := float(psutil.cpu_percent(interval=1.0))) > BUSY and time.monotonic() < end:
        time.sleep(1)
    return used


@dataclass(frozen=True)
class Timed:
    """A process that ended well."""

    started: float
    seconds: float
    work: float
    """Core-seconds: user and system time of all its threads."""
    output: str
    peak: int
    """Bytes of memory at most, all its own."""
    busy_before: float

    def json(self) -> Any:
        """The last line of its output."""
        return json.loads(self.output.strip().splitlines()[-1])


def timed(command: Sequence[str | Path], env: Mapping[str, str] | None = None, quiet: bool = True) -> Timed:
    """Run a process to its end, alone if the machine allows. Raises SystemExit with its messages if it fails."""
    busy = wait_until_quiet() if quiet else 0.0
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        started = time.time()
        begin = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=errors, env={**os.environ, **(env or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        output.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{errors.read().decode()[-3000:]}")
        scale = 1 if sys.platform == "darwin" else 1024
        work = usage.ru_utime + usage.ru_stime
        return Timed(started, seconds, work, output.read().decode(), usage.ru_maxrss * scale, busy)


def headstart(*arguments: str | Path) -> list[str | Path]:
    """The command line of this project in the running environment."""
    return [sys.executable, "-m", "headstart", *arguments]
