"""Toy vision-language models with random weights, in folders as they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)


def tokenizer() -> Any:
    """Bytes as tokens; special tokens of the published tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


def build(path: Path, family: str = "Qwen2_5_VL", template: str = TEMPLATE) -> Path:
    """Write the folder of a model with random weights: Qwen2_5_VL, Qwen3VL, Qwen3_5, or Llava, of another make."""
    import transformers

    words = tokenizer()
    ids = dict(zip(SPECIAL, words.convert_tokens_to_ids(SPECIAL), strict=True))
    config, processor = _llava(words, ids, template) if family == "Llava" else _qwen(family, words, ids, template)
    torch.manual_seed(4 if family == "Qwen3VL" else 3)  # with which its answers do not end at once
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.to(torch.bfloat16).save_pretrained(path)
    processor.save_pretrained(path)
    return path


def _text(words: Any, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def _qwen(family: str, words: Any, ids: dict[str, int], template: str) -> tuple[Any, Any]:
    import transformers

    sections = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}
    of_text: dict[str, Any] = {}
    of_vision: dict[str, Any] = {"num_position_embeddings": 16}
    if family == "Qwen2_5_VL":
        of_vision = {"window_size": 56, "fullatt_block_indexes": [1]}
    elif family == "Qwen3VL":
        of_vision["deepstack_visual_indexes"] = [0]
    else:
        sections["partial_rotary_factor"] = 1.0
        of_text = {f"linear_{kind}_head_dim": 8 for kind in ("key", "value")}
        of_text |= {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")}
        of_text["layer_types"] = ["linear_attention", "full_attention"]
    config = getattr(transformers, f"{family}Config")(
        text_config={**_text(words, ids), "rope_parameters": sections, **of_text},
        vision_config={**vision, **of_vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    if family == "Qwen2_5_VL":
        parts = transformers.Qwen2VLImageProcessor(), words, transformers.Qwen2VLVideoProcessor()
        return config, transformers.Qwen2_5_VLProcessor(*parts, chat_template=template)
    parts = transformers.Qwen2VLImageProcessor(patch_size=16), words, transformers.Qwen3VLVideoProcessor()
    return config, transformers.Qwen3VLProcessor(*parts, chat_template=template)


def _llava(words: Any, ids: dict[str, int], template: str) -> tuple[Any, Any]:
    """LLaVA with CLIP's encoder: an image of 32 x 32 pixels in patches of 8 is 16 tokens."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaProcessor

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    vision = {"model_type": "clip_vision_model", **sizes, "image_size": 32, "patch_size": 8}
    text = {"model_type": "llama", **_text(words, ids)}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=ids["<|image_pad|>"])
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=template,
    )
    return config, processor


def most_likely(model: Any, words: Any, ids: torch.Tensor, seen: Any, tokens: int) -> str:
    """The most likely token one after another, behind the prompt `ids` 1 T with what was `seen` of an image."""
    prompt = ids.shape[1]
    for _ in range(tokens):
        kinds = {"mm_token_type_ids": (ids == model.config.image_token_id).int()} if "image_grid_thw" in seen else {}
        with torch.no_grad():
            logits = model(input_ids=ids, **kinds, **seen).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        if ids[0, -1] == words.eos_token_id:
            break
    return str(words.decode(ids[0, prompt:], skip_special_tokens=True))
