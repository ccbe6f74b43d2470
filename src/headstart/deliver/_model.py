"""The model: what is kept, saved, loaded and used. Data only: safetensors and JSON, no pickle, no code, no network."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._errors import BadExample, DataError, ModelError, SourceError
from headstart._runtime import atomic_folder, check_writable
from headstart.adapt import Head
from headstart.deliver._describe import summary
from headstart.features import in_parallel
from headstart.judge import softmax
from headstart.modalities import Array, Example, digest, modality
from headstart.targets import read_examples

if TYPE_CHECKING:
    import torch

    from headstart.sources import Backbone

FORMAT = 1
NOT_A_NETWORK = (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError)
"""What building a network from wrong arguments may raise."""
WEIGHTS, CONFIG, EVIDENCE = "model.safetensors", "config.json", "evidence.json"
PAGES = ("README.md", "report.html")
OURS = (WEIGHTS, CONFIG, EVIDENCE, *PAGES)
BESIDE = ("pulled.json", "LICENSE")
"""What a fetched model has besides."""
SEEN = 8
"""Bytes of an example's digest by which the model knows it again."""
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")


class Model:
    """A trained classifier.

    ``classes_`` [k] are the class names in the order of the columns of ``predict_proba``. ``evidence`` holds what
    was measured: scores with intervals, verdict, audit, candidates.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        head: Head,
        weights: Path | Mapping[str, Any],
        evidence: Mapping[str, Any],
        pages: Mapping[str, str] | None = None,
        files: Mapping[str, Path | bytes] | None = None,
    ) -> None:
        self.config = dict(config)
        self.evidence = dict(evidence)
        self.classes_ = np.array(config["classes"])
        self.path: Path | None = None
        self.head = head
        self._weights = weights  # safetensors file, or names to torch tensors
        self._pages = dict(pages or {})
        self._files = dict(files or {})  # what the network is built from besides its weights
        self._backbone: Backbone | None = None
        self._lock = threading.Lock()

    # ------------------------------------------------------------ use

    def predict(self, items: Any) -> Array:
        """Labels [n] for paths, encoded bytes or arrays. Raises DataError if one cannot be read."""
        found: Array = self.classes_[self.predict_proba(items).argmax(axis=1)]
        return found

    def predict_proba(self, items: Any) -> Array:
        """Calibrated probabilities [n, k], columns in the order of ``classes_``. Raises DataError as ``predict``."""
        examples = read_examples(items)
        probabilities, problems = self.probabilities(examples)
        if problems:
            row, reason = next(iter(sorted(problems.items())))
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise DataError(
                f"{examples[row].name} {reason}{more}; leave it out, or use the command, which lists such files"
            )
        return probabilities

    def probabilities(self, examples: Sequence[Example]) -> tuple[Array, dict[int, str]]:
        """Probabilities [n, k] with NaN rows where an example could not be read, and the reasons by row."""
        logits, problems = self.logits(examples)
        return softmax(logits, float(self.config["temperature"])) if len(logits) else logits, problems

    def logits(self, examples: Sequence[Example]) -> tuple[Array, dict[int, str]]:
        """Uncalibrated scores [n, k]; NaN rows for unreadable examples, whose reasons come beside."""
        import torch

        from headstart._runtime import device

        kind, preprocessing = modality(self.config["modality"]), self.config["preprocessing"]
        out, problems = np.full((len(examples), len(self.classes_)), np.nan), {}
        with self._lock, ExitStack() as stack:
            backbone, where = self.backbone(), device()
            run = stack.enter_context(backbone.depths())

            def work(rows: Sequence[int]) -> None:
                good, batch = [], []
                for i in rows:
                    try:
                        decoded = kind.decode(examples[i].raw(), preprocessing)
                    except BadExample as error:
                        problems[i] = str(error)
                        continue
                    good.append(i)
                    batch.append(kind.prepare(decoded, preprocessing))
                if good:
                    with torch.inference_mode():
                        x = kind.to_input(torch.from_numpy(np.stack(batch)), preprocessing)
                        out[good] = self.head.logits(run(x.to(where, backbone.dtype)).float().cpu().numpy())

            in_parallel(range(len(examples)), work, what="predicting")
        return out, problems

    def was_trained_on(self, example: Example) -> bool:
        """Whether the model learnt from an example of this very content. Raises BadExample if it cannot be read."""
        return bool(self._seen) and digest(example.raw())[:SEEN].hex() in self._seen

    @cached_property
    def _seen(self) -> frozenset[str]:
        text, step = str(self.evidence.get("trained_on", "")), 2 * SEEN
        return frozenset(text[i : i + step] for i in range(0, len(text), step))

    def backbone(self) -> Backbone:
        """The network (torch), built at first use."""
        if self._backbone is None:
            from headstart._runtime import compute_dtype

            self._backbone = self.fresh_backbone(compute_dtype())
        return self._backbone

    def fresh_backbone(self, dtype: torch.dtype, *, trained: bool = True, seed: int = 0) -> Backbone:
        """The network built anew in ``dtype``; if not ``trained``, with the random weights that ``seed`` fixes."""
        from safetensors.torch import load_file

        from headstart._runtime import device
        from headstart.sources import DEFAULT_LIBRARY, build

        weights: Mapping[str, Any] = self._weights if isinstance(self._weights, Mapping) else load_file(self._weights)
        names = {n.removeprefix("backbone."): t for n, t in weights.items() if not n.startswith("head.")}
        config = self.config
        try:
            with files_on_disk(self._files) as files:
                backbone = build(
                    config["architecture"],
                    config["model_args"],
                    config["preprocessing"],
                    seed,
                    library=config.get("library", DEFAULT_LIBRARY),
                    files=files,
                )
            if trained:
                backbone.network.load_state_dict(dict(names))
        except (SourceError, *NOT_A_NETWORK) as error:
            raise self._damaged(f"{WEIGHTS} does not fit {CONFIG}: {error}") from error
        backbone.place(device(), dtype)
        return backbone

    @property
    def keeps_source_network(self) -> bool:
        """Whether the network is the source's own, unchanged, so that its cached features serve this model."""
        return isinstance(self._weights, Path)

    def _damaged(self, why: str) -> ModelError:
        place = self.path or "the model"
        return ModelError(f"{place} is damaged ({' '.join(why.split())[:200]}); copy the folder again or run fit again")

    def summary(self) -> list[str]:
        """What came out, one line each."""
        return summary(self)

    # ------------------------------------------------------------ keep

    @property
    def pages(self) -> dict[str, str]:
        """Texts saved beside the weights, by file name."""
        return dict(self._pages)

    def set_pages(self, pages: Mapping[str, str]) -> None:
        """Texts saved beside the weights: model card, report."""
        self._pages = dict(pages)

    def save(self, folder: str | Path) -> Path:
        """Write the model folder, whole or not at all; an older one of that name is replaced only at the end."""
        from safetensors.numpy import load_file as load_arrays
        from safetensors.numpy import save_file

        final = Path(folder)
        check_out(final)
        if isinstance(self._weights, Mapping):
            arrays = {
                n: t.detach().cpu().float().numpy() if t.is_floating_point() else t.numpy()
                for n, t in self._weights.items()
            }
        else:
            arrays = load_arrays(self._weights)
        named = {
            f"backbone.{n.removeprefix('backbone.')}": np.asarray(a, order="C")
            for n, a in arrays.items()
            if not n.startswith("head.")
        }
        with atomic_folder(final) as new:
            save_file(named | self.head.tensors(), new / WEIGHTS, metadata={"format": "pt"})
            (new / WEIGHTS).chmod(0o644)
            for name, content in self._files.items():
                (new / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            _write_json(new / CONFIG, self.config | ({"files": sorted(self._files)} if self._files else {}))
            _write_json(new / EVIDENCE, self.evidence)
            for name, text in self._pages.items():
                (new / name).write_text(text, encoding="utf-8")
        self.path = final
        return final

    def __getstate__(self) -> dict[str, Any]:
        """For copies and worker processes; to keep a model, ``save`` it."""
        from safetensors.torch import load_file

        weights = self._weights if isinstance(self._weights, Mapping) else load_file(self._weights)
        files = {n: f if isinstance(f, bytes) else f.read_bytes() for n, f in self._files.items()}
        return {**vars(self), "_weights": dict(weights), "_files": files, "_backbone": None, "_lock": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<headstart.Model {self.config['source']} · {self.config['strategy']} · {len(self.classes_)} classes>"


def check_out(folder: Path) -> None:
    """Raises ModelError where saving would destroy what fit did not write, HeadstartError where it cannot write."""
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else [str(folder)] * folder.exists()
    if there and not is_model(folder):
        raise ModelError(f"{folder} exists and is no model folder; it is left alone: choose another --out")
    known = {*OURS, *BESIDE, *(map(str, _read_json(folder / CONFIG).get("files", [])) if there else ())}
    if others := [name for name in there if name not in known]:
        raise ModelError(
            f"{folder} holds {others[0]!r}{' and more' if len(others) > 1 else ''} beside a model; it is left alone: "
            "move that away or choose another --out"
        )
    check_writable(folder)


def is_model(folder: Path) -> bool:
    """Whether ``folder`` is a model's, be it damaged, and not a source's or anything else."""
    try:
        return "head" in _read_json(folder / CONFIG)
    except ModelError:
        return False


def load(folder: str | Path) -> Model:
    """The model in ``folder``; needs no network and no cache. Raises ModelError if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder)
    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} is not a model folder: it has no {CONFIG}; give the folder that fit wrote")
    config = _read_json(path / CONFIG)
    try:
        if int(config["format"]) > FORMAT:
            raise ModelError(f"{path} was written by a newer headstart (format {config['format']}); upgrade to read it")
        with safe_open(path / WEIGHTS, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith("head.")}  # noqa: SIM118
        head = Head.from_tensors(tensors, config["head"])
        _check(config, head)
        pages = {name: (path / name).read_text(encoding="utf-8") for name in PAGES if (path / name).is_file()}
        evidence = _read_json(path / EVIDENCE) if (path / EVIDENCE).is_file() else {}
        model = Model(config, head, path / WEIGHTS, evidence, pages, _files(path, config.get("files", [])))
        modality(config["modality"]).check(config["preprocessing"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError, DataError) as error:
        raise ModelError(
            f"{path} is damaged ({' '.join(str(error).split())[:150]}); copy the folder again or run fit again"
        ) from error
    model.path = path
    return model


def _files(folder: Path, names: Any) -> dict[str, Path | bytes]:
    """The data files that config.json names, which lie in the folder itself. Raises ValueError for any other name."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("files is no list of names")
    for name in names:
        if _FILE.fullmatch(name) is None or name in OURS or not (folder / name).is_file():
            raise ValueError(f"{name[:60]!r} is no file of this folder that a network is built from")
        if (folder / name).resolve().parent != folder.resolve():
            raise ValueError(f"{name} lies outside the folder")
    return {name: folder / name for name in names}


@contextmanager
def files_on_disk(files: Mapping[str, Path | bytes]) -> Iterator[dict[str, Path]]:
    """Within it, every file as a path; those that are bytes are written to a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            if isinstance(content, bytes):
                (Path(place) / name).write_bytes(content)
        yield {n: Path(place) / n if isinstance(content, bytes) else content for n, content in files.items()}


def _check(config: Mapping[str, Any], head: Head) -> None:
    """Raises ValueError, TypeError or KeyError for what ``fit`` cannot have written."""
    classes, temperature = config["classes"], config["temperature"]
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or len({*classes}) < len(classes):
        raise ValueError("classes are not distinct names")
    if type(temperature) not in (int, float) or not 0 < temperature < float("inf"):
        raise ValueError(f"a temperature of {temperature!r} cannot be")
    width = head.last - head.first
    for weight, bias in head.layers:
        if weight.ndim != 2 or weight.shape != (len(bias), width):
            raise ValueError("the layers of the head do not fit each other")
        width = len(bias)
    if head.first < 0 or width != len(classes):
        raise ValueError("the head does not fit the classes")
    if not isinstance(config["architecture"], str) or not isinstance(config["model_args"], dict):
        raise TypeError("the architecture is no name with arguments")
    if not isinstance(config.get("library", ""), str):
        raise TypeError("the library of the architecture is no name")


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value)} is not JSON")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the model folder again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object; copy the model folder again")
    return data
