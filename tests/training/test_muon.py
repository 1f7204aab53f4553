"""Muon of all matrices at once against torch's, which takes them one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glmkit.config import DecoderStage
from glmkit.training import muon
from glmkit.training.muon import Muon
from glmkit.training.optimizers import optimizers

SHAPES = [(32, 32), (64, 32), (32, 32), (32, 96), (64, 32), (32, 32)]


def matrices() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]


def step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int, missing: int | None) -> None:
    draw = torch.Generator().manual_seed(seed)
    for number, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=draw)
        parameter.grad = None if number == missing else gradient
    optimizer.step()


def difference(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("exactly", "error"), [(True, 1e-6), (False, 5e-3)])
def test_equals_torchs(exactly: bool, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a matrix has no gradient in some step, and when one goes on with the state of the other. In bfloat16
    products of many matrices at once may round otherwise than one by one, so both calculate in float64, too."""
    if exactly:
        monkeypatch.setattr(torch, "bfloat16", torch.float64)
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    ours, theirs = matrices(), matrices()
    muon = Muon(ours, lr=0.02, weight_decay=0.3)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for seed, missing in enumerate((None, 2, None, 3)):
        step(muon, ours, seed, missing)
        step(reference, theirs, seed, missing)
    assert difference(ours, theirs) < error < 0.01 < difference(ours, matrices())
    other = Muon(theirs, lr=1.0)
    other.load_state_dict(reference.state_dict())
    step(muon, ours, 9, None)
    step(other, theirs, 9, None)
    assert difference(ours, theirs) < error


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([nn.Parameter(torch.zeros(3))])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2)])
        self.frozen = nn.ModuleList([nn.Sequential(nn.Linear(8, 8))]).requires_grad_(False)
        self.out = nn.Linear(8, 3)


def names(network: Network, parameters: list[Tensor]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in network.named_parameters() if id(parameter) in wanted}


def test_which_parameters_it_takes() -> None:
    """The matrices inside; embeddings, the last layer and every vector stay with AdamW, and nothing frozen is taken."""
    network = Network()
    settings: dict[str, Any] = {"steps": 1, "global_batch_size": 1, "learning_rate": 0.1, "weight_decay": 0.2}
    adamw, muon = optimizers(network, DecoderStage(**settings, optimizer="muon"), torch.device("cpu"))
    inside = {"layers.0.0.weight", "layers.1.0.weight"}
    assert names(network, muon.param_groups[0]["params"]) == inside
    assert names(network, adamw.param_groups[0]["params"]) == {"embedding.weight", "out.weight"}
    vectors = {f"layers.{layer}.{part}" for layer in (0, 1) for part in ("0.bias", "1.weight", "1.bias")}
    assert names(network, adamw.param_groups[1]["params"]) == {*vectors, "out.bias"}
    decays = [group["weight_decay"] for optimizer in (adamw, muon) for group in optimizer.param_groups]
    assert decays == [0.2, 0.0, 0.2]
    (alone,) = optimizers(network, DecoderStage(**settings), torch.device("cpu"))
    assert inside <= names(network, alone.param_groups[0]["params"])


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_computes_in_float32_without_bfloat16(has: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_bfloat16", lambda _: has)
    assert muon.orthogonal(torch.eye(4)[None]).dtype == dtype
