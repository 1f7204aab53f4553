"""Triton kernels for what stands between the products of a decoder's block: every value read and written once.

Text and image tokens are one stream from block to block. `stream_kernel` adds what an attention or feed-forward gives
and makes the norm that the next product reads; `heads_kernel` normalises and rotates queries and keys. Each has one
program per token: the memory limits both, and a token of the published width keeps 256 threads busy.

Values are rounded to the model's type where the PyTorch code of `glmkit.models.decoder.model` rounds them, sums are
float32. A token's result depends on no other token, nor on how many there are: `length` and `text` are nowhere
specialized.

Shapes as in `glmkit.models`; L tokens of a sample, the first T of them glyphs. The modulation of a block at one step is
12 x D as `decoder.model.Modulation` gives it: 2 i for the image and 2 i + 1 for the text, i from attention's shift,
scale and gate to the feed-forward's.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Arguments are pointers and numbers; Triton reads the annotations, so they are no strings here.
import triton
import triton.language as tl

PER_LARGEST = tl.constexpr(1 / 448)


@triton.jit
def _store_float8(value, values, scales, token, c, inside, width):
    """Write a token in e4m3, and its scale: its largest value / 448, or 1 (`glmkit.models.float8.cast_rows`)."""
    value = value.to(tl.float32)
    top = tl.max(tl.where(inside, tl.abs(value), 0.0), axis=0)
    scale = tl.where(top > 0, top * PER_LARGEST, 1.0)
    tl.store(values + token * width + c, tl.div_rn(value, scale).to(tl.float8e4nv), mask=inside)
    tl.store(scales + token, scale)


@triton.jit(do_not_specialize=["length", "text"])
def stream_kernel(
    x, addend, new, normed, scales, gates, shifts, length, text, width, eps,
    GATE: tl.constexpr, SHIFT: tl.constexpr, FLOAT8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute a token's `new` = x + gate * addend where GATE >= 0, and `normed`, its modulated norm, where SHIFT >= 0.

    Values are rounded where PyTorch's operations round. FLOAT8: `normed` is e4m3, and tokens' scales go to `scales`.
    """
    token = tl.program_id(0).to(tl.int64)
    is_glyph = (token % length < text).to(tl.int32)
    c = tl.arange(0, BLOCK)
    inside = c < width
    value = tl.load(x + token * width + c, mask=inside, other=0.0)
    if GATE >= 0:
        gate = tl.load(gates + (2 * GATE + is_glyph) * width + c, mask=inside, other=0.0).to(tl.float32)
        more = tl.load(addend + token * width + c, mask=inside, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) + gate * more).to(value.dtype)
        tl.store(new + token * width + c, value, mask=inside)
    if SHIFT >= 0:
        whole = value.to(tl.float32)
        far = tl.where(inside, whole - tl.sum(whole, axis=0) / width, 0.0)
        unit = far * tl.rsqrt(tl.sum(far * far, axis=0) / width + eps)
        shift = tl.load(shifts + (2 * SHIFT + is_glyph) * width + c, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(shifts + (2 * SHIFT + 2 + is_glyph) * width + c, mask=inside, other=0.0)
        scale = (1 + scale.to(tl.float32)).to(value.dtype).to(tl.float32)
        unit = unit.to(value.dtype).to(tl.float32)
        result = (shift + unit * scale).to(value.dtype)
        if FLOAT8:
            _store_float8(result, normed, scales, token, c, inside, width)
        else:
            tl.store(normed + token * width + c, result, mask=inside)


@triton.jit
def cast_kernel(x, values, scales, width, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """Write tokens in e4m3 with their scales; with GELU, the tanh form of it, rounded as PyTorch's is."""
    token = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < width
    value = tl.load(x + token * width + c, mask=inside, other=0.0)
    if GELU:
        whole = value.to(tl.float32)
        # x (1 + tanh(u)) / 2 is x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
        twice = 1.5957691216057308 * (whole + 0.044715 * whole * whole * whole)
        value = (whole / (1 + tl.exp(-twice))).to(value.dtype)
    _store_float8(value, values, scales, token, c, inside, width)


@triton.jit(do_not_specialize=["length"])
def heads_kernel(qkv, query, key, cos, sin, length, heads, eps, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Normalise every head of one token's query and key, and rotate it by the token's angles."""
    token = tl.program_id(0).to(tl.int64)
    k, i = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = k < heads
    width = heads * 2 * HALF
    offset = k * 2 * HALF + i
    c = tl.load(cos + token % length * HALF + i)
    s = tl.load(sin + token % length * HALF + i)
    for which in tl.static_range(2):
        first = tl.load(qkv + token * 3 * width + which * width + offset, mask=inside, other=0.0)
        second = tl.load(qkv + token * 3 * width + which * width + offset + HALF, mask=inside, other=0.0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1))[:, None] / (2 * HALF)
        a, b = a - mean, b - mean
        unit = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1))[:, None] / (2 * HALF) + eps)
        a, b = (a * unit).to(first.dtype).to(tl.float32), (b * unit).to(first.dtype).to(tl.float32)
        out = query if which == 0 else key
        tl.store(out + token * width + offset, (a * c - b * s).to(first.dtype), mask=inside)
        tl.store(out + token * width + offset + HALF, (b * c + a * s).to(first.dtype), mask=inside)
