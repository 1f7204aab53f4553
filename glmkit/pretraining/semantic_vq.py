"""The semantic tokenizer: its tokens must tell what the caption says and roughly where.

Two heads that only training has read the quantized features of an image: one predicts a coarse image (4x4 colours per
token), the other is a small captioner (as in CapPa, arXiv:2306.07915) that must generate the caption, its quoted words
blanked: spelling is the glyph encoder's task, and tokens that spell would disagree with it. A third, if asked, names
the kind of shape at each position, so that the one or two tokens of a small shape tell it. Codebook entries follow
their features by exponential averages (VQ-VAE, arXiv:1711.00937, appendix A); entries that nothing uses are replaced by
current features. A fourth, if asked, tells the characters at each position apart, in TEXT_CLASSES classes: not to
spell, but so that the tokens of a line say which of several texts it is. A fifth, if asked, tells the colour of what
stands on the background, which is lost in the mean colour of a cell with thin strokes.

B batch, T caption tokens, N features of a batch, H W token rows and columns, D encoder width, E codebook width,
C codebook size, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import grids
from glmkit.models.hybrid import HybridModel
from glmkit.posters.grammar import SHAPES
from glmkit.pretraining.characters import character_labels, check_character_labels, mean_cross_entropy
from glmkit.pretraining.config import SemanticVqStage
from glmkit.pretraining.initialise import fresh_or_loaded
from glmkit.training.data import Datasets, ImageDataset, first_batches
from glmkit.training.features import resize_as_processor
from glmkit.training.objectives import Objective, StageKind

CAPTION_TOKENS = 96
CAPTION_WIDTH = 192
CELLS_PER_SIDE = 4  # of a token, each with a colour and a kind of shape
PATCH = 16  # pixels of a token's side, after resizing
SHAPE_KINDS = len(SHAPES)  # as `character_labels` counts them
TEXT_CLASSES = 32  # that characters fall into, by their numbers
VALIDATION_IMAGES = 256
UNUSED = 0.02  # share of batches, of late, below which an entry of the codebook is replaced
IN_USE = 0.1  # the same, above which it counts as used
LEAST_CONTRAST = 0.15  # mean difference of the channels, of 2, from which on a pixel is not background


class Captioner(nn.Module):
    """Two causal transformer layers that generate a caption while attending to quantized features."""

    def __init__(self, width: int, vocabulary: int, side: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, CAPTION_WIDTH)
        self.caption_position = nn.Parameter(torch.randn(CAPTION_TOKENS, CAPTION_WIDTH) * 0.02)
        self.image_position = nn.Parameter(torch.randn(1, CAPTION_WIDTH, side, side) * 0.02)
        self.projection = nn.Linear(width, CAPTION_WIDTH)
        layer = nn.TransformerDecoderLayer(
            CAPTION_WIDTH, 6, 4 * CAPTION_WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(CAPTION_WIDTH))
        self.output = nn.Linear(CAPTION_WIDTH, vocabulary)

    def forward(self, quantized: Tensor, caption_ids: Tensor) -> Tensor:
        """Return next-token logits B T V from quantized features B D H W and the caption's ids B T."""
        position = F.interpolate(self.image_position, quantized.shape[-2:], mode="bilinear", align_corners=False)
        memory = self.projection(quantized.flatten(2).transpose(1, 2)) + position.flatten(2).transpose(1, 2)
        length = caption_ids.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(length, device=caption_ids.device)
        x = self.token_embedding(caption_ids) + self.caption_position[:length]
        logits: Tensor = self.output(self.layers(x, memory, tgt_mask=causal, tgt_is_causal=True))
        return logits


class CodebookAverages(nn.Module):
    """Moves a codebook C E towards the features that choose its entries.

    Buffers: exponential averages of how often an entry is chosen (`count` C), of the sum of its features (`sum` C E),
    and of whether a batch uses it at all (`used` C).
    """

    count: Tensor
    sum: Tensor
    used: Tensor

    def __init__(self, codebook: Tensor, decay: float) -> None:
        super().__init__()
        self.codebook, self.decay = codebook.requires_grad_(False), decay
        self.register_buffer("count", torch.ones(len(codebook)))
        self.register_buffer("sum", F.normalize(codebook.detach().clone(), dim=-1))
        self.register_buffer("used", torch.zeros(len(codebook)))

    @torch.no_grad()
    def follow(self, features: Tensor, ids: Tensor) -> None:
        """Move every entry towards the mean of the features (normalised, N E) that chose it (ids N)."""
        hits = torch.zeros_like(self.count).index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        sums = torch.zeros_like(self.sum).index_add_(0, ids, features.detach())
        self.count.lerp_(hits, 1 - self.decay)
        self.sum.lerp_(sums, 1 - self.decay)
        self.used.lerp_((hits > 0).float(), 1 - self.decay)
        self.codebook.copy_(F.normalize(self.sum / (self.count[:, None] + 1e-6), dim=-1))

    @torch.no_grad()
    def revive(self, features: Tensor, generator: torch.Generator, everything: bool) -> None:
        """Replace unused entries (or all) by features N E, far ones first (k-means++).

        Most tokens are plain background, which a handful of entries can name.
        """
        dead = torch.ones_like(self.used, dtype=torch.bool) if everything else self.used < UNUSED
        far = 1 - (features @ self.codebook.T).amax(dim=1)
        fresh = features[torch.multinomial(far.clamp_min(1e-6), len(dead), len(dead) > len(far), generator=generator)]
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.sum.copy_(torch.where(dead[:, None], fresh, self.sum))
        self.count.copy_(torch.where(dead, 1.0, self.count))
        self.used.copy_(torch.where(dead, 0.1, self.used))


