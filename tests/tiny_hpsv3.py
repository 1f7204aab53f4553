"""A toy HPSv3 with random weights, in a folder with the files that are published, and the same network apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_vision_language
import torch
from safetensors.torch import save_file
from torch import Tensor

RUBRIC = "Look at the image.\nThe prompt is {text_prompt}\n\n"
ENDING = "\nThe rating: <|Reward|>\n\nEND\n"
WIDTH, HEADS, LAYERS = 32, 2, 2
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n"
    "{% endif %}" + tiny_vision_language.TEMPLATE.removeprefix("{% for m in messages %}")
)

PREPARATION = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
}


def settings(words: Any) -> dict[str, Any]:
    """Give the configuration in the published form, with more embeddings than the weights have."""
    ids = dict(
        zip(tiny_vision_language.SPECIAL, words.convert_tokens_to_ids(tiny_vision_language.SPECIAL), strict=True)
    )
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    vision |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "in_chans": 3, "spatial_patch_size": 14}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "max_window_layers": LAYERS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": len(words) + 40,
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|image_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": vision,
    }


def build(folder: Path) -> dict[str, Tensor]:
    """Write the folder; returns the weights by their published names, float32."""
    from transformers import AutoConfig, Qwen2VLForConditionalGeneration

    words = tiny_vision_language.tokenizer()
    words.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(settings(words)), encoding="utf-8")
    config = AutoConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(words) + 1  # that of the reward
    model = Qwen2VLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(5)
    published = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor.shape
        for name, tensor in model.state_dict().items()
    }
    state = {
        name: torch.randn(shape, generator=generator) * 0.3 + (1 if "norm" in name else 0)
        for name, shape in sorted(published.items())
    }
    for layer, (rows, columns) in {0: (24, WIDTH), 3: (6, 24), 5: (2, 6)}.items():
        state[f"rm_head.{layer}.weight"] = torch.randn(rows, columns, generator=generator) * 0.3
        state[f"rm_head.{layer}.bias"] = torch.randn(rows, generator=generator)
    save_file(state, folder / "HPSv3.safetensors")
    source = f"import pdb\nraise SystemExit\nINSTRUCTION = {RUBRIC!r}\nprompt_with_special_token = {ENDING!r}\n"
    (folder / "data_collator_qwen.py").write_text(source, encoding="utf-8")
    return state


def reference(folder: Path, state: dict[str, Tensor]) -> tuple[Any, Any]:
    """Make transformers' own model with its output layer, float64, and the tokenizer with the token for the reward."""
    from transformers import AutoConfig, AutoTokenizer, Qwen2VLForConditionalGeneration

    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens("<|Reward|>", special_tokens=True)
    config = AutoConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(words)
    model = Qwen2VLForConditionalGeneration(config).double().eval()
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith("rm_head."):
            new = f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.")
            renamed[new] = tensor
    model.load_state_dict(renamed)
    return model, words
