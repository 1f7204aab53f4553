"""Triton kernels for what stands between the convolutions of a VAE: every value read and written as rarely as can be.

- `sums_kernel` and `merge_kernel`: the statistics of a group norm, as one factor and one summand per channel and image.
- `silu_kernel`: the norm by them, and SiLU.
- `join_kernel`: a residual sum, with each pixel repeated where the next convolution works at a larger size.

All are limited by the memory, so blocks follow from how it is read. A program takes 4096 values at a time: rows of up
to 128 neighbouring channels (256 bytes of bfloat16, two lines of the cache), so that each of 128 threads has four loads
of 16 bytes under way. Programs that start together take channels beside each other first, and so read the memory in one
piece. `sums_kernel` goes through many such tiles with three of them under way, 24 KB, about what a Hopper needs on each
of its 132 processors to keep the memory busy; a thousand programs per image, eight per processor, leave at most 1 MB of
partial sums, which the one program per group merges quickly. The other kernels have as many programs as tiles.

Statistics are float32 and made in an order that only the image's size decides; no program sees another image.

Shapes: B batch, P pixels, C channels, N chunks of pixels. An image lies in memory as P x C.
Offsets within a tile are 32 bits, where it begins 64: an image of 2048x2048 has 2**31 values at 512 channels.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Arguments are pointers and numbers; Triton reads the annotations, so they are no strings here.
import triton
import triton.language as tl


@triton.jit
def _position(channels, BLOCK_C: tl.constexpr):
    """Return what the program works on: the number of its block of pixels, its channels, and its image."""
    blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    return program // blocks, program % blocks * BLOCK_C + tl.arange(0, BLOCK_C), tl.program_id(1).to(tl.int64)


@triton.jit
def _tile(pixels, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the program's one tile: channels, image, pixels, where it begins, offsets in it, which of them exist."""
    block, c, image = _position(channels, BLOCK_C)
    first = block * BLOCK_P
    p = tl.arange(0, BLOCK_P)
    inside = (p < pixels - first)[:, None] & (c < channels)[None, :]
    return c, image, first + p, (image * pixels + first) * channels, p[:, None] * channels + c[None, :], inside


