"""A model is its weights and what its config says of its arithmetic, not how and by whom it was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_adapter import apply_adapter, make_adapter

from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.checkpoint import load_component
from glmkit.models.checkpoint.identity import fingerprint
from glmkit.models.hybrid import HybridModel

ALL = ("autoregressive", "decoder", "glyph", "semantic_vq", "vae")


def settings(component: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(model: Path) -> None:
        path = model / checkpoint.COMPONENTS[component].folder / "config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(dict(sorted(values.items(), reverse=True)), indent=1))

    return apply


def twice(model: Path) -> None:
    """T5's embedding under both of its names."""
    path = model / "text_encoder" / "model.safetensors"
    state = {name: value.clone() for name, value in load_file(path).items()}
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()
    save_file(state, path)


def in_shards(component: str) -> Callable[[Path], None]:
    def apply(model: Path) -> None:
        module = checkpoint.load_component(model, component)
        checkpoint.save_component(model, component, module, torch.bfloat16, max_shard_bytes=60_000)

    return apply


def one_value(component: str, name: str, index: int) -> Callable[[Path], None]:
    def apply(model: Path) -> None:
        module = checkpoint.load_component(model, component)
        with torch.no_grad():
            module.get_parameter(name).flatten()[index] += 1
        checkpoint.save_component(model, component, module)

    return apply


SAME = {
    "transformers adds a data type": (
        "autoregressive",
        settings("autoregressive", lambda c: c["text_config"].update(dtype="bfloat16", _attn_implementation="sdpa")),
    ),
    "transformers adds keys to vision": (
        "semantic_vq",
        settings("semantic_vq", lambda c: (c["vision_config"].update(dtype="float32"), c["vq_config"].update(new=1))),
    ),
    "a version": ("glyph", settings("glyph", lambda c: c.update(transformers_version="9", tie_encoder_decoder=False))),
    "defaults left out": ("glyph", settings("glyph", lambda c: c.pop("relative_attention_max_distance", None))),
    "diffusers adds keys": ("decoder", settings("decoder", lambda c: c.update(quantization_config=None, new_key=4))),
    "keys of the VAE": ("vae", settings("vae", lambda c: c.update(_diffusers_version="1", sample_size=64, new=[]))),
    "training settings": ("glyph", settings("glyph", lambda c: c.update(dropout_rate=0.3, use_cache=True))),
    "an embedding twice": ("glyph", twice),
    **{f"{name} in shards as bfloat16": (name, in_shards(name)) for name in ALL if name != "vae"},
}
OTHER = {
    "first value": ("decoder", one_value("decoder", "proj_out.bias", 0)),
    "a value in the middle": ("decoder", one_value("decoder", "transformer_blocks.1.ff.net.2.weight", 1000)),
    "last value": ("autoregressive", one_value("autoregressive", "lm_head.weight", -1)),
    "rope": (
        "autoregressive",
        settings("autoregressive", lambda c: c["text_config"]["rope_parameters"].update(rope_theta=5e5)),
    ),
    "norm": ("autoregressive", settings("autoregressive", lambda c: c["text_config"].update(rms_norm_eps=0.1))),
    "distances of T5": ("glyph", settings("glyph", lambda c: c.update(relative_attention_max_distance=64))),
    "statistics of the VAE": ("vae", settings("vae", lambda c: c.update(latents_std=[1.0, 2.0, 3.0, 4.0]))),
}


@pytest.mark.parametrize("kind", [*SAME, *OTHER])
def test_what_makes_another_model(tiny_copy: Path, kind: str) -> None:
    component, change = {**SAME, **OTHER}[kind]
    before = fingerprint(tiny_copy, component)
    change(tiny_copy)
    assert (fingerprint(tiny_copy, component) == before) == (kind in SAME)
    load_component(tiny_copy, component)


@pytest.mark.parametrize("kind", ["transformers adds a data type", "norm"])
def test_adapters_are_refused_on_another_model_only(tiny_copy: Path, tmp_path: Path, kind: str) -> None:
    component, change = {**SAME, **OTHER}[kind]
    make_adapter(tiny_copy, tmp_path / "a", component)
    change(tiny_copy)
    if kind in SAME:
        apply_adapter(HybridModel(tiny_copy), tmp_path / "a")
        return
    with pytest.raises(UserError, match="another model"):
        apply_adapter(HybridModel(tiny_copy), tmp_path / "a")


def test_components_of_one_folder_differ(tiny_model: Path) -> None:
    assert len({fingerprint(tiny_model, component) for component in ALL}) == len(ALL)
