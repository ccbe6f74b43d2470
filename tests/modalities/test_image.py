"""Images: read right or refused with a reason, prepared as timm does, varied repeatably."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from headstart._errors import BadExample
from headstart.modalities import modality
from headstart.modalities.image import MODALITY

NORMAL = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def preprocessing(**changes):
    base = {
        "size": [64, 64],
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "channels": 3,
    }
    return base | NORMAL | changes


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photo(width=150, height=100, seed=0):
    """Smooth colour with some texture, like a photograph."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    fine = random.normal(0, 8, (height, width, 3))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return Image.fromarray(np.clip(smooth + fine, 0, 255).astype(np.uint8))


def close(image, colour, by=2):
    return np.abs(np.asarray(image.resize((1, 1), Image.Resampling.BOX), int)[0, 0] - colour).max() <= by


# ---------------------------------------------------------------- read right


def test_it_is_found_by_name_without_heavy_imports():
    assert modality("image") is MODALITY
    code = (
        "import sys, headstart.modalities as m; m.all_modalities();"
        "print([x for x in ('torch', 'sklearn', 'pyarrow', 'scipy') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_common_formats_come_out_rgb(form):
    image = MODALITY.decode(encoded(Image.new("RGB", (40, 30), (200, 100, 50)), form))
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert close(image, (200, 100, 50), by=4)


def test_palette_with_transparency_lies_on_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert close(MODALITY.decode(encoded(image)), (10, 200, 30))
    assert close(MODALITY.decode(encoded(image, transparency=1)), (255, 255, 255))
    assert close(MODALITY.decode(encoded(image, transparency=b"\x00\x80")), (132, 227, 142), by=3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (100, 0, 0, 255), (100, 0, 0)),
        ("LA", (0, 128), (127, 127, 127)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 32896, (128, 128, 128)),
    ],
)
def test_png_modes(mode, colour, expected):
    assert close(MODALITY.decode(encoded(Image.new(mode, (9, 9), colour))), expected)


def test_grey_png_with_a_transparent_value_lies_on_white():
    assert close(MODALITY.decode(encoded(Image.new("L", (9, 9), 5), transparency=5)), (255, 255, 255))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_wide_tiff_keeps_its_grey_ramp(mode):
    ramp = np.linspace(0, 1, 256)
    values = (ramp if mode == "F" else (ramp * 65535).round()).astype(np.float32 if mode == "F" else np.int32)
    image = MODALITY.decode(encoded(Image.fromarray(np.tile(values, (4, 1))), "TIFF"))
    assert np.abs(np.asarray(image)[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_sixteen_bit_png_keeps_its_grey_ramp():
    ramp = np.tile((np.arange(256) * 257).astype(np.uint16), (4, 1))
    image = MODALITY.decode(encoded(Image.fromarray(ramp)))
    assert (np.asarray(image)[0, :, 0] == np.arange(256)).all()


def test_cmyk_jpeg_is_not_inverted():
    image = MODALITY.decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert close(image, (255, 0, 0), by=5)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_comes_out_upright(turn):
    upright = Image.new("RGB", (32, 16), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 8, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that the tag will revert
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(undo[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    image = MODALITY.decode(encoded(stored, "JPEG", exif=exif, quality=95), preprocessing(size=[8, 8]))
    corner = np.asarray(image.resize((32, 16)), int)
    assert corner[:6, :6].min() > 200
    assert corner[10:, 10:].max() < 50


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), c) for c in ((250, 0, 0), (0, 250, 0))]
    for form in ("GIF", "PNG", "WEBP"):
        raw = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert close(MODALITY.decode(raw), (250, 0, 0), by=4)


def test_large_jpeg_is_decoded_small_but_not_smaller_than_needed():
    raw = encoded(photo(1600, 1200), "JPEG", quality=90)
    image = MODALITY.decode(raw, preprocessing(size=[224, 224]))
    assert image.size == (400, 300)
    whole = MODALITY.decode(raw)
    assert whole.size == (1600, 1200)
    p = preprocessing(size=[224, 224])
    assert np.abs(MODALITY.prepare(image, p).astype(int) - MODALITY.prepare(whole, p)).mean() < 2


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 51), (np.uint16, 13107), (np.float32, 0.2), (np.float64, 0.2)])
def test_arrays_of_each_kind(shape, dtype, value):
    array = np.full(shape, value, dtype)
    if shape[-1] == 4:
        array[..., 3] = 1 if dtype in (np.float32, np.float64) else np.iinfo(dtype).max
    image = MODALITY.decode(array)
    assert (image.mode, image.size) == ("RGB", (7, 5))
    assert close(image, (51, 51, 51))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), "shape"),
        (np.zeros((0, 8), np.uint8), "shape"),
        (np.zeros(8, np.uint8), "shape"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.full((8, 8), 2.0), "outside 0 to 1"),
        (np.full((8, 8), np.nan), "outside 0 to 1"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "too large"),
    ],
)
def test_other_arrays_are_refused(array, reason):
    with pytest.raises(BadExample, match=reason):
        MODALITY.decode(array)


