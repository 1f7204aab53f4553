"""Writing the codes of a batch of images: each prompt in one pass, then one token a step for all of them, without
waiting for the device.

All that a step reads and writes lies in buffers that stay where they are: the token, the slot and the number of the
step are tensors, too. So one function is the step on every device, and on a GPU it is recorded as a CUDA graph and
replayed. Graphs belong to a batch size and a window of the cache; both are rounded up, so that a few serve all batches.
The kernels of `glmkit.models.autoregressive.gpu` read as far as a row has come and need one window.

A prompt is read alone: products of more rows may round otherwise, and what a request gets must not depend on its batch.

Shapes: B batch, N image tokens, V vision vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glmkit.generation import cuda_graphs as graphs
from glmkit.generation.sampling import Sampling, draw, draw_by_kernels
from glmkit.generation.sequence import Grid, decode_positions, next_position
from glmkit.models.autoregressive.backends import DecodeBackend, choose_backend
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache, rotary_cos_sin

BATCHES = (1, 2, 4, 8, 16, 32, 64)  # batches on a GPU are filled up to one of these
WINDOW = 256  # slots: the step looks at a multiple of these
KEPT = 4  # sets of buffers and graphs that stay for the next batch

Progress = Callable[[int, int], None]


class _Buffers:
    """Everything that the steps of one batch size read and write, and their graphs by (window, sampling)."""

    def __init__(self, model: AutoregressiveModel, backend: DecodeBackend, batch: int, slots: int, tokens: int) -> None:
        weight, config = model.lm_head.weight, model.config
        device, self.backend = weight.device, backend
        self.cache = KVCache.allocate(config, batch, slots, device, weight.dtype)
        self.table_NB = (
            torch.zeros(tokens, batch, 1, 1, config.rotary_dim, device=device),
            torch.zeros(tokens, batch, 1, 1, config.rotary_dim, device=device),
        )
        self.uniforms_NB = torch.zeros(tokens, batch, device=device)
        self.written_NB = torch.zeros(tokens, batch, dtype=torch.int64, device=device)
        self.ids_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.input_pos_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.number_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self.graphs: dict[tuple[int, Sampling], Callable[[], None]] = {}

    @property
    def moving(self) -> tuple[Tensor, ...]:
        """What a step changes and the next one starts from."""
        return self.ids_B, self.input_pos_B, self.number_1

    def start(self, table_B1N: tuple[Tensor, Tensor], lengths_B: Sequence[int], uniforms_BN: Tensor) -> None:
        """Place a batch; rows beyond it are filled up with whatever is there.

        `table_B1N` are the cosines and sines B 1 N rotary_dim of the tokens to be written.
        """
        rows, tokens = uniforms_BN.shape
        # A step reads the token before the one that it draws, so the positions stand one step later than the numbers.
        for target, value in zip(self.table_NB, table_B1N, strict=True):
            target[1:tokens, :rows].copy_(value[:, :, : tokens - 1].permute(2, 0, 1, 3)[:, :, None])
        self.uniforms_NB[:tokens, :rows].copy_(uniforms_BN.T)
        self.input_pos_B.zero_()
        self.input_pos_B[:rows].copy_(torch.tensor(lengths_B))
        self.number_1.zero_()

    def put(self, codes_B: Tensor) -> None:
        """The codes of this step: written, and the next step's input."""
        self.written_NB.index_copy_(0, self.number_1, codes_B[None])
        self.ids_B.copy_(codes_B)
        self.number_1.add_(1)


