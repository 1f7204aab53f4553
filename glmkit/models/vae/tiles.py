"""Decoding in tiles that overlap, which takes the memory of one tile: not the image of a decoding in one piece, since
norms and convolutions see no more than a tile. Tiles and blending are those of diffusers' `AutoencoderKL.tiled_decode`.

Shapes as in `glmkit.models.vae.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def is_tiled(autoencoder: AutoencoderKL, latents: Tensor) -> bool:
    """Tell whether latents are larger than one tile, which has the size that the autoencoder was trained on."""
    return max(latents.shape[-2:]) > autoencoder.tile_latent_min_size


def decode(autoencoder: AutoencoderKL, latents: Tensor, decode_tile: Callable[[Tensor], Tensor], scale: int) -> Tensor:
    """Return pixels B 3 H W, float32, of latents B C h w, each tile by `decode_tile`; `scale` is pixels per latent.

    A tile begins behind three quarters of the one before, and is blended with the last quarter of it, linearly: rows
    first, then columns.
    """
    tile, overlap = autoencoder.tile_latent_min_size, autoencoder.tile_overlap_factor
    step, extent = int(tile * (1 - overlap)), int(tile * scale * overlap)
    rows, columns = (range(0, length, step) for length in latents.shape[-2:])
    bands, above = [], None
    for top in rows:
        band = [decode_tile(latents[..., top : top + tile, left : left + tile]).float() for left in columns]
        if above is not None:
            for over, own in zip(above, band, strict=True):
                _blend(over, own, extent, dim=2)
        for before, own in pairwise(band):
            _blend(before, own, extent, dim=3)
        kept = tile * scale - extent
        bands.append(torch.cat([one[..., :kept, :kept] for one in band], dim=3))
        above = band
    return torch.cat(bands, dim=2)


def _blend(before: Tensor, after: Tensor, extent: int, dim: int) -> None:
    """Let the first `extent` rows or columns of a tile begin as the last of the one before it."""
    extent = min(before.shape[dim], after.shape[dim], extent)
    share = torch.arange(extent, device=after.device) / extent
    share = share.view([-1 if axis == dim else 1 for axis in range(4)])
    last, first = before.narrow(dim, before.shape[dim] - extent, extent), after.narrow(dim, 0, extent)
    first.copy_(last * (1 - share) + first * share)