class SemanticVqObjective(Objective):
    """Predicts colours, caption and shapes from quantized features, with a commitment loss."""

    def __init__(self, hybrid: HybridModel, _: None, datasets: Datasets, stage: SemanticVqStage) -> None:
        semantic_vq, device = hybrid.semantic_vq, hybrid.device
        text_tokenizer = prompt_tokenizer(hybrid.folder).tokenizer
        self.tokenizer, self.stage, self.device = semantic_vq, stage, device
        images, validation = datasets
        self.images, self.validation_images = images, validation
        width = semantic_vq.config.hidden_size
        self.averages = CodebookAverages(semantic_vq.vqmodel.quantize.embedding.weight, stage.codebook_decay)
        self.captioner = Captioner(width, len(text_tokenizer), semantic_vq.visual.embeddings.side)
        self.colour_head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 3 * CELLS_PER_SIDE**2, 1)
        )
        # What is asked of each cell of a token: the name of the loss, its weight, its classes.
        asked = (("shapes", stage.shape_weight, SHAPE_KINDS), ("texts", stage.text_weight, TEXT_CLASSES))
        self.weights = {name: weight for name, weight, _ in asked if weight}
        self.cell_heads = nn.ModuleDict(
            {name: nn.Conv2d(width, classes * CELLS_PER_SIDE**2, 1) for name, weight, classes in asked if weight}
        )
        parts = [semantic_vq, self.captioner, self.colour_head, self.averages, self.cell_heads]
        if stage.ink_weight:
            self.ink_head = nn.Conv2d(width, 3 * CELLS_PER_SIDE**2, 1)
            parts.append(self.ink_head)
            self.weights = {"ink": stage.ink_weight, **self.weights}
        self.trained = nn.ModuleList(parts).to(device)
        if self.cell_heads:
            check_character_labels(images, "shape_weight or text_weight")
        self.captions = blanked_caption_ids(text_tokenizer, images.captions, device)
        self.validation_captions = blanked_caption_ids(text_tokenizer, validation.captions, device)
        self.validation_groups = first_batches(validation.sizes, 32, limit=VALIDATION_IMAGES)
        self._recent_features: Tensor | None = None
        self._run = self._forward

    def loss(self, indices: Sequence[int], _: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses; move the codebook by the features that chose its entries."""
        pixels = self.images.pixels(indices, self.device)
        # Both grids share one codebook: half of the batch is encoded as large grid, half as preview.
        half = len(indices) // 2
        both = grids(*pixels.shape[-2:])
        caption_ids = self.captions[torch.as_tensor(indices, device=self.device)]
        totals, recent = [], []
        for part, (height, width) in ((slice(None, half), both.large), (slice(half, None), both.preview)):
            resized = resize_as_processor(pixels[part], height * PATCH, width * PATCH)
            cells = self._cells(self.images, indices[part], height, width)
            *losses, features, ids = self._run(resized, caption_ids[part], cells)
            self.averages.follow(features, ids)
            totals.append(torch.stack(losses))
            recent.append(features.detach())
        self._recent_features = torch.cat(recent)
        colours, caption, commitment, *others = torch.stack(totals).mean(dim=0)
        loss = colours + self.stage.caption_weight * caption + self.stage.commitment * commitment
        metrics = {
            "colours": colours.detach(),
            "caption": caption.detach(),
            "used": (self.averages.used > IN_USE).sum(),
        }
        for (name, weight), value in zip(self.weights.items(), others, strict=True):
            loss = loss + weight * value
            metrics[name] = value.detach()
        return loss, metrics

    def _cells(self, images: ImageDataset, indices: Sequence[int], height: int, width: int) -> Tensor | None:
        """Return what is at each cell of tokens H W, B 4H 4W as `character_labels`; None if nothing asks for it."""
        labels = character_labels(images, indices, self.device) if self.cell_heads else None
        if labels is None:
            return None
        size = (CELLS_PER_SIDE * height, CELLS_PER_SIDE * width)
        return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()

    def _forward(self, pixels: Tensor, caption_ids: Tensor, cells: Tensor | None) -> tuple[Tensor, ...]:
        """Return the losses of colours, caption and commitment, and those of the cells' heads; normalised features N E
        and their ids N.
        """
        raw = self.tokenizer.vqmodel.quant_conv(self.tokenizer.features(pixels))
        chosen = self.tokenizer.vqmodel.quantize(raw)
        features = F.normalize(raw.float(), dim=1).movedim(1, -1).flatten(0, -2)
        quantized = self.tokenizer.vqmodel.post_quant_conv(chosen.features)
        targets = F.avg_pool2d(pixels, PATCH // CELLS_PER_SIDE)
        predicted = F.pixel_shuffle(self.colour_head(quantized), CELLS_PER_SIDE)
        colours = (predicted.float() - targets).abs().mean()
        logits = self.captioner(quantized, caption_ids[:, :-1]).float()
        caption = F.cross_entropy(logits.flatten(0, 1), caption_ids[:, 1:].flatten(), ignore_index=0)
        return (
            colours,
            caption,
            chosen.commitment_loss,
            *([self._ink_loss(quantized, pixels)] if self.stage.ink_weight else []),
            *(self._cell_loss(name, quantized, cells) for name in self.cell_heads),
            features,
            chosen.token_ids.flatten(),
        )

    def _ink_loss(self, quantized: Tensor, pixels: Tensor) -> Tensor:
        """Return the mean absolute error of the ink of every cell that has one."""
        targets, has_ink = ink(pixels, PATCH // CELLS_PER_SIDE)
        predicted = F.pixel_shuffle(self.ink_head(quantized), CELLS_PER_SIDE).float()
        return ((predicted - targets).abs().mean(dim=1) * has_ink).sum() / has_ink.sum().clamp(min=1)

    def _cell_loss(self, name: str, quantized: Tensor, cells: Tensor | None) -> Tensor:
        """Return the cross-entropy of naming what is there, mean over the cells with a shape, or a character."""
        assert cells is not None
        if name == "shapes":
            classes = torch.where(cells <= SHAPE_KINDS, cells - 1, -1)
        else:
            classes = torch.where(cells > SHAPE_KINDS, cells % TEXT_CLASSES, -1)
        logits = F.pixel_shuffle(self.cell_heads[name](quantized), CELLS_PER_SIDE).float()
        return mean_cross_entropy(logits, classes, ignored=-1)

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Replace entries that are hardly ever used by features of this step; the first time, all of them."""
        if step % self.stage.revive_every == 0 and step <= 0.8 * self.stage.steps and self._recent_features is not None:
            self.averages.revive(self._recent_features, generator, everything=step == self.stage.revive_every)

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Return the losses on both grids, but for that of commitment, and the share of the codebook that is used."""
        totals, used_ids = [], []
        for indices in self.validation_groups:
            pixels = self.validation_images.pixels(indices, self.device)
            caption_ids = self.validation_captions[torch.as_tensor(indices, device=self.device)]
            both = grids(*pixels.shape[-2:])
            for height, width in (both.large, both.preview):
                resized = resize_as_processor(pixels, height * PATCH, width * PATCH)
                cells = self._cells(self.validation_images, indices, height, width)
                colours, caption, _, *others, _, ids = self._forward(resized, caption_ids, cells)
                totals.append(torch.stack([colours, caption, *others]))
                used_ids.append(ids)
        colours_loss, caption_loss, *other_losses = torch.stack(totals).mean(dim=0).tolist()
        usage = len(set(torch.cat(used_ids).tolist())) / len(self.averages.codebook)
        return {
            "loss": colours_loss + self.stage.caption_weight * caption_loss,
            "colours": colours_loss,
            "caption": caption_loss,
            "codebook_usage": usage,
            **dict(zip(self.weights, other_losses, strict=True)),
        }

    def compile(self) -> None:
        """Compile encoder and heads together."""
        self._run = torch.compile(self._forward, dynamic=False)


def ink(pixels: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the colour in each cell of `side` pixels that differs most from the image's median, B 3 H/side W/side, and
    whether it is another colour at all, B H/side W/side. `pixels` B 3 H W in [-1, 1].
    """
    background = pixels.flatten(2).median(dim=2).values[..., None, None]
    contrast = (pixels - background).abs().mean(dim=1, keepdim=True)
    largest, places = F.max_pool2d(contrast, side, return_indices=True)
    colours = pixels.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, 3, -1))
    return colours.unflatten(2, places.shape[2:]), largest[:, 0] > LEAST_CONTRAST


def blanked_caption_ids(tokenizer: PreTrainedTokenizerBase, captions: list[str], device: torch.device) -> Tensor:
    """Tokenize captions, one line T each: quoted words removed, start token first, padded with 0 (an image token)."""
    texts = [re.sub(r"[“\"「][^”\"」]*[”\"」]", '""', caption) for caption in captions]
    padded = np.zeros((len(texts), CAPTION_TOKENS), dtype=np.int64)
    for number, ids in enumerate(tokenizer(texts, add_special_tokens=False)["input_ids"]):
        caption_ids = [tokenizer.bos_token_id, *ids][:CAPTION_TOKENS]
        padded[number, : len(caption_ids)] = caption_ids
    return torch.from_numpy(padded).to(device)


KIND = StageKind(SemanticVqObjective, load=fresh_or_loaded)
