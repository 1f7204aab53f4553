"""Adapters for other programs, and models with adapters in their weights.

Other programs read the decoder's adapter as one file. Its keys are those of PEFT under another prefix:

    diffusers   transformer.LAYER.lora_A.weight  .lora_B.weight       rank and alpha in the file's metadata
    comfyui     diffusion_model.LAYER.lora_A.weight  .lora_B.weight   and LAYER.alpha, a number

PEFT's own folders, one for every component, name layers as the classes of transformers and diffusers do, on which PEFT
loads them as they are.
Metadata has one key: safetensors writes several in any order, and equal adapters shall be equal files.

ComfyUI scales a layer's change by alpha / rank and matches LAYER with the names of its own model
(github.com/comfyanonymous/ComfyUI, comfy/weight_adapter/lora.py); nodes that keep the published names load these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.files import atomic_folder, atomic_path, called, write_json
from glmkit.models import checkpoint
from glmkit.models.checkpoint import torchao, weights
from glmkit.models.checkpoint.adapter_files import (
    CARD,
    CONFIG,
    DIFFUSERS_SETTINGS,
    PEFT_PREFIX,
    ROLES,
    WEIGHTS,
    ComponentAdapter,
    alphas_of,
    read,
    settings_of,
)
from glmkit.models.checkpoint.adapters import Adapter, check_adapter, check_weight, merge_adapter
from glmkit.runs import check_new

PREFIXES = {"diffusers": "transformer.", "comfyui": "diffusion_model."}
# How PEFT's config says that a change is more than alpha / rank * B A; the ComfyUI style has no words for it.
EXTRAS = ("use_dora", "use_rslora", "lora_bias")
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def export_adapter(adapter: Adapter, style: str, out: Path) -> int:
    """Write an adapter, its weight included, in the style of another program; returns the number of layers.

    "diffusers" and "comfyui" are one file for the decoder, which is read back and compared before it gets its name;
    "peft" is a folder with a folder for each component.
    """
    components = read(adapter.folder)
    if style == "peft":
        return _write_folders(list(components.values()), out, adapter.weight)
    if "decoder" not in components:
        raise UserError(
            f"{adapter.folder} does not adapt the decoder",
            found=f"only {', '.join(components)}, which has no {style} key style",
            fix="--format peft, which PEFT loads, or glmkit merge, which puts it into the weights",
        )
    if out.suffix != ".safetensors":
        fix = f"--out {called(out, '.safetensors', 'adapter')}"
        raise UserError("--out must be a safetensors file", found=out, fix=fix)
    return write_style(components["decoder"], style, out, adapter.weight)


def _write_folders(components: Sequence[ComponentAdapter], out: Path, weight: float) -> int:
    check_new(out)
    with atomic_folder(out) as unfinished:
        for one in components:
            check_weight(one, weight)
            write_peft(_for_published_classes(one), unfinished / one.component, weight)
    return sum(len(one.layers) for one in components)


def _for_published_classes(adapter: ComponentAdapter) -> ComponentAdapter:
    """Name the layers as the published classes do; settings name a layer by what that name and ours both end with."""
    spec = checkpoint.COMPONENTS[adapter.component]
    theirs = {layer: spec.published_name(f"{layer}.weight").removesuffix(".weight") for layer in adapter.layers}
    if all(layer == name for layer, name in theirs.items()):
        return adapter
    ends = {layer: min(layer, name, key=len) for layer, name in theirs.items()}

    def renamed(names: Mapping[str, str]) -> dict[str, Tensor]:
        return {
            f"{PEFT_PREFIX}{name}.{role}": adapter.tensors[given]
            for layer, name in names.items()
            for role in dict.fromkeys(ROLES.values())
            if (given := f"{PEFT_PREFIX}{layer}.{role}") in adapter.tensors
        }

    alphas = alphas_of(adapter, adapter.settings)
    numbers = {f"{PEFT_PREFIX}{ends[layer]}.alpha": _number(alpha) for layer, alpha in alphas.items()}
    settings = {key: value for key, value in adapter.settings.items() if key in EXTRAS}
    settings |= settings_of(renamed(ends), numbers, adapter.file) | {"target_modules": sorted(ends.values())}
    return replace(adapter, settings=settings, tensors=renamed(theirs))


def write_peft(adapter: ComponentAdapter, folder: Path, weight: float = 1.0) -> None:
    """Write the two files of PEFT for one component, and the record of the base if it has one."""
    _save(dict(adapter.tensors), folder / WEIGHTS, {"format": "pt"})
    settings = {"peft_type": "LORA", "inference_mode": True, **_weighted(adapter.settings, weight)}
    write_json(folder / CONFIG, dict(sorted(settings.items())))
    if adapter.base:
        write_json(folder / CARD, {**adapter.base, "component": adapter.component})


def write_style(adapter: ComponentAdapter, style: str, out: Path, weight: float = 1.0) -> int:
    """Write the decoder's adapter as `export_adapter` does."""
    check_weight(adapter, weight)
    settings = _weighted(adapter.settings, weight)
    state = {PREFIXES[style] + name.removeprefix(PEFT_PREFIX): tensor for name, tensor in adapter.tensors.items()}
    record = {CARD: dict(adapter.base)} if adapter.base else {}
    if style == "diffusers":
        own = {f"transformer.{key}": value for key, value in settings.items()}
        metadata = {DIFFUSERS_SETTINGS: json.dumps({**own, **record})}
    else:
        if extra := next((key for key in EXTRAS if settings.get(key)), None):
            raise UserError(f"{adapter.file} cannot be said in the {style} key style", found=extra, fix="glmkit merge")
        alphas = alphas_of(adapter, settings)
        state |= {f"{PREFIXES[style]}{layer}.alpha": _number(alpha) for layer, alpha in alphas.items()}
        metadata = {key: json.dumps(value) for key, value in record.items()} or {"format": "pt"}
    _save(state, out, metadata)
    return len(adapter.layers)


