"""What a run has already done, on disk: a killed run picks up where it was, with the same result."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart._runtime import atomic_write, plain_disk_errors
from headstart.modalities import Array


class Journal:
    """Named steps of one run (data, options and seed fix its folder). Only arrays and JSON; every write is atomic."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether an earlier, unfinished run left something."""
        return self.folder.is_dir() and any(self.folder.glob("*.safetensors"))

    def get(self, step: str) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Arrays and facts of a finished step, or None."""
        from safetensors import SafetensorError, safe_open

        path = self._path(step)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "np") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError):
            path.unlink()
            return None

    def put(self, step: str, arrays: Mapping[str, Array], facts: Mapping[str, Any] | None = None) -> None:
        """Record a step, replacing an earlier record of the same name."""
        from safetensors.numpy import save

        plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # save() ignores strides
        atomic_write(self._path(step), save(plain, {"facts": json.dumps(facts or {})}))

    def drop(self, step: str) -> None:
        """Forget a step."""
        self._path(step).unlink(missing_ok=True)

    def finish(self) -> None:
        """The run is complete and saved: nothing to resume."""
        with plain_disk_errors(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: str) -> Path:
        return self.folder / (re.sub(r"[^A-Za-z0-9.,=-]+", "_", step) + ".safetensors")