@triton.jit(do_not_specialize=["pixels", "chunk", "chunks"])
def sums_kernel(
    x, means, squares, pixels, chunk, chunks, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Compute `means` B N C and `squares` B N C: a chunk's mean, and its sum of squared distances from that mean.

    Sums are of distances from the chunk's first pixel. That is a value like the others: its squared distance from the
    mean is at most `chunk` times the variance, usually about the variance itself, so little is lost by cancellation
    however far from zero all values lie.
    """
    number, c, image = _position(channels, BLOCK_C)
    first = number * chunk
    count = tl.minimum(chunk, pixels - first)
    begin = x + (image * pixels + first) * channels
    one = tl.load(begin + c, mask=c < channels, other=0.0).to(tl.float32)
    p = tl.arange(0, BLOCK_P)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    square = total
    for start in tl.range(0, count, BLOCK_P, num_stages=STAGES):
        inside = ((start + p) < count)[:, None] & (c < channels)[None, :]
        values = tl.load(begin + (start + p)[:, None] * channels + c[None, :], mask=inside, other=0.0)
        distance = tl.where(inside, values.to(tl.float32) - one[None, :], 0.0)
        total += distance
        square += distance * distance
    sums = tl.sum(total, axis=0)
    mean = sums / count
    at = (image * chunks + number) * channels + c
    tl.store(means + at, one + mean, mask=c < channels)
    tl.store(squares + at, tl.sum(square, axis=0) - sums * mean, mask=c < channels)


@triton.jit
def _parts(
    means, squares, added, middle, start, pixels, chunk, chunks, channels, group, ADDED: tl.constexpr,
    BLOCK: tl.constexpr, SQUARED: tl.constexpr,
):  # fmt: skip
    """Return what BLOCK pairs of a chunk and a channel of the group, from the `start`-th on, add to the sum of values.

    With SQUARED: to the sum of the squared distances from `middle`.
    """
    pair = start + tl.arange(0, BLOCK)
    inside = pair < chunks * group
    number, c = pair // group, tl.program_id(0) * group + pair % group
    at = (tl.program_id(1).to(tl.int64) * chunks + number) * channels + c
    count = tl.minimum(chunk, pixels - number * chunk).to(tl.float32)
    mean = tl.load(means + at, mask=inside, other=0.0)
    if ADDED:
        mean += tl.load(added + c, mask=inside, other=0.0).to(tl.float32)
    if SQUARED:
        mean -= middle
        result = tl.load(squares + at, mask=inside, other=0.0) + mean * mean * count
    else:
        result = mean * count
    return tl.where(inside, result, 0.0)


@triton.jit(do_not_specialize=["pixels", "chunk", "chunks", "group"])
def merge_kernel(
    means, squares, added, weight, bias, factors, summands, pixels, chunk, chunks, channels, group, eps,
    ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute `factors` B C and `summands` B C: x times one plus the other is the norm of x + `added` (with ADDED).

    The formula is that of Chan, Golub and LeVeque (1983) for many parts at once.
    """
    size = pixels.to(tl.float32) * group
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, chunks * group, BLOCK):
        total += _parts(
            means, squares, added, 0.0, start, pixels, chunk, chunks, channels, group, ADDED, BLOCK, SQUARED=False
        )
    middle = tl.sum(total, axis=0) / size
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, chunks * group, BLOCK):
        total += _parts(
            means, squares, added, middle, start, pixels, chunk, chunks, channels, group, ADDED, BLOCK, SQUARED=True
        )
    scale = 1 / tl.sqrt_rn(tl.sum(total, axis=0) / size + eps)
    for start in range(0, group, BLOCK):
        g = start + tl.arange(0, BLOCK)
        inside, c = g < group, tl.program_id(0) * group + g
        factor = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32) * scale
        shift = tl.zeros((BLOCK,), tl.float32) - middle
        if ADDED:
            shift += tl.load(added + c, mask=inside, other=0.0).to(tl.float32)
        at = tl.program_id(1) * channels + c
        tl.store(factors + at, factor, mask=inside)
        tl.store(summands + at, tl.load(bias + c, mask=inside, other=0.0).to(tl.float32) + shift * factor, mask=inside)


@triton.jit(do_not_specialize=["pixels"])
def silu_kernel(x, factors, summands, out, pixels, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Compute out = silu(x times `factors` B C plus `summands` B C)."""
    c, image, _, begin, at, inside = _tile(pixels, channels, BLOCK_P, BLOCK_C)
    values = tl.load(x + begin + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(factors + image * channels + c, mask=c < channels, other=0.0)
    summand = tl.load(summands + image * channels + c, mask=c < channels, other=0.0)
    values = values * factor[None, :] + summand[None, :]
    values = values / (1 + tl.exp(-values))
    tl.store(out + begin + at, values.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["pixels", "width"])
def join_kernel(
    x, y, bias, out, pixels, width, channels, TIMES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Compute out = x + y + `bias` C, each pixel TIMES x TIMES in rows of TIMES * `width`."""
    c, image, pixel, begin, at, inside = _tile(pixels, channels, BLOCK_P, BLOCK_C)
    values = tl.load(x + begin + at, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(y + begin + at, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    result = values.to(out.dtype.element_ty)
    if TIMES == 1:
        tl.store(out + begin + at, result, mask=inside)
    else:
        row, column = pixel // width, pixel % width
        begin = out + image * pixels * TIMES * TIMES * channels
        for i in tl.static_range(TIMES):
            for j in tl.static_range(TIMES):
                target = (row * TIMES + i) * width * TIMES + column * TIMES + j
                tl.store(begin + target.to(tl.int64)[:, None] * channels + c[None, :], result, mask=inside)
