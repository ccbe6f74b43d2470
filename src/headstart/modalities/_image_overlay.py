"""Heat on a picture, and a picture with a part of it hidden."""

from __future__ import annotations

import numpy as np
from PIL import Image

from headstart.modalities._base import Array
from headstart.modalities._image_geometry import Box

_REACH = 1 / 8  # of the shorter side: how far the filling looks, as the sigma of a Gaussian
_ENLARGED = 4  # times: from here on single pixels are shown as squares
_STRENGTH = 0.75  # of the hottest colour over the picture
_COLOURS = "inferno"  # even steps to the eye, also without colour vision
_COOLEST = 0.25  # of the colour scale: what lies below is too dark to be told from a dark picture


def filled_in(pixels: Array, where: Array) -> Array:
    """uint8 [H, W, C] with ``where`` [H, W] replaced by a weighted mean of the other pixels, near ones first.

    A flat patch would itself be something to see, and a blur of the part would keep its colour; after Rong et al.,
    "A consistent and efficient evaluation strategy for attribution methods", ICML 2022.
    """
    keep = (~where).astype(np.float32)
    if not keep.any():
        return np.full_like(pixels, 128)
    planes = np.concatenate([pixels.transpose(2, 0, 1) * keep, keep[None]]).astype(np.float32)
    sigma = max(1.0, min(where.shape) * _REACH)
    rows, columns = (_gaussian(side, sigma) for side in where.shape)
    near = rows @ planes @ columns
    far = planes[:-1].sum((1, 2)) / keep.sum()
    little = 1e-3
    fill = (near[:-1] + little * far[:, None, None]) / (near[-1] + little)
    mixed: Array = np.where(where[:, :, None], np.rint(fill).clip(0, 255).transpose(1, 2, 0), pixels).astype(np.uint8)
    return mixed


def _gaussian(side: int, sigma: float) -> Array:
    steps = np.arange(side, dtype=np.float32)
    weights: Array = np.exp(-((steps[:, None] - steps) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    return weights.astype(np.float32)


def overlay(picture: Image.Image, heat: Array, mark: Array, boxes: tuple[Box, Box], side: int) -> tuple[Array, Array]:
    """The picture with ``side`` pixels at the longer edge, and the same in grey under ``heat`` [H, W] (0 to 1).

    ``boxes`` are those of ``shown_boxes``. A line runs around ``mark`` [H, W]; a frame shows what the network saw.
    """
    scale = side / max(picture.size)
    width, height = (max(1, round(edge * scale)) for edge in picture.size)
    how = Image.Resampling.NEAREST if scale >= _ENLARGED else Image.Resampling.LANCZOS
    plain = np.array(picture.resize((width, height), how))
    left, top, right, bottom = (round(edge * scale) for edge in boxes[0])
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = slice(top, bottom), slice(left, right)
    hot = np.zeros((height, width), np.float32)
    marked = np.zeros((height, width), bool)
    hot[part] = _resized(heat, boxes[1], (right - left, bottom - top)).clip(0, 1)[: height - top, : width - left]
    marked[part] = _resized(mark, boxes[1], (right - left, bottom - top))[: height - top, : width - left] > 0.5
    seen = np.zeros((height, width), bool)
    seen[part] = True
    warm = _warmed(plain, hot)
    warm[~seen] = warm[~seen] // 2 + 64  # paler: not looked at, whatever it shows
    framed = _outlined(plain, seen) if not seen.all() else plain
    return framed, _outlined(_outlined(warm, seen) if not seen.all() else warm, marked)


def _resized(values: Array, box: Box, size: tuple[int, int]) -> Array:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


def _warmed(plain: Array, hot: Array) -> Array:
    from matplotlib import colormaps

    grey = np.repeat(np.asarray(Image.fromarray(plain).convert("L"), np.float32)[:, :, None], 3, axis=2)
    colours = colormaps[_COLOURS](_COOLEST + (1 - _COOLEST) * hot)[:, :, :3] * 255
    strength = _STRENGTH * hot[:, :, None] ** 0.75
    mixed: Array = np.rint((1 - strength) * grey + strength * colours).astype(np.uint8)
    return mixed


def _outlined(pixels: Array, inside: Array) -> Array:
    """A white line with a dark one beside it along the edge of ``inside``: visible on any picture."""
    from scipy.ndimage import binary_dilation, binary_erosion

    out = pixels.copy()
    out[binary_dilation(inside) & ~inside] = 32
    out[inside & ~binary_erosion(inside, iterations=2, border_value=0)] = 255
    return out
