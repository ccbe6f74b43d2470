"""Run the benchmarks, ours and the peers' side by side, and write RESULTS.md.

``python benchmarks/run.py [--kit PATH] [--only NAME …]``; what takes long (accuracy, onnx_networks,
sources) only runs when named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from kit import HERE, WORK, kit_path
from machine import facts
from report import SECTIONS, page

LONG = ("accuracy", "onnx_networks", "sources")
QUICK = [name for name in SECTIONS if name not in LONG]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", help="folder of the data kit; default: HEADSTART_KIT, or beside the checkout")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=QUICK, help="default: the quick ones")
    options = parser.parse_args()
    kit = kit_path(options.kit)
    WORK.mkdir(exist_ok=True)
    for name in options.only:
        print(f"{name} …", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--kit", str(kit)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.strip().splitlines()[-1]) | {"when": time.strftime("%Y-%m-%d")}
        (WORK / f"{name}.json").write_text(json.dumps(found, indent=1))
        write()


def write() -> None:
    """RESULTS.md from everything that has been measured here so far."""
    files = {name: WORK / f"{name}.json" for name in SECTIONS}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    (HERE / "RESULTS.md").write_text(page(found, facts()))
    print(f"wrote {HERE.name}/RESULTS.md", flush=True)


if __name__ == "__main__":
    main()
