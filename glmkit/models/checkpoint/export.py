"""Adapters for other programs, and models with adapters in their weights.

Other programs read the decoder's adapter as one file. Its keys are those of PEFT under another prefix:

    diffusers   transformer.LAYER.lora_A.weight  .lora_B.weight       rank and alpha in the file's metadata
    comfyui     diffusion_model.LAYER.lora_A.weight  .lora_B.weight   and LAYER.alpha, a number

ComfyUI scales a layer's change by alpha / rank and matches LAYER with the names of its own model
(github.com/comfyanonymous/ComfyUI, comfy/weight_adapter/lora.py); nodes that keep the published names load these files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.files import atomic_folder, atomic_path, read_json
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights
from glmkit.models.checkpoint.adapters import Adapter, check_adapter, check_weight, components_of, merge_adapter

PREFIXES = {"diffusers": "transformer.", "comfyui": "diffusion_model."}
PEFT_PREFIX = "base_model.model."
# How PEFT's config says that a change is more than alpha / rank * B A; the ComfyUI style has no words for most of it.
EXTRAS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def export_adapter(adapter: Adapter, style: str, out: Path) -> int:
    """Write the decoder's adapter, its weight included, as one file in the key style of another program.

    Returns the number of layers. The file is read back and compared with the adapter before it gets its name.
    """
    components = components_of(adapter.folder)
    if "decoder" not in components:
        raise UserError(
            f"{adapter.folder} does not adapt the decoder",
            found=f"only {', '.join(components)}, which has no {style} key style",
            fix="PEFT loads it as it is, and glmkit merge puts it into the weights",
        )
    folder = components["decoder"]
    if out.suffix != ".safetensors":
        raise UserError("--out must be a safetensors file", found=out, fix=f"--out {out.with_suffix('.safetensors')}")
    return write_style(folder, style, out, adapter.weight)


def write_style(folder: Path, style: str, out: Path, weight: float = 1.0) -> int:
    """Write the PEFT folder of one component as `export_adapter` does."""
    from safetensors.torch import save_file

    check_weight(folder, weight)
    settings, tensors = read_json(folder / "adapter_config.json"), _tensors(folder / "adapter_model.safetensors")
    state = {PREFIXES[style] + name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    metadata = {"format": "pt"}
    if style == "diffusers":
        metadata["lora_adapter_metadata"] = json.dumps(_diffusers_settings(settings, weight))
    else:
        if extra := [key for key in EXTRAS if settings.get(key)]:
            raise UserError(f"{folder} cannot be said in the {style} key style", found=extra[0], fix="glmkit merge")
        layers = [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]
        state |= {f"{layer}.alpha": torch.tensor(settings["lora_alpha"] * weight) for layer in layers}
    with atomic_path(out) as temporary:
        save_file(state, temporary, metadata)
        temporary.chmod(out.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read its files
        written = _tensors(temporary)
        if written.keys() != state.keys() or not all(
            torch.equal(written[name], tensor) for name, tensor in state.items()
        ):
            raise UserError(f"{out} does not hold what was written into it", fix="another disk")
    return sum(name.endswith(".lora_A.weight") for name in state)


def _tensors(path: Path) -> dict[str, Tensor]:
    return dict(weights.read(weights.read_header(path)))


def _diffusers_settings(settings: dict[str, Any], weight: float) -> dict[str, Any]:
    """Return what diffusers must know of a LoRA config; without it, it assumes alpha = rank."""
    targets = settings["target_modules"]
    selected = {
        "r": settings["r"],
        "lora_alpha": settings["lora_alpha"] * weight,
        "lora_dropout": settings["lora_dropout"],
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        **{key: settings[key] for key in EXTRAS if settings.get(key)},
    }
    if "alpha_pattern" in selected:
        selected["alpha_pattern"] = {layer: alpha * weight for layer, alpha in selected["alpha_pattern"].items()}
    return {f"transformer.{key}": value for key, value in selected.items()}


def write_merged_model(model: str | Path, adapters: Sequence[Adapter], out: Path) -> list[str]:
    """Write a model folder whose weights hold the changes of `adapters`; returns the components that changed.

    Sums are made in float32 and stored as the model stores its weights. Everything else is copied. UserError before
    anything is written when `out` exists or an adapter is of another model.
    """
    base = checkpoint.resolve(model)
    if out.exists():
        raise UserError(f"{out} exists", fix="--out with a folder that does not exist yet")
    for adapter in adapters:
        check_adapter(base, adapter.folder)
    components = sorted({component for adapter in adapters for component in components_of(adapter.folder)})
    with atomic_folder(out) as unfinished:
        checkpoint.copy(base, unfinished)
        for component in components:
            _merge_component(base, component, adapters, unfinished)
    return components


def _merge_component(base: Path, component: str, adapters: Sequence[Adapter], out: Path) -> None:
    module = checkpoint.load_component(base, component)
    for adapter in adapters:
        module = merge_adapter(module, component, adapter)
    stored = {entry.dtype for entry in checkpoint.stored_tensors(base, component).values()}
    dtype = DTYPES.get(stored.pop()) if len(stored) == 1 else None
    checkpoint.save_component(out, component, module, dtype)
    written = checkpoint.load_component(out, component).state_dict()
    for name, tensor in module.state_dict().items():
        expected = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        if not torch.equal(written[name], expected.to(written[name].dtype)):
            raise UserError(f"{out}: {name} is not what was written", fix="another disk")
