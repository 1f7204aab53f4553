"""The clip stage: an image is closer to its caption than to any other of the batch, and the other way round
(CLIP, arXiv:2103.00020).

Colours alone tell the posters of a batch apart, so that a model could stop there: every image must also refuse a
caption that says one thing wrongly (as in NegCLIP, arXiv:2210.01936).

B images, D features, T text tokens.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.clip.model import PREFIX, ClipModel
from glmkit.posters.everyday import captions_zh
from glmkit.posters.grammar import SHAPES
from glmkit.training.data import ImageDataset, first_batches
from glmkit.training.features import FeatureCache, precompute, resize_as_processor
from glmkit.training.objectives import Objective

GROUP = 64  # captions that a validation image chooses among
VALIDATION_IMAGES = 4 * GROUP
MAX_LOGIT_SCALE = math.log(100)  # of the logits, section 2.5 of the paper
WRONG_CAPTIONS = 2  # an image, one of them in each batch
# What a wrong caption exchanges: one of a pair for the other, or a shape for another; longer words first.
PAIRS = [("top", "bottom"), ("upper", "lower"), ("left", "right")]
PAIRS += [("顶部", "底部"), ("上方", "下方"), ("上面", "下面"), ("左", "右")]
KINDS = [list(SHAPES), list(captions_zh.KINDS.values())]
QUOTED = r"\"[^\"]*\"|“[^”]*”|「[^」]*」|'[^']*'"
ENGLISH = "|".join(sorted({word for pair in PAIRS[:3] for word in pair} | {*KINDS[0]}, key=len, reverse=True))
CHINESE = "|".join(sorted({word for pair in PAIRS[3:] for word in pair} | {*KINDS[1]}, key=len, reverse=True))
# Quoted texts match first and whole, so that group 1 is never a word inside quotes.
WORD = re.compile(rf"(?:{QUOTED})|(\b(?:{ENGLISH})(?=s?\b)|{CHINESE})")


def wrong_caption(caption: str, rng: random.Random) -> str | None:
    """Exchange top and bottom, or left and right, or a shape, in a caption; None where it names none.

    Words are exchanged wherever they stand: an image could look as the wrong caption says, so that no caption can be
    refused without a look at the image.
    """
    return exchanged(caption, PAIRS, KINDS, rng)


def exchanged(
    caption: str, pairs: Sequence[tuple[str, str]], kinds: Sequence[Sequence[str]], rng: random.Random
) -> str | None:
    """Exchange one of `pairs`, or a shape for another of its list in `kinds`; None where a caption names none."""
    named = {match[1] for match in WORD.finditer(caption) if match[1]}
    swaps = [{one: other, other: one} for one, other in pairs if named & {one, other}]
    swaps += [
        {shape: rng.choice([kind for kind in shapes if kind != shape])}
        for shapes in kinds
        for shape in shapes
        if shape in named
    ]
    if not swaps:
        return None
    swap = rng.choice(swaps)
    return WORD.sub(lambda match: swap.get(match[1], match[0]), caption)


class CaptionedImages:
    """Small images with the ids of their captions and of wrong ones, and the features of both.

    Every other caption has the prefix: it makes no difference to a judge that has seen both.
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
        """Return unit features of images and of captions, both B D."""
        pixels = self.images[indices].float() / 127.5 - 1
        return self.clip.images(pixels), self.clip.texts(self.captions[self._tensor(indices)])

    def wrong(self, indices: Sequence[int], choice: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit features B D of the wrong captions number `choice` (B), and which of them there are (B, bool)."""
        ids = self.wrong_captions[self._tensor(indices), choice]
        return self.clip.texts(ids), ids.any(dim=1)

    def _tensor(self, indices: Sequence[int]) -> Tensor:
        return torch.as_tensor(indices, device=self.captions.device)


def contrastive_loss(images: Tensor, captions: Tensor, wrong: Tensor, exists: Tensor, scale: Tensor) -> Tensor:
    """Return the mean of both cross-entropies from unit features B D.

    An image chooses among all captions of the batch and those wrong captions (B D) that exist (B, bool); a caption
    chooses among the images.
    """
    logits = scale * images @ captions.T
    wrong_logits = (scale * images @ wrong.T).masked_fill(~exists, -math.inf)
    labels = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(torch.cat([logits, wrong_logits], dim=1), labels) + F.cross_entropy(logits.T, labels)) / 2


def recall_at_1(images: Tensor, captions: Tensor) -> float:
    """Return the share of the images (features B D) that are closest to their own caption (B D, same order)."""
    best = (images @ captions.T).argmax(dim=1)
    return float((best == torch.arange(len(images), device=best.device)).float().mean())


class ClipObjective(Objective):
    """Contrasts images and captions, with a wrong caption for every image."""

    def __init__(self, clip: ClipModel, images: ImageDataset, validation: ImageDataset, device: torch.device) -> None:
        self.trained, self.device = clip.model, device
        self.train, self.validation = CaptionedImages(clip, images, device), CaptionedImages(clip, validation, device)
        self.validation_groups = first_batches(validation.sizes, GROUP, limit=VALIDATION_IMAGES)

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the contrastive loss, and the scale of the logits."""
        choice = torch.randint(WRONG_CAPTIONS, (len(indices),), generator=generator, device=self.device)
        images, captions = self.train.features(indices)
        loss = self._contrast(images, captions, *self.train.wrong(indices, choice))
        return loss, {"scale": self._logit_scale.detach().exp()}

    @property
    def _logit_scale(self) -> Tensor:
        return cast(Tensor, self.trained.logit_scale)

    def _contrast(self, images: Tensor, captions: Tensor, wrong: Tensor, exists: Tensor) -> Tensor:
        scale = self._logit_scale.exp()
        with torch.autocast(self.device.type, enabled=False):  # bfloat16 would round logits near 100 to halves
            return contrastive_loss(images.float(), captions.float(), wrong.float(), exists, scale)

    @torch.no_grad()
    def after_step(self, _step: int, _generator: torch.Generator) -> None:
        """Bound the scale of the logits."""
        self._logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return loss, image-to-caption R@1, and how many refuse their wrong caption, among groups of 64 images."""
        losses, refused = [], []
        for indices in self.validation_groups:
            images, captions = self.validation.features(indices)
            wrong, exists = self.validation.wrong(
                indices, torch.zeros(len(indices), dtype=torch.long, device=self.device)
            )
            losses.append([float(self._contrast(images, captions, wrong, exists)), recall_at_1(images, captions)])
            refused.append(((images * captions).sum(dim=1) > (images * wrong).sum(dim=1))[exists])
        loss, recall = torch.tensor(losses).mean(dim=0).tolist()
        return {"loss": loss, "recall_at_1": recall, "refused": float(torch.cat(refused).float().mean())}

    def compile(self) -> None:
        """Compile both towers."""
        for tower in (self.trained.visual, self.trained.transformer):
            cast(nn.Module, tower).compile(dynamic=False)
