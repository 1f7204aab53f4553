"""A whole GLM-Image folder of toy size with random weights, made by the reference classes; the tests' common oracle."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from glmkit.generation.processor import ProcessorIds, build_processor

CODES = 64
LATENT_CHANNELS = 4
CORPUS = ['a red poster with the word "HELLO" and a blue circle', "a green sky over the sea 'ONE' 'TWO'"]


def text_config(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
        **changes,
    }


def build(folder: Path, seed: int = 0, width: int = 32, max_shard_size: str | int = "5GB") -> Path:
    """Write the folder with `save_pretrained` and return it. `width` is the decoder's; it must be 32 k."""
    from diffusers import FlowMatchEulerDiscreteScheduler, GlmImagePipeline
    from transformers import ByT5Tokenizer, GlmImageProcessor

    torch.manual_seed(seed)
    ids = build_processor(folder / "processor", CORPUS, CODES, 512, min_pixels=128 * 128, max_pixels=512 * 512)
    language, transformer, vae = _vision_language_encoder(ids), _transformer(width), _vae()
    for module in (language, transformer, vae):
        _perturb(module)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=256, time_shift_type="linear"
    )
    GlmImagePipeline(
        tokenizer=ByT5Tokenizer(),
        processor=GlmImageProcessor.from_pretrained(folder / "processor"),
        text_encoder=_text_encoder().eval(),
        vision_language_encoder=language.eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    ).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def _vision_language_encoder(ids: ProcessorIds) -> Any:
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    config = GlmImageConfig(
        text_config=text_config(
            vocab_size=ids.vocab_size,
            vision_vocab_size=ids.vision_vocab_size,
            pad_token_id=ids.pad_token_id,
            eos_token_id=ids.image_end_token_id,
        ),
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "image_size": 256},
        vq_config={"embed_dim": 16, "num_embeddings": CODES, "latent_channels": 32},
        image_token_id=ids.image_token_id,
        image_start_token_id=ids.image_start_token_id,
        image_end_token_id=ids.image_end_token_id,
    )
    return GlmImageForConditionalGeneration(config)


def _transformer(width: int) -> Any:
    from diffusers import GlmImageTransformer2DModel

    return GlmImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=width // 16,
        text_embed_dim=24,
        time_embed_dim=32,
        condition_dim=16,
        prior_vq_quantizer_codebook_size=CODES,
    )


def _text_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=384, d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.1, 2.0],
    )


def _perturb(module: torch.nn.Module) -> None:
    """Give every parameter a random value: zeros and ones of a fresh model would hide swapped or missing tensors."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


@cache
def diffusers_pipeline(folder: Path) -> Any:
    """The folder through diffusers, float32, no progress bar."""
    from diffusers import GlmImagePipeline

    pipeline = GlmImagePipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
