"""The clip stage: a picture and its caption shall have similar features, and no others of the batch (CLIP,
arXiv 2103.00020, with open_clip's own loss). N pictures, D features, T text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glmkit.models.clip import Clip
from glmkit.training import cache
from glmkit.training.data import Pictures, groups
from glmkit.training.objectives import Objective

GROUP = 64  # captions that a held-out picture chooses among
HELD_OUT_PICTURES = 4 * GROUP
LARGEST_SCALE = math.log(100)  # of the logits, section 2.5 of the paper
PREFIX = "A photo depicts "  # CLIPScore puts these words before every prompt (arXiv 2104.08718)


class Pairs:
    """The pictures as the image tower sees them, N 3 side side uint8, and the ids of their captions, N T, of which
    every other one has the prefix: it shall make no difference.
    """

    def __init__(self, clip: Clip, pictures: Pictures, device: torch.device) -> None:
        def shrink(pixels: Tensor, _: list[int]) -> Tensor:
            return ((cache.halve(pixels, clip.side, clip.side) + 1) * 127.5).round().to(torch.uint8)

        self.clip = clip
        self.pictures = cache.compute(pictures, shrink, device, "small pictures")
        captions = [PREFIX * (index % 2) + caption for index, caption in enumerate(pictures.captions)]
        self.captions = clip.tokenizer(captions).to(device)

    def features(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Unit features of pictures and of captions, both N D."""
        pixels = self.pictures[indices].float() / 127.5 - 1
        captions = self.captions[torch.as_tensor(indices, device=self.captions.device)]
        return self.clip.images(pixels), self.clip.texts(captions)


def recall_at_1(images: Tensor, captions: Tensor) -> float:
    """Share of the pictures (features N D) that are closest to their own caption (N D, same order) among all N."""
    best = (images @ captions.T).argmax(dim=1)
    return float((best == torch.arange(len(images), device=best.device)).float().mean())


class ClipObjective(Objective):
    def __init__(self, clip: Clip, pictures: Pictures, held_out: Pictures, device: torch.device) -> None:
        from open_clip.loss import ClipLoss

        self.trained, self.contrast = clip.model, ClipLoss()
        self.pairs, self.known = Pairs(clip, pictures, device), Pairs(clip, held_out, device)
        self.held_out_groups = groups(held_out.sizes, GROUP, limit=HELD_OUT_PICTURES)

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self._contrast(*self.pairs.features(indices))
        return loss, {"scale": self.trained.logit_scale.detach().exp()}  # type: ignore[operator, union-attr]

    def _contrast(self, images: Tensor, captions: Tensor) -> Tensor:
        scale = self.trained.logit_scale.exp()  # type: ignore[operator, union-attr]
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round logits near 100 to halves
            return self.contrast(images.float(), captions.float(), scale)  # type: ignore[no-any-return]

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        self.trained.logit_scale.clamp_(max=LARGEST_SCALE)  # type: ignore[operator, union-attr]

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Loss and image-to-caption R@1 among groups of 64 held-out pictures."""
        rows = []
        for indices in self.held_out_groups:
            images, captions = self.known.features(indices)
            rows.append([float(self._contrast(images, captions)), recall_at_1(images, captions)])
        loss, recall = torch.tensor(rows).mean(dim=0).tolist()
        return {"loss": loss, "recall_at_1": recall}

    def compile(self) -> None:
        for tower in (self.trained.visual, self.trained.transformer):
            tower.compile(dynamic=False)  # type: ignore[operator, union-attr]
