"""Frozen matrices that wait in the CPU's memory and come to the device one block ahead of their use.

A forward pass asks for the blocks of a transformer upwards, a backward pass downwards, also where it computes them
again. Libraries' offloading (accelerate's hooks, diffusers' groups) puts other data into parameters that autograd has
kept, and brings blocks ahead in the order of the forward pass alone. Here autograd keeps no matrix: both passes ask.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import quantization
from glmkit.training.float8 import Float8Linear, unpack


class OffloadedBlocks:
    """The matrices of blocks, in the CPU's memory (pinned for a GPU), and copies of two blocks at most on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stored: list[list[Tensor]] = []
        self._current, self._on_device = -1, list[Tensor]()
        self._next: _BlockCopy | None = None
        self._lock = threading.Lock()  # samples of a batch may be computed side by side
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def add(self, matrices: Sequence[Tensor]) -> int:
        """Store the matrices of one more block; returns its number."""
        pinned = self.device.type == "cuda"
        stored = [torch.empty_like(one, device="cpu", pin_memory=pinned).copy_(one.detach()) for one in matrices]
        self._stored.append(stored)
        return len(self._stored) - 1

    def fetch(self, block: int) -> list[Tensor]:
        """Return the matrices of a block on the device.

        Those of the next block in the same direction, or after the last one back, are on their way then.
        """
        with self._lock:
            if block != self._current:
                direction = 1 if block > self._current else -1
                self._on_device = self._arrived(block)
                self._current = block
                ahead = block + direction if 0 <= block + direction < len(self._stored) else block - direction
                if 0 <= ahead < len(self._stored):
                    self._next = _BlockCopy(ahead, self._stored[ahead], self.device, self._stream)
            return self._on_device

    def _arrived(self, block: int) -> list[Tensor]:
        self._on_device, copy, self._next = [], self._next, None
        if copy is not None:
            matrices = copy.wait()  # also if another block is needed: their memory will be used again
            if copy.block == block:
                return matrices
            del copy, matrices
        return _BlockCopy(block, self._stored[block], self.device, self._stream).wait()


class _BlockCopy:
    """Copies of one block's matrices, on their way to the device by a stream of their own, if there is one."""

    def __init__(
        self, block: int, stored: Sequence[Tensor], device: torch.device, stream: torch.cuda.Stream | None
    ) -> None:
        self.block = block
        self._matrices = [torch.empty_like(one, device=device) for one in stored]
        self._device, self._event = device, None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(device))  # which may still work with this memory
        with torch.cuda.stream(stream):
            for target, one in zip(self._matrices, stored, strict=True):
                target.copy_(one, non_blocking=True)
        if stream is not None:
            self._event = stream.record_event()

    def wait(self) -> list[Tensor]:
        """Return the copies, for what the device does from now on."""
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)
        return self._matrices


class OffloadedLinear(nn.Linear):
    """A frozen linear layer whose matrix is number `position` of block number `block` of `blocks`.

    `weight` is empty: it tells where the layer computes, and that its numbers are not to be had.
    """

    scale: Tensor | None

    def __init__(self, linear: nn.Linear, blocks: OffloadedBlocks, block: int, position: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.uint8, device=blocks.device), requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", linear.scale if isinstance(linear, Float8Linear) else None)
        self._blocks, self._block, self._position = blocks, block, position

    def forward(self, input: Tensor) -> Tensor:
        """Multiply by the matrix, which comes to the device for this."""
        output: Tensor = _OffloadedProduct.apply(input, self)
        return output

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix on the device, in a type that computes."""
        stored = self._blocks.fetch(self._block)[self._position]
        return stored.to(dtype) if self.scale is None else unpack(stored, self.scale, dtype)


class _OffloadedProduct(torch.autograd.Function):
    """Asks for the matrix again in the backward pass."""

    @staticmethod
    def forward(context: Any, input: Tensor, layer: OffloadedLinear) -> Tensor:
        context.layer = layer
        bias = None if layer.bias is None else layer.bias.to(input.dtype)
        return F.linear(input, layer.matrix(input.dtype), bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ context.layer.matrix(gradient.dtype), None


def blocks_of(module: nn.Module) -> nn.ModuleList:
    """Return the blocks of a transformer: the list in it that holds the most weights."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))


def offload(module: nn.Module, device: torch.device) -> nn.Module:
    """Have the matrices of a frozen transformer's blocks wait in the CPU's memory, and all else be on `device`.

    Returns the module, which may be on either of them before.
    """
    blocks = OffloadedBlocks(device)
    for layer in blocks_of(module):
        linears = {name: child for name, child in layer.named_modules() if isinstance(child, nn.Linear)}
        number = blocks.add([linear.weight for linear in linears.values()])
        for position, (name, linear) in enumerate(linears.items()):
            offloaded = OffloadedLinear(linear, blocks, number, position)
            offloaded.register_forward_pre_hook(quantization.cast_as_autocast)
            layer.set_submodule(name, offloaded)
    return module.to(device)


def load_on_cpu(hybrid: HybridModel, component: str) -> None:
    """Load a component into the CPU's memory: the GPU may be too small for it."""
    waiting = HybridModel(hybrid.folder, "cpu", hybrid.dtype, hybrid.name)
    waiting.on_load = hybrid.on_load
    setattr(hybrid, component, getattr(waiting, component))


def load_where_it_fits(hybrid: HybridModel, component: str) -> None:
    """Load a transformer, with its blocks in the CPU's memory where the GPU has no room for them."""
    stored = checkpoint.stored_tensors(hybrid.folder, component)
    if component not in vars(hybrid) and not has_room(
        hybrid.device, hybrid.dtype.itemsize * sum(entry.numel for entry in stored.values())
    ):
        load_on_cpu(hybrid, component)
        offload(getattr(hybrid, component), hybrid.device)


def has_room(device: torch.device, size: int) -> bool:
    """Tell whether weights of so many bytes, and a quarter more to compute with, fit beside what is there."""
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > 1.25 * size


def bytes_saved(module: nn.Module, base: str, value_bytes: int) -> int:
    """Return what `offload` keeps out of the device's memory: all blocks but two (see `quantization.matrix_bytes`)."""
    blocks = blocks_of(module)
    return quantization.matrix_bytes(blocks, base, value_bytes) * max(0, len(blocks) - 2) // len(blocks)
