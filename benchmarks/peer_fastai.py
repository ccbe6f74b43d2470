"""The peer's side, run in the peer's environment: fastai's own recipe on the same weights, files and split.

``peer_fastai.py SPEC`` with SPEC a JSON file {source, train: [[path, label], …], test: […], out, size, batch}.
Prints JSON: when training had ended (seconds since the epoch) and the accuracy on the test part.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    set_seed(spec.get("seed", 0))
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=lambda row: row[0],
        get_y=lambda row: row[1],
        splitter=IndexSplitter([]),  # every label is trained on: nothing is held out
        item_tfms=Resize(spec["size"]),
        batch_tfms=aug_transforms(),
    )
    loaders = block.dataloaders(spec["train"], bs=spec["batch"])
    # a local-dir name makes timm read architecture, padding and normalisation from the source's own config
    learner = vision_learner(loaders, f"local-dir:{spec['source']}", metrics=accuracy)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(4)
        torch.save(learner.model.state_dict(), spec["out"])
        trained = time.time()
        test = loaders.test_dl(spec["test"], with_labels=True)
        predicted, truth = learner.get_preds(dl=test)
    right = float((predicted.argmax(dim=1) == truth).float().mean())
    print(json.dumps({"trained": trained, "accuracy": right, "n": len(truth)}))


if __name__ == "__main__":
    main()
