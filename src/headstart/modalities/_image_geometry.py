"""From a picture to the network's pixels: the evaluation crop, and gentle variations of it.

The evaluation crop is that of timm's ``transforms_imagenet_eval`` (resize, then crop the centre), but only
the pixels inside the crop are computed: Pillow resizes a sub-pixel box of the source in one pass.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from headstart.modalities._base import Array, Preprocessing

Size = tuple[int, int]  # (width, height), Pillow's order
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom

_TURN = 8.0  # degrees, rotation and shear each
_LEAST_AREA = 0.75
_ASPECT = 1.1
_TONE = 0.2


@dataclass(frozen=True, slots=True)
class Window:
    """[left, left + width) × [top, top + height) of a picture resized to ``scaled`` (width, height)."""

    scaled: tuple[float, float]
    left: int
    top: int
    width: int
    height: int

    def grown(self, x: int, y: int) -> Window:
        """The window with ``x`` more columns on either side and ``y`` more rows above and below."""
        return Window(self.scaled, self.left - x, self.top - y, self.width + 2 * x, self.height + 2 * y)


def target_size(preprocessing: Preprocessing) -> Size:
    """(width, height) of the network's input."""
    height, width = preprocessing["size"]
    return int(width), int(height)


def scaled_size(size: Size, preprocessing: Preprocessing) -> Size:
    """What timm would resize a picture of ``size`` to, before it crops."""
    width, height = size
    crop_pct = preprocessing.get("crop_pct") or 0.875
    to_w, to_h = (math.floor(side / crop_pct) for side in target_size(preprocessing))
    mode = preprocessing.get("crop_mode") or "center"
    if mode == "squash":
        return to_w, to_h
    if mode == "center" and to_w == to_h:  # torchvision's Resize truncates the longer side
        return (to_w, int(to_w * height / width)) if width <= height else (int(to_h * width / height), to_h)
    ratios = width / to_w, height / to_h
    ratio = max(ratios) if mode == "border" else min(ratios)
    return round(width / ratio), round(height / ratio)


