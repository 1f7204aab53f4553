"""How an image of any size becomes one on the 32-pixel grid: scaled down if at all, then cropped around its centre.

Nothing is ever scaled up: letters of a small image would be taught as blur. h w are rows and columns in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod
from statistics import mean

from PIL import Image

from glmkit.errors import UserError
from glmkit.generation.sequence import TOKEN_PIXELS
from glmkit.models.semantic_vq.model import MAX_ASPECT


@dataclass(frozen=True)
class Fit:
    """Scaling to `scaled`, then cropping `size` around the centre; both are (height, width)."""

    scaled: tuple[int, int]
    size: tuple[int, int]

    def apply(self, image: Image.Image) -> Image.Image:
        """Scale and crop an image of the size that the fit was made for."""
        (rows, columns), (height, width) = self.scaled, self.size
        if image.size != (columns, rows):
            image = image.resize((columns, rows), Image.Resampling.LANCZOS)
        left, top = (columns - width) // 2, (rows - height) // 2
        return image.crop((left, top, left + width, top + height))


def fit(height: int, width: int, max_pixels: int | None, exact: bool) -> Fit:
    """Fit an image of height x width into at most `max_pixels` pixels (None: any number).

    `exact` takes images only as they are. UserError names what is wrong, without the image's name.
    """
    found = f"{width}x{height}"
    if min(height, width) < TOKEN_PIXELS:
        raise UserError("is too small", found=found, fix=f"at least {TOKEN_PIXELS}x{TOKEN_PIXELS}")
    if exact and (height % TOKEN_PIXELS or width % TOKEN_PIXELS):
        raise UserError(f"has sides that are not multiples of {TOKEN_PIXELS}", found=found, fix="data.fit=crop")
    too_large = max_pixels is not None and height * width > max_pixels
    if exact and too_large:
        raise UserError(f"has more than {max_pixels} pixels", found=found, fix="a larger data.size, or data.fit=crop")
    size = height // TOKEN_PIXELS * TOKEN_PIXELS, width // TOKEN_PIXELS * TOKEN_PIXELS
    scaled = height, width
    if too_large and max_pixels is not None:
        size, scaled = _shrunk(height, width, max_pixels)
    if max(size) > MAX_ASPECT * min(size):
        raise UserError(f"is more than {MAX_ASPECT} times as long as wide", found=found, fix="crop it")
    return Fit(scaled, size)


def _shrunk(height: int, width: int, max_pixels: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """A bucket that shows nearly all of the image in many pixels, and the size to scale to before cutting it out."""
    cells = max_pixels // TOKEN_PIXELS**2
    best: tuple[float, tuple[int, int], tuple[int, int]] | None = None
    for rows in range(1, min(height // TOKEN_PIXELS, cells) + 1):
        most_columns = min(width // TOKEN_PIXELS, cells // rows)
        for columns in {most_columns, min(most_columns, max(1, round(rows * width / height)))}:
            bucket = rows * TOKEN_PIXELS, columns * TOKEN_PIXELS
            scale = max(bucket[0] / height, bucket[1] / width)
            scaled = max(bucket[0], round(scale * height)), max(bucket[1], round(scale * width))
            kept = prod(bucket) / prod(scaled)
            score = prod(bucket) * kept**2  # what is cut off may be text, and hurts more than a few pixels less
            if best is None or score > best[0]:
                best = score, bucket, scaled
    assert best is not None, "the smallest size holds one cell"
    return best[1], best[2]


def shared_fits(
    fits: Sequence[tuple[tuple[int, int], Fit]], kinds: Sequence[Hashable], batch_size: int, max_crop: float
) -> list[Fit]:
    """Give images whose bucket cannot fill a batch one of others of the same kind, so that no batch is one image.

    `fits`: the size of every image and how it is fitted now. An image may lose `max_crop` of its area and of the pixels
    that it has now. Buckets that fill a batch keep their images and take in others; those that are left share as few
    buckets as they can.
    """
    found = [fitted for _, fitted in fits]
    for kind in dict.fromkeys(kinds):
        members = [index for index, other in enumerate(kinds) if other == kind]
        counts = Counter(fits[index][1].size for index in members)
        alone = [index for index in members if counts[fits[index][1].size] < batch_size]
        full = sorted(size for size in counts if counts[size] >= batch_size)
        options = {index: _near_buckets(*fits[index], sorted(counts), max_crop) for index in alone}
        for index in alone:
            if near := [size for size in full if size in options[index]]:
                found[index] = max((options[index][size] for size in near), key=_kept)
        left = [index for index in alone if found[index] is fits[index][1]]
        while left:
            kept: dict[tuple[int, int], list[float]] = {}
            for index in left:
                for size, option in options[index].items():
                    kept.setdefault(size, []).append(_kept(option))
            # One that fills a batch, or that most images fit into; of several, the one that cuts off least.
            worth = {size: (min(len(shares), batch_size), mean(shares)) for size, shares in kept.items()}
            chosen = max(sorted(worth), key=lambda size: worth[size])
            for index in left:
                found[index] = options[index].get(chosen, found[index])
            left = [index for index in left if chosen not in options[index]]
    return found


def _near_buckets(
    size: tuple[int, int], fitted: Fit, buckets: Sequence[tuple[int, int]], max_crop: float
) -> dict[tuple[int, int], Fit]:
    """Return how an image is fitted into each of the buckets that show nearly as much of it; its own is one of them."""
    near = {fitted.size: fitted}
    for bucket in buckets:
        scale = max(bucket[0] / size[0], bucket[1] / size[1])
        other = Fit((max(bucket[0], round(scale * size[0])), max(bucket[1], round(scale * size[1]))), bucket)
        if scale <= 1 and min(_kept(other), prod(bucket) / prod(fitted.size)) >= 1 - max_crop:
            near.setdefault(bucket, other)
    return near


def same_size(
    first: tuple[tuple[int, int], Fit], second: tuple[tuple[int, int], Fit], max_crop: float
) -> tuple[Fit, Fit]:
    """Fit two images to the smaller of their sizes; each is a size (height, width) and how it is fitted alone.

    UserError, without the names, when that would enlarge one, or cut off more than `max_crop` of it.
    """
    size = min(first[1].size, second[1].size, key=prod)
    fits = []
    for (height, width), alone in (first, second):
        scale = max(size[0] / height, size[1] / width)
        fitted = Fit((max(size[0], round(scale * height)), max(size[1], round(scale * width))), size)
        if alone.size != size and (scale > 1 or _kept(fitted) < 1 - max_crop):
            found = " and ".join(f"{columns}x{rows}" for (rows, columns), _ in (first, second))
            raise UserError("has another shape than its rejected image", found=found, fix="crop both to one size")
        fits.append(alone if alone.size == size else fitted)
    return fits[0], fits[1]


def _kept(fitted: Fit) -> float:
    return prod(fitted.size) / prod(fitted.scaled)
