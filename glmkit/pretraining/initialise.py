"""A new model folder from an architecture file: configs, tokenizer, no weights yet; and fresh weights for components.

The architecture file gives, for every component, the sizes that differ from the published model; all other keys keep
the published values.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glmkit.config.values import read_yaml
from glmkit.errors import UserError, unknown
from glmkit.generation.processor import build_processor
from glmkit.models import checkpoint, clip
from glmkit.posters import grammar
from glmkit.posters.everyday import captions, scene
from glmkit.records import SAMPLING

CORPUS = 20_000
WORLDS = ("plain", "everyday")  # of posters, whose captions the text tokenizer learns


def initialise(folder: Path, architecture: str | Path) -> None:
    """Write everything of a model folder but its weights; nothing when the folder is a model already."""
    if (folder / checkpoint.INDEX).exists():
        return
    sizes = read_yaml(architecture)
    world = _world(sizes)
    sampling = sizes.pop("sampling", {})
    known = ("codebook_size", "vocab_size", "condition_image_pixels", "defaults", *checkpoint.PUBLISHED)
    for key in sizes:
        if key not in known:
            raise unknown("key", key, known)
    for key in sampling:
        if key not in SAMPLING:
            raise unknown("key of sampling", key, SAMPLING)
    missing = [key for key in known if key not in sizes]
    if missing:
        raise UserError(f"{architecture}: {missing[0]} is missing")
    configs = {name: _merged(base, sizes[name]) for name, base in checkpoint.PUBLISHED.items()}
    low, high = sizes["condition_image_pixels"]
    ids = build_processor(folder / "processor", _corpus(world), sizes["codebook_size"], sizes["vocab_size"], low, high)
    language = configs["vision_language_encoder"]
    language["text_config"].update(
        vocab_size=ids.vocab_size,
        vision_vocab_size=ids.vision_vocab_size,
        pad_token_id=ids.pad_token_id,
        eos_token_id=ids.image_end_token_id,
    )
    language.update(
        image_token_id=ids.image_token_id,
        image_start_token_id=ids.image_start_token_id,
        image_end_token_id=ids.image_end_token_id,
    )
    language["vq_config"]["num_embeddings"] = sizes["codebook_size"]
    configs["transformer"]["prior_vq_quantizer_codebook_size"] = sizes["codebook_size"]
    checkpoint.create(folder, configs, sizes["defaults"], sampling)


def initialise_clip(folder: Path, architecture: str | Path) -> None:
    """Write everything of a CLIP folder but its weights; nothing when the folder is one already."""
    if (folder / clip.CONFIG).exists():
        return
    sizes = read_yaml(architecture)
    world = _world(sizes)
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in sizes:
            raise UserError(f"{architecture}: {key} is missing")
    corpus = enumerate(_corpus(world))
    clip.create(folder, sizes, [clip.PREFIX * (index % 2) + caption for index, caption in corpus])


@torch.no_grad()
def fresh_component(folder: Path, component: str) -> nn.Module:
    """Make a component with weights to start training from (torch's global generator), float32 on the CPU.

    The decoder starts as DiT does (adaLN-Zero, arXiv:2212.09748): every block is the identity, the output is zero.
    The autoregressive model and the vision encoder start from small normal weights, as their published configs say.
    """
    module = checkpoint.new_component(folder, component)
    if component in ("autoregressive", "semantic_vq"):
        for child in module.modules():
            if isinstance(child, (nn.Linear, nn.Embedding)):
                nn.init.normal_(child.weight, std=0.02)
            if isinstance(child, nn.Linear) and child.bias is not None:
                nn.init.zeros_(child.bias)
    if component == "decoder":
        for name, child in module.named_modules():
            if not isinstance(child, nn.Linear):
                continue
            starts_at_zero = name.endswith("norm1.linear") or name in ("norm_out.linear", "proj_out")
            (nn.init.zeros_ if starts_at_zero else nn.init.xavier_uniform_)(child.weight)
            nn.init.zeros_(child.bias)
    return module


def fresh_or_loaded(folder: Path, component: str) -> nn.Module:
    """Load a component with its weights; make fresh ones when it has none yet."""
    weights = (folder / checkpoint.COMPONENTS[component].folder).glob("*.safetensors")
    if any(weights) and checkpoint.stored_tensors(folder, component):
        return checkpoint.load_component(folder, component)
    return fresh_component(folder, component)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = {key: _merged(value, {}) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in changes.items():
        if key not in result:
            raise unknown("key", key, result)
        result[key] = _merged(result[key], value) if isinstance(value, dict) else value
    return result


def _world(sizes: dict[str, Any]) -> str:
    """Take the world out of the sizes of an architecture file."""
    world = str(sizes.pop("world", "plain"))
    if world not in WORLDS:
        raise unknown("world", world, WORLDS)
    return world


def _corpus(world: str = "plain") -> list[str]:
    """Sample captions that the text tokenizer learns its merges from."""
    rng = random.Random(0)
    if world == "everyday":
        return [captions.caption(scene.sample_scene(rng), rng) for _ in range(CORPUS)]
    return [grammar.caption(grammar.sample_scene(rng), rng) for _ in range(CORPUS)]
