"""Render scenes: text masks from the CPU; frame, shapes and colours in torch, batched, on any device.

B batch, H W rows and columns in pixels, S = MOST_SHAPES shapes of a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glmkit.posters.everyday.colours import COLOURS
from glmkit.posters.everyday.masks import text_mask
from glmkit.posters.everyday.scene import MOST_SHAPES, EverydayScene
from glmkit.posters.render import NOWHERE, WEDGE_NORMAL_SQUEEZE, outline_coverage, to_image


@dataclass(frozen=True)
class EverydayBatch:
    """Inputs of `render_batch` beside the masks: colours in [-1, 1] and geometry in pixels.

    background, ink, accent, frame_colour B 3; accent_box B 4 (left, top, right, bottom); frame B 2 (gap, thickness);
    shape_colour B S 3; shape B S 6 (x, y, radius, and wedge, normal, squeeze of its outline).
    """

    background: Tensor
    ink: Tensor
    accent: Tensor
    accent_box: Tensor
    frame_colour: Tensor
    frame: Tensor
    shape_colour: Tensor
    shape: Tensor

    def to(self, device: torch.device | str) -> EverydayBatch:
        """Copy the batch to `device`."""
        return EverydayBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def chosen(self, indices: Tensor) -> EverydayBatch:
        """Return the scenes with these indices."""
        return EverydayBatch(**{name: value[indices] for name, value in vars(self).items()})

    def render(self, masks: Tensor) -> Tensor:
        """Render the scenes; see `render_batch`."""
        return render_batch(self, masks)


def batch_scenes(scenes: Sequence[EverydayScene]) -> EverydayBatch:
    """Convert B scenes to CPU tensors."""
    signed = {name: np.array(rgb, dtype=np.float32) / 127.5 - 1 for name, (rgb, _) in COLOURS.items()}
    signed[""] = np.zeros(3, dtype=np.float32)
    shape_colour = np.zeros((len(scenes), MOST_SHAPES, 3), dtype=np.float32)
    shape = np.full((len(scenes), MOST_SHAPES, 6), (0, 0, NOWHERE, *WEDGE_NORMAL_SQUEEZE["none"]), dtype=np.float32)
    boxes = np.zeros((len(scenes), 4), dtype=np.float32)
    for row, scene in enumerate(scenes):
        for number, one in enumerate(scene.shapes):
            shape_colour[row, number] = signed[one.colour]
            shape[row, number] = (one.x, one.y, one.radius, *WEDGE_NORMAL_SQUEEZE[one.kind])
        for block in scene.blocks:
            if block.accent:
                left, top, right, bottom = block.box
                boxes[row] = (left - 3, top - 1, right + 3, bottom + 1)

    def stacked(names: list[str]) -> Tensor:
        return torch.from_numpy(np.stack([signed[name] for name in names]))

    return EverydayBatch(
        stacked([scene.background for scene in scenes]),
        stacked([scene.text_colour for scene in scenes]),
        stacked([scene.accent_colour for scene in scenes]),
        torch.from_numpy(boxes),
        stacked([scene.frame.colour for scene in scenes]),
        torch.tensor([(scene.frame.gap, scene.frame.thickness) for scene in scenes], dtype=torch.float32),
        torch.from_numpy(shape_colour),
        torch.from_numpy(shape),
    )


def render_batch(batch: EverydayBatch, masks: Tensor) -> Tensor:
    """Render images B 3 H W, float32 in [-1, 1]: background, frame, shapes and letters are painted in this order."""
    batch, letters = batch.to(masks.device), masks[:, None].float() / 255
    height, width = masks.shape[-2:]
    rows = torch.arange(height, device=masks.device, dtype=torch.float32)[None, :, None] + 0.5
    columns = torch.arange(width, device=masks.device, dtype=torch.float32)[None, None, :] + 0.5
    pixels = _colour(batch.background).expand(-1, -1, height, width)
    edge = torch.minimum(torch.minimum(rows, height - rows), torch.minimum(columns, width - columns))
    gap, thickness = (batch.frame[:, n, None, None] for n in (0, 1))
    frame = ((edge > gap) & (edge < gap + thickness)).float()[:, None]
    pixels = torch.lerp(pixels, _colour(batch.frame_colour), frame)
    for number in range(MOST_SHAPES):
        covered = outline_coverage(batch.shape[:, number], rows, columns)
        pixels = torch.lerp(pixels, _colour(batch.shape_colour[:, number]), covered)
    left, top, right, bottom = (batch.accent_box[:, n, None, None] for n in range(4))
    accented = ((columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)).float()[:, None]
    ink = torch.lerp(_colour(batch.ink), _colour(batch.accent), accented)
    return torch.lerp(pixels, ink, letters)


def render(scene: EverydayScene) -> Image.Image:
    """Render one scene as an RGB image, by the same code as a batch."""
    return to_image(render_batch(batch_scenes([scene]), torch.from_numpy(text_mask(scene).copy())[None])[0])


def _colour(colours: Tensor) -> Tensor:
    return colours[:, :, None, None]
