"""Qwen2.5-VL through transformers: the OCR of LongText-Bench and OneIG-Bench.

LOCATION is a folder in the published layout or a hub id; without one, Qwen/Qwen2.5-VL-7B-Instruct (16.6 GB, a GPU). One
process per GPU. The settings of the benchmarks: bfloat16, one fixed question, the most likely token each time.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.hub import cached_repository, model_folder
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.evaluation.ocr.process import local_command
from glmkit.hashing import large_file_sha256
from glmkit.inputs.images import read_image

HUB_ID = "Qwen/Qwen2.5-VL-7B-Instruct"
NAME = "Qwen2.5-VL, bfloat16, greedy"
# The files of the hub's revision cc594898137f460bfe9f0759e9844b3ce807cfb5.
WEIGHTS = {
    "model-00001-of-00005.safetensors": "e97b877e47fde53a6c6e77aafb36e58e91ee9d95c4a3eeac6f1b5c0e6a1c986e",
    "model-00002-of-00005.safetensors": "a9a300a43b4724eee2abe7c18ceb26768d0ab011eb0cad19d9bfd2476a24d024",
    "model-00003-of-00005.safetensors": "111223d173e00bbee81cba1216fad28668df3476706b7fd26f4d5b50f8b3a507",
    "model-00004-of-00005.safetensors": "ef47f634fa57d46ee134edcc09f34085a47da1e16c12a2abe0d67118be6d72ed",
    "model-00005-of-00005.safetensors": "0c859795ad3a627a9b95bcb762e059d5b768a4a36fdd4affeff269d93fdecc67",
}
# The question of both benchmarks, letter by letter: another one would be another engine.
QUESTION = (
    "Recognize the text in the image, only reply with the text content, but avoid repeating previously mentioned "
    "content. If no text is recognized, please reply with 'No text recognized'."
)
PATCH = 28  # pixels of an image that become one token: sides are brought to multiples of it, bicubic


def check() -> None:
    """Raise UserError when the published weights are not on this machine."""
    cached_repository(HUB_ID)


def identity(location: str) -> EngineIdentity:
    """Name the weights in a folder, or download those of a hub id; UserError when there are none."""
    folder = _folder(location)
    weights = {path.name: large_file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    if not weights:
        raise UserError(f"{folder} holds no *.safetensors files", fix=f"--ocr qwen2-5-vl:FOLDER, as {HUB_ID}")
    return EngineIdentity(NAME, weights, " ".join(f"{name}-{version(name)}" for name in ("transformers", "torch")))


def processes(_cores: int) -> int:
    """Use one for each GPU."""
    import torch

    return max(1, torch.cuda.device_count())


def command(location: str, threads: int, number: int) -> list[str]:
    """Run in this environment."""
    return local_command(__name__, location, threads, number)


def load(location: str, threads: int, number: int) -> Callable[[Path, int], list[RecognizedLine]]:
    """Load the engine as a function; on GPU `number`, or on the CPU when there is none."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    torch.set_num_threads(threads)
    folder = str(_folder(location))
    device = f"cuda:{number}" if torch.cuda.is_available() else "cpu"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return lambda path, max_tokens: _recognize(model, processor, path, max_tokens)


def _recognize(model: Any, processor: Any, path: Path, max_tokens: int) -> list[RecognizedLine]:
    """Split the answer into lines; it has no boxes and confidences, so each line spans the image, with confidence 1."""
    image = read_image(path)
    width, height = image.size
    image = image.resize((_side(width), _side(height)))
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    message = {"role": "user", "content": content}
    question = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[question], images=[image], return_tensors="pt").to(model.device)
    answer = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    text: str = processor.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [RecognizedLine(line, 1.0, (0, 0, width, height)) for line in text.split("\n") if line.strip()]


def _side(pixels: int) -> int:
    return max(PATCH, round(pixels / PATCH) * PATCH)


def _folder(location: str) -> Path:
    return model_folder(location or HUB_ID, "--ocr qwen2-5-vl:FOLDER with the downloaded files")
