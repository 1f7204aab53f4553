"""What makes two model folders the same model: a component's weights, and what its config says of its arithmetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from glmkit.hashing import remembered
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights
from glmkit.models.checkpoint.components import COMPONENTS, TIED

GLYPH_KEYS = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj", "layer_norm_epsilon"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
)
VAE_KEYS = (
    *("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block", "act_fn"),
    *("down_block_types", "up_block_types", "norm_num_groups", "mid_block_add_attention"),
    *("use_quant_conv", "use_post_quant_conv", "latents_mean", "latents_std"),
)


def fingerprint(folder: Path, component: str) -> str:
    """Return a short name for a component: its tensors by their names and values, and its settings.

    It is the same in other shards, saved by another version of a library, or stored as float32 instead of bfloat16.
    """
    stored = checkpoint.stored_tensors(folder, component)
    config = folder / COMPONENTS[component].folder / "config.json"
    files = [config, *sorted({entry.file for entry in stored.values()})]
    return remembered(files, f"{component} as bfloat16", lambda: _digest(folder, component, stored))[:16]


def _digest(folder: Path, component: str, stored: Mapping[str, weights.StoredTensor]) -> str:
    settings = computing_settings(component, checkpoint.config(folder, component))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    tensors = {}
    for published, tensor in weights.read(stored):  # in order: of T5's two names for one tensor, `shared` is last
        name = COMPONENTS[component].module_name(published)
        values = tensor.to(torch.bfloat16).view(torch.int16) if tensor.is_floating_point() else tensor
        content = hashlib.sha256(values.contiguous().numpy().data).hexdigest()
        tensors[TIED.get(str(name), str(name))] = (tuple(values.shape), content)
    digest.update(json.dumps(sorted(tensors.items())).encode())
    return digest.hexdigest()


def computing_settings(component: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a published config that change what a component computes, defaults filled in."""
    if component == "autoregressive":
        from glmkit.models.autoregressive.config import AutoregressiveConfig

        return asdict(AutoregressiveConfig.from_dict(dict(config)))
    if component == "semantic_vq":
        from glmkit.models.semantic_vq.model import SemanticVqConfig

        return asdict(SemanticVqConfig.from_dict(dict(config)))
    if component == "decoder":
        from glmkit.models.decoder.config import DecoderConfig

        return asdict(DecoderConfig.from_dict(dict(config)))
    with torch.device("meta"):
        module: Any = checkpoint.build_component(component, config)
    built = module.encoder.config.to_dict() if component == "glyph" else module.autoencoder.config
    return {key: built[key] for key in (GLYPH_KEYS if component == "glyph" else VAE_KEYS)}