def evaluation_view(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The RGB picture that timm's evaluation transform would give, within one grey level (two at rare ties)."""
    return cut(image, _evaluation_window(image.size, preprocessing), preprocessing, _fill(preprocessing, (0, 0, 0)))


def shown_boxes(size: Size, preprocessing: Preprocessing) -> tuple[Box, Box]:
    """(left, top, right, bottom) of what the evaluation view shows: on a picture of ``size``, and on the network's
    input, where the rest is padding."""
    window = _evaluation_window(size, preprocessing)
    on_picture, on_input = [], []
    for start, length, scaled, side in zip(
        (window.left, window.top), (window.width, window.height), window.scaled, size
    ):
        low, high = max(start, 0), min(start + length, scaled)
        on_picture.append((low * side / scaled, high * side / scaled))
        on_input.append((low - start, high - start))
    (left, right), (top, bottom) = on_picture
    (first, last), (upper, lower) = on_input
    return (left, top, right, bottom), (first, upper, last, lower)


def varied_view(image: Image.Image, preprocessing: Preprocessing, view: int) -> Image.Image:
    """A gentle variation, fixed by ``view`` and the content: crop, turn, shear, tone; never mirrored.

    Letters and digits, and organs, have a right and a left.
    """
    random = np.random.default_rng((view, zlib.crc32(image.tobytes())))
    width, height = target_size(preprocessing)
    window = _random_window(image.size, preprocessing, random)
    turn, slant = np.tan(np.radians(random.uniform(-_TURN, _TURN, 2)))
    margin = math.ceil(0.3 * math.tan(math.radians(_TURN)) * 2 * max(width, height)) + 2
    canvas = cut(image, window.grown(margin, margin), preprocessing, _fill(preprocessing, None))
    x, y = margin + width / 2, margin + height / 2  # output centre stays the window's centre
    a, b, d, e = 1.0, slant - turn, turn, 1.0
    coefficients = (a, b, x - a * width / 2 - b * height / 2, d, e, y - d * width / 2 - e * height / 2)
    moved = canvas.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return _toned(moved, *random.uniform(1 - _TONE, 1 + _TONE, 2))


def cut(image: Image.Image, window: Window, preprocessing: Preprocessing, fill: Colour | None) -> Image.Image:
    """The ``window`` of the resized ``image``; what lies outside is ``fill``, or the edge pixel if None."""
    (scaled_w, scaled_h), (width, height) = window.scaled, image.size
    left, top = max(window.left, 0), max(window.top, 0)
    right = max(min(window.left + window.width, round(scaled_w)), left + 1)
    bottom = max(min(window.top + window.height, round(scaled_h)), top + 1)
    x, y = width / scaled_w, height / scaled_h
    box = (left * x, top * y, min(right * x, width), min(bottom * y, height))
    how = Image.Resampling[(preprocessing.get("interpolation") or "bicubic").upper()]
    inner = image.resize((right - left, bottom - top), how, box=box)
    if inner.size == (window.width, window.height):
        return inner
    return _padded(inner, (left - window.left, top - window.top), (window.width, window.height), fill)


def _padded(inner: Image.Image, at: tuple[int, int], size: Size, fill: Colour | None) -> Image.Image:
    if fill is not None:
        canvas = Image.new("RGB", size, fill)
        canvas.paste(inner, at)
        return canvas
    after = size[0] - at[0] - inner.width, size[1] - at[1] - inner.height
    return Image.fromarray(np.pad(np.asarray(inner), ((at[1], after[1]), (at[0], after[0]), (0, 0)), "edge"))


def _evaluation_window(size: Size, preprocessing: Preprocessing) -> Window:
    width, height = target_size(preprocessing)
    scaled_w, scaled_h = (max(side, 1) for side in scaled_size(size, preprocessing))
    return Window((scaled_w, scaled_h), _offset(scaled_w, width), _offset(scaled_h, height), width, height)


def _offset(scaled: int, crop: int) -> int:
    """Where a centred crop starts; negative where the picture must be padded (torchvision's roundings)."""
    return -((crop - scaled) // 2) if crop > scaled else round((scaled - crop) / 2)


def _random_window(size: Size, preprocessing: Preprocessing, random: np.random.Generator) -> Window:
    """75–100 % of the area that the evaluation would resize to, at a slightly changed aspect."""
    plain = _evaluation_window(size, preprocessing)
    crop_pct = preprocessing.get("crop_pct") or 0.875
    side = math.sqrt(random.uniform(_LEAST_AREA, 1.0)) / crop_pct
    aspect = math.sqrt(math.exp(random.uniform(-math.log(_ASPECT), math.log(_ASPECT))))
    part_w, part_h = side * aspect, side / aspect  # how much of the evaluation crop's sides is seen
    scaled_w, scaled_h = plain.scaled[0] / part_w, plain.scaled[1] / part_h
    slack_w, slack_h = (abs(1 / crop_pct - part) / 2 for part in (part_w, part_h))
    x, y = random.uniform(-1, 1, 2) * (slack_w, slack_h)
    middle_x = (plain.left + plain.width * (0.5 + x)) / part_w
    middle_y = (plain.top + plain.height * (0.5 + y)) / part_h
    left, top = round(middle_x - plain.width / 2), round(middle_y - plain.height / 2)
    return Window((scaled_w, scaled_h), left, top, plain.width, plain.height)


def _fill(preprocessing: Preprocessing, otherwise: Colour | None) -> Colour | None:
    if preprocessing.get("crop_mode") != "border":
        return otherwise
    mean = list(preprocessing["mean"]) * 3
    return round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])


def _toned(image: Image.Image, brightness: float, contrast: float) -> Image.Image:
    table: Array = ((np.arange(256) - 127.5) * contrast + 127.5) * brightness
    return image.point(np.clip(np.rint(table), 0, 255).astype(int).tolist() * 3)
