"""What pretraining adds to the decoder's objective: priors as sampling makes them, auxiliary losses, no glyph texts.

B batch, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit.errors import UserError
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.characters import (
    CharacterLoss,
    CharacterPositionHead,
    GlyphCharacterHead,
    GlyphLoss,
    alphabet,
    check_character_labels,
    count_characters,
    precompute_character_labels,
)
from glmkit.pretraining.config import PretrainDecoderStage
from glmkit.pretraining.initialise import fresh_or_loaded
from glmkit.pretraining.posters import misspelt_pixels
from glmkit.training.data import Datasets, ImageDataset, glyph_texts
from glmkit.training.features import CachedFeatures, FeatureCache, large_token_ids, made_from_text, precompute
from glmkit.training.objectives import StageKind
from glmkit.training.objectives.decoder import (
    AuxiliaryLoss,
    DecoderFeatures,
    DecoderObjective,
    check_text,
    precompute_features,
    weighs_text,
)
from glmkit.training.objectives.glyph_embeddings import GlyphTokens


@dataclass(frozen=True)
class PretrainFeatures:
    """The features of fine-tuning for both data sets, and those of the training images that only pretraining reads."""

    train: DecoderFeatures
    validation: DecoderFeatures
    stretched: CachedFeatures | None
    """Token ids H/4 W/4 of the stretched images."""
    misspelt: CachedFeatures | None
    """Token ids H/4 W/4 of the images with misspelt texts."""
    characters: CachedFeatures | None
    """The character at each latent position, H W."""
    n_characters: int
    """One more than the largest of these."""
    alphabet: Mapping[str, int]
    """The numbers of the characters."""


def precompute_all(
    hybrid: HybridModel, datasets: Datasets, stage: PretrainDecoderStage, cache: FeatureCache
) -> PretrainFeatures:
    """Compute the features of both data sets; UserError when a loss depends on what is not known of the images."""
    images, validation = datasets
    check_text(images, stage)
    if stage.prior_misspelt and misspelt_pixels(images, [0], cache.device) is None:
        raise UserError(
            "prior_misspelt renders texts again", found="images from files", fix="data.posters: {world: everyday}"
        )
    for key in ("character_weight", "glyph_character_weight"):
        if getattr(stage, key):
            check_character_labels(images, key)
    texts = [glyph_texts(dataset) if stage.glyphs else [list[str]()] * len(dataset.captions) for dataset in datasets]
    return PretrainFeatures(
        train=precompute_features(hybrid, images, texts[0], stage, cache, with_text=weighs_text(stage)),
        validation=precompute_features(hybrid, validation, texts[1], stage, cache),
        n_characters=count_characters(images),
        alphabet=alphabet(images),
        stretched=precompute_stretched_tokens(hybrid, images, cache, stage.prior_stretch)
        if stage.prior_stretch
        else None,
        misspelt=precompute_misspelt_tokens(hybrid, images, cache) if stage.prior_misspelt else None,
        characters=precompute_character_labels(images, cache) if stage.character_weight else None,
    )


def stretched(pixels: Tensor, factors: Sequence[float]) -> Tensor:
    """Stretch pixels B 3 H W about their middle, each image by its factor; cut, or edges repeated, to the same size."""
    turned = torch.eye(2, 3, device=pixels.device).repeat(len(pixels), 1, 1)
    turned[:, 0, 0] = 1 / torch.tensor(factors, device=pixels.device)
    places = F.affine_grid(turned, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels.float(), places, mode="bilinear", padding_mode="border", align_corners=False)


def precompute_stretched_tokens(
    hybrid: HybridModel, images: ImageDataset, cache: FeatureCache, most: float
) -> CachedFeatures:
    """Compute the large grid's token ids of images that are made from a text, each stretched by a factor of its own
    from 1 - `most` to 1 + `most`.
    """
    from_text = made_from_text(images)
    factors = 1 + most * (2 * torch.rand(len(from_text), generator=torch.Generator().manual_seed(0)) - 1)

    def encode(indices: list[int]) -> Tensor:
        pixels = stretched(images.pixels(indices, cache.device), factors[indices].tolist())
        return large_token_ids(hybrid.semantic_vq, pixels).short()

    return precompute(images, encode, cache, "stretched tokens", only=from_text)


def precompute_misspelt_tokens(hybrid: HybridModel, images: ImageDataset, cache: FeatureCache) -> CachedFeatures:
    """Compute the large grid's token ids of images that are made from a text, each with misspelt texts."""

    def encode(indices: list[int]) -> Tensor:
        pixels = misspelt_pixels(images, indices, cache.device)
        assert pixels is not None
        return large_token_ids(hybrid.semantic_vq, pixels).short()

    return precompute(images, encode, cache, "misspelt tokens", only=made_from_text(images))


class PretrainDecoderObjective(DecoderObjective):
    """Flow matching with stretched, misspelt and noisy priors."""

    stage: PretrainDecoderStage

    def __init__(
        self, hybrid: HybridModel, features: PretrainFeatures, datasets: Datasets, stage: PretrainDecoderStage
    ) -> None:
        self._stretched, self._misspelt = features.stretched, features.misspelt
        both = (features.train, features.validation)
        super().__init__(hybrid, both, datasets, stage, auxiliary_losses(hybrid, features, stage))

    def sample_prior(self, indices: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return the prior tokens B H/4 W/4: half of them of the stretched images, some misspelt, some noisy, if asked.

        A sampled prior is often a letter too wide or too narrow for its text, and the decoder must not fill it with
        others; it is never perfect, and the decoder must forgive that.
        """
        prior = super().sample_prior(indices, generator)
        if indices[0] not in self.train.condition_images:
            for other, share in ((self._stretched, 0.5), (self._misspelt, self.stage.prior_misspelt)):
                if other is not None:
                    chosen = torch.rand(len(prior), 1, 1, generator=generator, device=self.device) < share
                    prior = torch.where(chosen, other[indices].long(), prior)
        if not self.stage.prior_noise:
            return prior
        replaced = torch.rand(prior.shape, generator=generator, device=self.device) < self.stage.prior_noise
        codebook_size = self.decoder.config.prior_vq_quantizer_codebook_size
        return torch.where(replaced, torch.randint_like(prior, codebook_size, generator=generator), prior)


def auxiliary_losses(
    hybrid: HybridModel, features: PretrainFeatures, stage: PretrainDecoderStage
) -> list[AuxiliaryLoss]:
    """Make the heads that a stage asks for, with fresh weights of torch's global generator."""
    losses: list[AuxiliaryLoss] = []
    if stage.character_weight:
        assert features.characters is not None
        losses.append(CharacterLoss(hybrid.decoder, features.characters, stage.character_weight, features.n_characters))
    tokens, width = features.train.glyphs, hybrid.glyph.encoder.config.d_model
    if weight := stage.character_position_weight:
        assert isinstance(tokens, GlyphTokens)
        losses.append(GlyphLoss("character_position", CharacterPositionHead(width), tokens, weight))
    if weight := stage.glyph_character_weight:
        assert isinstance(tokens, GlyphTokens)
        losses.append(GlyphLoss("glyph_character", GlyphCharacterHead(width, features.alphabet), tokens, weight))
    for auxiliary in losses:
        auxiliary.head.to(hybrid.device)
    return losses


KIND = StageKind(
    PretrainDecoderObjective,
    precompute_all,
    encoders=("semantic_vq", "vae", "glyph"),
    transformer="decoder",
    load=fresh_or_loaded,
)
