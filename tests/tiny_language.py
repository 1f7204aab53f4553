"""A toy autoregressive model and tokenizer, random weights, by transformers' class and by ours; and their prompts."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.autoregressive.model import AutoregressiveModel
from glmkit.models.semantic_vq.model import SemanticTokenizer, SemanticVqConfig

CODES, START, END, IMAGE, PAD = 64, 64, 65, 90, 91
VOCABULARY = 150

CONFIG: dict[str, Any] = {
    "text_config": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,  # unlike hidden_size / heads: both must be read
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "vision_vocab_size": 80,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 3, 3],
        },
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "in_channels": 3,
        "image_size": 128,
        "patch_size": 16,
        "intermediate_size": 48,
        "attention_bias": True,
        "layer_norm_eps": 1e-6,
    },
    "vq_config": {"embed_dim": 16, "num_embeddings": CODES, "latent_channels": 32},
    "image_token_id": IMAGE,
    "image_start_token_id": START,
    "image_end_token_id": END,
}


@cache
def reference_model() -> Any:
    """Every weight random and of a size at which a wrong rotation, norm or mask shows in the logits."""
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    model = GlmImageForConditionalGeneration(GlmImageConfig(**CONFIG)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.7))
    return model


def reference_tensors(prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    named = ((name.removeprefix("model."), value) for name, value in reference_model().state_dict().items())
    return {name: value for name, value in named if name.startswith(prefixes)}


@cache
def our_model() -> AutoregressiveModel:
    model = AutoregressiveModel(AutoregressiveConfig.from_dict(CONFIG)).eval()
    model.load_state_dict(reference_tensors(("language_model.", "lm_head.")))
    return model


@cache
def our_tokenizer() -> SemanticTokenizer:
    model = SemanticTokenizer(SemanticVqConfig.from_dict(CONFIG)).eval()
    model.load_state_dict(reference_tensors(("visual.", "vqmodel.")))
    return model


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_codes(seed: int, *shape: int) -> Tensor:
    return torch.randint(CODES, shape, generator=generator(seed))


def text_prompt(seed: int, length: int) -> list[int]:
    """Random text ids and the start token."""
    return [*torch.randint(PAD + 1, VOCABULARY, (length,), generator=generator(seed)).tolist(), START]


def edit_prompt(seed: int, sources: list[Tensor], length: int) -> list[int]:
    """Start, codes and end of every source, then random text and the start token."""
    images = [token for codes in sources for token in (START, *codes.flatten().tolist(), END)]
    return images + text_prompt(seed, length)


def patches(pixels_CHW: Tensor) -> Tensor:
    """An image as the reference image processor lays it out: one row per patch, channels first inside it."""
    return pixels_CHW.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
