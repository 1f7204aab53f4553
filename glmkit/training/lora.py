"""LoRA through PEFT: put adapters into a part, save them so that PEFT, glmkit and stock diffusers all load them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from glmkit.config import Lora
from glmkit.errors import unknown
from glmkit.files import explained

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"


def check_targets(module: nn.Module, targets: Iterable[str]) -> None:
    """UserError when a target is not the ending of a linear layer's name."""
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

    check_targets(module, lora.targets)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    module.requires_grad_(False)
    return get_peft_model(module, config)  # type: ignore[arg-type]


def save(wrapped: nn.Module, folder: Path, part: str, base: Path) -> None:
    """Write an adapter that is complete or absent: PEFT's own two files, and for the decoder a copy in the diffusers
    key style, whose metadata carries rank and alpha (without it diffusers assumes alpha = rank).
    """
    from glmkit.models import adapter

    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with explained(folder):
            unfinished.mkdir(parents=True)
            wrapped.save_pretrained(str(unfinished), safe_serialization=True)  # type: ignore[operator]
            (unfinished / "README.md").unlink(missing_ok=True)
            adapter.write_base(unfinished, part, base)
            if part == "decoder":
                _write_diffusers(wrapped, unfinished / DIFFUSERS_FILE)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_diffusers(wrapped: nn.Module, path: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = {
        f"transformer.{name.removeprefix('base_model.model.')}": tensor.detach().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(wrapped).items()
    }
    settings = wrapped.peft_config["default"].to_dict()  # type: ignore[union-attr, index]
    kept = {key: settings[key] for key in ("r", "lora_alpha", "lora_dropout")}
    kept["target_modules"] = sorted(settings["target_modules"])
    metadata = {f"transformer.{key}": value for key, value in kept.items()}
    save_file(state, path, {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
