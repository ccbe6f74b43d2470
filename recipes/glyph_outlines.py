"""Letters of installed fonts as distance fields: to the outline and to the skeleton (for any pen)."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CANVAS = 64  # pixels a side of the stored fields
BOX = 46  # the letter's longer side within the canvas
STEPS = 8  # distances are stored as uint8 in eighths of a pixel
FONTS_PER_LETTER = 28

# Letters whose upper and lower case (or look-alikes of another script) are one drawing form one class, by the
# first of them. Digits are left out, and so are the letters that were drawn from digits (Ƨ, Ƽ, Ƅ).
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijklmnpqrtuyßæœøðþ"
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρστφχψω"
CYRILLIC = "БДЖЗИЛУЦЧШЩЪЫЬЭЮЯбвджлтцшэюяђљњћ"
SYMBOLS = "&@#%?!*+=<>{}[]~§¶$€£¥∑∫∂∇∞∈√∩∪⊂⊃∀∃∧∨⊕⊗→←↑↓↔♀♂♪♯♭†‡¿¡"
RANGES = (
    (0x05D0, 0x05EA), (0x0531, 0x0556), (0x0561, 0x0586), (0x10D0, 0x10F0), (0x0621, 0x064A),
    (0x0905, 0x0939), (0x0E01, 0x0E2E), (0x3042, 0x3093), (0x30A2, 0x30F3), (0x1200, 0x1357),
    (0x13A0, 0x13F4), (0x16A0, 0x16EA), (0x2C80, 0x2CB1), (0x0250, 0x02A8), (0x3131, 0x3163),
    (0x0C85, 0x0CB9),
)  # fmt: skip
HAN = (
    "丁七万丈三上下不与丑丘世中丸丹久之也二于五井亡人仁今介元兄光入公六共内円冬刀力勹北十千午半卜占又及友口古台右"
    "司叶四囚回土士夕大天太夫女子寸小少尺山川工己巾干平年幺广弓引心戈戸手支文斗斤方日曰月木未本札正母毛氏水火父片牛犬"
    "王玉瓦甘生用田由甲申白皮皿目矛矢石示禾穴立竹米糸羊羽老耳肉臣自至舌舟色虫血行衣西見角言谷豆貝赤走足身車辛辰里金長門雨青"
)


def letters() -> list[str]:
    """Every character of the recipe, one a class."""
    ranged = [chr(c) for low, high in RANGES for c in range(low, high + 1)]
    some = [c for c in ranged if unicodedata.category(c) in ("Lo", "Lu", "Ll")]
    small_kana = [c for c in some if "SMALL" in unicodedata.name(c, "") and "KATAKANA" in unicodedata.name(c)]
    small_kana += [c for c in some if "SMALL" in unicodedata.name(c, "") and "HIRAGANA" in unicodedata.name(c)]
    every = dict.fromkeys([*LATIN, *GREEK, *CYRILLIC, *SYMBOLS, *HAN, *some])
    return [c for c in every if c not in small_kana and unicodedata.numeric(c, None) is None]


def font_files() -> list[Path]:
    """matplotlib's own fonts and those of the Debian packages in glyph_fonts.txt, in a fixed order."""
    import matplotlib

    own = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").iterdir())
    found = [f for f in [*own, *_packaged()] if f.suffix.lower() in (".ttf", ".otf")]
    plain = {f.name: f for f in found if "lastresort" not in f.name.lower()}  # the same font once
    return [plain[name] for name in sorted(plain)]


def _packaged() -> list[Path]:
    packages = Path(__file__).with_name("glyph_fonts.txt").read_text().split()
    listing = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=False)
    if listing.returncode:
        missing = listing.stderr.strip().splitlines()[0]
        raise SystemExit(
            f"{missing}; the letters come from these Debian packages: apt-get install --no-install-recommends "
            "$(cat recipes/glyph_fonts.txt)"
        )
    return [Path(line) for line in listing.stdout.splitlines() if "/fonts/" in line]


@dataclass
class Outlines:
    """``outline``, ``skeleton``: uint8 distance fields [n, CANVAS, CANVAS]; ``letter`` [n]: index into names."""

    outline: npt.NDArray[np.uint8]
    skeleton: npt.NDArray[np.uint8]
    letter: npt.NDArray[np.int64]
    names: list[str]
    fonts: list[str]


