"""ImageReward v1 (Xu et al. 2023, arXiv 2304.05977): a BLIP that reads the prompt while it looks at the image.

LOCATION is a folder with `ImageReward.pt` and `med_config.json` of THUDM/ImageReward, and `vocab.txt`, the tokenizer of
google-bert/bert-base-uncased. The network is transformers' BLIP with the names of the published weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.scorers import load_weights, loading
from glmkit.extras import require
from glmkit.files import read_json
from glmkit.hashing import large_file_sha256

ABOUT = "ImageReward v1: imagereward:FOLDER"
CHECKED = "open_clip_torch"
FIX = (
    "hf download THUDM/ImageReward ImageReward.pt med_config.json --local-dir imagereward && hf download "
    "google-bert/bert-base-uncased vocab.txt --local-dir imagereward, then --scorer imagereward:imagereward"
)
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the rewards, published with the weights
MOST_TOKENS = 35
HEAD_WIDTH = 64  # of the image encoder's attention
# Names of the published image encoder (timm) in transformers.
IMAGE_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward:
    """Score how well an image goes with its prompt, by comparisons of experts."""

    metric = "imagereward"
    most_tokens = MOST_TOKENS
    definition = (
        "ImageReward v1, about -2 to 2: a linear map of the first state of BLIP's text encoder, which attends to the "
        "image, standardised, float32; mean over images. It reads the first 35 tokens of a prompt."
    )

    def __init__(self, location: str, device: str) -> None:
        require("open_clip_torch", "ImageReward")
        import open_clip
        from transformers import BertTokenizer

        folder = Path(location)
        if not location or not (folder / "ImageReward.pt").is_file():
            raise UserError(f"{location or 'the scorer imagereward'} holds no ImageReward.pt", fix=FIX)
        path, settings = folder / "ImageReward.pt", read_json(folder / "med_config.json")
        state = load_weights(path, FIX)
        with loading(path, FIX):
            self._image_encoder = _image_encoder(_part(state, "blip.visual_encoder."))
            self._text_encoder = _text_encoder(settings, _part(state, "blip.text_encoder."))
            self._head = _head(_part(state, "mlp.layers."))
            self._tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        for part in (self._image_encoder, self._text_encoder, self._head):
            part.to(device).eval()
        self._device = device
        self._prepare = open_clip.image_transform(self._image_encoder.config.image_size, is_train=False)
        self.identity = EngineIdentity(self.metric, {path.name: large_file_sha256(path)})

    @torch.inference_mode()
    def score(self, image: Image.Image, prompt: str) -> float:
        """Read the prompt with the image before the eyes."""
        states = self._image_encoder(self._prepare(image)[None].to(self._device)).last_hidden_state
        tokens = self._tokenizer(prompt, truncation=True, max_length=MOST_TOKENS, return_tensors="pt").to(self._device)
        read = self._text_encoder(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            is_decoder=False,
        ).last_hidden_state[:, 0]
        return (float(self._head(read)[0, 0]) - MEAN) / STD

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of BERT's tokenizer."""
        return len(self._tokenizer(prompt)["input_ids"])


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _image_encoder(state: Mapping[str, Tensor]) -> Any:
    """Make BLIP's image encoder with the sizes of its weights."""
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    tokens = state["pos_embed"].shape[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=patch * round(tokens**0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )
    renamed = {}
    for key, tensor in state.items():
        new = next((re.sub(old, name, key) for old, name in IMAGE_NAMES if re.search(old, key)), key)
        renamed[new] = tensor
    encoder = BlipVisionModel(config)
    encoder.load_state_dict(renamed)
    return encoder


def _text_encoder(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """Make BLIP's text encoder with cross attention; its states are read from both sides."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps")
    config = BlipTextConfig(
        vocab_size=state["embeddings.word_embeddings.weight"].shape[0],
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        is_decoder=True,  # which gives its layers the cross attention
        hidden_act="gelu",
        **{name: settings[name] for name in names if name in settings},
    )
    encoder = BlipTextModel(config, add_pooling_layer=False)
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    wrong = [key for key in (*missing, *unexpected) if "position_ids" not in key and not key.startswith("pooler.")]
    if wrong:
        raise ValueError(f"weights that do not fit, such as {wrong[0]}")
    return encoder


def _head(state: Mapping[str, Tensor]) -> nn.Sequential:
    """Make the linear layers, which have no activations between them."""
    layers = sorted({int(key.split(".")[0]) for key in state})
    sizes = [state[f"{layer}.weight"].shape for layer in layers]
    head = nn.Sequential(*(nn.Linear(columns, rows) for rows, columns in sizes))
    new = {
        f"{number}.{kind}": state[f"{layer}.{kind}"]
        for number, layer in enumerate(layers)
        for kind in ("weight", "bias")
    }
    head.load_state_dict(new)
    return head


def load(location: str, device: str) -> ImageReward:
    """Load the folder; UserError when something is missing in it."""
    return ImageReward(location, device)
