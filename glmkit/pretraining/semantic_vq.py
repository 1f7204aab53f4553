"""The semantic tokenizer: codes must tell what the caption says and roughly where.

Two heads that only training needs read the codes of an image: one predicts a coarse image (4x4 colours a token),
the other is a small captioner (as in CapPa, arXiv 2306.07915) that must write the caption, its quoted words blanked:
spelling is the glyph encoder's task, and codes that spell would disagree with it. A third, if asked, names the kind of
shape at each place, so that the one or two codes of a small shape tell it. Codes follow their features by
exponential averages (VQ-VAE, arXiv 1711.00937, appendix A); codes that nobody uses are replaced by current features.
B batch, h w token rows and columns, D encoder width, E code width, K codes, T caption tokens.
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
from glmkit.training.data import Datasets, ImageDataset, groups
from glmkit.training.features import resize_as_processor
from glmkit.training.objectives import Objective, StageKind

CAPTION_TOKENS = 64
CAPTION_WIDTH = 192
CELLS_A_SIDE = 4  # of a token, each with a colour and a kind of shape
KINDS = len(SHAPES)  # as `character_labels` counts them
VALIDATION_IMAGES = 256


class Captioner(nn.Module):
    """Two causal transformer layers that write a caption while looking at the codes."""

    def __init__(self, width: int, vocabulary: int, side: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, CAPTION_WIDTH)
        self.order = nn.Parameter(torch.randn(CAPTION_TOKENS, CAPTION_WIDTH) * 0.02)
        self.place = nn.Parameter(torch.randn(1, CAPTION_WIDTH, side, side) * 0.02)
        self.look = nn.Linear(width, CAPTION_WIDTH)
        layer = nn.TransformerDecoderLayer(
            CAPTION_WIDTH, 6, 4 * CAPTION_WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(CAPTION_WIDTH))
        self.write = nn.Linear(CAPTION_WIDTH, vocabulary)

    def forward(self, codes: Tensor, words: Tensor) -> Tensor:
        """Next-word logits B T V from codes B D h w and words B T."""
        place = F.interpolate(self.place, codes.shape[-2:], mode="bilinear", align_corners=False)
        memory = self.look(codes.flatten(2).transpose(1, 2)) + place.flatten(2).transpose(1, 2)
        causal = nn.Transformer.generate_square_subsequent_mask(words.shape[1], device=words.device)
        x = self.words(words) + self.order[: words.shape[1]]
        return self.write(self.layers(x, memory, tgt_mask=causal, tgt_is_causal=True))


class CodeAverages(nn.Module):
    """Codes K E that follow the features choosing them. Buffers: exponential averages of how often a code is chosen
    (`count` K), of the sum of its features (`sum` K E), and of whether a batch uses it at all (`used` K).
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
    def follow(self, wanted: Tensor, ids: Tensor) -> None:
        """Move every code towards the mean of the features (normalised, N E) that chose it (ids N)."""
        hits = torch.zeros_like(self.count).index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        sums = torch.zeros_like(self.sum).index_add_(0, ids, wanted.detach())
        self.count.lerp_(hits, 1 - self.decay)
        self.sum.lerp_(sums, 1 - self.decay)
        self.used.lerp_((hits > 0).float(), 1 - self.decay)
        self.codebook.copy_(F.normalize(self.sum / (self.count[:, None] + 1e-6), dim=-1))

    @torch.no_grad()
    def revive(self, features: Tensor, generator: torch.Generator, everything: bool) -> None:
        """Give unused codes (or all) the place of features N E, far ones first (k-means++): most tokens are plain
        background, which a handful of codes can name.
        """
        dead = torch.ones_like(self.used, dtype=torch.bool) if everything else self.used < 0.02
        far = 1 - (features @ self.codebook.T).amax(dim=1)
        fresh = features[torch.multinomial(far.clamp_min(1e-6), len(dead), len(dead) > len(far), generator=generator)]
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.sum.copy_(torch.where(dead[:, None], fresh, self.sum))
        self.count.copy_(torch.where(dead, 1.0, self.count))
        self.used.copy_(torch.where(dead, 0.1, self.used))


