"""Logits equal those of transformers: prompts, every step, whole sequences; padded or not; text-to-image and edits."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from glmkit.generation.sequence import (
    Grid,
    decode_positions,
    next_position,
    prompt_positions,
    training_batch,
    training_sequence,
)
from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.autoregressive.model import (
    AutoregressiveModel,
    CausalLayer,
    KVCache,
    attend_split_kv,
    key_mask,
    rotary_cos_sin,
)

TOLERANCE = 1e-4
LARGE, PREVIEW = (4, 6), (5, 3)


@dataclass(frozen=True)
class Case:
    """A batch to run: prompts, the pixels of their sources (the same number each), the grids to write."""

    prompts: list[list[int]]
    sources: list[list[Tensor]]
    order: list[Grid]

    @property
    def source_grids(self) -> list[list[Grid]]:
        return [[(pixels.shape[1] // 16, pixels.shape[2] // 16) for pixels in row] for row in self.sources]

    @property
    def positions(self) -> list[Tensor]:
        pairs = zip(self.prompts, self.source_grids, strict=True)
        return [prompt_positions(prompt, grids, tiny.START) for prompt, grids in pairs]

    @property
    def written_BN(self) -> Tensor:
        return tiny.random_codes(9, len(self.prompts), sum(height * width for height, width in self.order))


def text_case(*lengths: int) -> Case:
    prompts = [tiny.text_prompt(length, length) for length in lengths]
    return Case(prompts, [[] for _ in lengths], [PREVIEW, LARGE])


def edit_case(*lengths: int) -> Case:
    """Two sources a prompt, of different shapes, their codes from the tokenizer itself."""
    prompts, sources = [], []
    for seed, length in enumerate(lengths):
        shapes = ((3, 48, 32 + 16 * seed), (3, 16, 64))
        pixels = [torch.randn(shape, generator=tiny.generator(10 * seed + shape[1])) for shape in shapes]
        codes = [tiny.our_tokenizer().encode(part[None])[0] for part in pixels]
        prompts.append(tiny.edit_prompt(seed, codes, length))
        sources.append(pixels)
    return Case(prompts, sources, [LARGE])


CASES = {
    "text": lambda: text_case(7),
    "text, padded batch": lambda: text_case(7, 3, 12),
    "edit": lambda: edit_case(5),
    "edit, padded batch": lambda: edit_case(5, 2),
}


@torch.no_grad()
def reference_logits(case: Case) -> Tensor:
    """B N+1 V: the prompt's last logits and those of every decode step; the reference makes its own ids and mask."""
    from transformers import DynamicCache

    rows, columns = len(case.prompts), max(map(len, case.prompts))
    ids_BP = torch.full((rows, columns), tiny.PAD)
    mask = torch.zeros_like(ids_BP)
    for row, (prompt, grids) in enumerate(zip(case.prompts, case.source_grids, strict=True)):
        begin = columns - len(prompt)  # the reference pads on the left
        ids_BP[row, begin:] = torch.tensor(prompt)
        mask[row, begin:] = 1
        for height, width in grids:
            ids_BP[row, begin + 1 : begin + 1 + height * width] = tiny.IMAGE
            begin += height * width + 2
    grid_lists = [[*grids, *reversed(case.order)] for grids in case.source_grids]
    pixels = [tiny.patches(part) for row in case.sources for part in row]
    model, cache = tiny.reference_model(), DynamicCache()
    model.model.rope_deltas = None
    output = model(
        input_ids=ids_BP,
        attention_mask=mask,
        image_grid_thw=torch.tensor([[1, *grid] for grids in grid_lists for grid in grids]),
        images_per_sample=torch.tensor([len(grids) for grids in grid_lists]),
        pixel_values=torch.cat(pixels) if pixels else None,
        past_key_values=cache,
        use_cache=True,
    )
    logits = [output.logits[:, -1]]
    for step in range(case.written_BN.shape[1]):
        mask = torch.cat((mask, mask.new_ones(rows, 1)), dim=1)
        ids_B1 = case.written_BN[:, step : step + 1]
        output = model(input_ids=ids_B1, attention_mask=mask, past_key_values=cache, use_cache=True)
        logits.append(output.logits[:, -1])
    return torch.stack(logits, dim=1)


