"""The sizes of the public checkpoint `zai-org/GLM-Image`, as its config files give them, folder by folder.

They let `glmkit info glm-image` count the published model without a download, and are the starting point of
smaller models: copy a config, change the numbers, keep the keys.
"""

from __future__ import annotations

from typing import Any

from glmkit.models.autoregressive import config as autoregressive

HUB_ID = "zai-org/GLM-Image"

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "GlmImagePipeline",
    "_diffusers_version": "0.37.0.dev0",
    "processor": ["transformers", "GlmImageProcessor"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "ByT5Tokenizer"],
    "transformer": ["diffusers", "GlmImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "vision_language_encoder": ["transformers", "GlmImageForConditionalGeneration"],
}

VISION_LANGUAGE_ENCODER: dict[str, Any] = {
    "architectures": ["GlmImageForConditionalGeneration"],
    "model_type": "glm_image",
    "image_token_id": 167855,
    "image_start_token_id": 16384,
    "image_end_token_id": 16385,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "glm_image_text",
        "vocab_size": 168064,
        "vision_vocab_size": 16512,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "max_position_embeddings": 131072,
        "initializer_range": 0.02,
        "use_cache": True,
        "pad_token_id": 167841,
        "eos_token_id": 16385,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [8, 12, 12],
        },
    },
    "vision_config": {
        "model_type": "glm_image_vision",
        "depth": 40,
        "hidden_size": 1536,
        "intermediate_size": 6144,
        "num_heads": 16,
        "in_channels": 3,
        "image_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 1,
        "hidden_act": "gelu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "layer_norm_eps": 1e-06,
        "initializer_range": 0.02,
    },
    "vq_config": {
        "model_type": "glm_image_vqmodel",
        "in_channels": 3,
        "latent_channels": 1536,
        "embed_dim": 2048,
        "num_embeddings": 16384,
        "initializer_range": 0.02,
    },
}

GENERATION: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.9,
    "top_p": 0.75,
    "eos_token_id": 16385,
    "pad_token_id": 167841,
}

TRANSFORMER: dict[str, Any] = {
    "_class_name": "GlmImageTransformer2DModel",
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 30,
    "attention_head_dim": 128,
    "num_attention_heads": 32,
    "text_embed_dim": 1472,
    "time_embed_dim": 512,
    "condition_dim": 256,
    "prior_vq_quantizer_codebook_size": 16384,
}

TEXT_ENCODER: dict[str, Any] = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "vocab_size": 384,
    "d_model": 1472,
    "d_kv": 64,
    "d_ff": 3584,
    "num_layers": 12,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-06,
    "dropout_rate": 0.1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": False,
    "use_cache": False,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
}

VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "block_out_channels": [128, 512, 1024, 1024],
    "layers_per_block": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 1.0,
    "force_upcast": True,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "latents_mean": [
        *(-0.2080078125, 1.875, -0.470703125, -1.265625, -1.421875, 0.77734375, -0.3671875, -0.9453125),
        *(0.318359375, 0.7734375, -0.1884765625, -0.022216796875, -0.220703125, -1.59375, -0.81640625, -0.255859375),
    ],
    "latents_std": [
        *(3.0625, 2.203125, 2.265625, 4.84375, 2.5, 3.9375, 2.203125, 3.03125),
        *(2.1875, 2.046875, 2.71875, 2.390625, 2.390625, 2.453125, 2.25, 2.15625),
    ],
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
    "base_shift": 0.25,
    "max_shift": 0.75,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}

# Keys without which a component cannot be built; others have defaults.
REQUIRED: dict[str, tuple[str, ...]] = {
    "autoregressive": (
        "text_config",
        "text_config.rope_parameters",
        *(f"text_config.rope_parameters.{key}" for key in ("rope_theta", "partial_rotary_factor", "mrope_section")),
        *(f"text_config.{key}" for key in autoregressive.TEXT_KEYS),
        *autoregressive.IMAGE_KEYS,
    ),
    "semantic_vq": (
        *("vision_config", "vq_config", "vq_config.embed_dim", "vq_config.num_embeddings"),
        *(f"vision_config.{key}" for key in ("depth", "hidden_size", "intermediate_size", "num_heads", "in_channels")),
        *(f"vision_config.{key}" for key in ("image_size", "patch_size", "attention_bias", "layer_norm_eps")),
    ),
    "vae": ("latents_mean", "latents_std"),
}


def is_published(model: str) -> bool:
    """Tell whether a recipe names the public checkpoint, whose sizes are here."""
    return model in ("glm-image", HUB_ID)
