"""Random variations of a whole batch of images, drawn from a generator that the training step seeds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from headstart._errors import OptionError

KINDS = ("photo", "shift", "none")


def check_kind(kind: str) -> None:
    """Raises OptionError for an unknown kind."""
    if kind not in KINDS:
        raise OptionError(f"augment is {kind!r}; it takes one of: {', '.join(KINDS)}")


def shift(batch: torch.Tensor, rng: torch.Generator, most: float = 0.06) -> torch.Tensor:
    """Move each image of uint8 [n, H, W, C] by up to ``most`` of its side; edges are repeated. For letters, scans."""
    n, height, width, _ = batch.shape
    rows = _moved(n, height, round(most * height), rng).to(batch.device)
    columns = _moved(n, width, round(most * width), rng).to(batch.device)
    return batch[torch.arange(n, device=batch.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _moved(n: int, side: int, reach: int, rng: torch.Generator) -> torch.Tensor:
    by = torch.randint(-reach, reach + 1, (n, 1), generator=rng)
    return (torch.arange(side) + by).clamp(0, side - 1)


def crop_and_flip(batch: torch.Tensor, rng: torch.Generator, least: float = 0.35) -> torch.Tensor:
    """Random resized crop (area ``least`` … 1, aspect 3/4 … 4/3) and mirror of float [n, C, H, W]. For photographs."""
    n = len(batch)
    area = least + (1 - least) * torch.rand(n, generator=rng)
    aspect = ((torch.rand(n, generator=rng) * 2 - 1) * math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = ((torch.rand(n, generator=rng) * 2 - 1) * (1 - side) for side in (width, height))
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    affine = torch.stack([width * mirror, zero, x, zero, height, y], 1).view(n, 2, 3).to(batch.device)
    places = F.affine_grid(affine, list(batch.shape), align_corners=False)
    cut = F.grid_sample(batch, places, padding_mode="reflection", align_corners=False)
    return cut.contiguous(memory_format=torch.channels_last)
