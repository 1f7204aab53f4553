"""Adapters in the files of this and other programs, read into one form: PEFT's settings and PEFT's names of tensors.

    PEFT, glmkit   adapter_config.json  adapter_model.safetensors   base_model.model.LAYER.lora_A.weight
    diffusers      FILE.safetensors     transformer.LAYER.lora_A.weight      settings in the metadata
    ComfyUI        FILE.safetensors     diffusion_model.LAYER.lora_A.weight  LAYER.alpha
    kohya          FILE.safetensors     lora_unet_LAYER_BY_UNDERSCORES.lora_down.weight  .lora_up.weight  .alpha

LAYER is a name of the published checkpoint or of our module. What is no part of a layer that we know is a UserError.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.files import exists, read_json
from glmkit.models.checkpoint import published, weights
from glmkit.models.checkpoint.components import COMPONENTS, build_component

ADAPTABLE = ("decoder", "autoregressive", "glyph")
CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "glmkit_adapter.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
DIFFUSERS_SETTINGS = "lora_adapter_metadata"  # key of the metadata
PEFT_PREFIX = "base_model.model."
PREFIXES = (
    *(PEFT_PREFIX, "transformer.", "diffusion_model.", "model.diffusion_model.", "unet.", "lora_unet_"),
    *("lora_transformer_", "lycoris_", "text_encoder.", "vision_language_encoder.", "lora_te_", "lora_te1_"),
)
ROLES = {
    "lora_A.weight": "lora_A.weight",
    "lora_A.default.weight": "lora_A.weight",
    "lora_down.weight": "lora_A.weight",
    "lora.down.weight": "lora_A.weight",
    "lora_B.weight": "lora_B.weight",
    "lora_B.default.weight": "lora_B.weight",
    "lora_up.weight": "lora_B.weight",
    "lora.up.weight": "lora_B.weight",
    "lora_B.bias": "lora_B.bias",
    "lora_magnitude_vector": "lora_magnitude_vector",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
    "lora_magnitude_vector.default.weight": "lora_magnitude_vector",
    "dora_scale": "lora_magnitude_vector",
    "alpha": "alpha",
}
DIMENSIONS = {"lora_A.weight": 2, "lora_B.weight": 2}
# Settings of PEFT that say what an adapter computes, and those that do not once it is trained.
SETTINGS = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "lora_bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
)
ONLY_TRAINING = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "init_lora_weights", "megatron_config", "megatron_core", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size", "fan_in_fan_out"),
}
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others change the base, too


@dataclass(frozen=True)
class ComponentAdapter:
    """Hold what an adapter does to one component: arguments of `peft.LoraConfig`, and tensors by PEFT's names.

    `base` is the record of the model that it was trained on, empty when there is none.
    """

    component: str
    file: Path
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    base: Mapping[str, Any]

    @property
    def layers(self) -> list[str]:
        """Return the names of the adapted layers in our module."""
        ending = ".lora_A.weight"
        return [name[len(PEFT_PREFIX) : -len(ending)] for name in self.tensors if name.endswith(ending)]


def alphas_of(adapter: ComponentAdapter, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the alpha of every layer of an adapter with these settings, as PEFT finds it."""
    from peft.utils.other import get_pattern_key

    pattern = settings.get("alpha_pattern", {})
    return {layer: pattern.get(get_pattern_key(pattern, layer), settings["lora_alpha"]) for layer in adapter.layers}


def read(path: Path) -> dict[str, ComponentAdapter]:
    """Read the adapters in a folder or file, one per component; UserError when something in it is not understood."""
    if path.is_file():
        return _read_file(path)
    if not exists(path):
        raise UserError(f"adapter {path} does not exist", fix="RUN/adapter, as glmkit finetune writes it")
    if any((path / name).exists() for name in (CONFIG, WEIGHTS, CARD)):
        adapter = _read_peft(path)
        return {adapter.component: adapter}
    parts = [path / component for component in ADAPTABLE if (path / component).is_dir()]
    if parts:
        return {part.name: _read_peft(part, part.name) for part in parts}
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if (path / DIFFUSERS_FILE) in files or len(files) == 1:
        return _read_file(path / DIFFUSERS_FILE if len(files) > 1 else files[0])
    raise UserError(
        f"{path} is not an adapter folder",
        found=f"the files {weights.listed(file.name for file in files)}" if files else "no safetensors file",
        fix=f"--adapter {shlex.quote(str(files[0]))}"
        if files
        else f"RUN/adapter, or a folder with {CONFIG} and {WEIGHTS}",
    )


