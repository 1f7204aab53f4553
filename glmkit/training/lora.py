"""LoRA through PEFT: inject adapters into a component, save them so that PEFT, glmkit and diffusers all load them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glmkit.config import Lora
from glmkit.errors import UserError, unknown
from glmkit.files import atomic_folder, read_json, write_json
from glmkit.models import checkpoint
from glmkit.models.checkpoint.adapter_files import CONFIG, DIFFUSERS_FILE, WEIGHTS, read


def check_targets(module: nn.Module, targets: Iterable[str]) -> None:
    """Raise UserError when a target is not the ending of a linear layer's name."""
    names = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise unknown("lora target", target, {_short(name) for name in names})


def _short(name: str) -> str:
    """The shortest ending that says what a layer is: `to_q`, but `to_out.0` and `ff.net.2`."""
    return re.sub(r"^(?:.*\.)?(?=(?:ff\.net|to_out)\.)|^.*\.(?=[a-z_]+$)", "", name)


def inject(module: nn.Module, lora: Lora) -> nn.Module:
    """Freeze `module` and add adapters to the modules whose names end in one of `lora.targets`; returns PEFT's wrap.

    Raises UserError when a target names no module.
    """
    from peft import LoraConfig, get_peft_model

    check_targets(module, (*lora.targets, *lora.rank_pattern, *lora.alpha_pattern))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        rank_pattern=lora.rank_pattern,
        alpha_pattern=lora.alpha_pattern,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=list(lora.targets),
    )
    module.requires_grad_(False)
    adapted: nn.Module = get_peft_model(module, config)
    return adapted


def autocast_decides(module: nn.Module, on: bool) -> AbstractContextManager[None]:
    """Have autocast alone say in which type adapters compute, forwards and backwards, while this is `on`.

    PEFT makes a float32 copy of every adapted layer's input, of which autocast makes a bfloat16 copy that is kept: one
    per layer, also for the three that read the same input.
    """
    from peft.helpers import disable_input_dtype_casting

    context: AbstractContextManager[None] = disable_input_dtype_casting(module, on)
    return context


def save(adapted: nn.Module, folder: Path, component: str, base: Path) -> None:
    """Write an adapter that is complete or absent: PEFT's own two files, and for the decoder a copy for diffusers.

    Equal adapters are equal files. UserError when what was written does not give the layers' outputs again.
    """
    from glmkit.models.checkpoint import adapters, export

    with atomic_folder(folder, replace=True) as unfinished:
        # No whole embeddings, which PEFT would look for, and complain, where `lm_head` is adapted.
        settings = {"safe_serialization": True, "save_embedding_layers": False}
        adapted.save_pretrained(str(unfinished), **settings)  # type: ignore[operator]
        (unfinished / "README.md").unlink(missing_ok=True)
        (unfinished / WEIGHTS).chmod(unfinished.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read
        config = read_json(unfinished / CONFIG)  # PEFT writes the targets, a set, in any order
        write_json(unfinished / CONFIG, {**config, "target_modules": sorted(config["target_modules"])})
        adapters.write_base(unfinished, component, base)
        if component == "decoder":
            export.write_style(read(unfinished)[component], "diffusers", unfinished / DIFFUSERS_FILE)
        check_saved(adapted, unfinished, component, base)


def check_saved(adapted: nn.Module, folder: Path, component: str, base: Path) -> None:
    """Load an adapter as its users do, PEFT's files by PEFT and the copy by diffusers, and compare outputs.

    The models that load it share the frozen weights of `adapted`. UserError unless every adapted layer has the output
    that it has in `adapted`.
    """
    from peft import PeftModel

    trained = _adapted_layers(adapted)
    settings = checkpoint.config(base, component)
    with torch.device("meta"):
        bare = checkpoint.build_component(component, settings, base / "tokenizer")
    device = str(next(adapted.parameters()).device)
    loaded = PeftModel.from_pretrained(_sharing(bare, trained), str(folder), torch_device=device)
    _compare(trained, _adapted_layers(loaded), folder / "adapter_model.safetensors")
    if component == "decoder":
        from diffusers import GlmImageTransformer2DModel

        with torch.device("meta"):
            diffusers_model = _sharing(GlmImageTransformer2DModel.from_config(settings), trained)
        diffusers_model.load_lora_adapter(folder, weight_name=DIFFUSERS_FILE)
        _compare(trained, _adapted_layers(diffusers_model), folder / DIFFUSERS_FILE)


def _adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Return the layers that PEFT has wrapped, by their names in the model without it."""
    from peft.tuners.lora import LoraLayer

    named = module.named_modules()
    return {name.removeprefix("base_model.model."): layer for name, layer in named if isinstance(layer, LoraLayer)}


def scales(module: nn.Module) -> dict[str, float]:
    """Return by how much PEFT multiplies the change of every adapted layer."""
    return {name: layer.scaling["default"] for name, layer in _adapted_layers(module).items()}


def _sharing(module: Any, adapted: Mapping[str, Any]) -> Any:
    """Put the very layers that lie under the adapters into `module`; returns it."""
    for name, layer in adapted.items():
        module.set_submodule(name, layer.get_base_layer())
    return module


@torch.no_grad()
def _compare(trained: Mapping[str, Any], loaded: Mapping[str, Any], file: Path) -> None:
    """UserError unless both have the same layers, and on random inputs the same outputs."""
    wrong = sorted(trained.keys() ^ loaded.keys())
    generator = torch.Generator().manual_seed(0)
    for name in sorted(trained.keys() & loaded.keys()):
        layer, other = trained[name], loaded[name]
        mode, base = layer.training, layer.get_base_layer()
        dtype = base.weight.dtype
        if dtype.is_floating_point:
            other.float()  # and the base of both: in bfloat16 a small change would be lost in rounding
        down = next(iter(layer.lora_A.values())).weight
        inputs = torch.randn(4, down.shape[1], generator=generator).to(down.device, down.dtype)
        plain, before, after = (one.eval()(inputs).float() for one in (base, layer, other))
        layer.train(mode)
        if dtype.is_floating_point:
            base.to(dtype)
        if (before - after).norm() > 1e-2 * (before - plain).norm() + 1e-6 * plain.norm():
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{file.name} does not give back what was trained", found=f"{len(wrong)} layers: {wrong[0]}, ..."
        )
