"""What a stage needs of every picture, computed once before training: semantic ids, latents, text masks, letters.

N pictures, h w rows and columns of a token grid, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from glmkit.generation.sequence import grids
from glmkit.models.semantic_vq import SemanticTokenizer
from glmkit.models.vae import Vae
from glmkit.training.data import Pictures, by_size

CHUNK_PIXELS = 2**23  # that go through an encoder together: 8 pictures of 1024x1024


class PerPicture:
    """One tensor a picture, stacked by picture size: `cache[indices]` is a batch of pictures of one size."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes
        self._row: dict[int, int] = {}
        self._stacks: dict[tuple[int, int], Tensor] = {}

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        stack = self._stacks[self.sizes[int(indices[0])]]
        rows = torch.as_tensor([self._row[int(index)] for index in indices])
        return stack[rows.to(stack.device)]

    def fill(self, size: tuple[int, int], members: list[int], values: Tensor) -> None:
        self._row.update({index: row for row, index in enumerate(members)})
        self._stacks[size] = values


def compute(
    pictures: Pictures, encode: Callable[[Tensor, list[int]], Tensor], device: torch.device, name: str
) -> PerPicture:
    """`encode(pixels B 3 H W, indices)` of every picture, kept on `device`."""
    cache, bar = PerPicture(pictures.sizes), Console(stderr=True)
    for size, members in by_size(pictures.sizes).items():
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            parts = [
                encode(pictures.pixels(chunk, device), chunk)
                for chunk in track(list(_chunks(members, size)), name, console=bar)
            ]
        cache.fill(size, members, torch.cat(parts))
    return cache


def _chunks(members: list[int], size: tuple[int, int]) -> Iterator[list[int]]:
    count = max(1, CHUNK_PIXELS // (size[0] * size[1]))
    yield from (members[start : start + count] for start in range(0, len(members), count))


def halve(pixels: Tensor, height: int, width: int) -> Tensor:
    """B 3 H W in [-1, 1] resized to height x width as the published image processor resizes 8-bit pictures: bicubic
    with anti-aliasing, first along the rows, and on whole levels after each of the two passes."""
    levels = (pixels.float() + 1) * 127.5
    for size in ((pixels.shape[-2], width), (height, width)):
        levels = F.interpolate(levels, size, mode="bicubic", antialias=True, align_corners=False)
        levels = levels.round().clamp(0, 255)
    return levels / 127.5 - 1


def large_ids(tokenizer: SemanticTokenizer, pixels: Tensor) -> Tensor:
    """B h w: the ids of the large grid (32 px a token): the picture halved, then 16-px patches."""
    large = grids(*pixels.shape[-2:]).large
    return tokenizer.encode(halve(pixels, large[0] * 16, large[1] * 16))


def preview_ids(tokenizer: SemanticTokenizer, pixels: Tensor) -> Tensor:
    """B h w: the ids of the preview grid: the whole picture resized to about 256 tokens."""
    preview = grids(*pixels.shape[-2:]).preview
    return tokenizer.encode(halve(pixels, preview[0] * 16, preview[1] * 16))


def large_cache(tokenizer: SemanticTokenizer, pictures: Pictures, device: torch.device) -> PerPicture:
    return compute(pictures, lambda pixels, _: large_ids(tokenizer, pixels).short(), device, "large tokens")


def preview_cache(tokenizer: SemanticTokenizer, pictures: Pictures, device: torch.device) -> PerPicture:
    return compute(pictures, lambda pixels, _: preview_ids(tokenizer, pixels).short(), device, "preview tokens")


def latent_cache(vae: Vae, pictures: Pictures, device: torch.device) -> PerPicture:
    """Normalised latent means, N C H/8 W/8; bfloat16 on a GPU."""
    kept = torch.bfloat16 if device.type == "cuda" else torch.float32
    return compute(pictures, lambda pixels, _: vae.encode(pixels).to(kept), device, "latents")


def text_cache(pictures: Pictures, device: torch.device) -> PerPicture | None:
    """Share of each latent position that is text, N 1 H/8 W/8 uint8 (255 = all); None where nobody knows."""
    if pictures.text_mask([0], device) is None:
        return None

    def encode(pixels: Tensor, indices: list[int]) -> Tensor:
        mask = pictures.text_mask(indices, device)
        assert mask is not None
        return (F.avg_pool2d(mask, 8) * 255).round().to(torch.uint8)

    return compute(pictures, encode, device, "text masks")


def letter_cache(pictures: Pictures, device: torch.device) -> PerPicture | None:
    """The letter at each latent position, N H/8 W/8 ASCII codes (0: none); None where nobody knows."""
    if pictures.letters([0], device) is None:
        return None

    cache = PerPicture(pictures.sizes)
    for size, members in by_size(pictures.sizes).items():
        letters = pictures.letters(members, device)
        assert letters is not None
        cache.fill(size, members, letters)
    return cache