def _read_peft(folder: Path, component: str | None = None) -> ComponentAdapter:
    """Read PEFT's two files, and the record of the base beside them; `component` is what the folder's name says."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            pickled = (folder / "adapter_model.bin").exists() and name == WEIGHTS
            found = "adapter_model.bin, which could run code" if pickled else None
            fix = "save it with safe_serialization=True" if pickled else "copy the whole adapter folder again"
            raise UserError(f"{folder} has no {name}", found=found, fix=fix)
    card = read_card(read_json(folder / CARD), folder / CARD) if (folder / CARD).exists() else {}
    component = card.get("component", component)
    settings = read_settings(read_json(folder / CONFIG), folder / CONFIG)
    by_component = _by_component(folder / WEIGHTS)
    other, tensors = next(iter(by_component.items()))
    if other != (component or other) or len(by_component) > 1:
        raise UserError(
            f"{folder / WEIGHTS} is no adapter of the {component or 'same component'}",
            found=f"layers of the {' and the '.join(by_component)}",
            fix="copy the whole adapter folder again",
        )
    if alphas := [name for name in tensors if name.endswith(".alpha")]:
        raise UserError(f"{folder / WEIGHTS} holds alphas, which {CONFIG} says", found=alphas[0], fix="one of the two")
    if card.get("tensors", len(tensors)) != len(tensors):
        raise UserError(
            f"{folder / WEIGHTS} is not whole",
            found=f"{len(tensors)} tensors, {card['tensors']} when it was written",
            fix="copy the whole adapter folder again",
        )
    return ComponentAdapter(other, folder / WEIGHTS, settings, tensors, card)


def _read_file(path: Path) -> dict[str, ComponentAdapter]:
    """Read one safetensors file of any program."""
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is not a safetensors file", fix="save the adapter as .safetensors; others can run code"
        )
    metadata = weights.read_metadata(path)
    said = _json(metadata.get(DIFFUSERS_SETTINGS), path)
    card = said.pop(CARD, None) or _json(metadata.get(CARD), path)
    card = read_card(card, path) if card else {}
    adapters = {}
    for component, named in _by_component(path).items():
        alphas = {name: value for name, value in named.items() if name.endswith(".alpha")}
        tensors = {name: value for name, value in named.items() if name not in alphas}
        folder = COMPONENTS[component].folder
        own = {key.removeprefix(f"{folder}."): value for key, value in said.items() if key.startswith(f"{folder}.")}
        own = own or ({} if any("." in key for key in said) else said)
        if own and alphas:
            raise UserError(f"{path} has alphas in its metadata and beside its tensors", fix="leave out one of the two")
        settings = read_settings({"peft_type": "LORA", **own}, path) if own else settings_of(tensors, alphas, path)
        base = card if card.get("component", component) == component else {}
        adapters[component] = ComponentAdapter(component, path, settings, tensors, base)
    return adapters


def read_card(card: Any, path: Path) -> dict[str, Any]:
    """Check the record of an adapter's base; UserError when it is none."""
    if not isinstance(card, dict) or card.get("component", ADAPTABLE[0]) not in ADAPTABLE:
        raise UserError(
            f"{path} does not say which component was adapted",
            found=json.dumps(card)[:80],
            fix=f'"component" with one of {", ".join(ADAPTABLE)}; or delete it, and the model is not checked',
        )
    return card


def _json(text: str | None, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"the metadata of {path} is not valid JSON", found=str(error)) from error
    if not isinstance(value, dict):
        raise UserError(f"the metadata of {path} is no JSON object", found=str(text)[:80])
    return value


def read_settings(config: Any, path: Path) -> dict[str, Any]:
    """Return the arguments of LoraConfig that a file gives; UserError for what we cannot compute as it says."""
    from peft import LoraConfig

    defaults = vars(LoraConfig(r=8))

    def wrong(key: str, fix: str) -> UserError:
        found = f"{key}: {config[key]!r}"[:80] if key in config else f"no {key}"
        return UserError(f"{path} does not describe a LoRA adapter that fits", found=found, fix=fix)

    if not isinstance(config, dict):
        raise UserError(f"{path} is no JSON object", found=str(config)[:80], fix="the config that PEFT wrote")
    if config.get("peft_type") != "LORA":
        raise wrong("peft_type", "a LoRA adapter (peft_type LORA)")
    if config.get("init_lora_weights", True) not in HARMLESS_STARTS:
        raise wrong(
            "init_lora_weights", "PEFT's conversion to LoRA: save_pretrained(path_initial_model_for_weight_conversion=)"
        )
    checks: dict[str, Callable[[object], bool]] = {
        "r": _is_rank,
        "lora_alpha": _is_number,
        "rank_pattern": lambda value: _is_map(value, _is_rank),
        "alpha_pattern": lambda value: _is_map(value, _is_number),
        "target_modules": lambda value: bool(value) and (isinstance(value, str) or _is_names(value)),
    }
    for key, check in checks.items():
        if not check(config.get(key, {} if "pattern" in key else None)):
            raise wrong(key, "the config that was saved with the adapter")
    for key in sorted(set(config) - {*SETTINGS, *ONLY_TRAINING}):
        if config[key] and config[key] != defaults.get(key):
            raise wrong(key, f"merge it with PEFT, or delete {key!r} if it changes nothing")
    empty: tuple[object, ...] = (None, {}, [])
    return {key: config[key] for key in SETTINGS if config.get(key) not in empty and config[key] is not False}


