"""The VAE by Triton kernels gives what diffusers gives; without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers import AutoencoderKL
from scripts import FOLDER
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("triton")  # no build of it for macOS and Windows

from glmkit.models.hybrid import HybridModel
from glmkit.models.vae import gpu
from glmkit.models.vae.gpu import Activation
from glmkit.models.vae.model import Vae

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's would round float32 to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def make_image(*shape: int, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def random_norm(groups: int, channels: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-6).to(DEVICE).requires_grad_(False)
    norm.weight.copy_(random(channels, seed=1))
    norm.bias.copy_(random(channels, seed=2))
    return norm


def exact(norm: nn.GroupNorm, x: Activation) -> Tensor:
    """silu(norm(x)) in float64."""
    added = 0 if x.bias is None else x.bias.double().view(1, -1, 1, 1)
    parameters = norm.weight.double(), norm.bias.double()
    return functional.silu(functional.group_norm(x.values.double() + added, norm.num_groups, *parameters, norm.eps))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny image has several chunks of several tiles, too, and blocks of channels."""
    monkeypatch.setattr(gpu, "TILE", 128)
    monkeypatch.setattr(gpu, "MAX_CHANNELS", 16)
    monkeypatch.setattr(gpu, "PROGRAMS", 6)
    monkeypatch.setattr(gpu, "MERGED", 8)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (16, 1), (24, 4), (20, 2)])
@pytest.mark.parametrize("biased", [False, True])
def test_norm_and_silu(channels: int, groups: int, biased: bool) -> None:
    """Groups within a block of channels, across two of them and of 6 and 10 channels; tiles and chunks are cut off."""
    norm = random_norm(groups, channels)
    x = Activation(make_image(2, channels, 7, 11), random(channels, seed=3) if biased else None)
    ours = gpu.normed(norm, x)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.double(), exact(norm, x), atol=5e-6, rtol=3e-6)


def test_norm_at_full_blocks() -> None:
    norm, x = random_norm(32, 160), Activation(make_image(1, 160, 33, 35), random(160, seed=3))
    torch.testing.assert_close(gpu.normed(norm, x).double(), exact(norm, x), atol=5e-6, rtol=3e-6)


@pytest.mark.usefixtures("small_blocks")
def test_norm_of_values_far_from_zero() -> None:
    """The variance is not lost beside the square of the mean, be it the image's or the bias's."""
    norm, far = random_norm(4, 16), make_image(1, 16, 8, 40) + 1000
    for x in (Activation(far), Activation(far - 1000, torch.full((16,), 1000.0, device=DEVICE))):
        torch.testing.assert_close(gpu.normed(norm, x).double(), exact(norm, x), atol=2e-3, rtol=0)


