"""Adapters: a folder with PEFT adapters for some components of a model, tied to the model they are for.

    DIR/decoder/         adapter_config.json  adapter_model.safetensors  glmkit_adapter.json
    DIR/autoregressive/, DIR/glyph/  the same

Each of these folders may be given alone, too, to apply one component or each with its own weight.

`glmkit_adapter.json` holds a fingerprint of the adapted component, so that an adapter of another model is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

import glmkit
from glmkit.errors import UserError
from glmkit.files import read_json, write_json
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights

CARD = "glmkit_adapter.json"
ADAPTABLE = ("decoder", "autoregressive", "glyph")
PROBED = 16  # values of every tensor that a fingerprint looks at
# Keys that libraries write into a config without changing the model.
VOLATILE = {"_diffusers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}


def fingerprint(folder: Path, component: str) -> str:
    """Return a short name for a component: its config, its tensors' names and shapes, and the first values of each.

    It is the same for the same weights in other shards, or stored as float32 instead of bfloat16.
    """
    settings = {key: value for key, value in checkpoint.config(folder, component).items() if key not in VOLATILE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    tensors = dict(weights.read(checkpoint.stored_tensors(folder, component)))
    for name in sorted(tensors):
        first = tensors[name].flatten()[:PROBED].to(torch.bfloat16).view(torch.int16)
        digest.update(f"{name}\0{tuple(tensors[name].shape)}\0".encode() + first.numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Adapter:
    """Hold an adapter folder, and how much of its change is made (1 is as it was trained)."""

    folder: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Adapter:
        """Read `DIR` or `DIR:WEIGHT` of the command line. UserError when the weight is no finite number."""
        folder, colon, weight = text.rpartition(":")
        # A weight holds no separator of folders: this colon is that of a drive, `C:\\adapters\\mine`.
        if not colon or "/" in weight or "\\" in weight or Path(text).exists():
            return cls(Path(text))
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError("the weight of an adapter must be a number", found=text, fix=f"--adapter {folder}:0.8")
        return cls(Path(folder), value)


def write_base(adapter: Path, component: str, base: Path) -> None:
    """Tie the adapter folder of one component to the model folder `base` that it was trained on."""
    card = {
        "component": component,
        "base": base.name,
        "fingerprint": fingerprint(base, component),
        "glmkit": glmkit.__version__,
    }
    write_json(adapter / CARD, card)


def components_of(folder: Path) -> dict[str, Path]:
    """Return the components that an adapter folder adapts, and where each one's files are; UserError for none."""
    if (folder / CARD).is_file():
        card = read_json(folder / CARD)
        if card.get("component") not in ADAPTABLE:  # version 0.1 had another name for this key
            raise UserError(
                f'{folder / CARD} does not say which component was adapted: it needs the key "component"',
                found=", ".join(f"{key}: {value}" for key, value in card.items()),
                fix=f'add "component" with one of {", ".join(ADAPTABLE)} to it, or give the folder above',
            )
        return {card["component"]: folder}
    folders = {
        component: folder / component
        for component in ADAPTABLE
        if (folder / component / "adapter_config.json").is_file()
    }
    if not folders:
        raise UserError(
            f"{folder} is not an adapter folder" if folder.exists() else f"adapter folder {folder} does not exist",
            fix=f"RUN/adapter, as glmkit finetune writes it, or a folder in it: {', '.join(ADAPTABLE)}",
        )
    return folders


def check_adapter(model: Path, folder: Path) -> None:
    """Raise UserError unless every component of the adapter was trained on this model and its files are whole."""
    for component, where in components_of(folder).items():
        if not (where / CARD).is_file():
            raise UserError(f"{where} has no {CARD}, so its base model is unknown", fix="an adapter of glmkit finetune")
        card = read_json(where / CARD)
        if card.get("fingerprint") != fingerprint(model, component):
            raise UserError(
                f"{where} is an adapter of another model",
                found=f"its base was {card.get('base')!r}; this is {model} with another {component}",
                fix="--model with the model it was trained on, or train it again",
            )
        if not (where / "adapter_model.safetensors").is_file():
            raise UserError(f"{where} has no adapter_model.safetensors", fix="copy the whole adapter folder again")
        weights.read_header(where / "adapter_model.safetensors")


def check_weight(folder: Path, weight: float) -> None:
    """Raise UserError for a share of a DoRA adapter (PEFT's folder of one component).

    It replaces the lengths of weights, which no share of its matrices leaves as they were.
    """
    if weight != 1 and read_json(folder / "adapter_config.json").get("use_dora"):
        raise UserError(f"{folder} is a DoRA adapter, which has no weight", found=f":{weight:g}", fix="leave it out")


def merge_adapter(module: torch.nn.Module, component: str, adapter: Adapter) -> torch.nn.Module:
    """Return the module of one component with an adapter's weighted change in its weights, where there is one.

    Merging costs nothing per step and needs no PEFT modules afterwards.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    where = components_of(adapter.folder).get(component)
    if where is None:
        return module
    check_weight(where, adapter.weight)
    device = next(module.parameters()).device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT guesses about hub models that our modules are not
        wrapped = PeftModel.from_pretrained(module, str(where), torch_device=str(device))
    for layer in wrapped.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(adapter.weight)
    merged: torch.nn.Module = wrapped.merge_and_unload()
    return merged.eval().requires_grad_(False)