# ---------------------------------------------------------------- refused with a reason


def bomb():
    """A valid PNG header of 60,000 × 60,000 pixels, a few bytes long."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (bomb(), "too large"),
        (encoded(photo(), "JPEG")[:2000], "cut short"),
        (encoded(photo(), "PNG")[:5000], "cut short"),
        (encoded(photo(), "BMP")[:5000], "cut short"),
        (encoded(photo(), "WEBP")[:500], "cut short|not an image"),
        (encoded(photo(), "TIFF")[:5000], "cut short"),
    ],
)
def test_what_cannot_be_trusted_is_refused(raw, reason):
    with pytest.raises(BadExample, match=reason):
        MODALITY.decode(raw)


def test_random_damage_is_only_ever_a_bad_example():
    random = np.random.default_rng(0)
    for form in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        sound = np.frombuffer(encoded(photo(40, 30), form), np.uint8)
        for _ in range(40):
            raw = sound.copy()
            raw[random.integers(0, len(raw), 12)] = random.integers(0, 256, 12)
            with contextlib.suppress(BadExample):
                assert MODALITY.decode(raw.tobytes()).mode == "RGB"


def test_a_tolerant_process_still_counts_truncated_files(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadExample, match="cut short"):
        MODALITY.decode(encoded(photo(), "JPEG")[:2000])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_pillows_warnings_stay_inside_and_filters_are_put_back(monkeypatch):
    before = list(warnings.filters)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it, which pytest makes an error
    raws = [encoded(photo(40, 30)), encoded(photo(30, 30))] * 20
    with ThreadPoolExecutor(4) as pool:
        sizes = {image.size for image in pool.map(MODALITY.decode, raws)}
    assert sizes == {(40, 30), (30, 30)}
    assert warnings.filters == before


# ---------------------------------------------------------------- prepared as timm does


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [[64, 64], [48, 80]])
def test_view_0_equals_timm(crop_mode, crop_pct, interpolation, size):
    timm_data = pytest.importorskip("timm.data")
    p = preprocessing(crop_mode=crop_mode, crop_pct=crop_pct, interpolation=interpolation, size=size)
    theirs = timm_data.create_transform(
        (3, *size),
        interpolation=interpolation,
        mean=p["mean"],
        std=p["std"],
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    for width, height in [(150, 100), (100, 151), (64, 64), (37, 29), (500, 90)]:
        image = photo(width, height)
        expected = theirs(image).numpy().transpose(1, 2, 0) * p["std"] + p["mean"]
        got = MODALITY.prepare(image, p)
        assert got.dtype == np.uint8
        apart = np.abs(got - expected * 255)
        assert np.quantile(apart, 0.999) <= 1.01, (width, height)
        assert apart.max() <= 2.01, (width, height)  # both passes of a resize may meet a tie in rounding


def test_input_equals_timms_and_is_channels_last():
    torch = pytest.importorskip("torch")
    p = preprocessing()
    batch = torch.from_numpy(np.stack([MODALITY.prepare(photo(seed=i), p) for i in range(3)]))
    ready = MODALITY.to_input(batch, p)
    assert ready.shape == (3, 3, 64, 64)
    assert ready.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(p[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    assert torch.allclose(ready, (batch.permute(0, 3, 1, 2) / 255 - mean) / std, atol=1e-5)


def test_one_channel_is_grey_and_normalised_by_the_mean():
    torch = pytest.importorskip("torch")
    p = preprocessing(channels=1)
    grey = MODALITY.prepare(photo(), p)
    assert grey.shape == (64, 64, 1)
    ready = MODALITY.to_input(torch.from_numpy(grey[None]), p)
    assert ready.shape == (1, 1, 64, 64)
    assert torch.allclose(ready[0, 0], (torch.from_numpy(grey[:, :, 0]) / 255 - 0.4) / 0.25, atol=1e-5)


# ---------------------------------------------------------------- variations


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_views_repeat_differ_and_stay_close(crop_mode):
    p, image = preprocessing(crop_mode=crop_mode), photo()
    plain = MODALITY.prepare(image, p).astype(float)
    views = [MODALITY.prepare(image, p, view=v) for v in range(1, 7)]
    again = [MODALITY.prepare(image.copy(), p, view=v) for v in range(1, 7)]
    assert all((a == b).all() for a, b in zip(views, again))
    assert all(v.shape == (64, 64, 3) and v.dtype == np.uint8 for v in views)
    assert len({v.tobytes() for v in views}) == 6
    for v in views:  # gentle: never mirrored, still the same picture
        ahead = np.corrcoef(v.astype(float).ravel(), plain.ravel())[0, 1]
        mirrored = np.corrcoef(v[:, ::-1].astype(float).ravel(), plain.ravel())[0, 1]
        assert ahead > 0.5
        assert ahead > mirrored


def test_views_of_different_content_differ_in_kind():
    p = preprocessing(size=[28, 28], crop_pct=1.0)
    dots = []
    for seed in range(8):
        array = np.zeros((28, 28), np.uint8)
        array[12:16, 12:16] = 200 + seed
        view = MODALITY.prepare(MODALITY.decode(array), p, view=1)[:, :, 0].astype(float)
        dots.append(np.average(np.arange(28), weights=view.sum(0)))
    assert np.std(dots) > 0.1
    assert np.abs(np.array(dots) - 13.5).max() < 4


# ---------------------------------------------------------------- the plain view and near duplicates


def test_plain_is_the_squashed_picture():
    plain = MODALITY.plain(Image.new("RGB", (300, 20), (9, 8, 7)))
    assert plain.shape == (3072,)
    assert plain.dtype == np.uint8
    assert plain[:3].tolist() == [9, 8, 7]


def altered(image):
    """The copies people make without knowing."""
    smaller = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    brighter = image.point(lambda v: min(255, v * 1.08))
    both = smaller.point(lambda v: v * 0.92)
    return [
        encoded(image, "JPEG", quality=60),
        encoded(smaller),
        encoded(brighter),
        encoded(both, "JPEG", quality=75),
    ]


def test_altered_copies_are_found_and_nothing_else():
    pictures = [photo(seed=i) for i in range(60)]
    copies = [raw for image in pictures[:5] for raw in altered(image)]
    rows = [MODALITY.plain(image) for image in pictures] + [MODALITY.plain(MODALITY.decode(c)) for c in copies]
    pairs = MODALITY.near_duplicates(np.stack(rows))
    clusters = {tuple(sorted({i if i < 60 else (i - 60) // 4 for i in pair})) for pair in pairs}
    assert clusters == {(i,) for i in range(5)}
    assert {i for pair in pairs for i in pair} >= set(range(60, 80))


def test_recoloured_and_blank_pictures():
    shape = np.zeros((32, 32, 3), np.uint8)
    shape[8:20, 8:24] = (200, 0, 0)
    blank = np.full((32, 32, 3), 255, np.uint8)
    almost = blank.copy()
    almost[0, 0] = 250
    rows = np.stack([x.reshape(-1) for x in (shape, shape[:, :, ::-1], blank, almost, blank)])
    assert MODALITY.near_duplicates(rows) == [(2, 4)]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n):
    assert MODALITY.near_duplicates(np.zeros((n, 3072), np.uint8)) == [(0, 1)][: n // 2]


@pytest.mark.field
@pytest.mark.parametrize(
    ("name", "most"), [("handwritten_digits", 0), ("chest_xray", 3), ("textures", 8), ("ants_bees", 2)]
)
def test_real_sets_hold_few_near_duplicates(kit, name, most):
    files = sorted((kit / "data/image" / name).glob("*/*"))
    rows = np.stack([MODALITY.plain(MODALITY.decode(f.read_bytes())) for f in files])
    assert len(MODALITY.near_duplicates(rows)) <= most


@pytest.mark.field
def test_altered_copies_of_real_photographs_are_found(kit):
    files = sorted((kit / "data/image/ants_bees").glob("*/*.jpg"))[::10]
    pictures = [MODALITY.decode(f.read_bytes()) for f in files]
    n = len(pictures)
    copies = [MODALITY.plain(MODALITY.decode(raw)) for image in pictures for raw in altered(image)]
    pairs = MODALITY.near_duplicates(np.stack([*(MODALITY.plain(i) for i in pictures), *copies]))
    assert {i for pair in pairs for i in pair} == set(range(5 * n))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PPM", "TGA", "ICO", "DIB", "JPEG2000"])
def test_the_first_file_may_be_of_any_format(kind: str) -> None:
    """Pillow registers formats one by one as they are met; a process of its own meets this one first."""
    code = """
import io, sys
from headstart.modalities import modality
found = modality("image").decode(sys.stdin.buffer.read())
print(found.size)
"""
    content = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(content, kind)
    done = subprocess.run([sys.executable, "-c", code], input=content.getvalue(), capture_output=True, check=False)
    assert done.stdout.startswith(b"("), done.stderr.decode()


def test_twelve_bits_in_sixteen_are_recognised() -> None:
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = []
    for values in (ramp, ramp * 16):
        content = io.BytesIO()
        Image.fromarray(values).save(content, "PNG")
        found.append(np.asarray(modality("image").decode(content.getvalue())).astype(int))
    assert abs(found[0] - found[1]).max() <= 1
    assert found[0].max() == 255
