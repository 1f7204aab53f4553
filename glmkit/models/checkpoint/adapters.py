"""Adapters: what is read from them (see `adapter_files`) is checked against a model, and merged into its weights.

    DIR/decoder/         adapter_config.json  adapter_model.safetensors  glmkit_adapter.json
    DIR/autoregressive/, DIR/glyph/  the same

Each of these folders may be given alone, too, to apply one component or each with its own weight; so may a file or a
folder of another program. `glmkit_adapter.json` names the weights of the adapted component, so that an adapter of
another model is refused.
"""

from __future__ import annotations

import math
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

import glmkit
from glmkit.errors import UserError, note_once
from glmkit.files import write_json
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights
from glmkit.models.checkpoint.adapter_files import CARD, PEFT_PREFIX, WEIGHTS, ComponentAdapter, alphas_of, read
from glmkit.models.checkpoint.identity import fingerprint
from glmkit.models.checkpoint.torchao import quantized_from
from glmkit.models.host_weights import matrix_of
from glmkit.models.quantized import LowRank, PackedLinear, matrix_names, quantize


@dataclass(frozen=True)
class Adapter:
    """Hold an adapter's folder or file, and how much of its change is made (1 is as it was trained)."""

    folder: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Adapter:
        """Read `DIR` or `DIR:WEIGHT` of the command line. UserError when the weight is no finite number."""
        folder, colon, weight = text.rpartition(":")
        # A weight holds no separator of folders: this colon is that of a drive, `C:\\adapters\\mine`.
        if not colon or "/" in weight or "\\" in weight or Path(text).exists():
            return cls(_of_run(Path(text)))
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            fix = f"--adapter {shlex.quote(f'{folder}:0.8')}"
            raise UserError("the weight of an adapter must be a number", found=text, fix=fix)
        return cls(_of_run(Path(folder)), value)


def _of_run(folder: Path) -> Path:
    """Return the folder of a run's adapters, and any other folder or file as it is."""
    is_run = (folder / "adapter").is_dir() and (folder / "manifest.json").exists()
    return folder / "adapter" if is_run else folder


def write_base(adapter: Path, component: str, base: Path) -> None:
    """Tie the adapter folder of one component to the model folder `base` that it was trained on."""
    write_json(adapter / CARD, base_record(component, base, len(weights.read_header(adapter / WEIGHTS))))


def base_record(component: str, base: Path, tensors: int) -> dict[str, Any]:
    """Return what an adapter of so many tensors says of its base."""
    return {
        "component": component,
        "base": base.name,
        "base_weights": fingerprint(base, component),
        "tensors": tensors,
        "glmkit": glmkit.__version__,
    }


def check_adapter(model: Path, folder: Path) -> None:
    """Raise UserError unless every component of the adapter was trained on this model and fits its layers.

    A note on stderr names one that does not say what it was trained on.
    """
    for component, adapter in read(folder).items():
        if "base_weights" not in adapter.base:
            note_once(f"note: {adapter.file} does not say which model it was trained on; its layers fit {model}")
        elif adapter.base["base_weights"] not in (quantized_from(model, component), fingerprint(model, component)):
            raise UserError(
                f"{adapter.file.parent} is an adapter of another model",
                found=f"its base was {adapter.base.get('base')!r}; this is {model} with another {component}",
                fix="--model with the model it was trained on, or train it again",
            )
        with torch.device("meta"):
            inject(checkpoint.new_component(model, component), adapter)


def inject(module: torch.nn.Module, adapter: ComponentAdapter) -> Any:
    """Wrap a module with PEFT's layers as the settings of an adapter say, and load its tensors (not on meta).

    UserError unless the tensors are exactly those of the layers that the settings choose.
    """
    from peft import LoraConfig, get_peft_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT guesses about hub models that our modules are not
            wrapped = get_peft_model(module, LoraConfig(**adapter.settings))
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, re.error, RuntimeError) as error:
        raise UserError(
            f"the settings of {adapter.file} do not fit the {adapter.component}",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="a LoRA adapter of this model's linear layers",
        ) from error
    load(wrapped, adapter)
    return wrapped


