"""Auxiliary losses that teach spelling, and to tell shapes apart; only pretraining has their heads.

The velocity error of a wrong letter is small, so that texts and places on the canvas find each other late: after
millions of images letters are right in shape and wrong in kind or order. To be asked for them by name makes it a
matter of minutes. So it is with shapes that the prior tells apart and the decoder does not. (Auxiliary losses on inner
features, as in deep supervision, Lee et al. 2015.)

B batch, S texts of a prompt, T glyph tokens of a text, N image tokens, H W latent rows and columns, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def alphabet(images: ImageDataset) -> Mapping[str, int]:
    """Return the number of every character, as `character_labels` gives it; empty for images that are no posters.

    UserError when posters of several worlds number them differently.
    """
    if isinstance(images, ConcatDataset):
        different = {tuple(alphabet(dataset).items()): alphabet(dataset) for dataset in images.sets}
        if len(different) > 1:
            raise UserError("posters of different worlds cannot be trained on together", fix="one data.posters.world")
        return next(iter(different.values()))
    return images.alphabet if isinstance(images, PosterDataset) else {}


def count_characters(images: ImageDataset) -> int:
    """Return one more than the largest label that `character_labels` can give."""
    return 1 + max(alphabet(images).values(), default=0)


def check_character_labels(images: ImageDataset, key: str) -> None:
    """Raise UserError when a loss that `key` asks for must know where characters stand, and the images do not say."""
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


class GlyphCharacterHead(nn.Module):
    """Names from every glyph embedding the character that its byte is part of.

    A Chinese character is three bytes, and the decoder can attend to each of them: each has to tell the whole.
    """

    def __init__(self, width: int, alphabet: Mapping[str, int]) -> None:
        super().__init__()
        self.tell = nn.Linear(width, 1 + max(alphabet.values()))
        numbers = torch.zeros(1 + max(map(ord, alphabet)), dtype=torch.long)
        numbers[[ord(character) for character in alphabet]] = torch.tensor(list(alphabet.values()))
        self.register_buffer("numbers", numbers)
        self.numbers: Tensor

    def labels(self, ids: Tensor) -> Tensor:
        """Return the number of the character of each id B S T, 0 for what is no byte of one that has a number."""
        code_points = self._code_points(ids)
        return self.numbers[code_points.where(code_points < len(self.numbers), 0)]

    @staticmethod
    def _code_points(ids: Tensor) -> Tensor:
        """Decode UTF-8: the code point of the character that each id belongs to, 0 for what is no byte."""
        values = F.pad(ids.long() - FIRST_BYTE, (0, 2), value=0x80)
        first, second, third = (values[..., k : k + ids.shape[-1]] for k in range(3))
        two, three = (first - 0xC0) << 6 | second & 0x3F, (first - 0xE0) << 12 | (second & 0x3F) << 6 | third & 0x3F
        whole = torch.where(first < 0x80, first, torch.where(first < 0xE0, two, three))
        # Bytes from 0x80 to 0xBF continue the character whose first byte is the last other one before them.
        places = torch.arange(ids.shape[-1], device=ids.device)
        starts = torch.where((first & 0xC0) == 0x80, 0, places).cummax(dim=-1).values
        return torch.where(ids >= FIRST_BYTE, whole.gather(-1, starts), 0).clamp(min=0)

    def loss(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Return the cross-entropy, mean over the bytes of known characters. `embeddings` B S*T D of `ids` B S T."""
        logits = self.tell(embeddings).float().flatten(0, 1)
        return mean_cross_entropy(logits, self.labels(ids).flatten(), ignored=0)


class CharacterLoss:
    """Asks the decoder for the character at each latent position."""

    name = "character"

    def __init__(self, decoder: DiffusionDecoder, labels: CachedFeatures, weight: float, characters: int) -> None:
        self.head, self._labels, self._weight = CharacterHead(decoder, characters), labels, weight

    def loss(self, context: LossContext) -> tuple[str, float, Tensor]:
        """Return name, weight and value."""
        inputs = context.inputs
        return self.name, self._weight, self.head.loss(self._labels[inputs.indices], inputs.conditional)


class GlyphLoss:
    """Asks each glyph embedding for what `head` wants to know: its position in its text, or its character."""

    def __init__(
        self, name: str, head: CharacterPositionHead | GlyphCharacterHead, tokens: GlyphTokens, weight: float
    ) -> None:
        self.name, self.head, self._tokens, self._weight = name, head, tokens, weight

    def loss(self, context: LossContext) -> tuple[str, float, Tensor]:
        """Return name, weight and value."""
        return self.name, self._weight, self.head.loss(context.glyph_embeddings, self._tokens[context.inputs.texts])