@torch.no_grad()
def our_logits(case: Case, model: AutoregressiveModel) -> Tensor:
    """The same steps through the static cache, whose other slots hold numbers that must not matter."""
    rows, total = case.written_BN.shape
    lengths_B = torch.tensor([len(prompt) for prompt in case.prompts])
    places = [decode_positions(next_position(own), case.order) for own in case.positions]
    capacity = int(lengths_B.max()) + total + 3
    cache = KVCache.allocate(model.config, rows, capacity, "cpu", torch.float32)
    cache.kv.fill_(100.0)
    read = [
        model(torch.tensor([prompt]), own[:, None], slice(-1, None), cache.samples(slice(row, row + 1)))[:, 0]
        for row, (prompt, own) in enumerate(zip(case.prompts, case.positions, strict=True))
    ]
    logits = [torch.cat(read)]
    for step in range(total):
        cos_sin = rotary_cos_sin(torch.stack(places, dim=1)[..., step : step + 1], model.config)
        written_B = case.written_BN[:, step]
        logits.append(
            model.decode_step(written_B, (cos_sin[0], cos_sin[1]), lengths_B + step, cache, capacity - step % 3)
        )
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("name", CASES)
def test_prompt_and_every_step_equal_reference(name: str) -> None:
    case = CASES[name]()
    expected = reference_logits(case)
    assert expected.std() > 0.3
    torch.testing.assert_close(our_logits(case, tiny.our_model()), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_whole_sequence_equals_the_steps(name: str) -> None:
    """Teacher forcing with our positions (preview, large, end) gives what decoding gives."""
    case, model = CASES[name](), tiny.our_model()
    steps_BNV = our_logits(case, model)
    for row, prompt in enumerate(case.prompts):
        sizes = [height * width for height, width in case.order]
        images = [part.view(grid) for part, grid in zip(case.written_BN[row].split(sizes), case.order, strict=True)]
        sequence = training_sequence(prompt, images, model.config, case.source_grids[row])
        with torch.no_grad():
            logits_TV = model(sequence.ids_T[None], sequence.positions_3T[:, None])[0]
        torch.testing.assert_close(logits_TV[sequence.targets_T >= 0], steps_BNV[row], atol=TOLERANCE, rtol=0)


def test_training_batch_equals_single_sequences() -> None:
    """Right padding without a mask, and a head that computes only the columns of the loss, change nothing."""
    model, prompts = tiny.our_model(), [tiny.text_prompt(1, 9), tiny.text_prompt(2, 4)]
    preview_Bhw, large_Bhw = tiny.random_codes(3, 2, *PREVIEW), tiny.random_codes(4, 2, *LARGE)
    batch = training_batch(prompts, [preview_Bhw, large_Bhw], model.config, prompt_length=14)
    with torch.no_grad():
        kept = model(batch.ids_BT, batch.positions_3BT, logits_to_keep=batch.target_columns_BN)
        padded = model(batch.ids_BT, batch.positions_3BT)
    for row, prompt in enumerate(prompts):
        single = training_sequence(prompt, [preview_Bhw[row], large_Bhw[row]], model.config)
        with torch.no_grad():
            logits_TV = model(single.ids_T[None], single.positions_3T[:, None])[0]
        torch.testing.assert_close(kept[row], logits_TV[single.targets_T >= 0], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(padded[row, : len(single.ids_T)], logits_TV, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("splits", [1, 2, 6])
def test_attention_in_splits_equals_the_formula(splits: int) -> None:
    query, key, value = (torch.randn(3, 2, size, 8, generator=tiny.generator(size)) for size in (5, 24, 24))
    value = value.flip(2)
    mask = key_mask(torch.tensor([0, 13, 23]), 24)
    scores = (query.double() @ key.double().transpose(-1, -2) / 8**0.5).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(dim=-1) @ value.double()).float()
    torch.testing.assert_close(attend_split_kv(query, key, value, mask, splits), expected, atol=1e-6, rtol=1e-5)


def test_one_product_for_three_projections() -> None:
    """Same logits, same names and values in the state dict, and the weights are held once."""
    case, plain = text_case(7, 3), tiny.our_model()
    fused = copy.deepcopy(plain)
    fused.fuse()
    torch.testing.assert_close(our_logits(case, fused), our_logits(case, plain), atol=1e-5, rtol=0)
    for name, value in fused.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    attention = cast(CausalLayer, fused.language_model.layers[0]).self_attn
    assert isinstance(attention.fused, tuple)
    assert attention.q_proj.weight.data_ptr() == attention.fused[0].data_ptr()


def test_compiles_without_a_graph_break() -> None:
    model = tiny.our_model()
    batch = training_batch(
        [tiny.text_prompt(1, 6)], [tiny.random_codes(3, 1, *PREVIEW), tiny.random_codes(4, 1, *LARGE)], model.config
    )
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(batch.ids_BT, batch.positions_3BT, logits_to_keep=batch.target_columns_BN),
        model(batch.ids_BT, batch.positions_3BT, logits_to_keep=batch.target_columns_BN),
    )


def test_config_without_head_dim_divides_the_width() -> None:
    text = {key: value for key, value in tiny.CONFIG["text_config"].items() if key != "head_dim"}
    config = AutoregressiveConfig.from_dict({**tiny.CONFIG, "text_config": text})
    assert (config.head_dim, config.rotary_dim, config.codebook_size) == (16, 8, tiny.CODES)
