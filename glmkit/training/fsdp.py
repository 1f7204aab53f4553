"""The weights of a transformer held in shards by several processes (FSDP2): each holds a part of every matrix, frozen
or trained, and gathers those of a block while it computes with them.

Whatever users see (adapters, components, sample images) is made by the first process from a copy of the whole
component: beside its shards it then needs the memory of one component.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from rich.console import Console
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from glmkit.config import DecoderStage, Stage
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.autoregressive.model import CausalLayer
from glmkit.models.decoder.model import DecoderBlock, DiffusionDecoder
from glmkit.models.hybrid import HybridModel
from glmkit.training import lora, quantization

NOTES = Console(stderr=True)
UNSUPPORTED = {  # by accelerate's names
    "FSDP_OFFLOAD_PARAMS": "--fsdp_offload_params false",
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "--fsdp_activation_checkpointing false, and STAGE.gradient_checkpointing=1 in the recipe"
    ),
}


def check(stages: Mapping[str, Stage]) -> None:
    """Raise UserError for what cannot be trained in shards, or is asked for in another way than the recipe's."""
    if os.environ.get("FSDP_VERSION") != "2":
        raise UserError("only the second version of FSDP is supported", fix="accelerate launch --fsdp_version 2")
    for name, fix in UNSUPPORTED.items():
        if os.environ.get(name) == "true":
            raise UserError(f"{name} is not supported", fix=fix)
    check_stages(stages)


def check_stages(stages: Mapping[str, Stage]) -> None:
    """Raise UserError for what cannot be trained in shards."""
    for name, stage in stages.items():
        if stage.learns_from_rewards:
            raise UserError(f"{name}.rl needs all weights in every process", fix="launch without --use_fsdp")
        if stage.lora is not None and stage.lora.base in quantization.QUANTIZED:
            raise UserError(f"a base in {stage.lora.base} cannot be held in shards", fix=f"{name}.lora.base=auto")
        if stage.lora is not None and stage.lora.offload:
            raise UserError("shards cannot wait in the CPU's memory", fix=f"{name}.lora.offload=false")
        if stage.optimizer != "adamw":
            fix = f"{name}.optimizer=adamw, or launch without --use_fsdp"
            raise UserError(f"{stage.optimizer} does not work on shards", fix=fix)
        if isinstance(stage, DecoderStage) and stage.train_glyph:
            raise UserError("train_glyph does not work on shards", fix="launch without --use_fsdp")


def shard(transformer: nn.Module, device: torch.device, group: ProcessGroup, edits: bool) -> None:
    """Leave this process with its part of every parameter; the blocks gather theirs one after the other.

    `edits`: condition images go through the blocks, too, on a way of their own.
    """
    mesh = init_device_mesh(device.type, (group.world_size,))
    freed = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") == "true"
    for layer in blocks(transformer):
        fully_shard(layer, mesh=mesh, reshard_after_forward=freed)
        if edits and isinstance(layer, DecoderBlock):
            register_fsdp_forward_method(layer, "forward_with_key_value")
    fully_shard(transformer, mesh=mesh, reshard_after_forward=freed)
    weights = [parameter for parameter in transformer.parameters() if isinstance(parameter, DTensor)]
    here, whole = (sum(value.nbytes for value in values) for values in (map(DTensor.to_local, weights), weights))
    NOTES.print(f"weights in shards: {here / 2**20:.4g} of {whole / 2**20:.4g} MiB in this process")
    if edits and isinstance(transformer, DiffusionDecoder):
        register_fsdp_forward_method(transformer, "cache_condition_images")


def blocks(transformer: nn.Module) -> list[nn.Module]:
    """Return the blocks that are gathered one after the other."""
    return [module for module in transformer.modules() if isinstance(module, (DecoderBlock, CausalLayer))]


@contextmanager
def whole_component(
    component: str, stage: Stage, hybrid: HybridModel, unchanged: HybridModel, group: ProcessGroup
) -> Iterator[nn.Module | None]:
    """Have a whole copy in place of the shards of a component in the first process's model while this lasts.

    `unchanged` is the model as training began with it. Yields PEFT's wrap of the copy, if the shards have adapters.
    """
    shards = getattr(hybrid, component)
    full = stage.lora is None
    trained = {name: value for name, value in shards.named_parameters() if value.requires_grad}
    weights = group.gather_full_tensors(shards.state_dict() if full else trained)
    if not group.is_main:
        yield None
        return
    wrapped = None
    if full:
        with torch.device("meta"):
            module = checkpoint.new_component(hybrid.folder, component)
        module.load_state_dict(weights, assign=True)
    else:
        module = getattr(unchanged, component)
        wrapped = lora.inject(module, stage.lora) if weights and stage.lora else None
        module.load_state_dict(weights, strict=False)
    setattr(hybrid, component, module.to(hybrid.device))
    del module
    try:
        yield wrapped
    finally:
        del wrapped
        unchanged.unload(component)
        hybrid.unload(component)
        setattr(hybrid, component, shards)