def _is_rank(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**31  # which NaN is not


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_map(value: object, check: Callable[[object], bool]) -> bool:
    return value is None or (isinstance(value, dict) and all(map(check, value.values())))


def _by_component(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read the tensors of a file by the component they adapt, under PEFT's names (and `PREFIX LAYER.alpha`)."""
    found: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, tensor in weights.read(weights.read_header(path)):
        role = max((ending for ending in ROLES if name.endswith(f".{ending}")), key=len, default=None)
        where = layer_named(name.removesuffix(f".{role}")) if role else None
        if role is None or where is None or tensor.ndim != DIMENSIONS.get(ROLES[role], tensor.ndim):
            strange.append(name)
            continue
        component, layer = where
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UserError(f"{path}: {name} is not all finite numbers", fix="another copy, or train it again")
        if role == "dora_scale" and tensor.shape[1:] == (1,):
            tensor = tensor[:, 0]
        ours = found.setdefault(component, {})
        if (key := f"{PEFT_PREFIX}{layer}.{ROLES[role]}") in ours:
            raise UserError(f"{path} has two tensors for one place", found=name, fix="leave out one of them")
        ours[key] = tensor
    if strange or not found:
        known = "LAYER.lora_A.weight, .lora_down.weight, .alpha and so on, for layers of GLM-Image"
        raise UserError(
            f"{path} holds {len(strange)} tensors that are no part of a LoRA adapter of this model"
            if strange
            else f"{path} holds no tensors",
            found=weights.listed(strange) if strange else None,
            fix=known,
        )
    return found


def layer_named(name: str) -> tuple[str, str] | None:
    """Return the component and our module's name of the layer that a file calls `name`, None for no layer of ours."""
    match = _layers().get(re.sub(r"\d+", "#", name))
    if match is not None:
        component, template = match
        numbers = iter(re.findall(r"\d+", name))
        return component, re.sub("#", lambda _: next(numbers), template)
    for prefix in PREFIXES:
        if name.startswith(prefix) and (found := layer_named(name.removeprefix(prefix))):
            return found
    return None


@cache
def _layers() -> dict[str, tuple[str, str]]:
    """Map the names of linear layers in every style, their numbers as `#`, to (component, our name)."""
    small: dict[str, dict[str, Any]] = {
        "decoder": {**published.TRANSFORMER, "num_layers": 1},
        "autoregressive": {
            **published.VISION_LANGUAGE_ENCODER,
            "text_config": {**published.VISION_LANGUAGE_ENCODER["text_config"], "num_hidden_layers": 1},
        },
        "glyph": {**published.TEXT_ENCODER, "num_layers": 1},
    }
    names = {}
    for component, config in small.items():
        with torch.device("meta"):
            module = build_component(component, config)
        for name in [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]:
            theirs = COMPONENTS[component].published_name(f"{name}.weight").removesuffix(".weight")
            template = re.sub(r"\d+", "#", name)
            for style in (name, theirs, name.removeprefix("language_model.")):
                for spelling in (style, style.replace(".", "_")):
                    names[re.sub(r"\d+", "#", spelling)] = (component, template)
    return names


def settings_of(tensors: Mapping[str, Tensor], alphas: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the settings that tensors imply: ranks by shape, alpha equal to rank unless it is there."""
    ending = ".lora_A.weight"
    ranks = {
        name[len(PEFT_PREFIX) : -len(ending)]: value.shape[0]
        for name, value in tensors.items()
        if name.endswith(ending)
    }
    scales: dict[str, float] = dict(ranks)
    for name, alpha in alphas.items():
        layer = name.removeprefix(PEFT_PREFIX).removesuffix(".alpha")
        if layer not in ranks or alpha.numel() != 1:
            raise UserError(f"{path}: {name} belongs to no layer of it, or is no number", fix="another copy")
        scales[layer] = int(alpha.item()) if alpha.item() == int(alpha.item()) else alpha.item()
    if not ranks:
        raise UserError(f"{path} holds no lora_A or lora_down", fix="a LoRA adapter")
    ((rank, _),) = Counter(ranks.values()).most_common(1)
    ((scale, _),) = Counter(scales.values()).most_common(1)
    return {
        "r": rank,
        "lora_alpha": scale,
        "rank_pattern": {re.escape(layer): other for layer, other in ranks.items() if other != rank},
        "alpha_pattern": {re.escape(layer): other for layer, other in scales.items() if other != scale},
        "use_dora": any(name.endswith(".lora_magnitude_vector") for name in tensors),
        "target_modules": "|".join(re.escape(layer) for layer in sorted(ranks)),
    }
