"""A model of the published sizes with random weights: it generates noise, at the speed of the real one."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from glmkit.errors import UserError
from glmkit.generation.loading import hold_components
from glmkit.generation.processor import build_processor
from glmkit.models import checkpoint
from glmkit.models.checkpoint import published
from glmkit.models.hybrid import HybridModel
from glmkit.shortcuts import EXACT

PUBLISHED_SIZES = "full"  # what benchmarks call the model of the published sizes
CORPUS = ["A poster with the words 'HELLO' and 'WORLD' in large letters over a city by the sea, photographed at dawn."]
CODEBOOK_SIZE = 16384
TEXT_TOKENS = 600
CONDITION_IMAGE_PIXELS = (512**2, 2048**2)
STD = 0.02


def published_folder(folder: Path) -> Path:
    """Write a model folder with the published configs and a small tokenizer of the same layout, without weights."""
    configs = copy.deepcopy(checkpoint.PUBLISHED)
    vocab_size = CODEBOOK_SIZE + TEXT_TOKENS
    ids = build_processor(folder / "processor", CORPUS, CODEBOOK_SIZE, vocab_size, *CONDITION_IMAGE_PIXELS)
    language = configs["vision_language_encoder"]
    text = {"pad_token_id": ids.pad_token_id, "eos_token_id": ids.image_end_token_id}
    language["text_config"].update(text)
    language.update(
        image_token_id=ids.image_token_id,
        image_start_token_id=ids.image_start_token_id,
        image_end_token_id=ids.image_end_token_id,
    )
    assert ids.vision_vocab_size == published.VISION_LANGUAGE_ENCODER["text_config"]["vision_vocab_size"]
    checkpoint.create(folder, configs)
    return folder


class RandomModel(HybridModel):
    """The components of a folder without weights, made on their device: small normal numbers, norms 1, biases 0."""

    def _load(self, component: str) -> nn.Module:
        config, tokenizer = checkpoint.config(self.folder, component), self.folder / "tokenizer"
        with torch.device("meta"):
            module = checkpoint.build_component(component, config, tokenizer)
        device = torch.device("cpu") if self.is_packed(component) else self.device  # until it is packed
        module = module.to(self.dtype).to_empty(device=device)
        module = checkpoint.rebuild_derived(component, module).to(device)
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(
                        torch.empty_like(parameter, device=self.device).normal_(0, STD, generator=generator)
                    )
                else:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        return module.eval()


def check_published_sizes(device: torch.device) -> None:
    """Raise UserError where the published sizes would take hours."""
    if device.type != "cuda":
        raise UserError(
            "the published sizes need a CUDA GPU", found=f"device {device}", fix="--model nano, or a machine with one"
        )


def open_model(
    model: str, device: torch.device, dtype: torch.dtype, scratch: Path, precision: str = EXACT["precision"]
) -> HybridModel:
    """Open a model by name, nothing of it loaded yet; "full" has the published sizes and random weights.

    Its configs and tokenizer are written into the folder `scratch`.
    """
    if model != PUBLISHED_SIZES:
        hybrid = HybridModel(checkpoint.resolve(model), device, dtype, model, precision)
    else:
        folder = scratch / PUBLISHED_SIZES
        folder = folder if folder.exists() else published_folder(folder)
        hybrid = RandomModel(folder, device, dtype, PUBLISHED_SIZES, precision)
    if precision != EXACT["precision"]:
        hold_components(hybrid)
    return hybrid
