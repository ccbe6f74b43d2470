"""A source: a pre-trained network plus its card, known without loading torch; the network is built on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._errors import SourceError
from headstart._runtime import atomic_folder, cache_dir
from headstart.sources.builders import builder

if TYPE_CHECKING:
    import torch

    from headstart.sources._backbone import Backbone

FORMAT = "1"  # of what the cache keeps per source
DEFAULT_LIBRARY = "timm"


@dataclass(frozen=True)
class Source:
    """A pre-trained network, described.

    ``weights`` is the file as it was published (safetensors, or a pickle-format state dict that is only read with
    ``weights_only=True``); None means random weights. ``remap`` turns its state dict into the architecture's own
    names. ``preprocessing`` is its modality's JSON data. ``card`` says what and how much it was trained on.
    """

    name: str
    modality: str
    architecture: str
    preprocessing: Mapping[str, Any]
    weights: Path
    model_args: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    remap: Callable[[dict[str, torch.Tensor], torch.nn.Module], dict[str, torch.Tensor]] | None = None
    sha256: str | None = None
    """Expected checksum of ``weights``; a mismatch is an error."""
    library: str = DEFAULT_LIBRARY
    """Which library the architecture is from: the name of a module in ``builders``."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files besides ``weights`` that the network is built from, by the name they have in a folder of their own."""

    @cached_property
    def digest(self) -> str:
        """Hex digest of weights, architecture and arguments: the key of everything computed from this source."""
        found = file_sha256(self.weights)
        if self.sha256 and found != self.sha256:
            raise SourceError(
                f"the weights of {self.name} are damaged or not the published ones: {self.weights} has sha256 "
                f"{found[:12]}…, expected {self.sha256[:12]}…; install its package again"
            )
        about = [FORMAT, found, self.architecture, dict(self.model_args)]
        if self.library != DEFAULT_LIBRARY or self.files:
            others = {name: file_sha256(path) for name, path in self.files.items()}
            about += [self.library, builder(self.library).VERSION, others]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @cached_property
    def folder(self) -> Path:
        """The cache's folder with this source's backbone as safetensors and its facts; made at first use."""
        place = cache_dir() / "sources" / self.digest[:32]
        if not (place / "facts.json").is_file():
            self._convert(place)
        return place

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Stages (name, width), feature width, parameters: read from the cache, no torch needed."""
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return facts

    @property
    def stages(self) -> tuple[str, ...]:
        """Module names of the chain of stages."""
        return tuple(stage["module"] for stage in self.facts["stages"])

    def columns(self, where: int | str | None) -> tuple[int, int]:
        """First and last column, in the pooled features of all depths, of the network's output (None), of stage
        ``where``, counted from 1, or of everything ("all")."""
        widths = [int(stage["width"]) for stage in self.facts["stages"]]
        total, width = sum(widths), int(self.facts["width"])
        if where == "all":
            return 0, total + width
        if where is None:
            return total, total + width
        return sum(widths[: int(where) - 1]), sum(widths[: int(where)])

    @property
    def frozen_because(self) -> str:
        """Why no weight of this network can be trained; empty where they can."""
        return str(self.facts.get("frozen_because", ""))

    @property
    def backbone_file(self) -> Path:
        """The backbone's weights (no output layer) as safetensors, fp32."""
        return self.folder / "backbone.safetensors"

    @property
    def build_files(self) -> dict[str, Path]:
        """Files besides the weights that the backbone is built again from, by name."""
        return {name: self.folder / name for name in self.facts.get("files", ())}

    def backbone(self) -> Backbone:
        """The pre-trained network without its output layer, in evaluation mode."""
        from safetensors.torch import load_file

        backbone = self._empty(seed=0)
        backbone.network.load_state_dict(load_file(self.backbone_file))
        return backbone

    def scratch(self, seed: int) -> Backbone:
        """The same architecture with random weights (its library's own initialisation), fixed by ``seed``."""
        return self._empty(seed)

    def _empty(self, seed: int) -> Backbone:
        return build(
            self.architecture, self.model_args, self.preprocessing, seed, library=self.library, files=self.build_files
        )

    def _convert(self, place: Path) -> None:
        from safetensors.torch import save_file

        from headstart.sources._backbone import Backbone

        try:
            network, files = builder(self.library).published(self)
            backbone = Backbone(network, self.preprocessing)
        except (RuntimeError, KeyError, ValueError, TypeError, AssertionError) as error:
            first = str(error).strip().splitlines()
            detail = " ".join(line.strip() for line in first[:2])[:300]
            raise SourceError(
                f"the weights of {self.name} do not fit {self.architecture}: {detail}; "
                f"look at {self.weights} and the architecture named in its config"
            ) from error
        with atomic_folder(place) as folder:
            save_file(contiguous(network), folder / "backbone.safetensors", metadata={"format": "pt"})
            for name, content in files.items():
                (folder / name).write_bytes(content)
            facts = backbone.facts() | ({"files": list(files)} if files else {})
            (folder / "facts.json").write_text(json.dumps(facts, indent=1))


def build(
    architecture: str,
    model_args: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    seed: int,
    *,
    library: str = DEFAULT_LIBRARY,
    files: Mapping[str, Path] | None = None,
) -> Backbone:
    """An architecture of a library with random weights as a Backbone."""
    from headstart.sources._backbone import Backbone

    network = builder(library).create(
        architecture, model_args, seed=seed, preprocessing=preprocessing, files=files or {}
    )
    return Backbone(network, preprocessing)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises SourceError if it cannot be read or is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} is not a JSON object")
    return found


def channels(preprocessing: Mapping[str, Any]) -> int:
    """Input channels that the preprocessing yields."""
    return int(preprocessing.get("channels", 3))


def contiguous(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as separate contiguous fp32 tensors (safetensors refuses shared memory)."""
    return {
        name: (t.detach().float() if t.is_floating_point() else t.detach()).clone().contiguous()
        for name, t in network.state_dict().items()
    }


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from safetensors, or from a pickle-format file as data only. Raises SourceError."""
    import torch

    if not path.is_file():
        raise SourceError(f"the weights file {path} is missing")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise SourceError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    import pickle
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise SourceError(
            f"{path} holds more than plain tensors and is not loaded, because a pickle can run code; "
            "ask for a safetensors file of the same weights"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise SourceError(f"{path} is not a state dict (names to tensors)")
    return loaded


def file_sha256(path: Path) -> str:
    """Checksum of a file, hex. Raises SourceError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"the weights file {path} cannot be read ({error.strerror})") from error
