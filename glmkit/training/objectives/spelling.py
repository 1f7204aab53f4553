"""Auxiliary losses that teach spelling, and to tell shapes apart; only training has their heads.

The velocity error of a wrong letter is small, so that texts and places on the canvas find each other late: after
millions of images letters are right in shape and wrong in kind or order. To be asked for them by name makes it a
matter of minutes. So it is with shapes that the prior tells apart and the decoder does not. (Auxiliary losses on inner
features, as in deep supervision, Lee et al. 2015.)

B batch, S texts of a prompt, T glyph tokens of a text, D width, h w latent rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.decoder.model import DiffusionDecoder
from glmkit.models.glyph.model import FIRST_BYTE

SIGNS = 128  # ASCII, whose control codes stand for shapes
PLACES = 16  # places in a text that are told apart; later ones count as the last


def mean_nats(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """Cross-entropy of logits N K ... and labels N ..., mean over the labels that are not `ignored`; 0 without any."""
    nats = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return nats / (labels != ignored).sum().clamp(min=1)


class SignHead(nn.Module):
    """Tells from the decoder's inner image tokens which sign, a letter or a shape, stands at each latent position.

    It reads the features that enter a block two thirds of the way, in the last forward pass.
    """

    def __init__(self, decoder: DiffusionDecoder) -> None:
        super().__init__()
        self.patch = decoder.config.patch_size
        self.tell = nn.Linear(decoder.config.width, self.patch**2 * SIGNS)
        self._features: Tensor | None = None
        blocks = decoder.transformer_blocks
        blocks[2 * len(blocks) // 3].register_forward_pre_hook(self._look)

    def _look(self, block: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._features = given[1]

    def loss(self, signs: Tensor, known: Tensor) -> Tensor:
        """Cross-entropy in nats of the last forward pass, mean over the positions with a sign.

        `signs` B h w below SIGNS, 0 where there is none; `known` B, False where the model was not told the text and the
        prior.
        """
        assert self._features is not None
        labels = F.pixel_unshuffle((signs * known[:, None, None]).unsqueeze(1), self.patch)
        logits = self.tell(self._features).unflatten(-1, (self.patch**2, SIGNS))
        labels = labels.flatten(2).transpose(1, 2).long()
        return mean_nats(logits.float().flatten(0, 2), labels.flatten(), ignored=0)


class OrderHead(nn.Module):
    """Tells from every glyph embedding how many letters of its text stand before it, and how many behind.

    Byte tokens know their places only through the encoder's relative attention, and the decoder gives glyph tokens no
    position of their own: what the embedding does not hold, nobody knows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tell = nn.Linear(width, 2 * PLACES)

    def loss(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Cross-entropy in nats, mean over the letters and both counts. `embeddings` B S*T D of `ids` B S T."""
        is_letter = ids >= FIRST_BYTE
        before = is_letter.cumsum(dim=-1) - 1
        behind = is_letter.sum(dim=-1, keepdim=True) - 1 - before
        places = torch.stack([before, behind], dim=-1).clamp(0, PLACES - 1)
        labels = torch.where(is_letter[..., None], places, -1).flatten()
        logits = self.tell(embeddings).float().unflatten(-1, (2, PLACES)).flatten(0, 2)
        return mean_nats(logits, labels, ignored=-1)
