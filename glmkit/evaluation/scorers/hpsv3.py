"""HPSv3 (Ma et al. 2025, arXiv 2508.03789): a Qwen2-VL-7B with a small head, trained on choices of people.

LOCATION is a folder with `HPSv3.safetensors` of MizzenAI/HPSv3, the configuration and the tokenizer of
Qwen/Qwen2-VL-7B-Instruct, and `data_collator_qwen.py` of the published package, whose texts are the rubric that the
model was trained with; they are read from it, and the file is not run.
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
from glmkit.hashing import file_sha256, large_file_sha256
from glmkit.inputs.python_files import text_constants

ABOUT = "HPSv3: hpsv3:FOLDER"
CHECKED = "transformers"
FIX = (
    "hf download MizzenAI/HPSv3 HPSv3.safetensors --local-dir hpsv3 && hf download Qwen/Qwen2-VL-7B-Instruct "
    "config.json tokenizer.json tokenizer_config.json preprocessor_config.json chat_template.json --local-dir hpsv3 && "
    "pip download hpsv3==1.0.0 --no-deps && unzip -j hpsv3-1.0.0-*.whl hpsv3/dataset/data_collator_qwen.py -d hpsv3, "
    "then --scorer hpsv3:hpsv3"
)
WEIGHTS, TEXTS = "HPSv3.safetensors", "data_collator_qwen.py"
RUBRIC, ENDING, PROMPT = "INSTRUCTION", "prompt_with_special_token", "{text_prompt}"
REWARD = "<|Reward|>"  # the token whose state is scored
PIXELS = 256 * 28 * 28  # the least and the most of an image
# Names of the published weights in transformers.
NAMES = ((r"^model\.", "language_model."), (r"^visual\.", "visual."))


class HpsV3:
    """Score how well an image goes with its prompt and how good it looks, by the choices of people."""

    metric = "hpsv3"
    definition = (
        "HPSv3, published means of models 5 to 11: the first output, a mean reward, of a Qwen2-VL-7B that reads the "
        "published rubric with the prompt, in the precision of its file (bfloat16), the head in float32; mean over "
        "images. Images get about as many pixels as 448 x 448, in their own proportions."
    )

    def __init__(self, location: str, device: str) -> None:
        from transformers import AutoProcessor

        folder = Path(location)
        path, texts = folder / WEIGHTS, folder / TEXTS
        for file in (path, texts):
            if not location or not file.is_file():
                raise UserError(f"{location or 'the scorer hpsv3'} holds no {file.name}", fix=FIX)
        self._rubric = _rubric(texts)
        with loading(folder, FIX):
            state = load_weights(path, FIX)
            self._processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            self._processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
            self._reward = self._processor.tokenizer.convert_tokens_to_ids(REWARD)
            self._network = _network(folder, state).to(device).eval()
            self._head = _head({key: tensor for key, tensor in state.items() if key.startswith("rm_head.")})
            if (rows := self._network.get_input_embeddings().num_embeddings) <= self._reward:
                raise ValueError(f"{rows} embeddings, and the token of the reward is number {self._reward}")
        self._head.to(device).eval()
        self._device = device
        self.most_tokens = int(self._network.config.text_config.max_position_embeddings)
        self.identity = EngineIdentity(
            self.metric, {path.name: large_file_sha256(path), texts.name: file_sha256(texts)}
        )

    @torch.inference_mode()
    def score(self, image: Image.Image, prompt: str) -> float:
        """Read rubric and prompt behind the image, and score the state of the token for the reward.

        Positions count tokens one by one on all three axes, image tokens too: the published code calls the text model
        without positions, and was trained that way.
        """
        said = {"type": "text", "text": self._rubric.replace(PROMPT, prompt)}
        message = {"role": "user", "content": [{"type": "image"}, said]}
        text = self._processor.apply_chat_template([message], add_generation_prompt=True)
        resized = self._resized(image)
        inputs = self._processor(text=[text], images=[resized], do_resize=False, return_tensors="pt").to(self._device)
        ids = inputs["input_ids"]
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1)
        states = self._network(
            input_ids=ids,
            position_ids=positions,
            pixel_values=inputs["pixel_values"].to(self._network.dtype),
            image_grid_thw=inputs["image_grid_thw"],
            mm_token_type_ids=(ids == self._network.config.image_token_id).int(),
            use_cache=False,
        ).last_hidden_state[0]
        place = (ids[0] == self._reward).nonzero()[-1, 0]  # a prompt may name the token, too
        return float(self._head(states[place].float())[0])

    def _resized(self, image: Image.Image) -> Image.Image:
        """Resize to the published number of pixels, both sides multiples of what one token sees."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        settings = self._processor.image_processor
        factor = settings.patch_size * settings.merge_size
        height, width = smart_resize(image.height, image.width, factor, min_pixels=PIXELS, max_pixels=PIXELS)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of the prompt alone."""
        return len(self._processor.tokenizer(prompt)["input_ids"])


def _rubric(path: Path) -> str:
    """Join the published texts: what is asked, the prompt in it, and the token for the reward."""
    texts = text_constants(path, FIX)
    rubric = texts.get(RUBRIC, "") + texts.get(ENDING, "")
    if rubric.count(PROMPT) != 1 or rubric.count(REWARD) != 1:
        raise UserError(f"{path} does not hold the rubric of HPSv3", found=str(sorted(texts))[:80], fix=FIX)
    return rubric


def _network(folder: Path, state: Mapping[str, Tensor]) -> Any:
    """Make Qwen2-VL without its output layer; the file has fewer embeddings than the configuration says."""
    from transformers import AutoConfig, Qwen2VLModel

    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        new = next((re.sub(old, name, key) for old, name in NAMES if re.search(old, key)), None)
        if new is not None:
            renamed[new] = tensor
    words = renamed["language_model.embed_tokens.weight"]
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.text_config.vocab_size = len(words)
    network, report = Qwen2VLModel.from_pretrained(
        None, config=config, state_dict=renamed, dtype=words.dtype, output_loading_info=True
    )
    if wrong := [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]:
        raise ValueError(f"weights that do not fit, such as {wrong[0]}")
    return network


def _head(state: Mapping[str, Tensor]) -> nn.Sequential:
    """Make the linear layers `rm_head.N`, a ReLU between any two, in float32; they end in mean and spread."""
    layers = sorted({int(key.split(".")[1]) for key in state})
    modules: list[nn.Module] = []
    for layer in layers:
        weight, bias = (state[f"rm_head.{layer}.{kind}"].float() for kind in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, nn.ReLU()]
    if not layers or len(bias) != 2:
        raise ValueError("no head that ends in mean and spread")
    return nn.Sequential(*modules[:-1])


def load(location: str, device: str) -> HpsV3:
    """Load the folder; UserError when something is missing in it."""
    return HpsV3(location, device)
