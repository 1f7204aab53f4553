"""The pipeline of diffusers over the very weights of a loaded model: nothing is held twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel


def diffusers_pipeline(hybrid: HybridModel) -> Any:
    """Return a `GlmImagePipeline` on the model's device, in its dtype, that shares every tensor with it.

    Those of a VAE that is laid out for glmkit's kernels are copied. The published model may end an image before all of
    its prior tokens are generated, and the pipeline then fails; ids outside the codebook are suppressed by
    transformers' own option, as they are in glmkit.
    """
    from accelerate import init_empty_weights
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        GlmImagePipeline,
        GlmImageTransformer2DModel,
    )
    from transformers import AutoProcessor, GenerationConfig, GlmImageConfig, GlmImageForConditionalGeneration

    folder = hybrid.folder
    with init_empty_weights(include_buffers=False):
        language = GlmImageForConditionalGeneration(
            GlmImageConfig.from_dict(checkpoint.config(folder, "autoregressive"))
        )
        transformer = GlmImageTransformer2DModel.from_config(checkpoint.config(folder, "decoder"))
        vae = AutoencoderKL.from_config(checkpoint.config(folder, "vae"))
    _share_weights(language, hybrid, "autoregressive", "semantic_vq")
    _share_weights(transformer, hybrid, "decoder")
    _share_weights(vae, hybrid, "vae")
    vae.to(memory_format=torch.contiguous_format)  # in which diffusers' is quicker
    language.generation_config = GenerationConfig.from_pretrained(folder / "vision_language_encoder")
    config = hybrid.autoregressive.config
    language.generation_config.suppress_tokens = list(range(config.codebook_size, config.vision_vocab_size))
    pipeline = GlmImagePipeline(
        tokenizer=hybrid.glyph.tokenizer,
        processor=AutoProcessor.from_pretrained(folder / "processor", trust_remote_code=False),
        text_encoder=hybrid.glyph.encoder,
        vision_language_encoder=language,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _share_weights(module: nn.Module, hybrid: HybridModel, *components: str) -> None:
    state = {
        checkpoint.COMPONENTS[component].published_name(name): tensor
        for component in components
        for name, tensor in getattr(hybrid, component).state_dict().items()
    }
    module.load_state_dict(state, strict=True, assign=True)
    module.to(hybrid.device).eval().requires_grad_(False)