class SemanticVqObjective(Objective):
    def __init__(self, hybrid: HybridModel, features: None, datasets: Datasets, stage: SemanticVqStage) -> None:
        semantic_vq, device = hybrid.semantic_vq, hybrid.device
        text_tokenizer = prompt_tokenizer(hybrid.folder).tokenizer
        self.tokenizer, self.stage, self.device = semantic_vq, stage, device
        images, validation = datasets
        self.images, self.validation_images = images, validation
        width = semantic_vq.config.hidden_size
        self.averages = CodeAverages(semantic_vq.vqmodel.quantize.embedding.weight, stage.codebook_decay)
        self.captioner = Captioner(width, len(text_tokenizer), semantic_vq.visual.embeddings.side)
        self.painter = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 3 * CELLS_A_SIDE**2, 1)
        )
        self.namer = nn.Conv2d(width, KINDS * CELLS_A_SIDE**2, 1) if stage.shape_weight else None
        parts = [semantic_vq, self.captioner, self.painter, self.averages, *([self.namer] if self.namer else [])]
        self.trained = nn.ModuleList(parts).to(device)
        if self.namer is not None:
            check_character_labels(images, "shape_weight")
        self.captions = _blanked(text_tokenizer, images.captions, device)
        self.known = _blanked(text_tokenizer, validation.captions, device)
        self.validation_groups = groups(validation.sizes, 32, limit=VALIDATION_IMAGES)
        self._recent: Tensor | None = None
        self._read = self._forward

    def loss(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = self.images.pixels(indices, self.device)
        # Both grids share one vocabulary of codes: half of the batch is seen as large grid, half as preview.
        half = len(indices) // 2
        both = grids(*pixels.shape[-2:])
        words = self.captions[torch.as_tensor(indices, device=self.device)]
        totals, recent = [], []
        for part, (height, width) in ((slice(None, half), both.large), (slice(half, None), both.preview)):
            seen = resize_as_processor(pixels[part], height * 16, width * 16)
            shapes = self._shapes(self.images, indices[part], height, width)
            *losses, wanted, ids = self._read(seen, words[part], shapes)
            self.averages.follow(wanted, ids)
            totals.append(torch.stack(losses))
            recent.append(wanted.detach())
        self._recent = torch.cat(recent)
        painted, caption, named, commitment = torch.stack(totals).mean(dim=0)
        loss = painted + self.stage.caption_weight * caption + self.stage.commitment * commitment
        shown = {"colours": painted.detach(), "caption": caption.detach(), "used": (self.averages.used > 0.1).sum()}
        if self.namer is None:
            return loss, shown
        return loss + self.stage.shape_weight * named, {**shown, "shapes": named.detach()}

    def _shapes(self, images: ImageDataset, indices: Sequence[int], height: int, width: int) -> Tensor | None:
        """The kind of shape at each cell of tokens h w, B 4h 4w from 0, -1 where there is none; None if not asked."""
        labels = character_labels(images, indices, self.device) if self.namer is not None else None
        if labels is None:
            return None
        size = (CELLS_A_SIDE * height, CELLS_A_SIDE * width)
        cells = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
        return torch.where(cells <= KINDS, cells - 1, -1)

    def _forward(
        self, pixels: Tensor, words: Tensor, shapes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Losses of colours, caption, shapes and commitment; normalised features B*h*w E and their ids."""
        raw = self.tokenizer.vqmodel.quant_conv(self.tokenizer.features(pixels))
        found = self.tokenizer.vqmodel.quantize(raw)
        wanted = F.normalize(raw.float(), dim=1).movedim(1, -1).flatten(0, -2)
        codes = self.tokenizer.vqmodel.post_quant_conv(found.features)
        colours = F.avg_pool2d(pixels, 16 // CELLS_A_SIDE)
        painted = F.pixel_shuffle(self.painter(codes), CELLS_A_SIDE)
        logits = self.captioner(codes, words[:, :-1]).float()
        caption = F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten(), ignore_index=0)
        named = self._named(codes, shapes)
        return (
            (painted.float() - colours).abs().mean(),
            caption,
            named,
            found.commitment_loss,
            wanted,
            found.token_ids.flatten(),
        )

    def _named(self, codes: Tensor, shapes: Tensor | None) -> Tensor:
        """Cross-entropy in nats of naming the kinds, mean over the cells with a shape; 0 where nobody asks."""
        if self.namer is None or shapes is None:
            return codes.new_zeros((), dtype=torch.float32)
        logits = F.pixel_shuffle(self.namer(codes), CELLS_A_SIDE).float()
        return mean_cross_entropy(logits, shapes, ignored=-1)

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Replace codes that hardly anybody uses by features of this step; the first time, all of them."""
        if step % self.stage.revive_every == 0 and step <= 0.8 * self.stage.steps and self._recent is not None:
            self.averages.revive(self._recent, generator, everything=step == self.stage.revive_every)

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Colour, caption and shape losses on both grids, and the share of codes that the validation images use."""
        totals, seen_ids = [], []
        for indices in self.validation_groups:
            pixels = self.validation_images.pixels(indices, self.device)
            words = self.known[torch.as_tensor(indices, device=self.device)]
            both = grids(*pixels.shape[-2:])
            for height, width in (both.large, both.preview):
                seen = resize_as_processor(pixels, height * 16, width * 16)
                shapes = self._shapes(self.validation_images, indices, height, width)
                painted, caption, named, _, _, ids = self._forward(seen, words, shapes)
                totals.append(torch.stack([painted, caption, named]))
                seen_ids.append(ids)
        painted, caption, named = torch.stack(totals).mean(dim=0).tolist()
        used = torch.cat(seen_ids).unique().numel() / len(self.averages.codebook)
        return {
            "loss": painted + self.stage.caption_weight * caption,
            "colours": painted,
            "caption": caption,
            "codebook_usage": used,
            **({"shapes": named} if self.namer else {}),
        }

    def compile(self) -> None:
        self._read = torch.compile(self._forward, dynamic=False)


def _blanked(tokenizer: PreTrainedTokenizerBase, captions: list[str], device: torch.device) -> Tensor:
    """Captions as N T ids, quoted words removed, start token first, padded with 0 (a code, never a word)."""
    texts = [re.sub(r"[“\"「][^”\"」]*[”\"」]", '""', caption) for caption in captions]
    table = np.zeros((len(texts), CAPTION_TOKENS), dtype=np.int64)
    for row, ids in enumerate(tokenizer(texts, add_special_tokens=False)["input_ids"]):
        ids = [tokenizer.bos_token_id, *ids][:CAPTION_TOKENS]
        table[row, : len(ids)] = ids
    return torch.from_numpy(table).to(device)


KIND = StageKind(SemanticVqObjective, load=fresh_or_loaded)
