"""Blocks that wait elsewhere: which come when, and how many are there at a time."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.models.gradient_checkpointing import checkpointed
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.training import offload, quantization

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BLOCKS = 5


class Stack(nn.Module):
    """Blocks of two linear layers each, between projections that stay; `every` as in `checkpointed`."""

    def __init__(self, every: int = 0, width: int = 8) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(4, width))
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(BLOCKS)]
        )
        self.every = every

    def forward(self, given: Tensor) -> Tensor:
        x: Tensor = self.before(given)
        for index, block in enumerate(self.blocks):
            x = x + checkpointed(block, index, self.every, x)
        return x


class Witness(offload._BlockCopy):
    """Notes which blocks are brought, and how many copies live at most."""

    brought: list[int] = []
    living: set[int] = set()
    most = 0

    def __init__(self, block: int, *given: Any) -> None:
        super().__init__(block, *given)
        self.brought.append(block)
        for matrix in self._matrices:
            self.living.add(id(matrix))
            weakref.finalize(matrix, self.living.discard, id(matrix))
        Witness.most = max(Witness.most, len(self.living))


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> type[Witness]:
    gc.collect()
    Witness.brought, Witness.living, Witness.most = [], set(), 0
    monkeypatch.setattr(offload, "_BlockCopy", Witness)
    return Witness


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_step_brings_each_block_once_each_way(every: int, witness: type[Witness]) -> None:
    """Ahead of its use, and never more than two blocks of two matrices."""
    model = offload.offload(Stack(every).requires_grad_(False), CPU)
    given = torch.ones(3, 4, requires_grad=True)
    for _ in range(2):
        model(given).sum().backward()
    up, down = list(range(BLOCKS)), list(range(BLOCKS - 2, -1, -1))
    assert witness.brought == [*up, *down, *up[1:], *down, 1], "the last one is for a step that does not come"
    assert witness.most == 4


@pytest.mark.parametrize("every", [0, 1])
def test_many_steps_are_those_of_blocks_that_stay(every: int) -> None:
    """Where there is a GPU, also with copies that race with products: each must wait for the other."""
    torch.manual_seed(0)
    here = Stack(every, width=512).requires_grad_(False).to(DEVICE)
    away = Stack(every, width=512).requires_grad_(False)
    away.load_state_dict(here.state_dict())
    offload.offload(away, DEVICE)
    given = torch.randn(256, 4, device=DEVICE)
    for step in range(8):
        found = []
        for model in (here, away):
            inputs = (given + step).requires_grad_()
            outputs = model(inputs)
            outputs.square().mean().backward()
            found.append((outputs, inputs.grad))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_next_block_is_on_its_way(witness: type[Witness]) -> None:
    blocks = offload.OffloadedBlocks(CPU)
    stored = [torch.full((2, 2), float(number)) for number in range(3)]
    assert [blocks.add([matrix]) for matrix in stored] == [0, 1, 2]
    seen = []
    for block in (0, 1, 2, 2, 1, 0):
        assert torch.equal(blocks.fetch(block)[0], stored[block])
        seen.append(witness.brought[-1])
    assert seen == [1, 2, 1, 1, 0, 1]


def test_blocks_in_any_order(witness: type[Witness]) -> None:
    """A guess that was wrong costs time only, and no memory."""
    blocks = offload.OffloadedBlocks(CPU)
    stored = [torch.full((2, 2), float(number)) for number in range(4)]
    for matrix in stored:
        blocks.add([matrix])
    for block in (3, 0, 2, 0, 1, 3, 1):
        assert torch.equal(blocks.fetch(block)[0], stored[block])
    assert witness.most <= 2


def test_threads_ask_for_their_own() -> None:
    """As rows of a batch do that are computed side by side on a CPU."""
    blocks = offload.OffloadedBlocks(CPU)
    for number in range(BLOCKS):
        blocks.add([torch.full((2,), number)] * (number + 1))  # a block for another one would be too short, or wrong

    def through_all(turn: int) -> bool:
        order = range(BLOCKS) if turn % 2 else range(BLOCKS - 1, -1, -1)
        return all(blocks.fetch(number)[number][0] == number for _ in range(300) for number in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(through_all, range(4)))


def test_one_block(witness: type[Witness]) -> None:
    blocks = offload.OffloadedBlocks(CPU)
    blocks.add([torch.ones(2)])
    for _ in range(3):
        assert blocks.fetch(0)[0].sum() == 2
    assert witness.brought == [0]


def test_what_waits_is_told_beforehand(tiny_model: Path) -> None:
    """All but two blocks; the projections before them, and the values of no parameter, stay."""
    decoder = HybridModel(tiny_model).decoder
    before = sum(parameter.nbytes for parameter in decoder.parameters())
    blocks = len(decoder.transformer_blocks)
    told = offload.bytes_saved(decoder, "auto", 4)
    matrices = {name for name, _ in quantization.layer_matrices(decoder.transformer_blocks)}
    offload.offload(decoder, CPU)
    gone = before - sum(parameter.nbytes for parameter in decoder.parameters())
    assert gone > 0
    assert told == gone * (blocks - 2) // blocks
    waiting = {name for name, child in decoder.named_modules() if isinstance(child, offload.OffloadedLinear)}
    assert waiting == {f"transformer_blocks.{name}" for name in matrices}


def test_images_are_the_same(tiny_model: Path) -> None:
    """As samples are drawn during training: without gradients, and by other ways through the blocks."""
    request = Request("0", "a poster that says 'HI'", 0, 64, 64, steps=2, guidance=1.5)
    found = []
    for offloaded in (False, True):
        hybrid = HybridModel(tiny_model)
        if offloaded:
            for part in ("decoder", "autoregressive"):
                setattr(hybrid, part, offload.offload(getattr(hybrid, part), CPU))
        codes = generate_prior_tokens(hybrid, [request])
        found.append((codes[0], decode_prior_tokens(hybrid, [request], codes)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].tobytes() == found[1][1].tobytes()
