"""What one image costs in training: its tokens, and the floating-point operations of its forward and backward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from glmkit.generation import flow_matching as flow
from glmkit.generation.benchmark import decoder_flops
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import grids
from glmkit.models.hybrid import HybridModel
from glmkit.training.memory_tracker import BACKWARD_OF_ATTENTION

if TYPE_CHECKING:
    from glmkit.training.benchmark import TrainingCase

CAPTION = "A poster with the words 'HELLO' and 'WORLD' in large letters over a city by the sea."


def sequence_tokens(hybrid: HybridModel, case: TrainingCase) -> int:
    """Count the tokens of one image.

    These are all of the autoregressive sequence without padding, or the decoder's image tokens, without those of a
    condition image.
    """
    if case.name != "autoregressive":
        return flow.sequence_length(case.height, case.width)
    tokenizer, shape = prompt_tokenizer(hybrid.folder), grids(case.height, case.width)
    if case.edits:
        condition_image = torch.zeros(shape.large, dtype=torch.long)
        prompt = tokenizer.edit(CAPTION, [condition_image], case.height, case.width)
        return len(prompt) + condition_image.numel() + 1
    prompt = tokenizer.text_to_image(CAPTION, case.height, case.width)
    return len(prompt) + sum(rows * columns for rows, columns in (shape.preview, shape.large)) + 1


def training_flops(hybrid: HybridModel, case: TrainingCase, tokens: int) -> float:
    """Count the FLOPs of one image forwards and back, without glyph tokens and adapters.

    Weights that learn have a gradient of their own, which frozen ones have not. Regularization adds a forward pass of
    the frozen model, and on images of its own all of another image.
    """
    weights, attention = _forward_flops(hybrid, case, tokens)
    forward = weights + attention
    checkpointed = forward / case.gradient_checkpointing if case.gradient_checkpointing else 0.0
    training = (3 if case.full_finetuning else 2) * weights + (1 + BACKWARD_OF_ATTENTION) * attention + checkpointed
    if case.regularization_images:
        other = replace(case, edits=False, regularization_images=False)  # which the frozen model reads, too
        return training + training_flops(hybrid, other, sequence_tokens(hybrid, other))
    return training + (forward if case.stage.regularization_weight else 0.0)


def _forward_flops(hybrid: HybridModel, case: TrainingCase, tokens: int) -> tuple[float, float]:
    """Count the FLOPs of a forward pass: products with weights, and attention."""
    if case.name != "autoregressive":
        config = hybrid.decoder.config
        attention = config.num_layers * 4.0 * tokens**2 * config.width
        weights = decoder_flops(hybrid, tokens) - attention
        # The condition image goes through all layers, too, and the image reads both.
        return (2 * weights, 3 * attention) if case.edits else (weights, attention)
    model = hybrid.autoregressive.config
    heads = (2 * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
    per_layer = model.hidden_size * (heads + 3 * model.intermediate_size)
    weights = 2.0 * tokens * (model.num_hidden_layers * per_layer + model.hidden_size * model.vision_vocab_size)
    # Causal: half of all pairs.
    return weights, model.num_hidden_layers * 2.0 * tokens**2 * model.num_attention_heads * model.head_dim