def collect(seed: int, fonts_per_letter: int = FONTS_PER_LETTER) -> Outlines:
    """Draw every letter from (at most ``fonts_per_letter``) fonts and compute both distance fields."""
    coverage = _coverage(font_files())
    rng, masks, owner, used = np.random.default_rng(seed), [], [], set()
    names = []
    for letter in letters():
        have = [f for f in coverage if ord(letter) in coverage[f]]
        picked = sorted(rng.permutation(len(have))[:fonts_per_letter])
        drawn = {}
        for i in picked:
            mask = _draw(letter, have[i])
            if mask is not None:
                drawn.setdefault(mask.tobytes(), (mask, have[i].name))
        if len(drawn) < 2:
            continue
        masks += [mask for mask, _ in drawn.values()]
        owner += [len(names)] * len(drawn)
        used |= {font for _, font in drawn.values()}
        names.append(letter)
    ink = np.stack(masks)
    print(f"{len(names)} letters, {len(ink)} drawings from {len(used)} fonts", file=sys.stderr)
    return Outlines(_signed(ink), _unsigned(skeletonise(ink > 127)), np.array(owner), names, sorted(used))


def _coverage(files: list[Path]) -> dict[Path, set[int]]:
    from fontTools.ttLib import TTFont, TTLibError

    known = {}
    for file in files:
        try:
            with TTFont(file, lazy=True) as font:
                known[file] = set(font.getBestCmap() or ())
        except (TTLibError, OSError, AssertionError, KeyError):
            continue
    return known


def _draw(letter: str, font: Path) -> npt.NDArray[np.uint8] | None:
    from PIL import Image, ImageDraw, ImageFont

    try:
        drawn = ImageFont.truetype(str(font), 96)
        sheet = Image.new("L", (288, 288))
        ImageDraw.Draw(sheet).text((96, 72), letter, fill=255, font=drawn)
    except (OSError, ValueError):
        return None
    box = sheet.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < 24:
        return None
    cut = sheet.crop(box)
    scale = BOX / max(cut.size)
    cut = cut.resize([max(2, round(side * scale)) for side in cut.size], Image.Resampling.LANCZOS)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(cut, ((CANVAS - cut.width) // 2, (CANVAS - cut.height) // 2))
    ink = np.asarray(canvas)
    return None if (ink > 127).mean() < 0.01 else ink


def _signed(ink: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Distance to the outline, positive outside; 128 is the outline itself."""
    from scipy.ndimage import distance_transform_edt as distance

    fields = [distance(m <= 127) - distance(m > 127) for m in ink]
    return np.stack([np.clip(128 + f * STEPS, 0, 255).astype(np.uint8) for f in fields])


def _unsigned(ink: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    from scipy.ndimage import distance_transform_edt as distance

    return np.stack([np.clip(distance(~m) * STEPS, 0, 255).astype(np.uint8) for m in ink])


def skeletonise(ink: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Thin strokes to one pixel: Zhang and Suen, Communications of the ACM 27 (1984), on [n, h, w]."""
    first, second = _thinning_tables()
    image = np.pad(ink, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    while True:
        before = int(image.sum())
        for table in (first, second):
            image[:, 1:-1, 1:-1][table[_neighbours(image)] & (image[:, 1:-1, 1:-1] > 0)] = 0
        if int(image.sum()) == before:
            return image[:, 1:-1, 1:-1] > 0


_RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from the north


def _neighbours(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    h, w = image.shape[1] - 2, image.shape[2] - 2
    code = np.zeros((len(image), h, w), np.uint8)
    for bit, (dy, dx) in enumerate(_RING):
        code |= image[:, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] << bit
    return code


def _thinning_tables() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    tables = np.zeros((2, 256), bool)
    for code in range(256):
        p = [code >> bit & 1 for bit in range(8)]
        rises = sum(a < b for a, b in zip(p, p[1:] + p[:1], strict=True))
        if 2 <= sum(p) <= 6 and rises == 1:
            tables[0, code] = p[0] * p[2] * p[4] == 0 and p[2] * p[4] * p[6] == 0
            tables[1, code] = p[0] * p[2] * p[6] == 0 and p[0] * p[4] * p[6] == 0
    return tables[0], tables[1]
