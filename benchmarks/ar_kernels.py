"""Which plans make a decoding step quick on this GPU: every product, attention and sampling, then whole steps.

    python benchmarks/ar_kernels.py OUT_FOLDER [--only SECTION ...] [--seconds 150] [--toy]

Every measurement is printed and appended to OUT_FOLDER/ar_kernels.jsonl as soon as it is measured. The winners go to
OUT_FOLDER/plans.txt in the form of `PLANS` in glmkit/models/autoregressive/gpu.py, to be pasted there, and the
section `steps` runs the whole model (random weights) with them. All of it keeps to `ORDER`, the order of sums that
every batch shares; that one is chosen by hand. Sections, in the order in which they run:

    bandwidth  bytes per second that a copy and a sum reach
    products   each weight's shape at batches of 1, 16 and 64: cuBLAS and every tile, against float32
    attention  orders that could be chosen: splits of the cache and keys at a time, with few and many keys
    sampling   the token sampled by torch and by kernels; both must be the same
    steps      steps of the full model as CUDA graphs: the code's plan and this run's, with and without loads that are
               under way sooner; all must give the same logits, bit for bit, also for a sequence alone, and be near
               those of torch; a trace

Weights are read from memory, as in a model: the calls of one graph go around copies that exceed the L2 cache. Kernels
are compiled by many processes first. Off a GPU only `--toy` runs, in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ar_kernels_bench import PRODUCTS, Bench, full, shapes, toy
from torch import Tensor
from triton_compile import compile_only, empty, tried_to

from glmkit.generation.sampling import Sampling, sample, sample_by_kernels
from glmkit.models.autoregressive import gpu
from glmkit.models.autoregressive.config import AutoregressiveConfig
from glmkit.models.autoregressive.gpu import ORDER, ProductTile, StepPlan, SumOrder
from glmkit.models.autoregressive.model import AutoregressiveModel, KVCache, rotary_cos_sin
from glmkit.models.devices import dtype_for, pick_device

COLD_BYTES = 192 * 2**20  # copies of what a graph reads: several times the L2 cache
SHARED_BYTES = 227 * 2**10  # of shared memory that a program may use (compute capability 9.0)
WAYS = ("early", "fetch_weights", "attention_stages")  # in which plans differ that have the same tiles
FOR_PRODUCTS = 0.6  # of the time, so that some is left for whole steps
CUTS = ((4, 128), (8, 64), (8, 128), (16, 64), (16, 128), (32, 64))  # of the cache: splits and keys at a time


def bandwidth(bench: Bench) -> None:
    source = torch.ones(bench.scale.copied, dtype=torch.float32, device=bench.device)
    target = torch.empty_like(source)
    for name, call, moved in (("copy", lambda: target.copy_(source), 2), ("sum", source.sum, 1)):
        ms = bench.milliseconds([call] * 3) / 3
        bench.note(section="bandwidth", case=name, gb_s=moved * source.nbytes / ms / 1e6)


def tiles(name: str, batch: int, inputs: int) -> Iterator[ProductTile]:
    """The tiles that are tried: enough bytes under way, what shared memory holds, and all by one instruction."""
    blocks = [size for size in (64, 128, 256) if inputs % size == 0]
    for outputs, size, stages in itertools.product((64, 128), blocks, (3, 4, 6)):
        held = stages * size * 2 * (outputs * (2 if name == "gate_up" else 1) + max(batch, gpu.MIN_BLOCK))
        if SHARED_BYTES // 10 <= held <= SHARED_BYTES:
            yield ProductTile(outputs, size, 8 if batch > 16 and outputs == 128 else 4, stages)


def tried(bench: Bench) -> list[tuple[str, int, ProductTile]]:
    """Every product to measure; in Triton's interpreter one tile of each is slow enough."""
    cases = [(name, batch) for batch in bench.scale.batches for name in PRODUCTS]
    if not bench.on_gpu:
        return [(*case, ProductTile(16, 32, stages=2)) for case in cases]
    sizes = shapes(bench.scale.config)
    return [(name, batch, tile) for name, batch in cases for tile in tiles(name, batch, sizes[name][1])]


