"""Render scenes: text masks from the CPU, shapes and colours in torch, batched, on any device.

B batch, C channels, H W rows and columns in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glmkit.posters.grammar import COLOURS, NamedColours, Scene
from glmkit.posters.masks import text_mask


@dataclass(frozen=True)
class Outline:
    """A shape as one rule in polar coordinates around its centre, for radius 1 and one corner pointing up.

    The plane is folded into `folds` equal wedges, one around each corner; inside a wedge the edge is the straight line
    through the corner with its normal at `normal` radians. `folds` 0 is a circle; `squeeze` 0 ignores the column,
    which turns the circle into a stripe.
    """

    folds: int = 0
    normal: float = 0.0
    squeeze: float = 1.0


def _polygon(corners: int) -> Outline:
    return Outline(folds=corners, normal=math.pi / corners)


def _star(points: int, inner: float) -> Outline:
    """Return a star whose inner corners lie at `inner` times its radius."""
    half = math.pi / points
    edge = (inner * math.cos(half) - 1.0, inner * math.sin(half))
    return Outline(folds=points, normal=math.atan2(-edge[0], edge[1]))


OUTLINES = {
    "none": Outline(),
    "circle": Outline(),
    "triangle": _polygon(3),
    "hexagon": _polygon(6),
    "star": _star(5, inner=0.42),
    "burst": _star(12, inner=0.75),
    "stripe": Outline(squeeze=0.0),
}
NOWHERE = -4.0  # a radius far below zero: no pixel is inside


@dataclass(frozen=True)
class SceneBatch:
    """Inputs of `render_batch` beside the masks: colours in [-1, 1] (B 3), geometry in pixels and outlines (B)."""

    background: Tensor
    text_colour: Tensor
    shape_colour: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    wedge: Tensor
    normal: Tensor
    squeeze: Tensor

    def to(self, device: torch.device | str) -> SceneBatch:
        """Copy the batch to `device`."""
        return SceneBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def double(self) -> SceneBatch:
        """Copy the batch in float64, in which `render_batch` then computes."""
        return SceneBatch(**{name: value.double() for name, value in vars(self).items()})

    def chosen(self, indices: Tensor) -> SceneBatch:
        """Return the scenes with these indices."""
        return SceneBatch(**{name: value[indices] for name, value in vars(self).items()})

    def render(self, masks: Tensor) -> Tensor:
        """Render the scenes; see `render_batch`."""
        return render_batch(self, masks)


WEDGE_NORMAL_SQUEEZE = {
    kind: (math.pi / outline.folds if outline.folds else 0.0, outline.normal, outline.squeeze)
    for kind, outline in OUTLINES.items()
}


def batch_scenes(scenes: Sequence[Scene], palette: NamedColours = COLOURS) -> SceneBatch:
    """Convert B scenes of one size to CPU tensors; `palette` gives the sRGB bytes of their colour names."""
    signed = {name: tuple(value / 127.5 - 1.0 for value in colour) for name, colour in palette.items()}
    signed[""] = (0.0, 0.0, 0.0)  # the colour of no shape
    values = np.array(
        [
            (
                *signed[scene.background],
                *signed[scene.text_colour],
                *signed[scene.shape.colour],
                scene.shape.x,
                scene.shape.y,
                NOWHERE if scene.shape.kind == "none" else scene.shape.radius,
                *WEDGE_NORMAL_SQUEEZE[scene.shape.kind],
            )
            for scene in scenes
        ],
        dtype=np.float32,
    )
    scalars = torch.from_numpy(values)
    return SceneBatch(scalars[:, 0:3], scalars[:, 3:6], scalars[:, 6:9], *(scalars[:, i] for i in range(9, 15)))


def shape_coverage(batch: SceneBatch, height: int, width: int) -> Tensor:
    """Return the share of every pixel that the shape covers: B 1 H W in [0, 1], edges one pixel soft."""
    rows = torch.arange(height, device=batch.x.device, dtype=torch.float32)[None, :, None] + 0.5
    columns = torch.arange(width, device=batch.x.device, dtype=torch.float32)[None, None, :] + 0.5
    geometry = (batch.x, batch.y, batch.radius, batch.wedge, batch.normal, batch.squeeze)
    return outline_coverage(torch.stack(geometry, dim=-1), rows, columns)


def outline_coverage(shapes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the share of every pixel that B shapes cover, B 1 H W: x, y, radius, wedge, normal, squeeze B 6."""
    x, y, radius, half, normal, squeeze = (value[:, None, None] for value in shapes.unbind(-1))
    down, right = rows - y, (columns - x) * squeeze
    distance = torch.sqrt(down * down + right * right)
    span = torch.where(half > 0, 2 * half, 1.0)
    angle = torch.atan2(right, -down)
    folded = torch.where(half > 0, (angle - span * torch.round(angle / span)).abs(), 0.0)
    inside = radius * torch.cos(normal) - distance * torch.cos(folded - normal)
    return (inside + 0.5).clamp(0, 1)[:, None]


def render_batch(batch: SceneBatch, masks: Tensor, device: torch.device | str | None = None) -> Tensor:
    """Render images B 3 H W, float32 in [-1, 1], on `device` (default: where the masks are).

    `masks` are uint8 B H W text masks of the same scenes. Background, shape and letters are painted in this order.
    """
    device = masks.device if device is None else device
    batch, letters = batch.to(device), masks.to(device)[:, None].float() / 255
    shape = shape_coverage(batch, *masks.shape[-2:])
    background, ink = batch.background[:, :, None, None], batch.text_colour[:, :, None, None]
    pixels = background + shape * (batch.shape_colour[:, :, None, None] - background)
    return pixels + letters * (ink - pixels)


def render(scene: Scene, palette: NamedColours = COLOURS) -> Image.Image:
    """Render the poster as an RGB image, by the same code as a batch but in float64: CPUs differ in the last bits of
    cosines and arctangents, and in float32 those decide how a pixel in 10 million is rounded.
    """
    batch = batch_scenes([scene], palette).double()
    pixels = render_batch(batch, torch.from_numpy(text_mask(scene).copy())[None])
    return to_image(pixels[0])


def to_image(pixels: Tensor) -> Image.Image:
    """Convert 3 H W in [-1, 1] to an RGB image."""
    values = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
