"""A toy CLIP in open_clip's folder format, with OpenAI's tokenizer, and the same weights in transformers' model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

WIDTH, LAYERS, HEADS, SIDE = 32, 2, 2, 32
SIZES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "patch_size": 8, "head_width": WIDTH // HEADS},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS},
}
PREPARATION = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}


def build(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    state = {key: tensor.contiguous() for key, tensor in open_clip.CLIP(**SIZES).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SIZES, "preprocess_cfg": PREPARATION}))
    return folder


def reference(state: dict[str, torch.Tensor]) -> CLIPModel:
    """transformers' CLIP with the weights of open_clip's."""
    tower: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS}
    tower |= {"num_attention_heads": HEADS, "hidden_act": "gelu"}
    text = {**tower, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    theirs = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
    }
    norms = {"text_model.final_layer_norm": "ln_final", "vision_model.pre_layrnorm": "visual.ln_pre"}
    norms["vision_model.post_layernorm"] = "visual.ln_post"
    for ours, name in (("text_model", "transformer"), ("vision_model", "visual.transformer")):
        for layer in range(LAYERS):
            here, there = f"{ours}.encoder.layers.{layer}", f"{name}.resblocks.{layer}"
            norms |= {f"{here}.layer_norm{n}": f"{there}.ln_{n}" for n in (1, 2)}
            norms |= {f"{here}.self_attn.out_proj": f"{there}.attn.out_proj"}
            norms |= {f"{here}.mlp.fc1": f"{there}.mlp.c_fc", f"{here}.mlp.fc2": f"{there}.mlp.c_proj"}
            for kind in ("weight", "bias"):
                parts = state[f"{there}.attn.in_proj_{kind}"].chunk(3)
                theirs |= {f"{here}.self_attn.{p}_proj.{kind}": t for p, t in zip("qkv", parts, strict=True)}
    for here, there in norms.items():
        theirs |= {f"{here}.{kind}": state[f"{there}.{kind}"] for kind in ("weight", "bias")}
    missing, unexpected = model.load_state_dict(theirs, strict=False)
    assert not unexpected
    assert all("position_ids" in name or name == "logit_scale" for name in missing)
    return model