def products(bench: Bench) -> None:
    cases = tried(bench)
    compile_ahead(bench, "products", [partial(compile_product, bench.scale.config, *case) for case in cases])
    for (batch, name), group in itertools.groupby(cases, lambda case: (case[1], case[0])):
        if bench.late(FOR_PRODUCTS):
            return
        outputs, inputs = shapes(bench.scale.config)[name]
        size = torch.finfo(bench.dtype).bits // 8
        copies = max(2, -(-COLD_BYTES // (outputs * inputs * size))) if bench.on_gpu else 1
        weights = [bench.random(outputs, inputs, scale=inputs**-0.5) for _ in range(copies)]
        _tune(bench, name, batch, bench.random(batch, inputs), weights, [tile for _, _, tile in group])


def _tune(bench: Bench, name: str, batch: int, x: Tensor, weights: list[Tensor], cuts: list[ProductTile]) -> None:
    """cuBLAS and every tile on one product; the quickest that is right becomes the plan's."""
    of_product = {"section": "products", "case": name, "batch": batch}

    def note(us: float, show: bool = False, **how: Any) -> None:
        bench.note(show, **of_product, us=us, gb_s=weights[0].nbytes / us / 1e3, **how)

    note(bench.microseconds(lambda number: F.linear(x, weights[number]), len(weights)), True, by="torch")
    expected, found = _reference(name, x, weights[0]), []
    for tile in cuts:
        if bench.late(FOR_PRODUCTS):
            break
        call = partial(_product, name, x, tile=tile)
        try:
            error = _error(call(weights[0]), expected)
            us = bench.microseconds(_by_number(call, weights), len(weights))
        except Exception as problem:  # too much shared memory, say: the others are still worth their time
            bench.note(False, **of_product, by=repr(tile), problem=str(problem)[:200])
            continue
        note(us, by=repr(tile), error=error)
        if error < 0.01:
            found.append((us, tile))
    if found:
        us, bench.tiles[name, batch] = min(found, key=lambda one: one[0])
        note(us, True, by=repr(bench.tiles[name, batch]), right=f"{len(found)} of {len(cuts)}")


def _by_number(call: Callable[[Tensor], Tensor], weights: Sequence[Tensor]) -> Callable[[int], Tensor]:
    return lambda number: call(weights[number])


def _product(name: str, x: Tensor, weight: Tensor, tile: ProductTile) -> Tensor:
    plan, dtype = replace(gpu.plan_for(len(x), x.device), early=False), x.dtype if name == "head" else None
    return gpu.linear(x, weight, tile, getattr(ORDER, name), plan, gated=name == "gate_up", dtype=dtype)


def _reference(name: str, x: Tensor, weight: Tensor) -> Tensor:
    product = x.float() @ weight.float().T
    gate, up = product.chunk(2, dim=-1)
    return F.silu(gate) * up if name == "gate_up" else product


def _error(sums_SBN: Tensor, expected: Tensor) -> float:
    return float((sums_SBN.float().sum(dim=0) - expected).norm() / expected.norm())


def compile_ahead(bench: Bench, what: str, jobs: Sequence[Callable[[], Any]]) -> None:
    """Fill Triton's cache by many processes, none of which touches the GPU."""
    if not bench.on_gpu:
        return
    began, capability = time.perf_counter(), torch.cuda.get_device_capability(bench.device)
    if bench.pool is None:
        bench.pool = ProcessPoolExecutor(None, multiprocessing.get_context("spawn"), compile_only, (capability,))
    problems = [problem for problem in bench.pool.map(tried_to, jobs, chunksize=1 + len(jobs) // 200) if problem]
    took = time.perf_counter() - began
    bench.note(section="compile", case=f"{what}, {len(jobs)}", seconds=took, problems=problems[:3])


def compile_product(config: AutoregressiveConfig, name: str, batch: int, tile: ProductTile) -> None:
    outputs, inputs = shapes(config)[name]
    _product(name, empty(batch, inputs), empty(outputs, inputs), tile)


def compile_attention(config: AutoregressiveConfig, order: SumOrder) -> None:
    """The same kernels serve every batch."""
    layer_cache = empty(2, 1, config.num_key_value_heads, 2560, config.head_dim)
    attention_call(config, order, layer_cache)(torch.zeros(1, dtype=torch.int64), layer_cache)


def compile_step(config: AutoregressiveConfig, plan: StepPlan) -> None:
    """All kernels of one step and of the sampling after it."""
    with torch.device("meta"):
        model = AutoregressiveModel(replace(config, num_hidden_layers=1))
    model = model.bfloat16().to_empty(device="cpu").requires_grad_(False)
    for layer in gpu.layers_of(model):  # as `fuse` leaves them, without writing
        layer.self_attn.fused = empty(*shapes(config)["qkv"]), empty(shapes(config)["qkv"][0])
    batch, key_heads, size = plan.batch, config.num_key_value_heads, config.head_dim
    cache, input_pos_B = KVCache(empty(1, 2, batch, key_heads, 2560, size)), torch.zeros(batch, dtype=torch.int64)
    cos_sin = empty(batch, config.rotary_dim, dtype=torch.float32)
    logits = gpu.decode_step(model, input_pos_B, (cos_sin, cos_sin), input_pos_B, cache, plan=plan)
    sample_by_kernels(logits[:, : config.codebook_size], empty(batch, dtype=torch.float32), Sampling())


def attention(bench: Bench) -> None:
    """Microseconds of one layer by each way to cut the cache, for every batch and number of keys."""
    cuts = CUTS if bench.on_gpu else ((2, 16),)
    orders = [replace(ORDER, kv_splits=splits, kv_block=block) for splits, block in cuts]
    compile_ahead(bench, "attention", [partial(compile_attention, bench.scale.config, order) for order in orders])
    caches = {batch: _layers(bench, batch) for batch in bench.scale.batches}
    for order in orders:
        if bench.late():
            return
        times: dict[str, Any] = {
            f"us_rows_{batch}": _attention_times(bench, order, layers) for batch, layers in caches.items()
        }
        bench.note(
            section="attention", keys=bench.scale.keys, kv_splits=order.kv_splits, kv_block=order.kv_block, **times
        )


def _layers(bench: Bench, batch: int) -> list[Tensor]:
    """Copies of one layer's cache, 2 B G S d each."""
    config = bench.scale.config
    capacity = -(-(max(bench.scale.keys) + 1) // 256) * 256
    first = bench.random(2, batch, config.num_key_value_heads, capacity, config.head_dim)
    copies = max(2, -(-COLD_BYTES // first.nbytes)) if bench.on_gpu else 1
    return [first, *(bench.random(*first.shape) for _ in range(copies - 1))]


def _attention_times(bench: Bench, order: SumOrder, layers: list[Tensor]) -> list[float]:
    """Microseconds for each number of keys."""
    attend, batch = attention_call(bench.scale.config, order, layers[0]), layers[0].shape[1]
    filled = [torch.full((batch,), keys, device=bench.device) for keys in bench.scale.keys]
    calls = [lambda number, input_pos_B=input_pos_B: attend(input_pos_B, layers[number]) for input_pos_B in filled]
    return [round(bench.microseconds(call, len(layers)), 2) for call in calls]


def attention_call(
    config: AutoregressiveConfig, order: SumOrder, layer_cache: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """`attend(input_pos_B, layer_cache)` with random queries, keys and values."""
    outputs, batch = shapes(config)["qkv"][0], layer_cache.shape[1]
    plan = replace(gpu.plan_for(batch, layer_cache.device), early=False)
    sums = torch.randn(order.qkv, batch, outputs, device=layer_cache.device)
    bias, angles = sums[0, 0].to(layer_cache.dtype), torch.rand(batch, config.rotary_dim, device=layer_cache.device)
    return lambda input_pos_B, layer_cache: gpu.attend(
        sums, bias, (angles, angles), input_pos_B, layer_cache, plan, order
    )


def sampling(bench: Bench) -> None:
    for batch in bench.scale.batches:
        logits = bench.random(batch, bench.scale.config.vision_vocab_size, scale=3.0)[
            :, : bench.scale.config.codebook_size
        ]
        inputs = logits, torch.rand(batch, device=bench.device), Sampling()
        same = torch.equal(sample(*inputs), sample_by_kernels(*inputs))
        for function in (sample, sample_by_kernels):
            us = 1e3 / bench.scale.calls * bench.milliseconds([partial(function, *inputs)] * bench.scale.calls)
            bench.note(section="sampling", case=f"batch {batch}", by=function.__name__, us=us, same=same)


def random_model(bench: Bench) -> AutoregressiveModel:
    with torch.device(bench.device):
        model = AutoregressiveModel(bench.scale.config).eval().requires_grad_(False).to(bench.dtype)
    model.fuse()
    return model


@dataclass(frozen=True)
class Step:
    """One step of a model whose sequences have come to position `keys`; the same one over and over."""

    model: AutoregressiveModel
    ids_B: Tensor
    cos_sin: tuple[Tensor, Tensor]
    input_pos_B: Tensor
    cache: KVCache

    @classmethod
    def of(cls, bench: Bench, model: AutoregressiveModel, batch: int, keys: int) -> Step:
        capacity = -(-(keys + 1) // 256) * 256
        cache = KVCache.allocate(model.config, batch, capacity, bench.device, bench.dtype)
        cache.kv.normal_()
        ids_B = torch.arange(batch, device=bench.device)
        cos_sin = rotary_cos_sin((ids_B % 40).expand(3, batch)[..., None], model.config)
        return cls(model, ids_B, cos_sin, torch.full_like(ids_B, keys), cache)

    def alone(self, index: int) -> Step:
        """The same step of one sequence of the batch."""
        cos, sin = (values[index : index + 1] for values in self.cos_sin)
        cache = KVCache(self.cache.kv[:, :, index : index + 1].contiguous())
        return Step(self.model, self.ids_B[index : index + 1], (cos, sin), self.input_pos_B[index : index + 1], cache)

    def by_kernels(self, plan: StepPlan) -> Tensor:
        return gpu.decode_step(self.model, self.ids_B, self.cos_sin, self.input_pos_B, self.cache, plan=plan)

    def by_torch(self) -> Tensor:
        return self.model.decode_step(self.ids_B, self.cos_sin, self.input_pos_B, self.cache, self.cache.kv.shape[-2])


@torch.inference_mode()
def steps(bench: Bench, model: AutoregressiveModel) -> None:
    plans = [*gpu.PLANS, *(plan for batch in bench.scale.batches for plan in own_plans(bench, batch))]
    compile_ahead(bench, "steps", [partial(compile_step, bench.scale.config, plan) for plan in plans])
    for batch in bench.scale.batches:
        measured = []
        for keys in sorted({bench.scale.keys[0], bench.scale.keys[-1]}):
            if bench.late():
                return
            measured.append(dict(_of_plans(bench, Step.of(bench, model, batch, keys), f"batch {batch}, keys {keys}")))
        right = [plan for plan in measured[0] if all(plan in one for one in measured)]
        total = {plan: sum(one[plan] for one in measured) for plan in right}
        bench.best[batch] = min(total, key=lambda plan: total[plan], default=bench.plan(batch))
        trace(bench, Step.of(bench, model, batch, bench.scale.keys[-1]), bench.best[batch])


def own_plans(bench: Bench, batch: int) -> list[StepPlan]:
    """Those of this run: each way to have loads under way sooner; off a GPU, as it must be, none."""
    plain = replace(bench.plan(batch), early=False, fetch_weights=False, attention_stages=2)
    if not bench.on_gpu:
        return [plain]
    early = replace(plain, early=True)
    starts = plain, early, replace(early, fetch_weights=True)
    return [replace(start, attention_stages=stages) for start, stages in itertools.product(starts, (2, 3))]


def trace(bench: Bench, step: Step, plan: StepPlan) -> None:
    """Milliseconds by kernel, one after another; what one step takes beyond their sum are the gaps between them."""
    plan = replace(plan, early=False)
    step.by_kernels(plan)
    with torch.profiler.profile() as profile:
        step.by_kernels(plan)
        if bench.on_gpu:
            torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    by_kernel = {event.key[:40]: round(event.self_device_time_total / 1e3, 3) for event in events}
    counted = {"total_ms": sum(by_kernel.values()), "launches": sum(event.count for event in events)}
    bench.note(section="trace", case=f"batch {plan.batch}", **counted, **by_kernel)


def _of_plans(bench: Bench, step: Step, case: str) -> Iterator[tuple[StepPlan, float]]:
    """Milliseconds of one step by each plan; those that give other logits than the plainest one are left out."""
    batch = len(step.ids_B)
    mine = own_plans(bench, batch)
    expected, theirs = step.by_kernels(mine[0]), step.by_torch().float()
    error = float((expected.float() - theirs).norm() / theirs.norm())
    bench.note(section="steps", case=case, by="kernels against torch", error=error)
    if batch > 1:
        alone = {index: step.alone(index).by_kernels(bench.plan(1))[0] for index in (0, batch - 1)}
        same = all(torch.equal(logits, expected[index]) for index, logits in alone.items())
        bench.note(section="steps", case=case, by="same alone", same=same)
    for plan in (gpu.plan_for(batch, bench.device), *mine):
        logits: list[Tensor] = []
        ms = bench.milliseconds([partial(_keep, logits, step, plan)] * 3) / 3
        same = all(torch.equal(one, expected) for one in logits)  # of single launches and of the graph's last replay
        way = ", ".join(f"{name} {getattr(plan, name)}" for name in WAYS)
        by = f"{'this run' if plan in mine else 'the code'}, {way}"
        bench.note(section="steps", case=case, by=by, ms=ms, same=same)
        if same:
            yield plan, ms


def _keep(logits: list[Tensor], step: Step, plan: StepPlan) -> None:
    logits.append(step.by_kernels(plan))


def as_code(plan: StepPlan) -> str:
    lines = (f"        {name}={value!r},\n" for name, value in vars(plan).items())
    return "    StepPlan(\n" + "".join(lines) + "    ),\n"


def write_plans(bench: Bench) -> None:
    plans = (bench.best.get(batch) or bench.plan(batch) for batch in bench.scale.batches)
    text = "PLANS = (\n" + "".join(map(as_code, plans)) + ")\n"
    (bench.out / "plans.txt").write_text(text)
    print(text)


SECTIONS = ("bandwidth", "products", "attention", "sampling", "steps")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=150, help="nothing begins after so long")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try the script itself")
    arguments = parser.parse_args(argv)
    device, scale = pick_device("auto"), toy() if arguments.toy else full()
    if device.type == "cuda":
        gc.freeze()  # recording a graph collects garbage, which takes longer than the measurement
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(scale, device, dtype_for(device), arguments.out, arguments.seconds)
    for section in (bandwidth, products, attention, sampling):
        if section.__name__ in arguments.only and not bench.late():
            section(bench)
    write_plans(bench)
    if "steps" in arguments.only and not bench.late():
        steps(bench, random_model(bench))
        write_plans(bench)
    if bench.pool is not None:
        bench.pool.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