def _weighted(settings: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Return settings with an adapter's weight in their alphas, and lists in order."""
    changed: dict[str, Any] = {
        key: sorted(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    if weight == 1:
        return changed
    changed["lora_alpha"] *= weight
    if "alpha_pattern" in changed:
        changed["alpha_pattern"] = {layer: alpha * weight for layer, alpha in changed["alpha_pattern"].items()}
    return changed


def _number(value: float) -> Tensor:
    """Return a number as float32 where that is exact."""
    single = torch.tensor(value, dtype=torch.float32)
    return single if single.item() == value else torch.tensor(value, dtype=torch.float64)


def _save(state: dict[str, Tensor], out: Path, metadata: dict[str, str]) -> None:
    """Write one safetensors file, and read it back; UserError unless it holds every bit that was written."""
    from safetensors.torch import save_file

    with atomic_path(out) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, metadata)
        temporary.chmod(out.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read its files
        written = dict(weights.read(weights.read_header(temporary)))
        if written.keys() != state.keys() or not all(
            torch.equal(written[name], tensor) for name, tensor in state.items()
        ):
            raise UserError(f"{out} does not hold what was written into it", fix="another disk")


def write_merged_model(model: str | Path, adapters: Sequence[Adapter], out: Path) -> list[str]:
    """Write a model folder whose weights hold the changes of `adapters`; returns the components that changed.

    Sums are made in float32 and stored as the model stores its weights. Everything else is copied. UserError before
    anything is written when `out` exists or an adapter is of another model.
    """
    base = checkpoint.resolve(model)
    check_new(out)
    for adapter in adapters:
        check_adapter(base, adapter.folder)
    components = sorted({component for adapter in adapters for component in read(adapter.folder)})
    if packed := next((component for component in components if torchao.is_quantized(base, component)), None):
        what, fix = f"{base} holds its {packed} in 8 bits", "merge into the model that it was made from, then quantize"
        raise UserError(what, found=", ".join(str(adapter.folder) for adapter in adapters), fix=fix)
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
