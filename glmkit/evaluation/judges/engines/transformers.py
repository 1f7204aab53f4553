"""A vision-language model in a folder, through transformers: LOCATION is the folder or a hub id, or one of them with
options, FOLDER,OPTION=VALUE,...

Any model that AutoModelForImageTextToText knows, like Qwen2.5-VL, Qwen3-VL and Qwen3.5: bfloat16, the most likely token
each time, the folder's own chat template and image sizes. On a GPU when there is one. Code that a folder brings along
is not run.

Options: `thinking` (`off` asks the template for an answer without), `max_tokens` (of an answer, in place of the
suite's, which leave no room for thinking).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.evaluation.chat import SWITCH, named_options, positive
from glmkit.evaluation.hub import model_folder
from glmkit.evaluation.judges.messages import Inquiry
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.hashing import file_sha256, json_sha256, large_file_sha256
from glmkit.inputs.images import read_image
from glmkit.models.checkpoint.configs import read_config
from glmkit.records import Answer

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = "a vision-language model in a folder: transformers:FOLDER"
READS_TEXT = False
IS_KEPT = True
FIX = "--judge transformers:FOLDER with the downloaded files of a vision-language model"
SETTINGS = (".json", ".jinja", ".txt", ".model")  # files beside the weights that decide answers
OPTIONS: Mapping[str, Callable[[str], object]] = {"thinking": SWITCH, "max_tokens": positive}
_OPENED = re.compile(r"<think(?:ing)?>\s*$")  # at the end of a prompt: the template begins the thinking


class LocalJudge:
    """Ask a model on this machine, one inquiry at a time."""

    workers = 1

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
            self._processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            found = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder} is no vision-language model", found=found, fix=FIX) from error
        self._model = model.to(device).eval()
        self._template = {"enable_thinking": options["thinking"]} if "thinking" in options else {}
        self._max_tokens = options.get("max_tokens")

    def answer(self, inquiry: Inquiry) -> Answer:
        """Generate the answer; the image is resized as the folder's processor does.

        What the template writes to begin the thinking stands before the answer, so that one that is cut shows.
        """
        message = inquiry.message
        images = [read_image(one) if isinstance(one, Path) else one for one in inquiry.images()]
        shown, said = [{"type": "image", "image": one} for one in images], {"type": "text", "text": message.text}
        content = [*shown, said] if message.image_first else [said, *shown]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if message.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": message.system}]})
        written = partial(self._processor.apply_chat_template, messages, add_generation_prompt=True, **self._template)
        opened = _OPENED.search(written(tokenize=False))
        inputs = written(tokenize=True, return_dict=True, return_tensors="pt")
        inputs = inputs.to(self._model.device, dtype=self._model.dtype)
        asked = inputs["input_ids"].shape[1]
        most = message.max_tokens if message.words else self._max_tokens or message.max_tokens
        more = {"output_scores": True, "output_logits": True} if message.words else {}
        generated = self._model.generate(
            **inputs, max_new_tokens=most, do_sample=False, return_dict_in_generate=True, **more
        )
        tokens = generated.sequences[0, asked:]
        text: str = self._processor.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = opened[0] + text if opened else text
        answer = Answer(message.text, text, input_tokens=asked, output_tokens=len(tokens))
        if not message.words:
            return answer
        words = self._processor.tokenizer
        first = {word: words.encode(word, add_special_tokens=False)[0] for word in message.words}
        return replace(
            answer,
            probabilities=tuple(probabilities(scores[0], first) for scores in generated.scores),
            raw_probabilities=tuple(probabilities(logits[0], first) for logits in generated.logits),
            is_ended=int(tokens[-1]) in words.all_special_ids,
        )

    def note(self) -> str:
        """Have nothing to say."""
        return ""


def probabilities(logits: Tensor, tokens: Mapping[str, int]) -> dict[str, float]:
    """Map words to the probabilities of their first tokens, by the logits V of one position (float32)."""
    distribution = logits.float().softmax(dim=-1)
    return {word: distribution[token].item() for word, token in tokens.items()}


def check() -> None:
    """Need nothing but a folder."""


def identity(location: str) -> EngineIdentity:
    """Name the class, the weights, and the files beside them; UserError when there are none."""
    folder, options = _parsed(location)
    weights = {path.name: large_file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    if not weights:
        raise UserError(f"{folder} holds no *.safetensors files", fix=FIX)
    named = read_config(folder / "config.json", {"architectures": [""]}).get("architectures")
    settings = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.suffix in SETTINGS}
    packages = " ".join(f"{name}-{version(name)}" for name in ("transformers", "torch"))
    return EngineIdentity(
        ", ".join(
            (named[0] if named else "a model", "bfloat16, greedy", *(f"{name} {on}" for name, on in options.items()))
        ),
        weights,
        f"{packages} settings {json_sha256(settings)[:12]}",
    )


def load(location: str) -> LocalJudge:
    """Load the model; UserError for a folder that holds none."""
    return LocalJudge(*_parsed(location))


def _parsed(location: str) -> tuple[Path, dict[str, Any]]:
    """Find the folder, and read the options behind its name."""
    if Path(location).is_dir() and location:
        return Path(location), {}
    name, options = named_options("judge transformers", location, OPTIONS, FIX)
    return model_folder(name, FIX), {name: value for name, value in options.items() if value is not None}
