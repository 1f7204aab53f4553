"""What one step would take: the bytes of its tensors and its FLOPs, counted on torch's meta device, not guessed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BACKWARD_OF_ATTENTION = 2.5  # times its forward pass: the scores again, and four products


@dataclass(frozen=True)
class PassCost:
    """The most bytes that the tensors of one micro-batch take at one time, and its floating-point operations."""

    peak_bytes: int
    flops: int


def measure_pass(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> PassCost:
    """Compute `loss` and its gradients as training does; those of parameters, which stay, do not count."""
    parameters = list(parameters)
    attention, tracker = _FusedAttention(), MemoryTracker()
    tracker.leave_out(parameters)
    hooks = [value.register_post_accumulate_grad_hook(_drop_gradient) for value in parameters if value.requires_grad]
    with attention, _autocast(), tracker:
        loss().backward()
    for hook in hooks:
        hook.remove()
    return PassCost(tracker.peak_bytes, tracker.flops + attention.flops)


def forward_bytes(module: nn.Module, call: Callable[[Tensor], object], shape: tuple[int, ...]) -> int:
    """Return the most bytes that `call`, a method of a module on the meta device, takes for an input of a shape."""
    parameter = next(module.parameters())
    return forward_pass_bytes(lambda: call(parameter.new_empty(shape)), module.parameters())


def forward_pass_bytes(compute: Callable[[], object], parameters: Iterable[Tensor]) -> int:
    """Return the most bytes that `compute` takes without gradients, beside the parameters."""
    return forward_pass_cost(compute, parameters).peak_bytes


def forward_pass_cost(compute: Callable[[], object], parameters: Iterable[Tensor]) -> PassCost:
    """Measure `compute` without gradients; the parameters do not count."""
    attention, tracker = _FusedAttention(), MemoryTracker()
    tracker.leave_out(parameters)
    with torch.no_grad(), attention, tracker:
        compute()
    return PassCost(tracker.peak_bytes, tracker.flops + attention.flops)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _autocast() -> Iterator[None]:
    """Cast as autocast does on a GPU, and not on the meta device: norms to float32, each product to its weights' type.

    The copies that autograd keeps of them are a fifth of what a decoder keeps. In float32 nothing changes.
    """
    layer_norm, linear = nn.functional.layer_norm, nn.functional.linear

    def norm_in_float32(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return layer_norm(x.float(), *args, **kwargs)

    def linear_in_type_of_weights(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x.to(weight.dtype), weight, bias)

    nn.functional.layer_norm = norm_in_float32  # type: ignore[assignment]
    nn.functional.linear = linear_in_type_of_weights  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.layer_norm, nn.functional.linear = layer_norm, linear


class _Attention(torch.autograd.Function):
    """Keeps what fused attention keeps: its inputs and its output, never a matrix of all pairs. Only shapes count."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(context: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in context.saved_tensors[:3])


class _FusedAttention:
    """Puts `_Attention` in the place of attention, which the meta device would take apart; counts its FLOPs.

    Not by a mode of torch, which would be off while layers are computed again in the backward pass.
    """

    flops = 0

    def __enter__(self) -> _FusedAttention:
        self._original = nn.functional.scaled_dot_product_attention
        nn.functional.scaled_dot_product_attention = self._attend  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        nn.functional.scaled_dot_product_attention = self._original

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        forward = 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
        self.flops += round(forward * (1 + BACKWARD_OF_ATTENTION * backward))
        output: Tensor = _Attention.apply(query, key, value)
        return output


class MemoryTracker(TorchDispatchMode):
    """Follows the tensors that operations make, until no one holds them any more.

    They take `live_bytes` now and took `peak_bytes` at most. `flops` counts by torch's formulas: its own counter keeps
    the tensors of layers that are computed again.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = self.flops = 0
        self._sizes: dict[int, int] = {}

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Leave these out of the count; views of them, too."""
        self._sizes.update({tensor.untyped_storage()._cdata: 0 for tensor in tensors})

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, address: int) -> None:
        self.live_bytes -= self._sizes.pop(address)
