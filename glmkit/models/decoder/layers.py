"""What stands around the decoder's blocks, and their feed-forward: projections, embeddings and the last norm.

Shapes as in `glmkit.models`; E is the width of the conditioning vector.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models.decoder.config import DecoderConfig

NORM_EPS = 1e-5
SINUSOID_PERIOD = 10000.0


class FeedForward(nn.Module):
    """Linear, activation, linear, under the published names `net.0.proj` and `net.2`."""

    def __init__(self, width_in: int, hidden: int, width_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ActivatedLinear(width_in, hidden, activation),
            nn.Identity(),  # a dropout of 0 in the published module, here to keep the numbering
            nn.Linear(hidden, width_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ... width_out from ... width_in."""
        return self.net(x)


class ActivatedLinear(nn.Module):
    """A linear layer and its activation."""

    def __init__(self, width_in: int, width_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out)
        self.activation = activation
        self.fused = False

    def fuse(self) -> None:
        """Let a GPU's product apply GELU to its sums before it rounds and writes them; for inference only."""
        gelu = isinstance(self.activation, nn.GELU) and self.activation.approximate == "tanh"
        self.fused = gelu and type(self.proj) is nn.Linear and self.proj.weight.is_cuda

    def forward(self, x: Tensor) -> Tensor:
        """Return ... width_out from ... width_in."""
        if self.fused:
            tokens = torch._addmm_activation(self.proj.bias, x.flatten(0, -2), self.proj.weight.t(), use_gelu=True)
            return tokens.unflatten(0, x.shape[:-1])
        return self.activation(self.proj(x))


class PatchProjector(nn.Module):
    """Latents B C H W to patch embeddings B N D (patchify)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Linear(config.in_channels * config.patch_size**2, config.width)

    def forward(self, latents: Tensor) -> Tensor:
        """Return B N D, row by row."""
        return self.proj(F.pixel_unshuffle(latents, self.patch_size).flatten(2).transpose(1, 2))


class TimeAndSize(nn.Module):
    """The conditioning vector B E of a time, an image size and a crop corner (size conditions after SDXL)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.time_dim, self.size_dim = config.time_embed_dim, config.condition_dim
        self.timestep_embedder = TwoLinears(config.time_embed_dim, config.time_embed_dim)
        self.condition_embedder = TwoLinears(4 * config.condition_dim, config.time_embed_dim)

    def forward(self, timestep: Tensor, target_size: Tensor, crop_coords: Tensor) -> Tensor:
        """Return B E from a time B and two pairs of numbers B 2."""
        numbers = torch.cat([crop_coords, target_size], dim=1)
        dtype = self.timestep_embedder.linear_1.weight.dtype
        time = self.timestep_embedder(sinusoid(timestep, self.time_dim).to(dtype))
        size = self.condition_embedder(sinusoid(numbers, self.size_dim).flatten(1).to(dtype))
        return F.silu(time + size)


class TwoLinears(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width_out)
        self.linear_2 = nn.Linear(width_out, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return B width_out from B width_in."""
        return self.linear_2(F.silu(self.linear_1(x)))


class FinalNorm(nn.Module):
    """The last adaptive norm; without an activation before its linear, and with the scale first."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return B N D, modulated by the condition B E."""
        scale, shift = self.linear(condition)[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, layer_norm(x), 1 + scale)


def sinusoid(numbers: Tensor, dim: int) -> Tensor:
    """Return sinusoids of any numbers, (...) to (... dim) float32: cosines first, periods 2 pi to 2 pi 10^4."""
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=numbers.device) / (dim // 2)
    angles = numbers[..., None].float() * torch.exp(-math.log(SINUSOID_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def layer_norm(x: Tensor) -> Tensor:
    """Normalise each token, or each head of one; no weights."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
