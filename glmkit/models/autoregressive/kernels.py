"""Triton kernels of one decoding step: every layer in eight launches that read each weight once, at the memory's speed.

One step of a small batch computes little and reads all weights, so nothing else may wait for the memory:

- `linear_kernel`: y = x Wᵀ for up to 64 sequences. A product with few outputs is also cut along the inputs, so that
  all processors read; the kernel that reads the result adds the splits up, always in the same order.
- `attend_kernel` and `merge_kernel`: a sequence's query over a split of its cache (Flash-Decoding, Dao et al. 2023).
- `norm_kernel`: what an attention or MLP gives, its norm, the residual sum, and the norm of what comes next.
- `candidates_kernel` and `sample_kernel`: top-k, top-p and the sampled token.

With EARLY a kernel may start while the one before is still running (programmatic dependent launch): it waits in `_wait`
before it touches what others made, and a product asks for the first of its weights meanwhile.

Every value is rounded to the model's type where the PyTorch code of `glmkit.models.autoregressive.model` rounds it,
sums are float32. Nothing depends on the order in which programs run, and no value of a sequence on the size of its
batch. So `batch` is nowhere specialized: Triton would make other kernels for 1 and for multiples of 16, which may sum
in another order.

Shapes: B batch, K inputs and N outputs of a product, H heads, G key heads, D head width, S keys, P splits of the keys.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Arguments are pointers and numbers; Triton reads the annotations, so they are no strings here.
import triton
import triton.language as tl

FETCH_BYTES = tl.constexpr(256)  # that one thread asks for; the instruction in `_fetch` says it again
LOG2_E = tl.constexpr(1.4426950408889634)  # exp2(LOG2_E x) is exp(x), and exp2 is one instruction


@triton.jit
def _start_next(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _fetch(pointers):
    """Ask for FETCH_BYTES at each pointer, and go on without them."""
    tl.inline_asm_elementwise(
        "{ cp.async.bulk.prefetch.L2.global [$1], 256; mov.u32 $0, 0; }",
        "=r,l",
        [pointers],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _gated(gates, ups, TYPE: tl.constexpr):
    """Return silu(gate) * up of two sums, rounded where the modules round."""
    gate = gates.to(TYPE).to(tl.float32)
    active = (gate / (1 + tl.exp(-gate))).to(TYPE).to(tl.float32)
    return active * ups.to(TYPE).to(tl.float32)


@triton.jit(do_not_specialize=["batch"])
def linear_kernel(
    x, weight, out, batch, N: tl.constexpr, K: tl.constexpr, SPLIT: tl.constexpr, GATED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, FETCHED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Compute out[s, b, n], the sum of weight[n, k] x[b, k] over the s-th SPLIT of all k; the last may be shorter.

    GATED: the weight has 2 N rows, first those of the gates, and out = silu(gate) * up. BLOCK_K divides K and SPLIT.
    The batch is filled up with zeros to BLOCK_B, 16 or more, for the matrix units. FETCHED pieces of every row of the
    weight, of FETCH_BYTES, are asked for before the inputs are there.
    """
    _start_next(EARLY)
    tile, split = tl.program_id(0), tl.program_id(1)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.arange(0, BLOCK_B)
    k = tl.arange(0, BLOCK_K)
    first = split * (SPLIT // BLOCK_K)
    last = tl.minimum(first + SPLIT // BLOCK_K, K // BLOCK_K)
    # Beyond the last output the first ones are read again: loads without a mask are the quickest.
    weight_rows = weight + (n % N)[:, None] * K
    weights = weight_rows + k[None, :]
    if FETCHED > 0:
        PIECE: tl.constexpr = FETCH_BYTES * 8 // weight.dtype.element_ty.primitive_bitwidth
        begin = tl.minimum(first * BLOCK_K, K - FETCHED * PIECE)
        pieces = weight_rows + begin + tl.arange(0, FETCHED)[None, :] * PIECE
        _fetch(pieces)
        if GATED:
            _fetch(pieces + N * K)
    _wait(EARLY)
    sums = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    up_sums = sums
    for block in tl.range(first, last, num_stages=STAGES):
        inputs = tl.load(x + b[None, :] * K + block * BLOCK_K + k[:, None], mask=b[None, :] < batch, other=0.0)
        sums = tl.dot(tl.load(weights + block * BLOCK_K), inputs, sums, input_precision="ieee")
        if GATED:
            up_sums = tl.dot(tl.load(weights + N * K + block * BLOCK_K), inputs, up_sums, input_precision="ieee")
    if GATED:
        sums = _gated(sums, up_sums, x.dtype.element_ty)
    target = out + (split * batch + b[None, :]) * N + n[:, None]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(n[:, None] < N) & (b[None, :] < batch))


@triton.jit
def _summed(addends, at, mask, batch, N: tl.constexpr, SPLITS: tl.constexpr):
    """Return the values at offsets `at` of `linear_kernel`'s result, its addends added up."""
    total = tl.load(addends + at, mask=mask, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(addends + split * batch * N + at, mask=mask, other=0.0)
    return total


@triton.jit
def _qkv(
    addends, bias, sequence, batch, column, mask, N: tl.constexpr, SPLITS: tl.constexpr, BIAS: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """Return columns of the fused projection of queries, keys and values, with their bias, rounded, as float32."""
    total = _summed(addends, sequence * N + column, mask, batch, N, SPLITS)
    if BIAS:
        total += tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    return total.to(TYPE).to(tl.float32)


@triton.jit
def _splits(input_pos, sequence, KV_SPLITS: tl.constexpr, BLOCK_S: tl.constexpr):
    """Return the position of a sequence's new token, how many keys a split has, and how many splits have any.

    Positions do not change during one step, so there is nothing to wait for.
    """
    position = tl.load(input_pos + sequence).to(tl.int32)
    length = tl.maximum(tl.cdiv(tl.cdiv(position, KV_SPLITS), BLOCK_S), 1) * BLOCK_S
    return position, length, tl.maximum(tl.cdiv(position, length), 1)


@triton.jit
def _new_token(
    addends, bias, cos, sin, sequence, batch, key_head, split,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, D: tl.constexpr, ROTARY: tl.constexpr, SPLITS: tl.constexpr,
    BIAS: tl.constexpr, BLOCK_H: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Return a sequence's new queries BLOCK_H D of one key head, turned to their position, with its key and value D.

    Key and value are zeros but for the first split.
    """
    N: tl.constexpr = (HEADS + 2 * KEY_HEADS) * D
    GROUP: tl.constexpr = HEADS // KEY_HEADS
    d = tl.arange(0, D)
    h = tl.arange(0, BLOCK_H)
    real = (h < GROUP)[:, None] & (d >= 0)[None, :]
    turning = d < ROTARY
    partner = tl.where(turning, tl.where(d < ROTARY // 2, d + ROTARY // 2, d - ROTARY // 2), d)
    cosine = tl.load(cos + sequence * ROTARY + d, mask=turning, other=1.0).to(TYPE).to(tl.float32)
    sine = tl.load(sin + sequence * ROTARY + d, mask=turning, other=0.0).to(TYPE).to(tl.float32)
    sine = tl.where(d < ROTARY // 2, -sine, sine)

    column = (key_head * GROUP + h)[:, None] * D
    query = _qkv(addends, bias, sequence, batch, column + d[None, :], real, N, SPLITS, BIAS, TYPE)
    turned = real & turning[None, :]
    partner_value = _qkv(addends, bias, sequence, batch, column + partner[None, :], turned, N, SPLITS, BIAS, TYPE)
    query = (query * cosine[None, :] + partner_value * sine[None, :]).to(TYPE)

    column = (HEADS + key_head) * D
    first = split * D + d < D  # other splits need no key and value of the new token
    key = _qkv(addends, bias, sequence, batch, column + d, first, N, SPLITS, BIAS, TYPE)
    partner_value = _qkv(addends, bias, sequence, batch, column + partner, first & turning, N, SPLITS, BIAS, TYPE)
    key = (key * cosine + partner_value * sine).to(TYPE)
    value = _qkv(addends, bias, sequence, batch, column + KEY_HEADS * D + d, first, N, SPLITS, BIAS, TYPE)
    return query, key, value


@triton.jit(do_not_specialize=["batch", "capacity"])
def attend_kernel(
    addends, bias, cos, sin, input_pos, cache, partials, maxima, masses, batch, capacity,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, D: tl.constexpr, ROTARY: tl.constexpr, SPLITS: tl.constexpr,
    BIAS: tl.constexpr, KV_SPLITS: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Attend with the heads of one key head and sequence to a split of the cache: `partials` B H P D not yet divided by
    `masses` B H P, both relative to 2 to the power of `maxima` B H P. Nothing is written of splits without keys.

    The new token's own key and value, turned to its position, are written to position `input_pos[sequence]` of `cache`
    2 B G S D by the first split, which begins with them; all splits together read the keys before. `cos` and `sin` are
    B x ROTARY; a dimension below ROTARY / 2 pairs with the one ROTARY / 2 above.
    """
    _start_next(EARLY)
    program = tl.program_id(0)
    TYPE: tl.constexpr = cache.dtype.element_ty
    GROUP: tl.constexpr = HEADS // KEY_HEADS
    split, pair = program % KV_SPLITS, program // KV_SPLITS
    key_head, sequence = pair % KEY_HEADS, pair // KEY_HEADS
    d = tl.arange(0, D)
    h = tl.arange(0, BLOCK_H)
    position, length, used = _splits(input_pos, sequence, KV_SPLITS, BLOCK_S)
    if split >= used:
        return
    end = tl.minimum((split + 1) * length, position)
    keys = cache + pair.to(tl.int64) * capacity * D
    values = cache + (pair.to(tl.int64) + batch * KEY_HEADS) * capacity * D
    _wait(EARLY)
    query, key, value = _new_token(
        addends, bias, cos, sin, sequence, batch, key_head, split,
        HEADS, KEY_HEADS, D, ROTARY, SPLITS, BIAS, BLOCK_H, TYPE,
    )  # fmt: skip
    if split == 0:
        tl.store(keys + position * D + d, key)
        tl.store(values + position * D + d, value.to(TYPE))

    scale = D**-0.5 * LOG2_E
    current = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None, :], axis=1) * scale
    top = tl.where(split == 0, current, float("-inf"))
    mass = tl.where(split == 0, 1.0, tl.zeros((BLOCK_H,), tl.float32))
    sums = tl.where(split == 0, value[None, :], tl.zeros((BLOCK_H, D), tl.float32))

    for start in tl.range(split * length, end, BLOCK_S, num_stages=STAGES):
        s = start + tl.arange(0, BLOCK_S)
        block = tl.load(keys + s[None, :] * D + d[:, None], mask=(s < end)[None, :], other=0.0)
        scores = tl.dot(query, block, input_precision="ieee") * scale
        scores = tl.where((s < end)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        mass = mass * shrink + tl.sum(weights, axis=1)
        block = tl.load(values + s[:, None] * D + d[None, :], mask=(s < end)[:, None], other=0.0)
        sums = tl.dot(weights.to(TYPE), block, sums * shrink[:, None], input_precision="ieee")
        top = higher

    at = (sequence * HEADS + key_head * GROUP + h) * KV_SPLITS + split
    tl.store(maxima + at, top, mask=h < GROUP)
    tl.store(masses + at, mass, mask=h < GROUP)
    tl.store(partials + at[:, None] * D + d[None, :], sums, mask=(h < GROUP)[:, None] & (d >= 0)[None, :])


@triton.jit
def merge_kernel(
    partials, maxima, masses, input_pos, out, HEADS: tl.constexpr, KV_SPLITS: tl.constexpr, BLOCK_S: tl.constexpr,
    D: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Merge the splits of `attend_kernel` to `out` B H D, one program per sequence and head."""
    _start_next(EARLY)
    program = tl.program_id(0)
    _, _, used = _splits(input_pos, program // HEADS, KV_SPLITS, BLOCK_S)
    p = tl.arange(0, KV_SPLITS)
    at = program * KV_SPLITS + p
    d = tl.arange(0, D)
    _wait(EARLY)
    top = tl.load(maxima + at, mask=p < used, other=float("-inf"))
    mass = tl.load(masses + at, mask=p < used, other=0.0)
    sums = tl.load(partials + at[:, None] * D + d[None, :], mask=(p < used)[:, None], other=0.0)
    weights = tl.exp2(top - tl.max(top, axis=0))
    merged = tl.sum(weights[:, None] * sums, axis=0) / tl.sum(weights * mass, axis=0)
    tl.store(out + program * D + d, merged.to(out.dtype.element_ty))


@triton.jit
def _normed(x, weight, eps, WIDTH: tl.constexpr, TYPE: tl.constexpr):
    """Return the root-mean-square norm of one token, rounded before and after the weight."""
    scale = 1 / tl.sqrt_rn(tl.sum(x * x, axis=0) / WIDTH + eps)
    return ((x * scale).to(TYPE).to(tl.float32) * weight.to(tl.float32)).to(TYPE)


@triton.jit(do_not_specialize=["batch"])
def norm_kernel(
    x, addends, after, before, out, batch, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Add norm(sum of `addends`), with weight `after`, to x in place; `out` = norm(x) with weight `before`.

    SPLITS 0: nothing is added.
    """
    _start_next(EARLY)
    sequence = tl.program_id(0)
    TYPE: tl.constexpr = x.dtype.element_ty
    i = tl.arange(0, BLOCK)
    inside = i < WIDTH
    # Weights come from far away, so they are asked for before all else.
    last_weight = tl.load(before + i, mask=inside, other=0.0)
    if SPLITS > 0:
        first_weight = tl.load(after + i, mask=inside, other=0.0)
    _wait(EARLY)
    residual = tl.load(x + sequence * WIDTH + i, mask=inside, other=0.0).to(tl.float32)
    if SPLITS > 0:
        added = _summed(addends, sequence * WIDTH + i, inside, batch, WIDTH, SPLITS).to(TYPE).to(tl.float32)
        residual += _normed(added, first_weight, eps, WIDTH, TYPE).to(tl.float32)
        tl.store(x + sequence * WIDTH + i, residual.to(TYPE), mask=inside)
        residual = residual.to(TYPE).to(tl.float32)
    tl.store(out + sequence * WIDTH + i, _normed(residual, last_weight, eps, WIDTH, TYPE), mask=inside)


@triton.jit
def candidates_kernel(logits, best_keys, stride, codebook_size, CHUNK: tl.constexpr, TOP: tl.constexpr):
    """Find the TOP best of each CHUNK of a sequence's logits, as integers that order by logit, then by the lower id."""
    sequence, chunk = tl.program_id(0), tl.program_id(1)
    id_ = chunk * CHUNK + tl.arange(0, CHUNK)
    begin = logits + sequence.to(tl.int64) * stride
    logit = tl.load(begin + id_, mask=id_ < codebook_size, other=float("-inf")).to(tl.float32)
    bits = tl.where(logit == 0, 0.0, logit).to(tl.int32, bitcast=True)  # no two zeros
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    best = tl.topk((ordered << 32) | (0x7FFFFFFF - id_).to(tl.int64), TOP)
    tl.store(best_keys + (sequence * tl.num_programs(1) + chunk) * TOP + tl.arange(0, TOP), best)


@triton.jit
def sample_kernel(
    best_keys, uniforms, sampled, chunks, kept: tl.constexpr, temperature: tl.constexpr, top_p: tl.constexpr,
    ALL: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """Sample one token of a sequence, as `glmkit.generation.sampling` says, from the best of all its chunks.

    The settings are constants, since float arguments would arrive rounded to float32.
    """
    sequence = tl.program_id(0)
    i = tl.arange(0, ALL)
    key = tl.load(best_keys + sequence * chunks * TOP + i, mask=i < chunks * TOP, other=-0x7FFFFFFFFFFFFFFF)
    best = tl.topk(key, TOP)
    ordered = (best >> 32).to(tl.int32)
    logit = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    id_ = 0x7FFFFFFF - (best & 0x7FFFFFFF)
    rank = tl.arange(0, TOP)
    score = (logit.to(tl.float64) - id_.to(tl.float64) * 2.0**-42) / temperature
    weight = tl.where(rank < kept, tl.exp(score - tl.max(score, axis=0)), 0.0)
    cumulative = tl.cumsum(weight / tl.sum(weight, axis=0), axis=0)
    allowed = 1 + tl.sum(((rank < kept - 1) & (cumulative < top_p)).to(tl.int32), axis=0)
    border = tl.load(uniforms + sequence).to(tl.float64) * tl.sum(
        tl.where(rank == allowed - 1, cumulative, 0.0), axis=0
    )
    chosen = tl.sum(((rank < kept) & (cumulative <= border)).to(tl.int32), axis=0)
    tl.store(sampled + sequence, tl.sum(tl.where(rank == chosen, id_, 0), axis=0))
