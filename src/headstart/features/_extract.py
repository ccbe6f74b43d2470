"""What a frozen prefix gives for an example, computed once per (source, cut, preprocessing, view, example)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._errors import BadExample, OptionError
from headstart._runtime import compute_dtype_name
from headstart.features._store import Rows, prune
from headstart.modalities import Array, Example, Modality, digest
from headstart.sources import Source

if TYPE_CHECKING:
    import torch

PLAIN, INPUT, DEPTHS = "plain", "input", "depths"
"""Kinds of features: the raw input as a short vector; the prepared input (cut 0); all depths pooled; ``cut:k``."""


@dataclass(slots=True)
class Features:
    """Rows per example and view. ``digests`` has None where the example could not be read (see ``problems``)."""

    digests: list[bytes | None]
    problems: dict[int, str]
    views: list[Rows]
    plain: Rows
    computed: int = 0
    """How many (example, view) pairs went through the network in this call; 0 when everything was cached."""

    def take(self, rows: Array, view: int = 0) -> Array:
        """Feature rows [len(rows), …] of one view, in memory."""
        return self.views[view].gather([self._known(i) for i in rows])

    def subset(self, rows: Array) -> Features:
        """The features of only these examples."""
        return Features([self.digests[i] for i in rows], {}, self.views, self.plain, self.computed)

    def all_raw(self) -> Array:
        """Raw inputs [n, p] of every example; zeros where one could not be read."""
        known = [i for i, d in enumerate(self.digests) if d is not None]
        found = self.raw(np.array(known, np.int64))
        out = np.zeros((len(self.digests), *found.shape[1:]), found.dtype)
        out[known] = found
        return out

    def raw(self, rows: Array) -> Array:
        """Raw inputs as short vectors [len(rows), p], uint8."""
        return self.plain.gather([self._known(i) for i in rows])

    def mapped(self, rows: Array) -> tuple[list[Array], list[Array]]:
        """Per view: the memory map and the row numbers [len(rows)] in it, for training without loading all."""
        known = [self._known(i) for i in rows]
        return [view.mapped() for view in self.views], [view.positions(known) for view in self.views]

    def _known(self, row: int) -> bytes:
        found = self.digests[row]
        if found is None:
            raise BadExample(self.problems.get(int(row), "was not read"))
        return found


def extract(
    source: Source,
    modality: Modality,
    examples: Sequence[Example],
    *,
    kind: str = DEPTHS,
    views: int = 1,
    what: str = "extracting features",
) -> Features:
    """Features of ``examples``: only what the cache lacks is decoded and computed. Unreadable ones are reported.

    ``kind`` is "depths" (every stage pooled, then the network's output: float32 [n, d]), "input" (prepared input,
    uint8), "plain" (only read, checked and looked at) or "cut:k" (the activation after k stages, in the compute
    precision). Raises OptionError where the source is not for this kind of input.
    """
    from headstart.features._pipeline import in_parallel

    check_modality(source, modality)
    stores = [Rows(_key(source, modality, kind, view)) for view in range(views)] if kind != PLAIN else []
    plain = Rows({"kind": PLAIN, "modality": modality.name, "version": modality.version})
    features = Features([None] * len(examples), {}, stores, plain)
    missing = _look_up(examples, features, [*stores, plain])
    if missing:
        with _network(source, kind) as run:
            job = _Job(modality, source, examples, features, run)
            in_parallel(missing, job.work, what=what)
        prune()
    return features


def check_modality(source: Source, modality: Modality) -> None:
    """Raises OptionError where the source is for another kind of input."""
    if source.modality != modality.name:
        raise OptionError(
            f"the source {source.name} is for the input type {source.modality}, but these examples are of the type "
            f"{modality.name}; name another source (default: {modality.default_source})"
        )


def _look_up(examples: Sequence[Example], features: Features, stores: list[Rows]) -> list[int]:
    """Fill in digests; return the positions that some store lacks."""
    missing = []
    for i, example in enumerate(examples):
        try:
            found = digest(example.raw())
        except BadExample as error:
            features.problems[i] = str(error)
            continue
        if all(found in rows for rows in stores):
            features.digests[i] = found
        else:
            missing.append(i)
    return missing


def _key(source: Source, modality: Modality, kind: str, view: int) -> dict[str, Any]:
    key = {
        "kind": kind,
        "modality": modality.name,
        "version": modality.version,
        "view": view,
        "preprocessing": dict(source.preprocessing),
    }
    if kind != INPUT:
        key |= {"source": source.digest, "precision": compute_dtype_name()}
    return key


@contextmanager
def _network(source: Source, kind: str) -> Iterator[Callable[[torch.Tensor], torch.Tensor] | None]:
    """The function of the prepared float input that yields the features; None where the input itself is wanted."""
    if kind in (INPUT, PLAIN):
        yield None
        return
    import torch

    from headstart._runtime import compute_dtype, device

    backbone = source.backbone()
    cut = backbone.cut(int(kind.partition(":")[2])) if kind.startswith("cut:") else None
    where = device()
    backbone.place(where, compute_dtype())
    with cut.prefix() if cut else backbone.depths() as function:

        def run(x: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return function(x.to(where, backbone.dtype)).cpu()

        yield run


@dataclass(slots=True)
class _Job:
    """One extraction: what every thread does with its chunk."""

    modality: Modality
    source: Source
    examples: Sequence[Example]
    features: Features
    run: Callable[[torch.Tensor], torch.Tensor] | None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, chunk: Sequence[int]) -> None:
        digests: list[bytes] = []
        raw: list[Array] = []
        views: list[list[Array]] = [[] for _ in self.features.views]
        for i in chunk:
            try:
                content = self.examples[i].raw()
                decoded = self.modality.decode(content, self.source.preprocessing)
                prepared = [self.modality.prepare(decoded, self.source.preprocessing, v) for v in range(len(views))]
                raw.append(self.modality.plain(decoded))
            except BadExample as error:
                self.features.problems[i] = str(error)
                continue
            digests.append(digest(content))
            self.features.digests[i] = digests[-1]
            for view, array in zip(views, prepared):
                view.append(array)
        if digests:
            self._store(digests, raw, views)

    def _store(self, digests: list[bytes], raw: list[Array], views: list[list[Array]]) -> None:
        results = []
        for rows, batch in zip(self.features.views, views):
            fresh = [j for j, d in enumerate(digests) if d not in rows]
            if fresh:
                results.append((rows, [digests[j] for j in fresh], self._compute(np.stack([batch[j] for j in fresh]))))
        with self.lock:
            self.features.plain.append(digests, np.stack(raw))
            for rows, keys, computed in results:
                rows.append(keys, computed)
                self.features.computed += len(keys)

    def _compute(self, batch: Array) -> Array:
        if self.run is None:
            return batch
        import torch

        out = self.run(self.modality.to_input(torch.from_numpy(batch), self.source.preprocessing))
        if out.ndim == 2:
            out = out.float()
        if out.dtype == torch.bfloat16:  # numpy has no bf16: keep the bits
            return out.contiguous().view(torch.int16).numpy()
        return out.contiguous().numpy()
