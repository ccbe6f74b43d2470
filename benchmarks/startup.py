"""What a user waits for before anything happens: ``headstart --help`` and ``import headstart``; no torch in either."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from machine import headstart, timed

RUNS = 9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit")
    parser.parse_args()
    bare = _median([sys.executable, "-c", "pass"])
    found = {
        "help": _median(headstart("--help")),
        "import": _median([sys.executable, "-c", "import headstart"]) - bare,
        "python": bare,
        "torch_loaded": _loads_torch(),
    }
    print(json.dumps(found))


def _median(command: Sequence[str | Path]) -> float:
    """Median wall time of the whole process."""
    timed(command, quiet=True)  # files into the system's cache
    return statistics.median(timed(command, quiet=False).seconds for _ in range(RUNS))


def _loads_torch() -> bool:
    code = (
        "import sys, headstart\nfrom headstart.cli import app\nsys.argv = ['headstart', '--help']\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\nprint('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return run.stdout.strip().endswith("True")


if __name__ == "__main__":
    main()
