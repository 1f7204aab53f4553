"""The clip stage: an image shall be closer to its caption than to any other of the batch, and the other way round
(CLIP, arXiv 2103.00020).

Colours alone tell the posters of a batch apart, so that a model could stop there: every image must also refuse a
caption that says one thing wrongly (as in NegCLIP, arXiv 2210.01936). N images, D features, T text tokens.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.models.clip.model import PREFIX, ClipModel
from glmkit.posters.grammar import SHAPES
from glmkit.training.data import ImageDataset, groups
from glmkit.training.features import FeatureCache, precompute, resize_as_processor
from glmkit.training.objectives import Objective

GROUP = 64  # captions that a validation image chooses among
VALIDATION_IMAGES = 4 * GROUP
LARGEST_SCALE = math.log(100)  # of the logits, section 2.5 of the paper
WRONG_CAPTIONS = 2  # an image, one of them in each batch
MIRRORED = (("top", "bottom"), ("left", "right"))
# Quoted texts match first and whole, so that group 1 is never a word inside quotes.
WORD = re.compile(rf'"[^"]*"|\b({"|".join((*SHAPES, *MIRRORED[0], *MIRRORED[1]))})\b')


def wrong_caption(caption: str, rng: random.Random) -> str | None:
    """The caption with top and bottom exchanged, or left and right, or another shape; None where it names none.

    Words are exchanged wherever they stand: a poster could look as the wrong caption says, so that no caption can be
    refused without a look at the image.
    """
    named = {match[1] for match in WORD.finditer(caption) if match[1]}
    swaps = [{one: other, other: one} for one, other in MIRRORED if named & {one, other}]
    swaps += [{shape: rng.choice([kind for kind in SHAPES if kind != shape])} for shape in SHAPES if shape in named]
    if not swaps:
        return None
    swap = rng.choice(swaps)
    return WORD.sub(lambda match: swap.get(match[1], match[0]), caption)


class Pairs:
    """The images as the image tower sees them, N 3 side side uint8, with the ids of their captions, N T, and of
    wrong ones, N WRONG_CAPTIONS T (all 0 where there is none).

    Every other caption has the prefix: it shall make no difference.
    """

    def __init__(self, clip: ClipModel, images: ImageDataset, device: torch.device) -> None:
        def shrink(indices: list[int]) -> Tensor:
            pixels = images.pixels(indices, device)
            return ((resize_as_processor(pixels, clip.side, clip.side) + 1) * 127.5).round().to(torch.uint8)

        self.clip = clip
        self.images = precompute(images, shrink, FeatureCache(device), "small images")
        captions = [PREFIX * (index % 2) + caption for index, caption in enumerate(images.captions)]
        self.captions = clip.tokenizer(captions).to(device)
        wrong = [
            wrong_caption(caption, random.Random(f"{index} {number}"))
            for index, caption in enumerate(captions)
            for number in range(WRONG_CAPTIONS)
        ]
        ids = clip.tokenizer([caption or "" for caption in wrong])
        ids[[caption is None for caption in wrong]] = 0
        self.wrong_captions = ids.view(len(captions), WRONG_CAPTIONS, -1).to(device)

    def features(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Unit features of images and of captions, both N D."""
        pixels = self.images[indices].float() / 127.5 - 1
        return self.clip.images(pixels), self.clip.texts(self.captions[self._rows(indices)])

    def wrong(self, indices: Sequence[int], choice: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features N D of the wrong captions number `choice` (N), and which of them there are (N, bool)."""
        ids = self.wrong_captions[self._rows(indices), choice]
        return self.clip.texts(ids), ids.any(dim=1)

    def _rows(self, indices: Sequence[int]) -> Tensor:
        return torch.as_tensor(indices, device=self.captions.device)


def contrast(images: Tensor, captions: Tensor, wrong: Tensor, there: Tensor, scale: Tensor) -> Tensor:
    """Mean of both cross-entropies from unit features N D. An image chooses among all captions of the batch and those
    of the wrong captions (M D) that are `there` (M, bool); a caption chooses among the images."""
    own = scale * images @ captions.T
    others = (scale * images @ wrong.T).masked_fill(~there, -math.inf)
    labels = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(torch.cat([own, others], dim=1), labels) + F.cross_entropy(own.T, labels)) / 2


def recall_at_1(images: Tensor, captions: Tensor) -> float:
    """Share of the images (features N D) that are closest to their own caption (N D, same order) among all N."""
    best = (images @ captions.T).argmax(dim=1)
    return float((best == torch.arange(len(images), device=best.device)).float().mean())


class ClipObjective(Objective):
    def __init__(self, clip: ClipModel, images: ImageDataset, validation: ImageDataset, device: torch.device) -> None:
        self.trained, self.device = clip.model, device
        self.pairs, self.known = Pairs(clip, images, device), Pairs(clip, validation, device)
        self.validation_groups = groups(validation.sizes, GROUP, limit=VALIDATION_IMAGES)

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        choice = torch.randint(WRONG_CAPTIONS, (len(indices),), generator=generator, device=self.device)
        images, captions = self.pairs.features(indices)
        loss = self._contrast(images, captions, *self.pairs.wrong(indices, choice))
        return loss, {"scale": self.trained.logit_scale.detach().exp()}  # type: ignore[operator, union-attr]

    def _contrast(self, images: Tensor, captions: Tensor, wrong: Tensor, there: Tensor) -> Tensor:
        scale = self.trained.logit_scale.exp()  # type: ignore[operator, union-attr]
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 would round logits near 100 to halves
            return contrast(images.float(), captions.float(), wrong.float(), there, scale)

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        self.trained.logit_scale.clamp_(max=LARGEST_SCALE)  # type: ignore[operator, union-attr]

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Among groups of 64 validation images: loss, image-to-caption R@1, and how many refuse their wrong caption."""
        rows, refused = [], []
        for indices in self.validation_groups:
            images, captions = self.known.features(indices)
            wrong, there = self.known.wrong(indices, torch.zeros(len(indices), dtype=torch.long, device=self.device))
            rows.append([float(self._contrast(images, captions, wrong, there)), recall_at_1(images, captions)])
            refused.append(((images * captions).sum(dim=1) > (images * wrong).sum(dim=1))[there])
        loss, recall = torch.tensor(rows).mean(dim=0).tolist()
        return {"loss": loss, "recall_at_1": recall, "refused": float(torch.cat(refused).float().mean())}

    def compile(self) -> None:
        for tower in (self.trained.visual, self.trained.transformer):
            tower.compile(dynamic=False)  # type: ignore[operator, union-attr]
