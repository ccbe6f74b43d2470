"""One example as a picture of its own: as given, with the heat, and what it says in words."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from headstart.modalities import Array

MARGIN, GAP, LINE = 20, 16, 26
INK, PALE, PAPER = (20, 20, 20), (95, 95, 95), (255, 255, 255)
NARROWEST = 330  # pixels of one of the two pictures' columns, so that the words have room


def panel(picture: Array, heated: Array, title: str, lines: list[str], captions: tuple[str, str]) -> Image.Image:
    """Title, two pictures uint8 [h, w, 3] with a caption each, and lines of text, on white."""
    height, width = picture.shape[:2]
    column = max(width, NARROWEST)
    total = 2 * MARGIN + 2 * column + GAP
    sheet = Image.new("RGB", (total, 2 * MARGIN + 40 + height + 8 + LINE * (1 + len(lines))), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = total - 2 * MARGIN
    draw.text((MARGIN, MARGIN - 4), fitted(title, 22, True, room), INK, font(22, True))
    top = MARGIN + 40
    for i, (pixels, caption) in enumerate(zip((picture, heated), captions)):
        left = MARGIN + i * (column + GAP)
        sheet.paste(Image.fromarray(pixels), (left, top))
        draw.text((left, top + height + 6), fitted(caption, 13, False, column), PALE, font(13))
    for i, line in enumerate(lines):
        place = (MARGIN, top + height + 8 + LINE * (i + 1))
        draw.text(place, fitted(line, 14, False, room), INK if i else PALE, font(14))
    return sheet


def fitted(text: str, size: int, bold: bool, width: int) -> str:
    """The text on one line of at most ``width`` pixels, with … in its middle where it is longer."""
    text = plain_text(text)
    if font(size, bold).getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 4 and font(size, bold).getlength(_shortened(text, keep)) > width:
        keep -= 1
    return _shortened(text, keep)


def _shortened(text: str, keep: int) -> str:
    return f"{text[: keep // 2]}…{text[len(text) - keep // 2 :]}"


def plain_text(text: str) -> str:
    """Without control characters and halves of characters (names of files may hold anything)."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


@cache
def font(size: int, bold: bool = False) -> Any:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def jpeg(pixels: Array) -> bytes:
    """A picture for the page, small enough for hundreds of them."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=85)
    return out.getvalue()
