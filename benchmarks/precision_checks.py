"""Whether low precision computes what it should: sections of `precision_h200.py`.

A result that is not what it should be is an error of its row; the rows after it are measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import speed_h200 as speed
import torch
import torch.nn.functional as F
from precision_lab import Lab, Scale
from speed_h200 import Bench, Row, Rows
from torch import Tensor, nn

from glmkit.generation import denoising
from glmkit.generation.benchmark import PROMPT
from glmkit.generation.loading import load_model
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models import float8
from glmkit.models.autoregressive.backends import choose_backend
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache, rotary_cos_sin
from glmkit.models.decoder.model import DiffusionDecoder
from glmkit.models.hardware import Clock, median_seconds
from glmkit.models.hybrid import HybridModel
from glmkit.models.quantized import LowRank, PackedLinear, PackedMatrix
from glmkit.records import Request
from glmkit.shortcuts import PRECISIONS

NO_FARTHER = 1.1  # times as far from exact arithmetic as the plain modules one step by kernels may be
FLOAT32_ERROR = 1e-4  # of one step in float32 summed in another order

Component = TypeVar("Component", AutoregressiveModel, DiffusionDecoder)


def kernels(lab: Lab) -> Rows:
    """Every product of the published sizes, by kernels and by the plain modules, against float64."""
    if lab.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        yield from _packed_products(lab)
    else:
        yield {"case": "packed products", "skipped": "no GPU, and TRITON_INTERPRET is not 1"}
    yield from _float8_products(lab)


def _packed_products(lab: Lab) -> Rows:
    """Each size in each format; one matrix in whole numbers of 8 bits has an outlier, and so a scale per group."""
    first, *_ = lab.scale.packed
    for format, outlier in (("int8", False), ("int4", False), ("int8", True)):
        for name in [first] if outlier else lab.scale.packed:
            outputs, inputs, gated = lab.scale.packed[name]
            weight = _random(lab, outputs, inputs, seed=1)
            if outlier:
                weight[0, 0] = 100
            clock = Clock(lab.device)
            with clock.stage("packing_s"):
                matrix = PackedMatrix.pack(weight, format)
            case = f"{name}, {format}{', by groups' * outlier}"
            for batch in lab.scale.speed.batches:
                yield {"case": f"{case}, {batch} rows"} | _packed_product(lab, matrix, batch, gated) | clock.seconds


def _packed_product(lab: Lab, matrix: PackedMatrix, batch: int, gated: bool) -> Row:
    from glmkit.models.autoregressive import gpu

    x_BK = _random(lab, batch, matrix.inputs).to(lab.dtype)

    def product(x_BK: Tensor) -> Tensor:
        plan = gpu.plan_for(len(x_BK), lab.device, packed=True)
        tile, splits = (plan.gate_up, 1) if gated else (plan.o, gpu.ORDER.o)
        return gpu.linear(x_BK, matrix, tile, splits, plan, gated)

    ours, alone = product(x_BK), product(x_BK[-1:])
    expected, plain = x_BK.double() @ matrix.unpack().double().T, matrix.product(x_BK)
    if gated:
        expected, plain = _gated(expected), _gated(plain)
    error = _error(ours.sum(dim=0), expected)
    row: Row = {"relative_error": error, "plain_relative_error": _error(plain, expected)}
    return row | right(error < 0.01, equal_alone=torch.equal(alone[:, 0], ours[:, -1]))


def _float8_products(lab: Lab) -> Rows:
    for name, (outputs, inputs) in lab.scale.float8.items():
        x_MK = _random(lab, lab.scale.tokens, inputs).to(lab.dtype)
        weight = _random(lab, outputs, inputs, seed=1).to(lab.dtype)
        matrix, tokens = PackedMatrix.pack(weight, "e4m3"), float8.cast_rows(x_MK)
        row: Row = {"case": f"{name}, e4m3, {len(x_MK)} tokens"}
        if not float8.multiplies(x_MK):
            yield row | {"skipped": "no 8-bit products here"}
            continue
        from glmkit.models.decoder import gpu_float8

        cast = gpu_float8.cast_tokens(x_MK)
        same_cast = torch.equal(cast[1], tokens[1]) and torch.equal(
            cast[0].view(torch.uint8), tokens[0].view(torch.uint8)
        )
        product = partial(gpu_float8.product, tokens, matrix, lab.dtype)
        expected = (tokens[0].double() * tokens[1]) @ matrix.unpack().double().T
        error = _error(product(), expected)
        one = gpu_float8.product((tokens[0][:1], tokens[1][:1]), matrix, lab.dtype)
        row |= {"relative_error": error, "token_equals_alone": torch.equal(one[0], product()[0])}
        row |= {
            f"{kind}_ms": 1e3 * median_seconds(call, lab.device)
            for kind, call in (
                ("bfloat16", partial(F.linear, x_MK, weight)),
                ("product", product),
                ("cast", partial(gpu_float8.cast_tokens, x_MK)),
                ("gelu_cast", partial(gpu_float8.cast_tokens, x_MK, gelu=True)),
            )
        }
        yield row | right(error < 0.005, cast_equal=same_cast)


def _gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up


def _random(lab: Lab, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(lab.device).manual_seed(seed), device=lab.device)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def right(near: bool, **equal: bool) -> Row:
    """What is compared; a difference that should not be is an error of the row."""
    wrong = [name for name, same in (("far from what it should be", near), *equal.items()) if not same]
    return {**equal, **({"error": f"not so: {', '.join(wrong)}"} if wrong else {})}


def nano(lab: Lab) -> Rows:
    """Trained weights: dB between the images of a precision and the exact ones, under the same prior tokens."""
    model, scale = "nano" if lab.model == "full" else lab.model, lab.scale.speed
    first = replace(Request("nano", PROMPT), height=lab.scale.compared_side // 2, guidance=2.5)
    first = replace(first, width=first.height, steps=min(20, scale.steps))
    requests = [replace(first, id=str(seed), seed=seed) for seed in range(scale.compared_images)]
    exact = load_model(model, lab.device, lab.dtype)
    tokens = [generate_prior_tokens(exact, [one])[0] for one in requests]
    expected = [
        denoising.decode_prior_tokens(exact, [one], [ids])[0] for one, ids in zip(requests, tokens, strict=True)
    ]
    for precision in PRECISIONS:
        low = load_model(model, lab.device, lab.dtype, precision=precision)
        images = [
            denoising.decode_prior_tokens(low, [one], [ids])[0] for one, ids in zip(requests, tokens, strict=True)
        ]
        decibels = sorted(speed.psnr(one, other) for one, other in zip(images, expected, strict=True))
        own, own_again = ([generate_prior_tokens(low, [one])[0] for one in requests] for _ in range(2))
        together, together_again = (generate_prior_tokens(low, requests) for _ in range(2))
        again = denoising.decode_prior_tokens(low, requests[:1], tokens[:1])[0]
        pair = denoising.decode_prior_tokens(low, [requests[0], requests[-1]], [tokens[0], tokens[-1]])
        row: Row = {"case": f"nano, {precision}", "images": len(images)}
        row |= {"psnr_db": decibels[len(decibels) // 2], "min_psnr_db": decibels[0]}
        row |= {"image_alone_psnr_db": speed.psnr(pair[0], images[0])}
        yield row | right(
            decibels[0] > 25 or lab.model != "full",
            a_seed_twice=again.tobytes() == images[0].tobytes(),
            tokens_alone_twice=all(map(torch.equal, own, own_again)),
            tokens_in_a_batch_twice=all(map(torch.equal, together, together_again)),
            tokens_alone_and_in_a_batch=all(map(torch.equal, own, together)),
        )


@torch.inference_mode()
def rows(bench: Bench, scale: Scale) -> Rows:
    """Kernels against plain modules on the same packed weights; what a request gets, alone, in a batch, and again."""
    hybrid, side = bench.hybrid, scale.compared_side
    for batch in bench.scale.batches[:2]:
        yield _decoding_step(hybrid, batch)
    requests = [bench.request(side, id=str(seed), seed=seed, steps=scale.compared_steps) for seed in range(2)]
    together, alone, again = (generate_prior_tokens(hybrid, some) for some in (requests, requests[1:], requests[1:]))
    equal = {"equal_alone": torch.equal(together[1], alone[0]), "equal_again": torch.equal(alone[0], again[0])}
    yield {"case": f"prior tokens, {side}x{side}"} | right(True, **equal)
    both, one, one_again = (denoising.denoise(hybrid, requests[start:], together[start:]) for start in (0, 1, 1))
    equal = {"equal_again": torch.equal(one, one_again)} | _on_a_gpu(hybrid, equal_alone=torch.equal(both[1:], one))
    yield {"case": f"latents, {side}x{side}", "alone_relative_error": _error(both[1:], one)} | right(True, **equal)
    hybrid.compiled, compiled = False, hybrid.compiled
    try:
        plain = denoising.denoise(hybrid, requests[1:], together[1:])
        with _decoder_in_float32(hybrid):
            expected = denoising.denoise(hybrid, requests[1:], together[1:])
    finally:
        hybrid.compiled = compiled
    errors, near = _compared(one, plain, expected)
    yield {"case": "latents by kernels and by plain blocks"} | errors | right(near)


def _compared(ours: Tensor, plain: Tensor, expected: Tensor) -> tuple[Row, bool]:
    """Compare what kernels and plain modules give with `expected`, what the same packed weights give in float32."""
    error, plain_error = _error(ours, expected), _error(plain, expected)
    row = {"relative_error": error, "plain_relative_error": plain_error, "from_plain": _error(ours, plain)}
    return row, error < NO_FARTHER * plain_error + FLOAT32_ERROR


@contextmanager
def _decoder_in_float32(hybrid: HybridModel) -> Iterator[None]:
    """Have the glyph encoder and the decoder compute in float32 while the block runs."""
    before = {name: getattr(hybrid, name) for name in ("decoder", "glyph", "dtype")}
    hybrid.inference_cache.clear()
    hybrid.decoder, hybrid.glyph = in_float32(hybrid.decoder), deepcopy(hybrid.glyph).float()
    hybrid.dtype = torch.float32
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(hybrid, name, value)
        hybrid.inference_cache.clear()


def _decoding_step(hybrid: HybridModel, batch: int) -> Row:
    """One step of the AR model: the backend that generation takes, and the plain modules."""
    model, device = hybrid.autoregressive, hybrid.device
    length = 256
    cache = KVCache.allocate(model.config, batch, length, device, hybrid.dtype)
    generator = torch.Generator(device).manual_seed(0)
    cache.kv.normal_(generator=generator)
    ids_B = torch.arange(batch, device=device)
    input_pos_B = torch.arange(batch, device=device) + length // 2
    cos_sin = rotary_cos_sin(torch.full((3, batch, 1), 7, device=device), model.config)
    backend = choose_backend(model, batch, optimized=hybrid.compiled)

    def step(decode: Callable[..., Tensor], chosen: slice) -> Tensor:
        own = KVCache(cache.kv[:, :, chosen].clone())
        angles = cos_sin[0][chosen], cos_sin[1][chosen]
        return decode(ids_B[chosen], angles, input_pos_B[chosen], own, length)

    kernels = partial(backend.decode_step, model)
    ours, plain = step(kernels, slice(None)), step(model.decode_step, slice(None))
    alone = step(kernels, slice(batch - 1, batch))
    cache = KVCache(cache.kv.float())
    expected = step(in_float32(model).decode_step, slice(None))
    row: Row = {"case": f"decoding step, {batch} rows", "backend": cast(Any, backend).__name__}
    row |= {"same_best_token": float((ours.argmax(-1) == expected.argmax(-1)).float().mean())}
    errors, near = _compared(ours, plain, expected)
    return row | errors | right(near, **_on_a_gpu(hybrid, equal_alone=torch.equal(alone[0], ours[-1])))


def in_float32(model: Component) -> Component:
    """Copy a component into float32: packed matrices stand for the same weights, and nothing is rounded to 16 bits."""
    copied = deepcopy(model).float()
    if isinstance(copied, AutoregressiveModel):
        copied.language_model.embed_tokens.register_forward_hook(lambda _module, _given, x: x.float())
    for module in copied.modules():
        if hasattr(module, "fused"):
            setattr(module, "fused", None)  # noqa: B010
        elif isinstance(module, PackedLinear):
            bias, change = module.matrix.bias, module.matrix.change
            change = change and LowRank(change.a.float(), change.b.float())
            module.matrix = replace(module.matrix, bias=None if bias is None else bias.float(), change=change)
    return copied


def _on_a_gpu(hybrid: HybridModel, **equal: bool) -> dict[str, bool]:
    """Give what must be equal by the kernels of a GPU; a CPU's products are summed as the batch has it."""
    return equal if hybrid.device.type == "cuda" else {}
