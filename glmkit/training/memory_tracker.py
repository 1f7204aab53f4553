"""What a step would take: the bytes of its tensors and its operations, counted on torch's meta device, not guessed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BACKWARD_OF_ATTENTION = 2.5  # times its forward pass: the scores again, and four products


@dataclass(frozen=True)
class Work:
    """The most bytes that the tensors of one micro-batch take at one time, and the operations on them."""

    peak: int
    operations: int


def work_of(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> Work:
    """Of computing `loss` and its gradients; those of parameters, which stay, do not count."""
    parameters = list(parameters)
    attention, live = _FusedAttention(), Ledger()
    live.leave_out(parameters)
    hooks = [value.register_post_accumulate_grad_hook(_drop_gradient) for value in parameters if value.requires_grad]
    with attention, live:
        loss().backward()
    for hook in hooks:
        hook.remove()
    return Work(live.peak, live.operations + attention.operations)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


class _Attention(torch.autograd.Function):
    """What fused attention keeps: its inputs and its output, never a matrix of all pairs. Only shapes count here."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.save_for_backward(query, key, value, mixed)
        return mixed

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(given) for given in context.saved_tensors[:3])


class _FusedAttention:
    """Puts `_Attention` in the place of attention, which the meta device would take apart; counts its operations.

    Not by a mode of torch, which would be off while layers are computed again in the backward pass.
    """

    operations = 0

    def __enter__(self) -> _FusedAttention:
        self._plain = nn.functional.scaled_dot_product_attention
        nn.functional.scaled_dot_product_attention = self._attend  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        nn.functional.scaled_dot_product_attention = self._plain

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        forward = 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        backward = torch.is_grad_enabled() and any(given.requires_grad for given in (query, key, value))
        self.operations += round(forward * (1 + BACKWARD_OF_ATTENTION * backward))
        return _Attention.apply(query, key, value)


class Ledger(TorchDispatchMode):
    """Follows the tensors that operations make, until nobody holds them any more: `now` bytes, at most `peak`; and
    counts floating-point `operations` by torch's formulas (its own counter keeps tensors of layers computed again).
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        self._held: dict[int, int] = {}

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """These do not count; views of them neither."""
        self._held.update({tensor.untyped_storage()._cdata: 0 for tensor in tensors})

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._held:
            return
        self._held[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, address: int) -> None:
        self.now -= self._held.pop(address)