class PriorTokenDecoder:
    """Writes codes with one model and keeps buffers and graphs from batch to batch.

    `compiled` runs a step by kernels of our own where there are any for the GPU; elsewhere torch.compile fuses a small
    model's whole step on a CPU, and the small operations of a layer otherwise. `recorded` (on a GPU) replays recorded
    steps.
    """

    def __init__(self, model: AutoregressiveModel, compiled: bool = False, recorded: bool | None = None) -> None:
        self.model = model
        weight = model.lm_head.weight
        self.recorded = weight.is_cuda if recorded is None else recorded
        self.compiled = compiled
        self._kept: dict[tuple[int, int, int], _Buffers] = {}

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        positions: Sequence[Tensor],
        grids_in_order: Sequence[Grid],
        uniforms_BN: Tensor,
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> Tensor:
        """Codes int64 B N, N = all tokens of `grids_in_order`, on the model's device; every one an image code.

        `positions[b]` are those of `prompts[b]`, 3 x P; row b of `uniforms_BN` belongs to request b. The end token
        would come next and carries no information, so its step is not run. `progress(done, N)` is called after every
        token; on a GPU it runs ahead of the device.
        """
        rows, total = uniforms_BN.shape
        lengths_B = [len(prompt) for prompt in prompts]
        longest = max(lengths_B)
        places_3BN = torch.stack([decode_positions(next_position(own), grids_in_order) for own in positions], dim=1)
        with torch.cuda.device_of(self.model.lm_head.weight):  # graphs and kernels go to the current device
            buffers = self._buffers(rows, longest + total, total)
            buffers.start(rotary_cos_sin(places_3BN, self.model.config), lengths_B, uniforms_BN)
            self._read_prompts(prompts, positions, buffers, sampling)
            for step in range(total):
                if step > 0:
                    self._step(buffers, longest + step, sampling)
                if progress is not None:
                    progress(step + 1, total)
        return buffers.written_NB[:total, :rows].T.contiguous()

    def _buffers(self, rows: int, slots: int, tokens: int) -> _Buffers:
        if not self.recorded:
            return _Buffers(self.model, self._backend(rows), rows, _up(slots, WINDOW), tokens)
        key = (next((size for size in BATCHES if size >= rows), rows), _up(slots, WINDOW), _up(tokens, WINDOW))
        buffers = self._kept.pop(key, None)
        while buffers is None and len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = buffers or _Buffers(self.model, self._backend(key[0]), *key)
        return self._kept[key]

    def _backend(self, batch: int) -> DecodeBackend:
        return choose_backend(self.model, batch, optimized=self.compiled)

    def _read_prompts(
        self, prompts: Sequence[Sequence[int]], positions: Sequence[Tensor], buffers: _Buffers, sampling: Sampling
    ) -> None:
        """Fill the cache and draw the first codes."""
        device = buffers.ids_B.device
        codes_B = torch.zeros_like(buffers.ids_B)
        for row, (prompt, places_3P) in enumerate(zip(prompts, positions, strict=True)):
            part = slice(row, row + 1)
            logits_11V = self.model(
                torch.tensor([prompt], device=device),
                places_3P[:, None].to(device),
                logits_to_keep=slice(-1, None),
                cache=buffers.cache.samples(part),
            )
            codes_B[part] = draw(self._of_codebook(logits_11V[:, 0]), buffers.uniforms_NB[0, part], sampling)
        buffers.put(codes_B)

    def _step(self, buffers: _Buffers, used: int, sampling: Sampling) -> None:
        """One more token a row, at the next slots, all of which are below `used`."""
        backend = buffers.backend
        sample = draw_by_kernels if backend.USES_TRITON else draw
        kv_length = _up(used, WINDOW) if backend.READS_KV_LENGTH else buffers.cache.kv.shape[-2]
        key = (kv_length, sampling)
        if key not in buffers.graphs:

            def step() -> None:
                cos_NB, sin_NB, uniforms_NB = (*buffers.table_NB, buffers.uniforms_NB)
                cos_B, sin_B, uniforms_B = (
                    part.index_select(0, buffers.number_1)[0] for part in (cos_NB, sin_NB, uniforms_NB)
                )
                logits_BV = backend.decode_step(
                    self.model, buffers.ids_B, (cos_B, sin_B), buffers.input_pos_B, buffers.cache, kv_length
                )
                buffers.put(sample(self._of_codebook(logits_BV), uniforms_B, sampling))
                buffers.input_pos_B.add_(1)

            buffers.graphs[key] = graphs.record(step, buffers.moving) if self.recorded else step
        buffers.graphs[key]()

    def _of_codebook(self, logits_BV: Tensor) -> Tensor:
        return logits_BV[:, : self.model.config.codebook_size]


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
