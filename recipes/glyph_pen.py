"""Redraw letters as a hand, a printer or a bad camera would, a whole batch at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from glyph_outlines import CANVAS, STEPS

PEN = 0.75  # share drawn with a round pen along the skeleton; the rest keeps the font's own outline
COARSE = 40  # pixels a side of the first, rough drawing that finds where the ink lies


def draw(outline: torch.Tensor, skeleton: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Distance fields, uint8 [n, 64, 64] each, to distorted letters, uint8 [n, size, size]."""
    n = len(outline)
    pen = _uniform(n, rng) < PEN
    field = torch.where(pen[:, None, None], skeleton.float() / STEPS, (outline.float() - 128) / STEPS)
    affine, bend = _affine(n, rng), _bend(n, rng)
    # rough drawing: where is the ink after the distortion?
    whole = torch.tensor([0.0, 0.0, 1.7, 1.7]).expand(n, 4)
    rough = _look(field, _places(whole, COARSE, affine, bend)) < 1.0
    window, scale = _window(rough, 1.7, size, rng)
    shown = _look(field, _places(window, size, affine, bend))
    # one output pixel is `per_pixel` canvas pixels; widths are then in output pixels at 28 px a side
    zoom = affine.det().abs().sqrt() * scale * CANVAS / size
    distance = shown / zoom[:, None, None] * (28 / size)
    ink = _stroke(distance, pen, rng)
    return _camera(ink, rng)


def _uniform(n: int, rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=rng)


def _affine(n: int, rng: torch.Generator) -> torch.Tensor:
    """[n, 2, 2]: rotation, slant and aspect, from the output to the letter."""
    turn = torch.randn(n, generator=rng).mul(10).clamp(-25, 25).deg2rad()
    slant = torch.randn(n, generator=rng).mul(0.25).clamp(-0.6, 0.6)
    aspect = torch.randn(n, generator=rng).mul(0.22).clamp(-0.5, 0.6).exp()
    zero, one = torch.zeros(n), torch.ones(n)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(n, 2, 2)
    shear = torch.stack([one, slant, zero, one], 1).view(n, 2, 2)
    stretch = torch.stack([aspect, zero, zero, 1 / aspect], 1).view(n, 2, 2)
    return stretch @ shear @ rotation


def _bend(n: int, rng: torch.Generator) -> torch.Tensor:
    """[n, 2, 16, 16]: smooth displacements at two scales, of a strength that differs by letter."""
    total = torch.zeros(n, 2, 16, 16)
    for knots, strength in ((4, 0.16), (7, 0.06)):
        amount = _uniform(n, rng)[:, None, None, None] * strength
        waves = torch.randn(n, 2, knots, knots, generator=rng).clamp(-2, 2)
        total += amount * F.interpolate(waves, size=(16, 16), mode="bicubic", align_corners=True)
    return total


def _places(window: torch.Tensor, size: int, affine: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
    """Where in the letter (-1 … 1) each output pixel looks; window [n, 4]: centre x, y, half width, height."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    x = window[:, 0, None] + window[:, 2, None] * axis
    y = window[:, 1, None] + window[:, 3, None] * axis
    at = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    moved = F.grid_sample(bend, at / 1.7, align_corners=True, padding_mode="border").permute(0, 2, 3, 1)
    return torch.einsum("nij,nhwj->nhwi", affine, at) + moved


def _look(field: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(field[:, None], places, align_corners=False, padding_mode="border")[:, 0]


def _window(ink: torch.Tensor, half: float, size: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The view that shows all the ink at about 20 of 28 pixels, centred by its box or by its mass."""
    n, side = len(ink), ink.shape[1]
    axis = ((torch.arange(side) + 0.5) / side * 2 - 1) * half
    rows, columns = ink.any(2), ink.any(1)

    def ends(lit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.where(lit, axis, 9.0).amin(1).clamp(-2, 2),
            torch.where(lit, axis, -9.0).amax(1).clamp(-2, 2),
        )

    (x0, x1), (y0, y1) = ends(columns), ends(rows)
    mass = ink.float() / ink.sum((1, 2)).clamp(min=1)[:, None, None]
    by_mass = torch.stack([(mass.sum(1) * axis).sum(1), (mass.sum(2) * axis).sum(1)], 1)
    by_box = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2], 1)
    centre = torch.where((_uniform(n, rng) < 0.5)[:, None], by_mass, by_box)
    extent = torch.maximum(x1 - x0, y1 - y0).clamp(min=0.1)
    scale = extent / 2 / _uniform(n, rng, 0.62, 0.92)
    centre = centre + (torch.rand(n, 2, generator=rng) - 0.5) * 0.12 * scale[:, None]
    return torch.cat([centre, scale[:, None], scale[:, None]], 1), scale


def _stroke(distance: torch.Tensor, pen: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Distances in pixels (28 a side) to ink, 0 … 1; the pen presses more here and less there."""
    n, size = len(distance), distance.shape[1]
    width = torch.where(pen, _uniform(n, rng, 0.5, 2.1), _uniform(n, rng, -0.3, 0.6))
    pressure = F.interpolate(torch.randn(n, 1, 4, 4, generator=rng), size=(size, size), mode="bicubic")[:, 0]
    width = width[:, None, None] + pressure * _uniform(n, rng, 0.0, 0.25)[:, None, None]
    soft = _uniform(n, rng, 0.5, 1.3)[:, None, None]
    return ((width - distance) / soft + 0.5).clamp(0, 1)


def _camera(ink: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Blur, uneven paper, noise, contrast, and ink that is darker or brighter than the paper."""
    n, size = len(ink), ink.shape[1]
    blurred = F.avg_pool2d(F.pad(ink[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    mix = (_uniform(n, rng, -0.6, 0.9)).clamp(min=0)[:, None, None]
    ink = ink + mix * (blurred - ink)
    plain = (_uniform(n, rng) < 0.5)[:, None, None]  # half of them on clean paper
    paper = _uniform(n, rng, 0.0, 0.35)[:, None, None]
    shade = F.interpolate(torch.randn(n, 1, 2, 2, generator=rng), size=(size, size), mode="bilinear")[:, 0] * 0.08
    contrast = _uniform(n, rng, 0.5, 1.0)[:, None, None]
    worn = (paper + shade + contrast * ink * (1 - paper)).clamp(0, 1)
    worn = worn + torch.randn(n, size, size, generator=rng) * _uniform(n, rng, 0.0, 0.12)[:, None, None]
    image = torch.where(plain, ink, worn).clamp(0, 1)
    dark = (_uniform(n, rng) < 0.5)[:, None, None]
    return (torch.where(dark, 1 - image, image) * 255).round().to(torch.uint8)
