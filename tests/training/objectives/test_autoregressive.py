"""The loss of the AR model, against cross-entropy written out over the reference model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reference_losses import (
    autoregressive,
    reference_nats,
    seeded,
)

from glmkit.models.hybrid import HybridModel


@pytest.mark.parametrize("indices", [[0], [3, 1, 2], [5, 4]])
@torch.no_grad()
def test_autoregressive_loss(hybrid: HybridModel, images: Any, indices: list[int]) -> None:
    """Prompts of several lengths in one batch; the parts apart, the preview weighted, the end as 1/64 of a token."""
    loss, shown = autoregressive(hybrid, images, preview_weight=0.3).loss(indices, seeded(0))
    rows = [reference_nats(hybrid, images[0], index) for index in indices]
    preview, large, end = (torch.stack(part) for part in zip(*rows, strict=True))
    expected = {"preview": preview.mean(), "large": large.mean(), "end": end.mean()}
    for name, value in expected.items():
        assert shown[name].item() == pytest.approx(value.item(), abs=1e-4)
    total = 0.3 * expected["preview"] + expected["large"] + expected["end"] / 64
    assert loss.item() == pytest.approx(total.item(), abs=1e-4)
    assert abs(expected["preview"] - expected["large"]) > 0.01, "a mix-up of the parts would show"


@torch.no_grad()
def test_autoregressive_loss_of_the_large_grid_at_once(hybrid: HybridModel, images: Any) -> None:
    """Without a preview the large grid stands where the preview would."""
    loss, shown = autoregressive(hybrid, images, preview=False).loss([3, 1], seeded(0))
    rows = [reference_nats(hybrid, images[0], index, with_preview=False) for index in (3, 1)]
    _, large, end = (torch.stack(part).mean().item() for part in zip(*rows, strict=True))
    assert set(shown) == {"large", "end"}
    assert loss.item() == pytest.approx(large + end / 64, abs=1e-4)
    with_preview = torch.stack([reference_nats(hybrid, images[0], index)[1] for index in (3, 1)]).mean().item()
    assert abs(large - with_preview) > 0.01, "what stands before would show"


@torch.no_grad()
def test_autoregressive_validation(hybrid: HybridModel, images: Any) -> None:
    objective = autoregressive(hybrid, images)
    losses = objective.validation_losses()
    parts = [reference_nats(hybrid, images[1], index) for index in range(3)]
    expected = [torch.cat(column).mean().item() for column in zip(*parts, strict=True)]
    assert [losses[name] for name in ("preview", "large", "end")] == pytest.approx(expected, abs=1e-4)
    torch.manual_seed(99)
    assert objective.validation_losses() == losses


@torch.no_grad()
def test_every_validation_image_counts_alike(hybrid: HybridModel, images: Any) -> None:
    """Four images of one size and two of another: not the mean of two means."""
    losses = autoregressive(hybrid, (images[1], images[0])).validation_losses()
    parts = [reference_nats(hybrid, images[0], index) for index in range(6)]
    for name, column in zip(("preview", "large", "end"), zip(*parts, strict=True), strict=True):
        assert losses[name] == pytest.approx(torch.stack([nats.mean() for nats in column]).mean().item(), abs=1e-4)


def test_autoregressive_gradient_reaches_the_model(tiny_model: Path, images: Any) -> None:
    hybrid = HybridModel(tiny_model)
    hybrid.autoregressive.requires_grad_(True)
    loss, shown = autoregressive(hybrid, images).loss([0, 1], seeded(0))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hybrid.autoregressive.parameters())
    assert not any(value.requires_grad for value in shown.values())
    head = hybrid.autoregressive.lm_head.weight.grad
    assert head is not None
    assert head.abs().sum(dim=1).gt(0).all(), "every output column competes, image token or not"
