"""Steps as CUDA graphs: recorded once, then replayed without the host, which otherwise takes longer than the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARMUPS = 2  # the first calls compile, choose kernels and allocate, which a recording must not see


def record(step: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
    """Return what replays `step`, which must only read and write tensors that stay where they are.

    `state` are the tensors that one step moves on; they leave as they came, so recording may happen between two steps.
    """
    before = [tensor.clone() for tensor in state]

    def restore() -> None:
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUPS):
            step()
            restore()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may use the GPU meanwhile
        step()
    restore()
    return graph.replay
