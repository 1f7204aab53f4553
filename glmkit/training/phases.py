"""The memory of what a stage does beside its steps: loading, precomputing, samples, saving, evaluation.

As in `plan`, tensors are counted on torch's meta device. A low-memory run (weights quantized or offloaded) makes its
samples with one component at a time, and a transformer that does not fit waits in the CPU's memory (see `samples`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from torch import nn

from glmkit.config import Stage
from glmkit.training import offload
from glmkit.training.features import CHUNK_PIXELS
from glmkit.training.memory_tracker import forward_bytes
from glmkit.training.objectives import StageKind

LATENT_PIXELS = 8
PREVIEW_AND_PROMPT_TOKENS = 512
TRANSFORMERS = ("autoregressive", "decoder")
GENERATES = (*TRANSFORMERS, "glyph", "vae")
Component = Callable[[str], nn.Module]  # builds a component on the meta device, in the type that computes


def weight_bytes(module: nn.Module) -> int:
    """Count the bytes of a module's parameters, each in its type."""
    return sum(parameter.nbytes for parameter in module.parameters())


def loading(kind: StageKind, stage: Stage, name: str, component: Component) -> int:
    """Count the components that are quantized on their device; what is offloaded comes by the CPU's memory."""
    if stage.lora is None or kind.transformer is None or stage.lora.offload or not stage.lora.is_low_memory:
        return 0
    return sum(weight_bytes(component(one)) for one in {kind.transformer, name})


def precomputing(encoders: Iterable[str], height: int, width: int, component: Component) -> int:
    """Count the encoders, which are there together, and what one chunk of images takes in one of them."""
    chunk = max(1, CHUNK_PIXELS // (height * width))
    total, most = 0, 0
    for name in encoders:
        module: Any = component(name)
        total += weight_bytes(module)
        if name == "vae":
            most = max(most, forward_bytes(module, module.encode_distribution, (chunk, 3, height, width)))
        elif name == "semantic_vq":  # reads halved images, and compares each of their patches with its codebook
            compared = 4 * module.config.num_embeddings * chunk * height * width // 1024
            most = max(most, compared + forward_bytes(module, module.features, (chunk, 3, height // 2, width // 2)))
    return total + most


def sampling(
    count: int, height: int, width: int, resident: Iterable[str], steps: int, low_memory: bool, component: Component
) -> int:
    """Count what `count` samples take beside the `resident` components: the larger half of generation.

    `steps`: bytes of one evaluation of the decoder.
    """
    taken = dict.fromkeys(resident, 0)
    for name in (name for name in GENERATES if name not in taken):
        module = component(name)
        taken[name] = weight_bytes(module)
        if low_memory and name in TRANSFORMERS:
            taken[name] -= offload.bytes_saved(module, "auto", next(module.parameters()).itemsize)
    config = cast(Any, component("autoregressive")).config
    tokens = PREVIEW_AND_PROMPT_TOKENS + height * width // 1024  # a prior token is 32 x 32 pixels
    key_values: int = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tokens * count
    prior_tokens = taken["autoregressive"] + key_values * next(component("autoregressive").parameters()).itemsize
    decoded = decoding(height, width, component)
    if low_memory:
        return max(prior_tokens, taken["glyph"] + taken["decoder"] + steps, taken["vae"] + decoded)
    return max(prior_tokens, taken["glyph"] + taken["decoder"] + taken["vae"] + max(steps, decoded))


def decoding(height: int, width: int, component: Component) -> int:
    """Count what the VAE takes to decode one image."""
    vae: Any = component("vae")
    shape = (1, vae.autoencoder.config.latent_channels, height // LATENT_PIXELS, width // LATENT_PIXELS)
    return forward_bytes(vae, vae.decode, shape)


def evaluating(height: int, width: int, component: Component) -> int:
    """Count the components that images are generated with after training, and what the last of them takes."""
    return sum(weight_bytes(component(name)) for name in GENERATES) + decoding(height, width, component)
