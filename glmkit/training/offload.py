"""Frozen matrices that wait in the CPU's memory and come to the device one block ahead of their use.

A step asks for the blocks of a transformer upwards, and on the way back downwards, also where it computes them again.
Libraries' offloading (accelerate's hooks, diffusers' groups) puts other data into parameters that autograd has kept,
and brings blocks ahead in the order of the forward pass alone. Here autograd keeps no matrix: both ways ask anew.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glmkit.training import quantization as frozen
from glmkit.training.float8 import Float8Linear, unpack


class Blocks:
    """The matrices of blocks, in the CPU's memory (pinned for a GPU), and copies of two blocks at most on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stored: list[list[Tensor]] = []
        self._now, self._here = -1, list[Tensor]()
        self._coming: _Copies | None = None
        self._turn = threading.Lock()  # rows of a batch may be computed side by side
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def add(self, matrices: Sequence[Tensor]) -> int:
        """Store the matrices of one more block; returns its number."""
        pinned = self.device.type == "cuda"
        kept = [torch.empty_like(one, device="cpu", pin_memory=pinned).copy_(one.detach()) for one in matrices]
        self._stored.append(kept)
        return len(self._stored) - 1

    def of(self, block: int) -> list[Tensor]:
        """The matrices of a block on the device. Those of the next block in the same direction, or after the last one
        back, are on their way when this returns."""
        with self._turn:
            if block != self._now:
                onwards = 1 if block > self._now else -1
                self._here = self._arrived(block)
                self._now = block
                follows = block + onwards if 0 <= block + onwards < len(self._stored) else block - onwards
                if 0 <= follows < len(self._stored):
                    self._coming = _Copies(follows, self._stored[follows], self.device, self._stream)
            return self._here

    def _arrived(self, block: int) -> list[Tensor]:
        self._here, coming, self._coming = [], self._coming, None
        if coming is not None:
            matrices = coming.wait()  # also if another block is asked for: their memory will be used again
            if coming.block == block:
                return matrices
            del coming, matrices
        return _Copies(block, self._stored[block], self.device, self._stream).wait()


class _Copies:
    """Of one block, on their way to the device by a stream of their own, if there is one."""

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
        """The copies, for what the device does from now on."""
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)
        return self._matrices


class OffloadedLinear(nn.Linear):
    """A frozen linear layer whose matrix is number `place` of block number `block` of `blocks`.

    `weight` is empty: it tells where the layer computes, and that its numbers are not to be had.
    """

    scale: Tensor | None

    def __init__(self, linear: nn.Linear, blocks: Blocks, block: int, place: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.uint8, device=blocks.device), requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", linear.scale if isinstance(linear, Float8Linear) else None)
        self._blocks, self._block, self._place = blocks, block, place

    def forward(self, given: Tensor) -> Tensor:
        product: Tensor = _Product.apply(given, self)
        return product

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The matrix on the device, in a type that computes."""
        stored = self._blocks.of(self._block)[self._place]
        return stored.to(dtype) if self.scale is None else unpack(stored, self.scale, dtype)


class _Product(torch.autograd.Function):
    """Asks for the matrix again on the way back."""

    @staticmethod
    def forward(context: Any, given: Tensor, layer: OffloadedLinear) -> Tensor:
        context.layer = layer
        bias = None if layer.bias is None else layer.bias.to(given.dtype)
        return F.linear(given, layer.matrix(given.dtype), bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ context.layer.matrix(gradient.dtype), None


def layers(module: nn.Module) -> nn.ModuleList:
    """The blocks of a transformer: the list in it that holds the most weights."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))


def offload(module: nn.Module, device: torch.device) -> nn.Module:
    """Have the matrices of a frozen transformer's blocks wait in the CPU's memory, and all else be on `device`; returns
    the module, which may be on either of them before.
    """
    blocks = Blocks(device)
    for layer in layers(module):
        linears = {name: child for name, child in layer.named_modules() if isinstance(child, nn.Linear)}
        number = blocks.add([linear.weight for linear in linears.values()])
        for place, (name, linear) in enumerate(linears.items()):
            waiting = OffloadedLinear(linear, blocks, number, place)
            waiting.register_forward_pre_hook(frozen.as_autocast)
            layer.set_submodule(name, waiting)
    return module.to(device)


def bytes_saved(module: nn.Module, base: str, each: int) -> int:
    """What `offload` keeps out of the device's memory: all blocks but two, whose values take `each` bytes or fewer."""
    blocks = layers(module)
    return frozen.matrix_bytes(blocks, base, each) * max(0, len(blocks) - 2) // len(blocks)
