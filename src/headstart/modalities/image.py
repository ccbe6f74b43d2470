"""Images: photographs, scans, X-rays, characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from headstart.modalities._base import Array, Preprocessing
from headstart.modalities._image_decode import decode_array, decode_bytes
from headstart.modalities._image_geometry import evaluation_view, scaled_size, shown_boxes, target_size, varied_view
from headstart.modalities._image_overlay import filled_in, overlay
from headstart.modalities._near import near_duplicates

if TYPE_CHECKING:
    import torch

_PLAIN_SIDE = 32
_LARGEST_SIDE = 4096  # of a network's input


class ImageModality:
    """Pictures of any common raster format, or arrays. See :class:`headstart.modalities.Modality`.

    Preprocessing is ``{"size": [H, W], "crop_pct": 0.875, "crop_mode": "center" | "squash" | "border",
    "interpolation": "bicubic", "mean": […], "std": […], "channels": 3}``; mean and std are on the 0–1 scale.
    """

    name = "image"
    version = "1"
    default_source = "bundled/efficientnet-lite0"
    suffixes = frozenset(
        {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".jp2"}
        | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".ico", ".tga"}
    )
    content_columns = (
        "image",
        "img",
        "picture",
        "photo",
        "file_name",
        "filename",
        "file",
        "path",
        "image_path",
    )
    plain_name = "raw pixels"

    def check(self, preprocessing: Preprocessing) -> None:
        """Raises ValueError with the reason if this preprocessing, read from a file, cannot be."""
        sides, channels = list(preprocessing["size"]), preprocessing.get("channels", 3)
        if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides):
            raise ValueError(f"an input of {sides} pixels cannot be")
        if channels not in (1, 3):
            raise ValueError(f"{channels} input channels, not 1 or 3")
        mean, std = (np.array(preprocessing[key], np.float64) for key in ("mean", "std"))
        if not (mean.ndim == std.ndim == 1 and mean.size and std.size and np.isfinite(mean).all() and (std > 0).all()):
            raise ValueError("mean and std are not numbers per channel, std above 0")
        if not 0 <= float(preprocessing.get("crop_pct") or 0) <= 2:
            raise ValueError("crop_pct is no share of the picture")

    def decode(self, raw: bytes | Array, preprocessing: Preprocessing | None = None) -> Image.Image:
        """The upright RGB picture; a JPEG at the smallest scale that ``preprocessing`` allows.

        Raises BadExample with the reason for whatever cannot be trusted or read.
        """
        if isinstance(raw, np.ndarray):
            return decode_array(raw)
        if preprocessing is None:
            return decode_bytes(raw)
        return decode_bytes(raw, lambda size: _enough(size, preprocessing))

    def prepare(self, decoded: Any, preprocessing: Preprocessing, view: int = 0) -> Array:
        """uint8 [H, W, C]: view 0 as timm's evaluation transform, views 1, 2, … gentle fixed variations."""
        picture = varied_view(decoded, preprocessing, view) if view else evaluation_view(decoded, preprocessing)
        if preprocessing.get("channels", 3) == 1:
            return np.array(picture.convert("L"))[:, :, None]
        return np.array(picture)

    def plain(self, decoded: Any) -> Array:
        """uint8 [3072]: the whole picture squashed to 32 × 32 RGB."""
        side = (_PLAIN_SIDE, _PLAIN_SIDE)
        return np.array(decoded.resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0)).reshape(-1)

    def near_duplicates(self, plain: Array) -> list[tuple[int, int]]:
        """Pairs of rows of ``plain`` [n, 3072] that are one picture, re-encoded, resized or brightened."""
        return near_duplicates(plain, _PLAIN_SIDE)

    def to_input(self, batch: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
        """uint8 [n, H, W, C] to normalised float32 [n, C, H, W], channels last, on the same device."""
        import torch

        channels = batch.shape[-1]
        mean, std = (_per_channel(preprocessing[key], channels) for key in ("mean", "std"))
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32).contiguous(memory_format=torch.channels_last)
        shift = torch.tensor(mean, device=batch.device).mul_(255).view(1, -1, 1, 1)
        scale = torch.tensor(std, device=batch.device).mul_(255).view(1, -1, 1, 1)
        return pixels.sub_(shift).div_(scale)

    def shown(self, decoded: Any, preprocessing: Preprocessing) -> tuple[slice, slice]:
        """Rows and columns of the network's input that show the picture; the rest is padding."""
        left, top, right, bottom = (round(edge) for edge in shown_boxes(decoded.size, preprocessing)[1])
        return slice(top, bottom), slice(left, right)

    def hide(self, prepared: Array, where: Array) -> Array:
        """uint8 [H, W, C] with the pixels ``where`` [H, W] filled in from those around them."""
        return filled_in(prepared, where)

    def overlay(
        self, decoded: Any, heat: Array, mark: Array, preprocessing: Preprocessing, side: int
    ) -> tuple[Array, Array]:
        """The upright picture, with a frame around what the network saw, and the same in grey under the heat."""
        return overlay(decoded, heat, mark, shown_boxes(decoded.size, preprocessing), side)


def _enough(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """(width, height) below which decoding would lose something that the network or the plain view sees."""
    scaled, target = scaled_size(size, preprocessing), target_size(preprocessing)
    if preprocessing.get("crop_mode") == "border":  # the shorter side may be smaller than the target
        target = (_PLAIN_SIDE, _PLAIN_SIDE)
    width, height = (max(a, b, _PLAIN_SIDE) for a, b in zip(scaled, target))
    return width, height


def _per_channel(values: Any, channels: int) -> list[float]:
    numbers = [float(v) for v in values]
    return numbers if len(numbers) == channels else [sum(numbers) / len(numbers)] * channels


MODALITY = ImageModality()
