"""The recipe of ``bundled/glyphs``: simulated letters, rendered and distorted, and a small network that learnt them.

    python recipes/glyphs.py --out src/headstart/sources/data/glyphs

On a Debian machine, after ``apt-get install`` of the packages in ``glyph_fonts.txt``. Digits are left out, so that
a test on digits is a test of transfer. On a busy machine OMP_NUM_THREADS=1 is faster: threads that wait for each other
waste what they share.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import glyph_outlines
import glyph_pen
import numpy as np
import torch

SIZE = 32  # pixels a side of the rendered images; the network sees them at INPUT
INPUT = 48
NETWORK: dict[str, Any] = {"architecture": "resnet10t", "model_args": {"channels": [48, 96, 160, 256]}}
TRAINING: dict[str, Any] = {"batch_size": 256, "lr": 6e-3, "smoothing": 0.1, "augment": "shift", "half": True}
BATCH = 512


def render(outlines: glyph_outlines.Outlines, images: int, seed: int, table: Path) -> None:
    """Write ``images`` distorted letters, every letter equally often, as a Parquet table image, label, name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": pa.binary(), "label": pa.string(), "name": pa.string()}
    schema = pa.schema(list(columns.items()))
    with pq.ParquetWriter(table, schema) as writer, ThreadPoolExecutor() as pool:
        for start, letters, drawn in _batches(outlines, images, seed):
            encoded = list(pool.map(_png, drawn))
            names = [f"{start + i:07d}" for i in range(len(encoded))]
            rows = {"image": encoded, "label": letters, "name": names}
            writer.write_table(pa.table(rows, schema=schema))


def _batches(outlines: glyph_outlines.Outlines, images: int, seed: int) -> Iterator[tuple[int, list[str], Any]]:
    rng = torch.Generator().manual_seed(seed)
    letter = torch.from_numpy(outlines.letter)
    outline, skeleton = torch.from_numpy(outlines.outline), torch.from_numpy(outlines.skeleton)
    count = torch.bincount(letter)
    first = torch.searchsorted(letter, torch.arange(len(count)))
    for start in range(0, images, BATCH):
        which = torch.arange(start, min(start + BATCH, images)) % len(count)
        drawing = first[which] + (torch.rand(len(which), generator=rng) * count[which]).long()
        drawn = glyph_pen.draw(outline[drawing], skeleton[drawing], SIZE, rng)
        yield start, [outlines.names[i] for i in which], drawn.numpy()
        if start // BATCH % 50 == 0:
            print(f"rendered {start} of {images}", file=sys.stderr)


def _png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def card(outlines: glyph_outlines.Outlines, images: int) -> dict[str, Any]:
    """What the source says about itself."""
    return {
        "name": "glyphs",
        "about": f"simulated characters: {images:,} distorted drawings of {len(outlines.names):,} letters and signs "
        "of many scripts; no digit among them",
        "licence": "Apache-2.0",
        "drawings": len(outlines.letter),
        "fonts": outlines.fonts,
        "notes": [
            "Made by `recipes/glyphs.py`. Letters of installed fonts are reduced to their skeleton and redrawn with a "
            "round pen of random width, or keep their own outline at a random weight; then they are slanted, "
            "stretched, bent, blurred and made noisy, bright on dark or dark on bright. Only what the network learnt "
            "is kept: no font and no image.",
            "Meant for single characters, signs and simple drawings, not for photographs. Digits, and letters that "
            "were derived from digits, were left out on purpose.",
        ],
    }


def main() -> None:
    """Render, train, write."""
    from headstart import pretrain

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the source folder to write")
    parser.add_argument("--work", type=Path, default=Path("build/glyphs"), help="for the rendered table (150 MB)")
    parser.add_argument("--images", type=int, default=300_000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outlines = glyph_outlines.collect(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    table = args.work / f"glyphs-{args.images}-{args.seed}.parquet"
    if not table.exists():
        part = table.with_suffix(".part")
        render(outlines, args.images, args.seed, part)
        part.replace(table)
    options = {**NETWORK, **TRAINING, "size": INPUT, "epochs": args.epochs, "seed": args.seed}
    pretrain(table, out=args.out, card=card(outlines, args.images), **options)


if __name__ == "__main__":
    main()
