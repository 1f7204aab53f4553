"""Token ids equal the published processor's, grids and positions the published rules, batches single sequences."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language as tiny
import torch
from PIL import Image
from torch import Tensor

from glmkit.errors import UserError
from glmkit.generation.processor import ProcessorIds, build_processor
from glmkit.generation.sequence import (
    Grids,
    PromptTokenizer,
    TrainingBatch,
    TrainingSequence,
    decode_positions,
    grids,
    next_position,
    prompt_positions,
    training_batch,
    training_sequence,
)

CODES = 64
MIN_PIXELS, MAX_PIXELS = 96 * 96, 256 * 256
PROMPTS = [
    "a red poster with the word 'Hello'",
    "  ünïcode 海报 “多伦多”\nsecond line, 12:30 ",
    "<sop>3 4<eop> <|dit_token_5|>",
]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProcessorIds]:
    folder = tmp_path_factory.mktemp("processor")
    corpus = ["a red poster with the word 'Hello' on top", "a blue circle over a green sky"]
    return folder, build_processor(folder, corpus, CODES, 600, MIN_PIXELS, MAX_PIXELS)


@cache
def reference(folder: Path) -> Any:
    from transformers import GlmImageProcessor

    return GlmImageProcessor.from_pretrained(folder)


def reference_inputs(folder: Path, prompts: list[str], images: list[Image.Image], height: int, width: int) -> Any:
    """What diffusers' pipeline feeds to the language model."""
    sources = [{"type": "image", "image": image} for image in images]
    return reference(folder).apply_chat_template(
        [[{"role": "user", "content": [*sources, {"type": "text", "text": prompt}]}] for prompt in prompts],
        tokenize=True,
        padding=len(prompts) > 1,
        target_h=height,
        target_w=width,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize(("height", "width"), [(256, 256), (96, 160), (1024, 256)])
def test_text_ids_equal_reference(processor: tuple[Path, ProcessorIds], height: int, width: int) -> None:
    folder, _ = processor
    for prompt in PROMPTS:
        expected = reference_inputs(folder, [prompt], [], height, width)["input_ids"][0].tolist()
        assert PromptTokenizer(folder).text_to_image(prompt, height, width) == expected


@pytest.mark.parametrize("sizes", [[(96, 128)], [(90, 200), (128, 96), (64, 64)]])
def test_edit_ids_equal_reference(processor: tuple[Path, ProcessorIds], sizes: list[tuple[int, int]]) -> None:
    folder, ids = processor
    images = [Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)) for size in sizes]
    inputs = reference_inputs(folder, ["make it 'BLUE'"], images, 96, 160)
    shapes = [tuple(grid[1:]) for grid in inputs["image_grid_thw"].tolist()[:-1]]
    token_ids = [torch.randint(CODES, shape, generator=tiny.generator(1)) for shape in shapes]
    expected_T = inputs["input_ids"][0]
    expected_T[expected_T == ids.image_token_id] = torch.cat([part.flatten() for part in token_ids])
    assert PromptTokenizer(folder).edit("make it 'BLUE'", token_ids, 96, 160) == expected_T.tolist()