def load(wrapped: Any, adapter: ComponentAdapter) -> None:
    """Load an adapter's tensors into PEFT's layers (not on meta); UserError unless they are exactly those of them."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    theirs, ours = ({name: tuple(value.shape) for name, value in one.items()} for one in (adapter.tensors, state))
    problems = {
        "missing": ours.keys() - theirs.keys(),
        "not used": theirs.keys() - ours.keys(),
        "of another shape": {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]},
    }
    if any(problems.values()):
        raise UserError(
            f"{adapter.file} does not fit the layers of the {adapter.component}",
            found="; ".join(
                f"{len(names)} {what}: {weights.listed(names)}" for what, names in problems.items() if names
            ),
            fix="the model that it was trained on, or a whole copy of the adapter",
        )
    if not any(value.is_meta for value in state.values()):
        set_peft_model_state_dict(wrapped, dict(adapter.tensors))


def check_weight(adapter: ComponentAdapter, weight: float) -> None:
    """Raise UserError for a share of a DoRA adapter.

    It replaces the lengths of weights, which no share of its matrices leaves as they were.
    """
    if weight != 1 and adapter.settings.get("use_dora"):
        raise UserError(
            f"{adapter.file} is a DoRA adapter, which has no weight", found=f":{weight:g}", fix="leave it out"
        )


def add_adapter(module: torch.nn.Module, component: str, adapter: Adapter) -> torch.nn.Module:
    """Return the module of one component with an adapter beside its weights, not in them, where there is one.

    Nothing is rounded, and every step takes longer than with `merge_adapter`.
    """
    wrapped = _wrapped(module, component, adapter)
    if wrapped is None:
        return module
    return module.eval().requires_grad_(False)  # PEFT's layers are in the module itself


def _wrapped(module: torch.nn.Module, component: str, adapter: Adapter) -> Any:
    """Return PEFT's wrap of a module with the weighted adapter of its component; None without one."""
    from peft.tuners.lora import LoraLayer

    own = read(adapter.folder).get(component)
    if own is None:
        return None
    check_weight(own, adapter.weight)
    wrapped = inject(module, own)
    for layer in wrapped.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(adapter.weight)
    return wrapped


def merge_adapter(module: torch.nn.Module, component: str, adapter: Adapter) -> torch.nn.Module:
    """Return the module of one component with an adapter's weighted change in its weights, where there is one.

    Merging costs nothing per step and needs no PEFT modules afterwards.
    """
    wrapped = _wrapped(module, component, adapter)
    if wrapped is None:
        return module
    merged: torch.nn.Module = wrapped.merge_and_unload()
    return merged.eval().requires_grad_(False)


def low_rank_changes(component: str, adapters: Sequence[Adapter]) -> dict[str, LowRank]:
    """Return the weighted changes of adapters by the layers of a component that they change, without merging.

    Several changes of a layer are one of the sum of their ranks. UserError for what is not only B A, such as DoRA.
    """
    changes: dict[str, LowRank] = {}
    for adapter in adapters:
        own = read(adapter.folder).get(component)
        if own is None:
            continue
        if extra := next((key for key in ("use_dora", "lora_bias") if own.settings.get(key)), None):
            what = f"{own.file} changes more than low precision can add to its products"
            raise UserError(what, found=extra, fix="--precision exact, or glmkit merge, and --model with the result")
        for layer, alpha in alphas_of(own, own.settings).items():
            a, b = (own.tensors[f"{PEFT_PREFIX}{layer}.lora_{name}.weight"].float() for name in "AB")
            b = b * (adapter.weight * alpha / (math.sqrt(len(a)) if own.settings.get("use_rslora") else len(a)))
            if layer in changes:
                a, b = torch.cat([changes[layer].a, a]), torch.cat([changes[layer].b, b], dim=1)
            changes[layer] = LowRank(a, b)
    return changes


def change_packed(
    component: str, module: torch.nn.Module, adapters: Sequence[Adapter], precision: str, device: torch.device
) -> torch.nn.Module:
    """Pack the matrices of a component on a device, with adapters beside those that they change, and in all others."""
    beside = _change_plain_layers(component, module, adapters)
    return quantize(component, module, precision, device, beside)


def exchange_changes(component: str, module: torch.nn.Module, adapters: Sequence[Adapter]) -> None:
    """Let adapters be beside the packed matrices of a component in place of those that are, and in all other layers.

    The latter must have their own weights before. Products that were joined are joined anew.
    """
    beside = _change_plain_layers(component, module, adapters)
    for name in matrix_names(component, module):
        layer = cast(PackedLinear, module.get_submodule(name))
        layer.matrix = replace(layer.matrix, change=beside.get(name))
    cast(Any, module).fuse()


def _change_plain_layers(component: str, module: torch.nn.Module, adapters: Sequence[Adapter]) -> dict[str, LowRank]:
    """Change the layers of a component that are not packed; returns the changes of those that are, on their device."""
    changes, packed = low_rank_changes(component, adapters), matrix_names(component, module)
    norm = next(module.parameters())
    for layer in changes.keys() - packed:
        weight = matrix_of(module.get_submodule(layer))
        change = changes[layer].b @ changes[layer].a
        weight.copy_(weight.float() + change.to(weight.device))
    return {layer: changes[layer].to(norm.device, norm.dtype) for layer in changes.keys() & packed}
