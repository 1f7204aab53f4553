"""Tokens are sampled as transformers samples them, alone as in any batch, and only those of the codebook."""

from __future__ import annotations

import copy

import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.generation import sampling as sampling_module
from glmkit.generation.decoding import PriorTokenDecoder
from glmkit.generation.sampling import Sampling, sample, sample_by_kernels, top_k_top_p, uniforms
from glmkit.generation.sequence import Grid, prompt_positions, training_batch, training_sequence
from glmkit.models.autoregressive.model import AutoregressiveModel

PREVIEW, LARGE = (5, 3), (4, 6)
TOKENS = 15 + 24
SETTINGS = [Sampling(), Sampling(1.0, 1.0, 0), Sampling(0.7, 0.3, 5), Sampling(1.5, 0.95, 0), Sampling(1.0, 0.01, 50)]


def generate(
    prompts: list[list[int]], seeds: list[int], sampling: Sampling, model: AutoregressiveModel | None = None
) -> Tensor:
    positions = [prompt_positions(prompt, [], tiny.START) for prompt in prompts]
    uniforms_BN = torch.stack([uniforms(seed, TOKENS) for seed in seeds])
    return PriorTokenDecoder(model or tiny.our_model()).generate(
        prompts, positions, [PREVIEW, LARGE], uniforms_BN, sampling
    )


def reference_probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """transformers' order: temperature, top-k, top-p."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = [TemperatureLogitsWarper(sampling.temperature)]
    warpers += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    warpers += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    for warper in warpers:
        logits_BV = warper(None, logits_BV)
    return logits_BV.softmax(dim=-1)


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_filter_equals_reference(sampling: Sampling) -> None:
    logits_BV = torch.randn(300, 200, generator=tiny.generator(0)) * 3
    expected_BV = reference_probabilities(logits_BV, sampling)
    ids_BK, cumulative_BK, allowed_B1 = top_k_top_p(logits_BV, sampling)
    mass_BK = cumulative_BK.diff(dim=-1, prepend=torch.zeros(len(ids_BK), 1, dtype=torch.float64))
    mass_BK[torch.arange(ids_BK.shape[1]) >= allowed_B1] = 0
    ours_BV = torch.zeros_like(logits_BV, dtype=torch.float64).scatter(1, ids_BK, mass_BK / mass_BK.sum(-1, True))
    assert torch.equal(ours_BV > 0, expected_BV > 0)
    torch.testing.assert_close(ours_BV.float(), expected_BV, atol=1e-5, rtol=0)


def test_samples_follow_the_distribution() -> None:
    """A fine comb of uniform numbers meets every token as often as transformers' probability says."""
    sampling, count = Sampling(1.0, 0.9, 20), 20_000
    logits_1V = torch.randn(1, 64, generator=tiny.generator(1)) * 2
    sampled = sample(logits_1V.expand(count, -1), (torch.arange(count) + 0.5) / count, sampling)
    share_V = torch.bincount(sampled, minlength=64) / count
    torch.testing.assert_close(share_V, reference_probabilities(logits_1V, sampling)[0], atol=2 / count, rtol=0)


def test_extreme_uniforms_stay_inside() -> None:
    logits_BV = torch.randn(2000, 64, generator=tiny.generator(2)) * 2
    allowed_BV = reference_probabilities(logits_BV, Sampling()) > 0
    for uniform in (0.0, 1 - 2.0**-24):
        sampled_B1 = sample(logits_BV, torch.full((2000,), uniform), Sampling())[:, None]
        assert allowed_BV.gather(1, sampled_B1).all()


