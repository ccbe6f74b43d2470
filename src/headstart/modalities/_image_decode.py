"""Encoded bytes or a decoded array to an upright RGB picture, or a plain reason why not."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import (
    BmpImagePlugin,  # noqa: F401  the imports below register the formats that we trust
    GifImagePlugin,  # noqa: F401
    IcoImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TgaImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

with contextlib.suppress(ImportError):  # Pillow before 11.3
    from PIL import AvifImagePlugin  # noqa: F401

from headstart._errors import BadExample
from headstart.modalities._base import Array
from headstart.modalities._pillow import strict_pillow

TWELVE = 12
"""Bits that X-ray devices use of 16: a 16-bit picture without any larger value is read as one of 12 bits."""
PIXEL_LIMIT = 178_000_000  # where Pillow, too, speaks of a decompression bomb

# Raster formats only: nothing that runs an interpreter (EPS), follows other files or is vector.
_TRUSTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")

# What Pillow's decoders raise on damaged input, as seen in its issues and by fuzzing.
_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Enough = Callable[[tuple[int, int]], tuple[int, int]]
"""Upright (width, height) of the file → the (width, height) that is still enough for its use."""


def decode_bytes(raw: bytes, enough: Enough | None = None) -> Image.Image:
    """The upright RGB picture in ``raw``. A JPEG may come out smaller, yet no smaller than ``enough``.

    Raises BadExample with the reason for what is empty, no picture, cut short, damaged or too large.
    """
    if not raw:
        raise BadExample("is empty (zero bytes)")
    try:
        with strict_pillow(), Image.open(io.BytesIO(raw), formats=_formats()) as file:
            return _read(file, enough)
    except BadExample:
        raise
    except Image.DecompressionBombError as error:
        raise BadExample(f"is too large to be decoded safely ({error})") from error
    except UnidentifiedImageError as error:
        raise BadExample("is not an image, or its header is damaged") from error
    except _BROKEN as error:
        raise BadExample(f"is damaged or cut short ({error or type(error).__name__})") from error


def decode_array(array: Array) -> Image.Image:
    """The RGB picture in uint8, 16-bit or 0–1 float values of shape [H, W] or [H, W, 1, 3 or 4].

    Raises BadExample for any other shape, type or range.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise BadExample(f"is an array of shape {array.shape}; an image is [H, W] or [H, W, 1, 3 or 4]")
    _check_pixels(array.shape[1], array.shape[0])
    return _to_rgb(Image.fromarray(np.ascontiguousarray(_to_bytes(array))))


def _formats() -> tuple[str, ...]:
    return tuple(name for name in _TRUSTED if name in Image.OPEN)


def _read(file: ImageFile.ImageFile, enough: Enough | None) -> Image.Image:
    _check_pixels(*file.size)
    turn = _orientation(file)
    if enough is not None:
        width, height = file.size
        swapped = turn >= 5
        want = enough((height, width) if swapped else (width, height))
        file.draft(None, want[::-1] if swapped else want)  # None keeps the mode
    file.load()
    bits = _declared_bits(file)
    image = _to_rgb(file, bits)
    return image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image


def _check_pixels(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        limit, mega = PIXEL_LIMIT / 1e6, width * height / 1e6
        raise BadExample(f"is too large ({width} × {height} is {mega:.0f} megapixels, the limit is {limit:.0f})")
    if width < 1 or height < 1:
        raise BadExample(f"has no pixels ({width} × {height})")


def _orientation(file: Image.Image) -> int:
    try:
        turn = file.getexif().get(0x0112, 1)
    except _BROKEN:  # a damaged EXIF block is no reason to lose a readable picture
        return 1
    return turn if isinstance(turn, int) else 1


def _declared_bits(file: Image.Image) -> int:
    if isinstance(file, TiffImagePlugin.TiffImageFile):
        declared = file.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE)
        if declared and 8 < declared[0] < 16:
            return int(declared[0])
    return 16


def _to_rgb(image: Image.Image, bits: int = 16) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        if bits == 16 and values.max(initial=0) < 2**TWELVE:
            bits = TWELVE
        image = _grey(values.astype(np.float32) * (255 / (2**bits - 1)))
    elif image.mode == "I":
        image = _grey(_wide_to_bytes(np.asarray(image).astype(np.float64), (255.0, 65535.0)))
    elif image.mode == "F":
        image = _grey(_wide_to_bytes(np.asarray(image).astype(np.float64), (1.0, 255.0)))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _grey(values: Array) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _wide_to_bytes(values: Array, scales: tuple[float, float]) -> Array:
    """Values of no declared range onto 0–255: by the smallest usual scale that holds them, else stretched."""
    if not np.isfinite(values).all():
        raise BadExample("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    for scale in scales:
        if low >= 0 and high <= scale:
            low, high = 0.0, scale
            break
    stretched: Array = (values - low) * (255 / max(high - low, 1e-12))
    return stretched


def _to_bytes(array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        wide: Array = np.rint(array.astype(np.float32) * (255 / 65535)).astype(np.uint8)
        return wide
    if array.dtype.kind != "f":
        raise BadExample(f"is an array of {array.dtype}; an image is uint8, uint16 or float from 0 to 1")
    if not np.isfinite(array).all() or array.min() < -1e-6 or array.max() > 1 + 1e-6:
        raise BadExample("is a float array with values outside 0 to 1; divide by its full scale first")
    scaled: Array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return scaled
