"""Auxiliary losses that teach spelling, and to tell shapes apart; only pretraining has their heads.

The velocity error of a wrong letter is small, so that texts and places on the canvas find each other late: after
millions of images letters are right in shape and wrong in kind or order. To be asked for them by name makes it a
matter of minutes. So it is with shapes that the prior tells apart and the decoder does not. (Auxiliary losses on inner
features, as in deep supervision, Lee et al. 2015.)

B batch, S texts of a prompt, T glyph tokens of a text, N image tokens, H W latent rows and columns, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.models.decoder.model import DiffusionDecoder
from glmkit.models.glyph.model import FIRST_BYTE
from glmkit.pretraining.posters import PosterDataset
from glmkit.training.data import ConcatDataset, ImageDataset
from glmkit.training.features import CachedFeatures, FeatureCache, precompute
from glmkit.training.objectives.decoder import LossContext
from glmkit.training.objectives.glyph_embeddings import GlyphTokens

POSITIONS = 40  # positions in a text that are distinguished; later ones count as the last


def character_labels(images: ImageDataset, indices: Sequence[int], device: torch.device) -> Tensor | None:
    """Return the character at each latent position, B H W: its number, 1 to 6 for the kinds of shapes, 0 for none;
    None for images that are no posters.
    """
    if isinstance(images, ConcatDataset):
        return images.gather(lambda dataset, own: character_labels(dataset, own, device), indices)
    return images.character_labels(indices, device) if isinstance(images, PosterDataset) else None


def count_characters(images: ImageDataset) -> int:
    """Return one more than the largest label that `character_labels` can give."""
    if isinstance(images, ConcatDataset):
        return max(count_characters(dataset) for dataset in images.sets)
    return images.characters if isinstance(images, PosterDataset) else 1


def check_character_labels(images: ImageDataset, key: str) -> None:
    """UserError when a loss that `key` asks for needs to know which character stands where, and the images do not."""
    if character_labels(images, [0], torch.device("cpu")) is None:
        fix = f"data.posters, or leave {key} out"
        raise UserError(f"{key} needs to know which character stands where", found="images from files", fix=fix)


def precompute_character_labels(images: ImageDataset, cache: FeatureCache) -> CachedFeatures:
    """Compute the labels H W of every poster."""

    def encode(indices: list[int]) -> Tensor:
        labels = character_labels(images, indices, cache.device)
        assert labels is not None
        return labels

    return precompute(images, encode, cache, "character labels")


def mean_cross_entropy(logits: Tensor, labels: Tensor, ignored: int) -> Tensor:
    """Return the cross-entropy of logits N K ... and labels N ..., mean over the labels that are not `ignored`.

    It is 0 where there are none.
    """
    total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return total / (labels != ignored).sum().clamp(min=1)


class CharacterHead(nn.Module):
    """Names the character, a letter or a shape, at each latent position, from the decoder's inner image tokens.

    It reads the features that enter a block two thirds of the way, in the last forward pass.
    """

    def __init__(self, decoder: DiffusionDecoder, characters: int) -> None:
        super().__init__()
        self.patch, self.characters = decoder.config.patch_size, characters
        self.tell = nn.Linear(decoder.config.width, self.patch**2 * characters)
        self._features: Tensor | None = None
        blocks = decoder.transformer_blocks
        blocks[2 * len(blocks) // 3].register_forward_pre_hook(self._remember)

    def _remember(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[1]

    def loss(self, labels: Tensor, conditional: Tensor) -> Tensor:
        """Return the cross-entropy of the last forward pass, mean over the positions with a character.

        `labels` B H W below the number of characters, 0 where there is none; `conditional` B, False where the decoder
        had neither the texts nor the prior.
        """
        assert self._features is not None
        patches = F.pixel_unshuffle((labels * conditional[:, None, None]).unsqueeze(1), self.patch)
        logits = self.tell(self._features).unflatten(-1, (self.patch**2, self.characters))
        targets = patches.flatten(2).transpose(1, 2).long()
        return mean_cross_entropy(logits.float().flatten(0, 2), targets.flatten(), ignored=0)


class CharacterPositionHead(nn.Module):
    """Tells from every glyph embedding how many letters of its text stand before it, and how many behind.

    Byte tokens know their positions only through the encoder's relative attention, and the decoder gives glyph tokens
    no position of their own: what the embedding does not hold is lost.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tell = nn.Linear(width, 2 * POSITIONS)

    def loss(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Return the cross-entropy, mean over the letters and both counts. `embeddings` B S*T D of `ids` B S T."""
        is_letter = ids >= FIRST_BYTE
        before = is_letter.cumsum(dim=-1) - 1
        behind = is_letter.sum(dim=-1, keepdim=True) - 1 - before
        positions = torch.stack([before, behind], dim=-1).clamp(0, POSITIONS - 1)
        labels = torch.where(is_letter[..., None], positions, -1).flatten()
        logits = self.tell(embeddings).float().unflatten(-1, (2, POSITIONS)).flatten(0, 2)
        return mean_cross_entropy(logits, labels, ignored=-1)


class CharacterLoss:
    """Asks the decoder for the character at each latent position."""

    name = "character"

    def __init__(self, decoder: DiffusionDecoder, labels: CachedFeatures, weight: float, characters: int) -> None:
        self.head, self._labels, self._weight = CharacterHead(decoder, characters), labels, weight

    def loss(self, context: LossContext) -> tuple[str, float, Tensor]:
        """Return name, weight and value."""
        inputs = context.inputs
        return self.name, self._weight, self.head.loss(self._labels[inputs.indices], inputs.conditional)


class CharacterPositionLoss:
    """Asks each glyph embedding for its position in its text."""

    name = "character_position"

    def __init__(self, width: int, tokens: GlyphTokens, weight: float) -> None:
        self.head, self._tokens, self._weight = CharacterPositionHead(width), tokens, weight

    def loss(self, context: LossContext) -> tuple[str, float, Tensor]:
        """Return name, weight and value."""
        return self.name, self._weight, self.head.loss(context.glyph_embeddings, self._tokens[context.inputs.texts])
