"""Posters of `glmkit.posters` as training images, rendered when they are asked for, and pairs of them as edits.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glmkit import runs
from glmkit.generation.sequence import grids
from glmkit.posters import grammar, masks, render
from glmkit.posters.everyday import masks as everyday_masks
from glmkit.posters.everyday import render as everyday_render
from glmkit.posters.everyday.scene import EverydayScene
from glmkit.posters.words import Split
from glmkit.pretraining.config import PosterData, PretrainData
from glmkit.training import data
from glmkit.training.data import ConcatDataset, Datasets


class PosterDataset:
    """Posters whose text masks are rendered once, on the CPU, and their colours on the device that asks for them."""

    keys: list[str] | None = None
    text_keys: list[str] | None = None
    alphabet: Mapping[str, int] = {chr(code): code for code in range(32, 128)}
    """The number of every character; smaller numbers than theirs stand for shapes, 0 for nothing."""

    def __init__(self, count: int, height: int, width: int, seed: int, workers: int, split: Split) -> None:
        workers = workers or runs.cores()
        scenes, text_masks = masks.scenes_with_masks(
            count, seed, height=height, width=width, workers=workers, split=split
        )
        captions = [grammar.caption(scene, random.Random(f"{seed}-{index}")) for index, scene in enumerate(scenes)]
        self._set(scenes, text_masks, captions, {}, workers)

    def _set(
        self,
        scenes: list[grammar.Scene],
        text_masks: np.ndarray,
        captions: list[str],
        condition_images: dict[int, tuple[int, ...]],
        workers: int,
    ) -> None:
        self._describe(captions, [(scene.height, scene.width) for scene in scenes], condition_images)
        self._draw(text_masks, render.batch_scenes(scenes), lambda: masks.character_label_maps(scenes, workers))

    def _describe(
        self, captions: list[str], sizes: list[tuple[int, int]], condition_images: dict[int, tuple[int, ...]]
    ) -> None:
        self.captions, self.sizes, self.condition_images = captions, sizes, condition_images
        self.texts: list[tuple[str, ...] | None] = [None] * len(captions)
        self.rejected: dict[int, int] = {}
        self.same_image: dict[int, int] = {}
        self.repeats, self.regularization = [1] * len(captions), list[int]()

    def _draw(
        self,
        text_masks: np.ndarray,
        batch: render.SceneBatch | everyday_render.EverydayBatch,
        label_maps: Callable[[], np.ndarray],
    ) -> None:
        self._masks, self._batch = torch.from_numpy(text_masks), batch
        # Few trainings ask; those that do ask at every step, which must not wait for a copy.
        self._labels = cache(lambda device: torch.from_numpy(label_maps()).to(device))
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Keep the masks on `device`: count * H * W bytes."""
        self._masks, self._batch, self._device = self._masks.to(device), self._batch.to(device), device

    def _chosen_masks(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        if self._device != device:
            self.to(device)
        chosen = torch.as_tensor(np.asarray(indices), device=device)
        return chosen, self._masks[chosen]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Render posters of one size as B 3 H W in [-1, 1]."""
        chosen, text_masks = self._chosen_masks(indices, device)
        return self._batch.chosen(chosen).render(text_masks)

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """Return B 1 H W in [0, 1], 1 where text stands."""
        return self._chosen_masks(indices, device)[1].unsqueeze(1).float() / 255

    def character_labels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Return B H/8 W/8: the number of the character there, 1 to 6 for the kinds of shapes, 0 for none."""
        return self._labels(device)[torch.as_tensor(np.asarray(indices), device=device)]


class EverydayDataset(PosterDataset):
    """Scenes of what people type: up to four texts in English or Chinese, and captions in free wording."""

    alphabet = everyday_masks.alphabet()

    def __init__(self, count: int, height: int, width: int, seed: int, workers: int, split: Split) -> None:
        workers = workers or runs.cores()
        scenes, captions, text_masks = everyday_masks.scenes_with_masks(
            count, seed, height=height, width=width, workers=workers, split=split
        )
        self._describe(captions, [(height, width)] * count, {})
        self.texts = [scene.texts for scene in scenes]
        self._draw_everyday(scenes, text_masks, workers)

    def _draw_everyday(self, scenes: list[EverydayScene], text_masks: np.ndarray, workers: int) -> None:
        batch = everyday_render.batch_scenes(scenes)
        self._draw(text_masks, batch, lambda: everyday_masks.character_label_maps(scenes, workers))
        seed = len(scenes)
        self._misspelt = cache(lambda: torch.from_numpy(everyday_masks.misspelt_masks(scenes, seed, workers)))

    def misspelt_pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Render the same posters with texts that are spelt wrong: B 3 H W in [-1, 1]."""
        chosen, _ = self._chosen_masks(indices, device)
        masks = self._misspelt()[torch.as_tensor(np.asarray(indices))].to(device)
        return self._batch.chosen(chosen).render(masks)


def misspelt_pixels(images: data.ImageDataset, indices: Sequence[int], device: torch.device) -> Tensor | None:
    """Return the images with misspelt texts, B 3 H W in [-1, 1]; None where they cannot be rendered again."""
    if isinstance(images, ConcatDataset):
        return images.gather(lambda part, members: misspelt_pixels(part, members, device), indices)
    return images.misspelt_pixels(indices, device) if isinstance(images, EverydayDataset) else None


def paired(edits: Sequence[Any], captions: Sequence[str]) -> tuple[list[Any], list[str], dict[int, tuple[int, ...]]]:
    """Return conditions and targets in turn, what is said of each, and which condition each target has."""
    scenes = [scene for edit in edits for scene in (edit.condition, edit.target)]
    said = [text for edit, caption in zip(edits, captions, strict=True) for text in (caption, edit.instruction)]
    return scenes, said, {2 * pair + 1: (2 * pair,) for pair in range(len(edits))}


class EditDataset(PosterDataset):
    """Posters in pairs: number 2k is described by its caption, 2k + 1 is what its instruction makes of 2k.

    So half of the images are edits; the condition images keep text-to-image in practice.
    """

    def __init__(self, count: int, height: int, width: int, seed: int, workers: int, split: Split) -> None:
        workers = workers or runs.cores()
        edits, text_masks = masks.edits_with_masks(
            count, seed, height=height, width=width, workers=workers, split=split
        )
        captions = [
            grammar.caption(edit.condition, random.Random(f"{seed}-{index}")) for index, edit in enumerate(edits)
        ]
        scenes, captions, condition_images = paired(edits, captions)
        self._set(scenes, text_masks.reshape(-1, height, width), captions, condition_images, workers)


class EverydayEditDataset(EverydayDataset):
    """Pairs as those of `EditDataset`; the decoder gets the texts that an instruction quotes, the old one included."""

    def __init__(self, count: int, height: int, width: int, seed: int, workers: int, split: Split) -> None:
        workers = workers or runs.cores()
        edits, captions, text_masks = everyday_masks.edits_with_masks(
            count, seed, height=height, width=width, workers=workers, split=split
        )
        scenes, captions, condition_images = paired(edits, captions)
        self._describe(captions, [(height, width)] * len(captions), condition_images)
        self._draw_everyday(scenes, text_masks.reshape(-1, height, width), workers)


KINDS = {"plain": (EditDataset, PosterDataset), "everyday": (EverydayEditDataset, EverydayDataset)}


def load(settings: PretrainData) -> Datasets:
    """Load or render training and validation images; posters to validate have words that training never shows."""
    if settings.train:
        return data.load(settings)
    # Edits first: validation losses look at the first images, and these are edits and descriptions in turn.
    pairs = [
        _both_splits(KINDS[posters.world][number], posters, *size, share)
        for number, posters in enumerate((settings.edits, settings.posters))
        if posters is not None
        for size, share in posters.shares.items()
    ]
    if len(pairs) == 1:
        return pairs[0]
    train, validation = zip(*pairs, strict=True)
    return ConcatDataset(train), ConcatDataset(validation)


def _both_splits(
    kind: type[PosterDataset], posters: PosterData, height: int, width: int, share: float
) -> tuple[PosterDataset, PosterDataset]:
    grids(height, width)  # refuses a size that the model cannot generate
    count, validation = (max(1, round(share * images)) for images in (posters.count, posters.validation))
    train = kind(count, height, width, posters.seed, posters.workers, "train")
    return train, kind(validation, height, width, posters.seed + 1, posters.workers, "held-out")