def test_equal_logits_are_ordered_by_id() -> None:
    """bfloat16 logits are full of ties, and no kernel promises their order."""
    logits_1V = torch.zeros(1, 5000, dtype=torch.bfloat16)
    logits_1V[0, 17] = 40.0
    ids_1K, _, _ = top_k_top_p(logits_1V, Sampling(top_k=5))
    assert ids_1K[0].tolist() == [17, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "sampling", [Sampling(top_k=6), Sampling(0.7, 1.0, 1), Sampling(1.5, 0.95, 12), Sampling(top_k=0)], ids=str
)
def test_kernels_sample_the_same(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, both zeros, the extreme numbers, a last chunk that is not full, columns beyond the codebook."""
    pytest.importorskip("triton")
    monkeypatch.setattr(sampling_module, "CHUNK", 16)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits_BV = (torch.randn(6, 48, generator=tiny.generator(3)) * 3).bfloat16()
    logits_BV[0] = 1.0
    logits_BV[1, ::2], logits_BV[1, 1::2] = -0.0, 0.0
    logits_BV[:, 40:] = 100.0
    uniforms_B = torch.tensor([0.3, 0.9, 0.0, 1 - 2.0**-24, 0.5, 0.7])
    expected = sample(logits_BV[:, :40], uniforms_B, sampling)
    assert torch.equal(sample_by_kernels(logits_BV.to(device)[:, :40], uniforms_B.to(device), sampling).cpu(), expected)


def test_request_alone_equals_request_in_a_batch() -> None:
    prompts = [tiny.text_prompt(seed, length) for seed, length in enumerate((7, 2, 12))]
    together = generate(prompts, [5, 6, 5], Sampling())
    for row, seed in enumerate((5, 6, 5)):
        assert torch.equal(generate([prompts[row]], [seed], Sampling())[0], together[row])
    assert not torch.equal(together[0], together[2])
    assert torch.equal(generate(prompts[:1], [5], Sampling()), together[:1])
    assert not torch.equal(generate(prompts[:1], [6], Sampling()), together[:1])


def test_only_the_codebook_even_when_the_head_prefers_the_end() -> None:
    """The published model may end an image early; here the ids from the start token on cannot be sampled."""
    model = copy.deepcopy(tiny.our_model())
    with torch.no_grad():
        model.lm_head.weight[tiny.CODES :] *= 100
    ids_BN = generate([tiny.text_prompt(0, 5)], [0], Sampling(2.0, 1.0, 0), model)
    assert ids_BN.shape == (1, TOKENS)
    assert ids_BN.min() >= 0
    assert ids_BN.max() < tiny.CODES


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    generate([tiny.text_prompt(0, 5)], [3], Sampling())
    assert torch.equal(torch.get_rng_state(), before)


def test_likeliest_tokens_equal_reference_generate() -> None:
    prompt, reference = tiny.text_prompt(4, 8), tiny.reference_model()
    expected = reference.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        image_grid_thw=torch.tensor([[1, *LARGE], [1, *PREVIEW]]),
        images_per_sample=torch.tensor([2]),
        max_new_tokens=TOKENS,
        do_sample=False,
        suppress_tokens=list(range(tiny.CODES, 80)),
    )
    assert generate([prompt], [0], Sampling(top_k=1))[0].tolist() == expected[0, len(prompt) :].tolist()


def test_likeliest_tokens_of_an_edit_equal_reference_generate() -> None:
    source = torch.randn(3, 48, 32, generator=tiny.generator(8))
    token_ids = tiny.our_tokenizer().encode(source[None])[0]
    prompt = tiny.edit_prompt(3, [token_ids], 6)
    placeholders = [tiny.IMAGE if 0 < column <= token_ids.numel() else token for column, token in enumerate(prompt)]
    expected = tiny.reference_model().generate(
        input_ids=torch.tensor([placeholders]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        pixel_values=tiny.patches(source),
        image_grid_thw=torch.tensor([[1, 3, 2], [1, *LARGE]]),
        images_per_sample=torch.tensor([2]),
        max_new_tokens=24,
        do_sample=False,
        suppress_tokens=list(range(tiny.CODES, 80)),
    )
    positions, order = [prompt_positions(prompt, [(3, 2)], tiny.START)], [LARGE]
    ours = PriorTokenDecoder(tiny.our_model()).generate(
        [prompt], positions, order, torch.zeros(1, 24), Sampling(top_k=1)
    )
    assert ours[0].tolist() == expected[0, len(prompt) :].tolist()


def test_teacher_forcing_samples_the_same_tokens() -> None:
    """Logits of the training pass, sampled with the numbers of the request, give the tokens that decoding gave."""
    prompts, seeds, model = [tiny.text_prompt(0, 5), tiny.text_prompt(1, 11)], [1, 2], tiny.our_model()
    ids_BN = generate(prompts, seeds, Sampling())
    preview_Bhw, large_Bhw = ids_BN[:, :15].view(2, *PREVIEW), ids_BN[:, 15:].view(2, *LARGE)
    batch = training_batch(prompts, [preview_Bhw, large_Bhw], model.config)
    with torch.no_grad():
        logits_BNV = model(batch.ids_BT, batch.positions_3BT, logits_to_keep=batch.target_columns_BN)[
            :, :TOKENS, : tiny.CODES
        ]
    for row, seed in enumerate(seeds):
        assert torch.equal(sample(logits_BNV[row], uniforms(seed, TOKENS), Sampling()), ids_BN[row])
        single = training_sequence(prompts[row], [preview_Bhw[row], large_Bhw[row]], model.config)
        assert single.targets_T[single.targets_T >= 0].tolist() == [*ids_BN[row].tolist(), tiny.END]


def test_progress_counts_every_token() -> None:
    seen: list[tuple[int, int]] = []
    prompt = tiny.text_prompt(0, 3)
    order: list[Grid] = [(2, 2)]
    PriorTokenDecoder(tiny.our_model()).generate(
        [prompt],
        [prompt_positions(prompt, [], tiny.START)],
        order,
        torch.zeros(1, 4),
        Sampling(),
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("values", [{"temperature": 0}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}])
def test_settings_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        Sampling(**values)  # type: ignore[arg-type]
