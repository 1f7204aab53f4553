"""The Qwen2.5-VL engine on a toy model with random weights, against transformers' classes called step by step."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny_vision_language
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.ocr.engines import qwen2_5_vl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_language.build(tmp_path_factory.mktemp("qwen"))


def make_image(path: Path, width: int, height: int) -> Path:
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return path


def expected(folder: Path, image: Image.Image, tokens: int) -> str:
    """The question put together by hand, the patches by the image processor, greedy tokens one after another."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    words = AutoTokenizer.from_pretrained(folder)
    seen = AutoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="pt")
    pads = "<|image_pad|>" * (image.width // 28 * (image.height // 28))
    asked = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{qwen2_5_vl.QUESTION}<|im_end|>\n"
    ids = words(f"{asked}<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    return tiny_vision_language.most_likely(model, words, ids, seen, tokens)


def test_answers_are_the_greedy_tokens_of_the_stock_model(folder: Path, tmp_path: Path) -> None:
    read = qwen2_5_vl.load(str(folder), 1, 0)
    path = make_image(tmp_path / "a.png", 84, 56)
    lines = read(path, 12)
    with Image.open(path) as image:
        answer = expected(folder, image.convert("RGB"), 12)
    assert [line.text for line in lines] == [row for row in answer.split("\n") if row.strip()]
    assert lines
    assert {(line.confidence, line.box) for line in lines} == {(1.0, (0, 0, 84, 56))}
    shorter = "\n".join(line.text for line in read(path, 4))
    assert len(shorter) < len(answer)
    assert answer.replace("\n", "").startswith(shorter.replace("\n", ""))


def test_sides_become_multiples_of_a_token_as_the_reference_rounds_them() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    for side in range(57, 1500, 13):
        assert (qwen2_5_vl._side(side), qwen2_5_vl._side(700)) == smart_resize(side, 700, max_pixels=1 << 24)


def test_identity_is_the_hash_of_the_weights(folder: Path) -> None:
    identity = qwen2_5_vl.identity(str(folder))
    weights = (folder / "model.safetensors").read_bytes()
    assert identity.weights == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert "transformers-" in identity.versions
    assert qwen2_5_vl.identity(str(folder)).key == identity.key


def test_a_folder_without_weights_and_an_unknown_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"holds no .*safetensors"):
        qwen2_5_vl.identity(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        qwen2_5_vl.identity("no such/model at/all")