def test_grids_equal_reference(processor: tuple[Path, ProcessorIds]) -> None:
    for height in range(32, 2049, 32):
        for width in range(max(32, -(-height // 4 // 32) * 32), min(2048, 4 * height) + 1, 96):
            if max(height, width) <= 4 * min(height, width):
                expected = reference(processor[0])._get_target_shape(height, width)
                assert grids(height, width) == Grids(expected[:2], expected[2:])


@pytest.mark.parametrize("size", [(250, 256), (256, 0), (1056, 256), (32, 160)])
def test_sizes_that_the_model_cannot_generate(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"32|times"):
        grids(*size)


def test_prompts_that_cannot_be_read(processor: tuple[Path, ProcessorIds], tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(processor[0])
    token_ids = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(UserError, match="empty"):
        tokenizer.text_to_image(" \n", 256, 256)
    with pytest.raises(UserError, match="must not contain"):
        tokenizer.edit("put <|image|> on top", [token_ids], 256, 256)
    with pytest.raises(UserError, match="must not contain"):
        tokenizer.text_to_image("<|image|>", 256, 256)
    for sources in ([], [token_ids] * 4):
        with pytest.raises(UserError, match="1 to 3"):
            tokenizer.edit("brighter", sources, 256, 256)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        PromptTokenizer(tmp_path)


def test_decode_positions_by_hand() -> None:
    positions = decode_positions(5, [(2, 3), (1, 2), (1, 1)])
    assert positions.tolist() == [
        [5, 5, 5, 5, 5, 5, 8, 8, 10],
        [5, 5, 5, 6, 6, 6, 8, 8, 10],
        [5, 6, 7, 5, 6, 7, 8, 9, 10],
    ]


def test_positions_equal_reference() -> None:
    """A prompt with two sources and the grid that follows, against `get_rope_index`."""
    shapes = [(2, 5), (4, 3)]
    token_ids = [tiny.random_codes(seed, *shape) for seed, shape in enumerate(shapes)]
    prompt, target = tiny.edit_prompt(0, token_ids, 6), (6, 2)
    model = tiny.reference_model().model
    grid_thw = torch.tensor([[1, *shape] for shape in [*shapes, target]])
    expected, _ = model.get_rope_index(torch.tensor([prompt]), grid_thw, torch.tensor([3]))
    ours = prompt_positions(prompt, shapes, tiny.START)
    assert torch.equal(ours, expected[:, 0])
    decoded = decode_positions(next_position(ours), [target, (1, 1)])
    assert torch.equal(decoded, model._cached_decode_position_ids[0])


def rows(seed: int) -> tuple[list[list[int]], Tensor, Tensor]:
    prompts = [tiny.text_prompt(seed + length, length) for length in (4, 9, 1)]
    return prompts, tiny.random_codes(seed, 3, 5, 3), tiny.random_codes(seed + 1, 3, 4, 6)


def assert_same_targets(batch: TrainingBatch, row: int, single: TrainingSequence) -> None:
    (columns,) = (single.targets_T != -100).nonzero(as_tuple=True)
    assert torch.equal(batch.target_columns_BN[row], columns)
    assert torch.equal(batch.target_ids_BN[row], single.targets_T[columns])


@pytest.mark.parametrize("prompt_length", [None, 16])
def test_batch_equals_single_sequences(prompt_length: int | None) -> None:
    prompts, preview_Bhw, large_Bhw = rows(3)
    config = tiny.our_model().config
    batch = training_batch(prompts, [preview_Bhw, large_Bhw], config, prompt_length)
    assert batch.ids_BT.shape[1] == (prompt_length or 10) + 15 + 24 + 1
    for row, prompt in enumerate(prompts):
        single = training_sequence(prompt, [preview_Bhw[row], large_Bhw[row]], config)
        length = len(single.ids_T)
        assert torch.equal(batch.ids_BT[row, :length], single.ids_T)
        assert torch.equal(batch.positions_3BT[:, row, :length], single.positions_3T)
        assert (batch.ids_BT[row, length:] == tiny.PAD).all()
        assert_same_targets(batch, row, single)


@pytest.mark.parametrize("shapes", [[(3, 2)], [(2, 5), (4, 3)]])
def test_a_batch_of_edits_equals_single_sequences(shapes: list[tuple[int, int]]) -> None:
    """Sources in the prompt, texts of several lengths behind them, and no preview."""
    lengths = (4, 9, 1)
    sources = [[tiny.random_codes(10 * row + n, *shape) for n, shape in enumerate(shapes)] for row in range(3)]
    prompts = [
        tiny.edit_prompt(row, own, length) for row, (own, length) in enumerate(zip(sources, lengths, strict=True))
    ]
    large_Bhw, config = tiny.random_codes(1, 3, 4, 6), tiny.our_model().config
    batch = training_batch(prompts, [large_Bhw], config, condition_grids=shapes)
    for row, prompt in enumerate(prompts):
        single = training_sequence(prompt, [large_Bhw[row]], config, shapes)
        length = len(single.ids_T)
        assert torch.equal(batch.ids_BT[row, :length], single.ids_T)
        assert torch.equal(batch.positions_3BT[:, row, :length], single.positions_3T)
        assert_same_targets(batch, row, single)


def test_edits_that_are_tokenised_together_are_the_same(processor: tuple[Path, ProcessorIds]) -> None:
    tokenizer = PromptTokenizer(processor[0])
    prompts = ["brighter", "a red poster with the word 'Hello' on top", "ünïcode"]
    sources = [[tiny.random_codes(seed, 2, 3)] for seed in range(3)]
    together = tokenizer.edit_batch(prompts, sources, 64, 96)
    assert together == [tokenizer.edit(prompt, own, 64, 96) for prompt, own in zip(prompts, sources, strict=True)]
    assert len(set(map(len, together))) == 3


def test_targets_are_the_next_tokens() -> None:
    prompts, preview_Bhw, large_Bhw = rows(5)
    sequence = training_sequence(prompts[0], [preview_Bhw[0], large_Bhw[0]], tiny.our_model().config)
    wanted = [*preview_Bhw[0].flatten().tolist(), *large_Bhw[0].flatten().tolist(), tiny.END]
    start = len(prompts[0]) - 1
    assert sequence.ids_T.tolist() == [*prompts[0], *wanted]
    assert sequence.targets_T.tolist() == [-100] * start + wanted + [-100]


def test_prompt_longer_than_the_batch() -> None:
    prompts, preview_Bhw, large_Bhw = rows(3)
    with pytest.raises(UserError, match="10 tokens"):
        training_batch(prompts, [preview_Bhw, large_Bhw], tiny.our_model().config, prompt_length=9)
