"""Triton kernels for what stands between the products of a decoder's block: every value read and written once.

Text and image tokens are one stream from block to block. `stream_kernel` adds what an attention or feed-forward gives
and makes the norm that the next product reads; `heads_kernel` normalises and rotates queries and keys. One program a
token: the memory limits both, and a token of the published width keeps 256 threads busy.

Values are rounded to the model's type where the PyTorch code of `glmkit.models.decoder.model` rounds them, sums are
float32.
A token's result depends on no other token, nor on how many there are: `length` and `text` are nowhere specialized.

Shapes: B rows, L tokens of a row, the first T of them glyphs, D width, K heads, d head width. Vectors of a block at one
step are 12 x D as `decoder.Modulation` gives them: 2 i for the image and 2 i + 1 for the text, i from attention's
shift, scale and gate to the feed-forward's.
"""

# mypy: disable-error-code="no-untyped-def"
# Arguments are pointers and numbers; Triton reads the annotations, so they are no strings here.
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["length", "text"])
def stream_kernel(
    x, update, new, normed, gates, norms, length, text, width, eps,
    GATE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: `new` = x + gate * update where GATE >= 0, and `normed`, its modulated norm, where SHIFT >= 0; rounded
    where PyTorch's operations round."""
    row = tl.program_id(0).to(tl.int64)
    told = (row % length < text).to(tl.int32)
    c = tl.arange(0, BLOCK)
    inside = c < width
    value = tl.load(x + row * width + c, mask=inside, other=0.0)
    if GATE >= 0:
        gate = tl.load(gates + (2 * GATE + told) * width + c, mask=inside, other=0.0).to(tl.float32)
        more = tl.load(update + row * width + c, mask=inside, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) + gate * more).to(value.dtype)
        tl.store(new + row * width + c, value, mask=inside)
    if SHIFT >= 0:
        whole = value.to(tl.float32)
        far = tl.where(inside, whole - tl.sum(whole, axis=0) / width, 0.0)
        unit = far * tl.rsqrt(tl.sum(far * far, axis=0) / width + eps)
        shift = tl.load(norms + (2 * SHIFT + told) * width + c, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(norms + (2 * SHIFT + 2 + told) * width + c, mask=inside, other=0.0)
        scale = (1 + scale.to(tl.float32)).to(value.dtype).to(tl.float32)
        unit = unit.to(value.dtype).to(tl.float32)
        tl.store(normed + row * width + c, (shift + unit * scale).to(value.dtype), mask=inside)


@triton.jit(do_not_specialize=["length"])
def heads_kernel(qkv, query, key, cos, sin, length, heads, eps, HEADS: tl.constexpr, HALF: tl.constexpr):
    """One token: the norm of every head of its query and its key, rotated by the token's angles."""
    row = tl.program_id(0).to(tl.int64)
    k, i = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = k < heads
    width = heads * 2 * HALF
    place = k * 2 * HALF + i
    c = tl.load(cos + row % length * HALF + i)
    s = tl.load(sin + row % length * HALF + i)
    for part in tl.static_range(2):
        first = tl.load(qkv + row * 3 * width + part * width + place, mask=inside, other=0.0)
        second = tl.load(qkv + row * 3 * width + part * width + place + HALF, mask=inside, other=0.0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1))[:, None] / (2 * HALF)
        a, b = a - mean, b - mean
        unit = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1))[:, None] / (2 * HALF) + eps)
        a, b = (a * unit).to(first.dtype).to(tl.float32), (b * unit).to(first.dtype).to(tl.float32)
        out = query if part == 0 else key
        tl.store(out + row * width + place, (a * c - b * s).to(first.dtype), mask=inside)
        tl.store(out + row * width + place + HALF, (b * c + a * s).to(first.dtype), mask=inside)
