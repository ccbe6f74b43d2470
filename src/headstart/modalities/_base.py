"""What every input type provides: recognise, decode safely, prepare, and a plain view of the raw input."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart._errors import BadExample

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Preprocessing = Mapping[str, Any]  # JSON data that its modality understands; stored with the model


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One input, not yet decoded.

    ``content`` is a path, the encoded bytes (a table's cell), or a decoded array (an in-memory image).
    ``name`` is what the user is shown.
    """

    name: str
    content: Path | bytes | Array

    def raw(self) -> bytes | Array:
        """The encoded bytes, or the array itself. Raises BadExample if the file cannot be read."""
        if not isinstance(self.content, Path):
            return self.content
        try:
            return self.content.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            raise BadExample(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def digest(raw: bytes | Array) -> bytes:
    """32 bytes that identify the content, not the name or place. Used as the key of everything cached."""
    if isinstance(raw, np.ndarray):
        head = f"{raw.dtype.str}{raw.shape}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(raw).tobytes()).digest()
    return hashlib.sha256(raw).digest()


class Modality(Protocol):
    """An input type. One file per modality; nothing outside ``modalities/`` asks which one it is."""

    name: str
    """Word used in cards and messages: "image"."""
    version: str
    """Changes whenever decoding or views change; part of every cache key."""
    default_source: str
    """Name of the source used when the user names none."""
    suffixes: frozenset[str]
    """Lower-case file endings with the dot that belong to this modality."""
    content_columns: tuple[str, ...]
    """Table columns that hold content or paths, best first: ("image", "file_name", …)."""
    plain_name: str
    """What the plain baseline looks at: "raw pixels"."""

    def check(self, preprocessing: Preprocessing) -> None:
        """Raises ValueError with the reason if this preprocessing, read from a file, cannot be."""

    def decode(self, raw: bytes | Array, preprocessing: Preprocessing | None = None) -> Any:
        """The decoded example (for images a PIL image, upright, RGB). With ``preprocessing`` the decoder may
        work at the smallest scale that still serves it. Raises BadExample for whatever cannot be trusted or read.
        """

    def prepare(self, decoded: Any, preprocessing: Preprocessing, view: int = 0) -> Array:
        """The network's input before normalisation (images: uint8 [H, W, C]). View 0 is the plain one used for
        prediction; views 1, 2, … are fixed random variations, the same for the same view number and content.
        """

    def plain(self, decoded: Any) -> Array:
        """The raw input as a short uint8 vector: what the plain baseline and the search for near duplicates see."""

    def near_duplicates(self, plain: Array) -> list[tuple[int, int]]:
        """Pairs of rows of ``plain`` [n, p] that are the same example but for re-encoding or resizing."""

    def to_input(self, batch: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
        """A stacked batch of ``prepare`` results (uint8 [n, H, W, C]) as the network's float input [n, C, H, W]."""

    def shown(self, decoded: Any, preprocessing: Preprocessing) -> tuple[slice, ...]:
        """Where the example lies in ``prepare``'s result (images: rows, columns); the rest is padding."""

    def hide(self, prepared: Array, where: Array) -> Array:
        """``prepared`` with the positions ``where`` (bool, images: [H, W]) filled in from what surrounds them, so that
        nothing of what was there is left and little that is strange comes in."""

    def overlay(
        self, decoded: Any, heat: Array, mark: Array, preprocessing: Preprocessing, side: int
    ) -> tuple[Array, Array]:
        """Two pictures of the example, uint8 [h, w, 3] with ``side`` pixels at the longer edge: as a person knows it,
        and with ``heat`` (0 to 1) and an outline of ``mark`` (bool), both over the positions of the network's input,
        laid over the places that they belong to. What the network was not shown is recognisable in both."""
