"""A Triton kernel for the products of a decoding step with packed weights (`glmkit.models.quantized`).

Reading the weights takes the time, so half of the bits take half of it, if unpacking keeps up. It does by words: a tile
of 16-bit words reaches the registers as one of 16-bit floating point would, and one instruction makes two float16
numbers of the same part of two words: the bits of a whole number u below those of 1024 are those of 1024 + u. Whole
numbers of 8 bits are exact in float16, but not in bfloat16. So inputs become float16, too, less by SHRINK, which lets
them be up to 10^6: those of bfloat16 lose nothing above 10^-3, and what lies below is off by less than 10^-6.

The order of sums is that of the words, group by group, whatever the tile.

Shapes as in `glmkit.models.autoregressive.kernels`; G groups of inputs.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Arguments are pointers and numbers; Triton reads the annotations, so they are no strings here.
import triton
import triton.language as tl

from glmkit.models.autoregressive.kernels import _gated, _start_next, _wait

SHRINK = tl.constexpr(2.0**-4)


@triton.jit
def _two(words, CODE: tl.constexpr):
    """Run instructions that make two float16 numbers ($0) of two words ($1)."""
    return tl.inline_asm_elementwise(CODE, "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2)


# Bytes: `prmt` puts 0x64 above each, which is 1024 + u; 0x6480 is 1152.
BYTES = tl.constexpr(
    "{ .reg .b32 a, c, s; mov.b32 c, 0x64646464; mov.b32 s, 0x64806480; prmt.b32 a, $1, c, 0x4240; "
    "sub.rn.f16x2 $0, a, s; }"
)
HIGH_BYTES = tl.constexpr(
    "{ .reg .b32 a, c, s; mov.b32 c, 0x64646464; mov.b32 s, 0x64806480; prmt.b32 a, $1, c, 0x4341; "
    "sub.rn.f16x2 $0, a, s; }"
)
# Half bytes: `lop3` puts 0x6400 around them. 0x6408 is 1032; of the upper ones, (1024 + 16 u) / 16 - 72 = u - 8.
HALVES = tl.constexpr(
    "{ .reg .b32 a, s; mov.b32 s, 0x64086408; lop3.b32 a, $1, 0x000f000f, 0x64006400, 0xEA; sub.rn.f16x2 $0, a, s; }"
)
UPPER_HALVES = tl.constexpr(
    "{ .reg .b32 a, m, s; mov.b32 m, 0x2c002c00; mov.b32 s, 0xd480d480; "
    "lop3.b32 a, $1, 0x00f000f0, 0x64006400, 0xEA; fma.rn.f16x2 $0, a, m, s; }"
)
HIGH_HALVES = tl.constexpr(
    "{ .reg .b32 a, s; mov.b32 s, 0x64086408; shr.u32 a, $1, 8; "
    "lop3.b32 a, a, 0x000f000f, 0x64006400, 0xEA; sub.rn.f16x2 $0, a, s; }"
)
HIGH_UPPER_HALVES = tl.constexpr(
    "{ .reg .b32 a, m, s; mov.b32 m, 0x2c002c00; mov.b32 s, 0xd480d480; shr.u32 a, $1, 8; "
    "lop3.b32 a, a, 0x00f000f0, 0x64006400, 0xEA; fma.rn.f16x2 $0, a, m, s; }"
)


@triton.jit
def _numbers(words, PART: tl.constexpr, BITS: tl.constexpr, BY_WORDS: tl.constexpr):
    """Return the whole numbers of one part of words, as float16."""
    if not BY_WORDS:
        least: tl.constexpr = 1 << (BITS - 1)
        return (((words.to(tl.int32) >> (PART * BITS)) & (2 * least - 1)) - least).to(tl.float16)
    if BITS == 8:
        if PART == 0:
            return _two(words, BYTES)
        else:
            return _two(words, HIGH_BYTES)
    else:
        if PART == 0:
            return _two(words, HALVES)
        elif PART == 1:
            return _two(words, UPPER_HALVES)
        elif PART == 2:
            return _two(words, HIGH_HALVES)
        else:
            return _two(words, HIGH_UPPER_HALVES)


@triton.jit(do_not_specialize=["batch"])
def packed_linear_kernel(
    x, words, scales, out, batch, N: tl.constexpr, K: tl.constexpr, SPLIT: tl.constexpr, GATED: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, GROUPED: tl.constexpr, BY_WORDS: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Compute what `linear_kernel` does with the weight scale[n] number[n, k], or GROUPED scale[n, k's group] number.

    `words` are N x K BITS / 16, packed by groups of GROUP inputs; `scales` G x N, of a GATED weight G x 2 N. GROUP
    divides SPLIT.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    PARTS: tl.constexpr = 16 // BITS
    WORDS: tl.constexpr = GROUP // PARTS
    ALL: tl.constexpr = 2 * N if GATED else N
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.arange(0, BLOCK_B)
    c = tl.arange(0, WORDS)
    first = split * (SPLIT // GROUP)
    last = tl.minimum(first + SPLIT // GROUP, K // GROUP)
    # Beyond the last output the first ones are read again: loads without a mask are the quickest.
    own_words = words + (n % N)[:, None] * (K // PARTS) + c[None, :]
    own_scales = scales + n % N
    inputs = x + b[None, :] * K + c[:, None]
    real = b[None, :] < batch
    _wait(EARLY)
    sums = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    up_sums = sums
    zeros = sums
    for group in tl.range(first, last, num_stages=STAGES):
        packed = tl.load(own_words + group * WORDS)
        if GATED:
            up_packed = tl.load(own_words + N * (K // PARTS) + group * WORDS)
        total = zeros if GROUPED else sums
        up_total = zeros if GROUPED else up_sums
        for part in tl.static_range(PARTS):
            token = tl.load(inputs + group * GROUP + part * WORDS, mask=real, other=0.0).to(tl.float32)
            token = (token * SHRINK).to(tl.float16)
            total = tl.dot(_numbers(packed, part, BITS, BY_WORDS), token, total)
            if GATED:
                up_total = tl.dot(_numbers(up_packed, part, BITS, BY_WORDS), token, up_total)
        if GROUPED:
            sums += total * tl.load(own_scales + group * ALL).to(tl.float32)[:, None]
            if GATED:
                up_sums += up_total * tl.load(own_scales + group * ALL + N).to(tl.float32)[:, None]
        else:
            sums = total
            up_sums = up_total
    # Here, not at the start: kernels that run beside this one would take what unpacking needs.
    _start_next(EARLY)
    sums = sums / SHRINK
    up_sums = up_sums / SHRINK
    if not GROUPED:
        sums = sums * tl.load(own_scales).to(tl.float32)[:, None]
        if GATED:
            up_sums = up_sums * tl.load(own_scales + N).to(tl.float32)[:, None]
    if GATED:
        sums = _gated(sums, up_sums, x.dtype.element_ty)
    target = out + (split * batch + b[None, :]) * N + n[:, None]
    tl.store(target, sums.to(out.dtype.element_ty), mask=(n[:, None] < N) & real)
