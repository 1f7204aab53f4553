"""Generating the prior tokens of a batch of images: prefill of each prompt, then one token of each sequence per step,
without waiting for the device.

All that one step reads and writes lies in buffers that stay where they are: the current tokens, `input_pos` and the
number of the step are tensors, too. So one function is the step on every device, and on a GPU it is recorded as a CUDA
graph and replayed. A graph belongs to a batch size and a key-value length; both are rounded up, so that a few graphs
serve all batches. Backends that read no more of the cache than is in use need one length.

A prompt goes through the products of the prefill alone: those of more rows may round otherwise, and what a request gets
must not depend on its batch.

Shapes: B batch, P prompt tokens, N image tokens, V vision vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from glmkit.errors import GenerationError
from glmkit.generation import cuda_graphs
from glmkit.generation.sampling import Sampling, sample, sample_by_kernels
from glmkit.generation.sequence import Grid, decode_positions, next_position
from glmkit.models.autoregressive.backends import DecodeBackend, choose_backend
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache, rotary_cos_sin

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)  # batches on a GPU are filled up to one of these
KV_LENGTH_MULTIPLE = 256
MAX_BUFFERS = 4  # sets of buffers and graphs that stay for the next batch


class _Buffers:
    """Everything that the steps of one batch size read and write, and their graphs by (kv_length, sampling)."""

    def __init__(
        self, model: AutoregressiveModel, backend: DecodeBackend, batch: int, max_length: int, max_tokens: int
    ) -> None:
        weight, config = model.language_model.norm.weight, model.config
        device, self.backend = weight.device, backend
        self.cache = KVCache.allocate(config, batch, max_length, device, weight.dtype)
        self.cos_NB = torch.zeros(max_tokens, batch, 1, 1, config.rotary_dim, device=device)
        self.sin_NB = torch.zeros_like(self.cos_NB)
        self.uniforms_NB = torch.zeros(max_tokens, batch, device=device)
        self.generated_NB = torch.zeros(max_tokens, batch, dtype=torch.int64, device=device)
        self.current_ids_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.input_pos_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.step_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.logit_sums_B = torch.zeros(batch, device=device)  # no number once a logit was none
        self.graphs: dict[tuple[int, Sampling], Callable[[], None]] = {}

    @property
    def state(self) -> tuple[Tensor, ...]:
        """Return what one step changes and the next one starts from."""
        return self.current_ids_B, self.input_pos_B, self.step_1, self.logit_sums_B

    def start(self, cos_sin: tuple[Tensor, Tensor], prompt_lengths: Sequence[int], uniforms_BN: Tensor) -> None:
        """Place a batch; sequences beyond it compute with whatever is there.

        `cos_sin` are the cosines and sines B 1 N rotary_dim of the tokens to generate.
        """
        batch, tokens = uniforms_BN.shape
        # Step n reads the token that step n - 1 sampled, at that token's position.
        for buffer_NB, value in zip((self.cos_NB, self.sin_NB), cos_sin, strict=True):
            buffer_NB[1:tokens, :batch].copy_(value[:, :, : tokens - 1].permute(2, 0, 1, 3)[:, :, None])
        self.uniforms_NB[:tokens, :batch].copy_(uniforms_BN.T)
        self.input_pos_B.zero_()
        self.input_pos_B[:batch].copy_(torch.tensor(prompt_lengths))
        self.step_1.zero_()
        self.logit_sums_B.zero_()

    def append(self, ids_B: Tensor) -> None:
        """Store the tokens of this step, which are the input of the next one."""
        self.generated_NB.index_copy_(0, self.step_1, ids_B[None])
        self.current_ids_B.copy_(ids_B)
        self.step_1.add_(1)


class PriorTokenDecoder:
    """Generates prior tokens with one model, and keeps buffers and graphs from batch to batch.

    `compiled` chooses the fastest backend (`choose_backend`). `recorded` (by default on a GPU) replays recorded steps.
    """

    def __init__(self, model: AutoregressiveModel, compiled: bool = False, recorded: bool | None = None) -> None:
        self.model, self.compiled = model, compiled
        self.recorded = model.language_model.norm.weight.is_cuda if recorded is None else recorded
        self._buffers: dict[tuple[int, int, int], _Buffers] = {}

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        positions: Sequence[Tensor],
        grids_in_order: Sequence[Grid],
        uniforms_BN: Tensor,
        sampling: Sampling,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Generate prior tokens int64 B N on the model's device, N = all tokens of `grids_in_order`.

        `positions[b]` are those of `prompts[b]`, 3 x P; row b of `uniforms_BN` belongs to request b. Every token is one
        of the codebook. The end token would come next and carries no information, so its step is not run.
        `progress(done, N)` is called after every token; on a GPU it runs ahead of the device.
        """
        batch, tokens = uniforms_BN.shape
        prompt_lengths = [len(prompt) for prompt in prompts]
        longest = max(prompt_lengths)
        image_3BN = torch.stack([decode_positions(next_position(one), grids_in_order) for one in positions], dim=1)
        # Graphs and kernels go to the current device.
        with torch.cuda.device_of(self.model.language_model.norm.weight):
            # 1. Place the batch into buffers that stay where they are.
            buffers = self._buffers_for(batch, longest + tokens, tokens)
            buffers.start(rotary_cos_sin(image_3BN, self.model.config), prompt_lengths, uniforms_BN)
            for step in range(tokens):
                if step == 0:
                    # 2. Prefill: every prompt fills its part of the cache and gives the first token.
                    self.prefill(prompts, positions, buffers, sampling)
                else:
                    # 3. Decode: every step samples one more token of each sequence.
                    self.decode_one_token(buffers, longest + step, sampling)
                if progress is not None:
                    progress(step + 1, tokens)
        check_finite(buffers.logit_sums_B[:batch], "the AR model")
        return buffers.generated_NB[:tokens, :batch].T.contiguous()

    def prefill(
        self, prompts: Sequence[Sequence[int]], positions: Sequence[Tensor], buffers: _Buffers, sampling: Sampling
    ) -> None:
        """Read each prompt in one pass, which fills the cache, and sample the first token of its image.

        Prompts that stand there several times, as for several seeds, are read once.
        """
        device = buffers.current_ids_B.device
        ids_B = torch.zeros_like(buffers.current_ids_B)
        keys = [
            (tuple(prompt), prompt_3P.numpy().tobytes()) for prompt, prompt_3P in zip(prompts, positions, strict=True)
        ]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        rows = [numbers[key] for key in keys]
        given = [
            (torch.tensor(prompts[index], device=device), positions[index].to(device))
            for index in (rows.index(number) for number in range(len(numbers)))
        ]
        logits_BV = self._codebook_logits(self.model.prefill(given, buffers.cache, rows))
        for index in range(len(rows)):
            one = slice(index, index + 1)
            buffers.logit_sums_B[one].add_(logits_BV[one].sum(-1))
            ids_B[one] = sample(logits_BV[one], buffers.uniforms_NB[0, one], sampling)
        buffers.append(ids_B)

    def decode_one_token(self, buffers: _Buffers, length: int, sampling: Sampling) -> None:
        """Sample one more token of each sequence, whose `input_pos` are all below `length`."""
        kv_length = _round_up(length) if buffers.backend.READS_KV_LENGTH else buffers.cache.kv.shape[-2]
        step = partial(self._step, buffers, kv_length, sampling)
        if not self.recorded:
            step()  # kept among the buffers that it knows, it would keep them until the next full garbage collection
            return
        if (kv_length, sampling) not in buffers.graphs:
            buffers.graphs[kv_length, sampling] = cuda_graphs.record(step, buffers.state)
        buffers.graphs[kv_length, sampling]()

    def _step(self, buffers: _Buffers, kv_length: int, sampling: Sampling) -> None:
        backend = buffers.backend
        sample_token = sample_by_kernels if backend.USES_TRITON else sample
        cos_B, sin_B, uniforms_B = (
            buffer_NB.index_select(0, buffers.step_1)[0]
            for buffer_NB in (buffers.cos_NB, buffers.sin_NB, buffers.uniforms_NB)
        )
        logits_BV = backend.decode_step(
            self.model, buffers.current_ids_B, (cos_B, sin_B), buffers.input_pos_B, buffers.cache, kv_length
        )
        logits_BV = self._codebook_logits(logits_BV)
        buffers.logit_sums_B.add_(logits_BV.sum(-1))
        buffers.append(sample_token(logits_BV, uniforms_B, sampling))
        buffers.input_pos_B.add_(1)

    def _codebook_logits(self, logits_BV: Tensor) -> Tensor:
        return logits_BV[:, : self.model.config.codebook_size]

    def _buffers_for(self, batch: int, length: int, tokens: int) -> _Buffers:
        if not self.recorded:
            return self._new_buffers(batch, _round_up(length), tokens)
        size = next((size for size in BATCH_SIZES if size >= batch), batch)
        key = (size, _round_up(length), _round_up(tokens))
        buffers = self._buffers.pop(key, None)
        while buffers is None and len(self._buffers) >= MAX_BUFFERS:
            del self._buffers[next(iter(self._buffers))]
        self._buffers[key] = buffers or self._new_buffers(*key)
        return self._buffers[key]

    def _new_buffers(self, batch: int, max_length: int, max_tokens: int) -> _Buffers:
        backend = choose_backend(self.model, batch, optimized=self.compiled)
        return _Buffers(self.model, backend, batch, max_length, max_tokens)


def check_finite(values: Tensor, component: str) -> None:
    """Raise GenerationError when a component has computed something that is no number: no image can show that."""
    if not torch.isfinite(values).all():
        raise GenerationError(
            f"{component} computes values that are not finite, so there is no image",
            found="NaN or infinity, from broken weights, an adapter too strong, or the guidance",
            fix="less guidance, a smaller adapter weight, --dtype float32, or other weights",
        )


def _round_up(count: int) -> int:
    return -(-count // KV_LENGTH_MULTIPLE) * KV_LENGTH_MULTIPLE
