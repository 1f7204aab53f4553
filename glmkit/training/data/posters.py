"""Posters of `glmkit.posters` as training images, drawn when they are asked for, and pairs of them as edits.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from glmkit import runs

if TYPE_CHECKING:
    from glmkit.posters.grammar import Scene


class PosterImages:
    """Posters of `glmkit.posters`: text masks drawn once on the CPU, coloured on the device that asks for them.

    `wide` is the share of the posters with more colours, and frames, `aligned` that of those whose lines stand at the
    left or right edge.
    """

    keys: list[str] | None = None
    text_keys: list[str] | None = None

    def __init__(
        self,
        count: int,
        height: int,
        width: int,
        seed: int,
        workers: int,
        split: Literal["train", "held-out"],
        wide: float = 0.0,
        aligned: float = 0.0,
    ) -> None:
        from glmkit.posters import grammar, masks

        workers = workers or runs.cores()
        scenes, drawn = masks.scenes_with_masks(
            count, seed, height=height, width=width, workers=workers, split=split, wide=wide, aligned=aligned
        )
        captions = [grammar.caption(scene, random.Random(f"{seed}-{index}")) for index, scene in enumerate(scenes)]
        self._keep(scenes, drawn, captions, {}, workers)

    def _keep(
        self,
        scenes: list[Scene],
        drawn: np.ndarray,
        captions: list[str],
        condition_images: dict[int, int],
        workers: int,
    ) -> None:
        from glmkit.posters import masks, render

        self.captions, self.condition_images = captions, condition_images
        self.sizes = [(scene.height, scene.width) for scene in scenes]
        self.repeats, self.regularization = [1] * len(scenes), list[int]()
        self._masks = torch.from_numpy(drawn)
        # Few trainings ask; those that do ask at every step, which must not wait for a copy.
        self._signs = cache(lambda device: torch.from_numpy(masks.character_label_maps(scenes, workers)).to(device))
        self._params = render.batch_scenes(scenes)
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Keep the masks on `device`: count * H * W bytes."""
        self._masks, self._params, self._device = self._masks.to(device), self._params.to(device), device

    def _rows(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        if self._device != device:
            self.to(device)
        rows = torch.as_tensor(np.asarray(indices), device=device)
        return rows, self._masks[rows]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        from glmkit.posters import render

        rows, masks = self._rows(indices, device)
        chosen = render.SceneBatch(**{name: value[rows] for name, value in vars(self._params).items()})
        return render.render_batch(chosen, masks)

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self._rows(indices, device)[1].unsqueeze(1).float() / 255

    def signs(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self._signs(device)[torch.as_tensor(np.asarray(indices), device=device)]


class EditImages(PosterImages):
    """Posters in pairs: number 2k is described by its caption, 2k + 1 is what its instruction makes of 2k.

    So half of the images are edits; the sources keep text-to-image in practice.
    """

    def __init__(
        self, count: int, height: int, width: int, seed: int, workers: int, split: Literal["train", "held-out"]
    ) -> None:
        from glmkit.posters import grammar, masks

        workers = workers or runs.cores()
        edits, drawn = masks.edits_with_masks(count, seed, height=height, width=width, workers=workers, split=split)
        scenes, captions = [], []
        for index, edit in enumerate(edits):
            scenes += [edit.condition, edit.target]
            captions += [grammar.caption(edit.condition, random.Random(f"{seed}-{index}")), edit.instruction]
        self._keep(
            scenes, drawn.reshape(-1, height, width), captions, {2 * k + 1: 2 * k for k in range(count)}, workers
        )