@pytest.mark.usefixtures("small_blocks")
def test_norm_of_one_value() -> None:
    """No distance at all: eps alone decides, and nothing becomes NaN."""
    norm, x = random_norm(4, 16), torch.full_like(make_image(1, 16, 9, 9), 3.0)
    expected = functional.silu(norm.bias).view(1, -1, 1, 1).expand_as(x)
    torch.testing.assert_close(gpu.normed(norm, Activation(x)), expected, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("small_blocks")
def test_bfloat16() -> None:
    """One rounding, at the end; the interpreter cuts off where a GPU rounds."""
    norm, x = random_norm(4, 16), Activation(make_image(1, 16, 5, 12).bfloat16(), random(16, seed=3).bfloat16())
    ours = gpu.normed(norm.bfloat16(), x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact(norm, x), atol=1e-5, rtol=2**-7)
    joined = gpu.joined(x, x)
    torch.testing.assert_close(joined.float(), 2 * (x.values.float() + _column(x.bias)), atol=1e-5, rtol=2**-7)


def _column(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias.float().view(1, -1, 1, 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_residual_sum(times: int, biased: bool) -> None:
    x, y = make_image(2, 20, 7, 9), make_image(2, 20, 7, 9, seed=1)
    first, second = random(20, seed=2) if biased else None, random(20, seed=3)
    ours = gpu.joined(Activation(x, first), Activation(y, second), times)
    expected = x + y + _column(second) + (_column(first) if biased else 0)
    expected = expected.repeat_interleave(times, 2).repeat_interleave(times, 3)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_a_image_is_the_same_in_a_batch() -> None:
    norm, bias = random_norm(4, 24), random(24, seed=3)
    x, y = Activation(make_image(3, 24, 7, 9), bias), Activation(make_image(3, 24, 7, 9, seed=1), bias)
    normed, joined = gpu.normed(norm, x), gpu.joined(x, y)
    for row in range(3):
        alone, other = (both._replace(values=both.values[row : row + 1]) for both in (x, y))
        assert torch.equal(gpu.normed(norm, alone)[0], normed[row])
        assert torch.equal(gpu.joined(alone, other)[0], joined[row])


def autoencoder(**changes: Any) -> AutoencoderKL:
    """Tiny, with random norms and biases; sizes change at every level, as the published ones do."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (16, 24, 32),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latents_mean": [0.5, -1.25, 0.0, 2.0],
        "latents_std": [3.0, 0.5, 1.0, 2.25],
    }
    model = AutoencoderKL(**config | changes).eval().requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        if parameter.dim() == 1:
            parameter.add_(0.3 * random(len(parameter), seed=number).cpu())
    return model.to(DEVICE)


OTHERS = {"mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True, "layers_per_block": 2}


@pytest.mark.parametrize("changes", [{}, OTHERS])
def test_decode_and_encode_equal_reference(changes: dict[str, Any]) -> None:
    model = autoencoder(**changes)
    latents, pixels = random(2, 4, 5, 3), random(1, 3, 20, 12)
    images, moments = model.decode(latents).sample, model.encode(pixels).latent_dist.parameters
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(gpu.decode(model, latents), images, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gpu.encode(model, pixels), moments, atol=1e-4, rtol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_vae_takes_the_kernels(monkeypatch: pytest.MonkeyPatch, tiny_model: Any) -> None:
    """An optimized model does on a GPU, where gradients are not wanted; the numbers stay."""
    hybrid = HybridModel(tiny_model, DEVICE)
    hybrid.vae = Vae(autoencoder()).to(DEVICE)
    reference = copy.deepcopy(hybrid.vae)
    monkeypatch.setattr("glmkit.models.vae.model.triton_runs", lambda _: True)
    hybrid.device = torch.device("cuda")
    hybrid.optimize_for_inference()
    encode, decode = Mock(wraps=gpu.encode), Mock(wraps=gpu.decode)
    monkeypatch.setattr(gpu, "encode", encode)
    monkeypatch.setattr(gpu, "decode", decode)
    latents, pixels = random(1, 4, 3, 2), random(1, 3, 12, 8)
    torch.testing.assert_close(hybrid.vae.decode(latents), reference.decode(latents), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(hybrid.vae.encode(pixels), reference.encode(pixels), atol=1e-4, rtol=1e-5)
    assert encode.call_count == decode.call_count == 1
    hybrid.vae.decode(latents.requires_grad_()).sum().backward()
    assert latents.grad is not None
    assert decode.call_count == 1


def test_vae_keeps_the_plain_way_where_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def optimized(**changes: Any) -> Vae:
        made = Vae(autoencoder(**changes))
        made.use_kernels()
        return made

    monkeypatch.setattr("glmkit.models.vae.model.triton_runs", lambda _: True)
    assert optimized().uses_kernels
    assert not optimized(act_fn="relu").uses_kernels
    assert not optimized(up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D")).uses_kernels
    monkeypatch.setattr("glmkit.models.vae.model.triton_runs", lambda _: False)
    vae = optimized()
    assert not vae.uses_kernels
    assert vae.autoencoder.decoder.conv_in.weight.is_contiguous()


ASSEMBLE = """
import sys
sys.path.insert(0, FOLDER)
import torch
from torch import nn
from triton_compile import compile_only, empty
from glmkit.models.vae import gpu, kernels

compile_only((9, 0))
for channels in (128, 512, 1024):
    x = empty(1, 40, 41, channels).permute(0, 3, 1, 2)
    norm = nn.GroupNorm(32, channels).bfloat16().requires_grad_(False)
    for bias in (None, norm.bias):
        gpu.normed(norm, gpu.Activation(x, bias))
    for times in (1, 2):
        gpu.joined(gpu.Activation(x), gpu.Activation(x, norm.bias), times)
for name, count, wide in (("sums", 1, "cp.async.cg"), ("merge", 2, ""), ("silu", 1, ".v4.b32"), ("join", 2, ".v4.b32")):
    compiled = list(getattr(kernels, name + "_kernel").device_caches[0][0].values())
    assert len(compiled) == count, f"{name} is compiled {len(compiled)} times"
    assert all(wide in one.asm["ptx"] for one in compiled), f"{name} does not read 16 bytes at a time"
"""


@pytest.mark.thorough
def test_kernels_assemble_for_hopper() -> None:
    """Once for all numbers of channels and sizes, in a process where Triton compiles; no GPU is needed for that."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    code = ASSEMBLE.replace("FOLDER", repr(str(FOLDER)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
