"""Features of OneIG-Bench's style and diversity: the published formats, against transformers with the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from glmkit.errors import UserError
from glmkit.evaluation.features import oneig

WIDTH, LAYERS, SIDE, PATCH, OUT = 128, 2, 56, 14, 24


@pytest.fixture(scope="module")
def tower() -> CLIPVisionModelWithProjection:
    """A toy image tower of CLIP, with OpenAI's activation and 64 channels per head, as a ViT-L has."""
    torch.manual_seed(5)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=OUT,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def checkpoint(tower: CLIPVisionModelWithProjection, path: Path) -> Path:
    """The same weights under the names of OpenAI's CLIP, as CSD publishes its own."""
    given = tower.vision_model.state_dict()
    named = {
        "class_embedding": given["embeddings.class_embedding"],
        "positional_embedding": given["embeddings.position_embedding.weight"],
        "conv1.weight": given["embeddings.patch_embedding.weight"],
    }
    for theirs, ours in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        named |= {f"{ours}.{kind}": given[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    for layer in range(LAYERS):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            named[f"{new}attn.in_proj_{kind}"] = torch.cat([given[f"{old}self_attn.{q}_proj.{kind}"] for q in "qkv"])
            named[f"{new}attn.out_proj.{kind}"] = given[f"{old}self_attn.out_proj.{kind}"]
            for number in (1, 2):
                named[f"{new}ln_{number}.{kind}"] = given[f"{old}layer_norm{number}.{kind}"]
            for theirs, ours in (("fc1", "c_fc"), ("fc2", "c_proj")):
                named[f"{new}mlp.{ours}.{kind}"] = given[f"{old}mlp.{theirs}.{kind}"]
    state = {f"module.backbone.{name}": tensor for name, tensor in named.items()}
    state["module.last_layer_style"] = tower.visual_projection.weight.T.contiguous()
    state["module.last_layer_content"] = torch.zeros(WIDTH, OUT)
    torch.save({"model_state_dict": state, "epoch": 3}, path)
    return path


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (70, 100, 3), dtype=np.uint8))


def test_csd_is_a_clip_tower_with_a_projection_for_style(tower: CLIPVisionModelWithProjection, tmp_path: Path) -> None:
    style = oneig.CsdStyle(checkpoint(tower, tmp_path / "checkpoint.pth"), "cpu")
    prepare = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    with torch.no_grad():
        pixels = prepare(images=noise(), return_tensors="pt").pixel_values
        expected = torch.nn.functional.normalize(tower(pixels).image_embeds, dim=-1)
    features = style.extract([noise(), Image.new("RGB", (8, 8))])
    assert (style.width, features.shape) == (OUT, (2, OUT))
    assert features[0] @ expected[0].numpy() == pytest.approx(1, abs=1e-3)  # two ways to resize
    assert abs(features[1] @ expected[0].numpy()) < 0.99


def test_the_style_encoder_is_a_folder_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=56,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "encoder")
    style = oneig.StyleEncoder(str(tmp_path / "encoder"), "cpu")
    (features,) = style.extract([noise()])
    assert features.shape == (8,)
    assert np.linalg.norm(features) == pytest.approx(1, abs=0.01)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no style encoder"):
        oneig.StyleEncoder(str(tmp_path / "empty"), "cpu")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint of CSD is not at"):
        oneig.CsdStyle(tmp_path / "checkpoint.pth", "cpu")
    torch.save({"model_state_dict": {"module.backbone.conv1.weight": torch.zeros(8, 3, 2, 2)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is no checkpoint of CSD"):
        oneig.CsdStyle(tmp_path / "other.pth", "cpu")
    with pytest.raises(UserError, match="needs the package dreamsim"):
        oneig.DreamSim(tmp_path, "cpu")
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(UserError, match="holds no features of styles"):
        oneig.style_references(tmp_path / "text.pt")
