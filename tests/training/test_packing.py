"""Images of any sizes in one row: the same losses and gradients as one by one, nothing seen of a neighbour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from glmkit import config
from glmkit.config import AutoregressiveStage
from glmkit.errors import UserError
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.posters import EditDataset
from glmkit.training import data, features
from glmkit.training.objectives.autoregressive import KIND, AutoregressiveObjective

CPU = torch.device("cpu")
STAGE: dict[str, Any] = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3}
MIXED = [5, 0, 9, 4]  # 96x64, 64x64, an edit of 128x128, 96x64


@pytest.fixture(scope="module")
def images(posters: Path) -> data.ConcatDataset:
    """Six posters of two sizes, then two pairs: numbers 7 and 9 are edits."""
    edits = EditDataset(2, 128, 128, seed=2, workers=1, split="train")
    return data.ConcatDataset([data.FileDataset(posters / "train"), edits])


def objective(model: Path, images: data.ImageDataset, **changes: Any) -> AutoregressiveObjective:
    hybrid = HybridModel(model)
    hybrid.autoregressive.requires_grad_(True)
    stage = AutoregressiveStage(**{**STAGE, "preview_weight": 0.3, **changes})
    built = KIND.build(hybrid, (images, images), stage, features.FeatureCache(CPU))
    assert isinstance(built, AutoregressiveObjective)
    return built


def gradients(given: AutoregressiveObjective, indices: list[int]) -> tuple[dict[str, float], list[torch.Tensor]]:
    """The losses of one step, and the gradient of every parameter."""
    generator = torch.Generator().manual_seed(0)
    loss, shown = given.loss(indices, generator)
    losses = {name: float(value) for name, value in {"loss": loss, **shown}.items()}
    return losses, list(torch.autograd.grad(loss, list(given.trained.parameters())))


def test_packed_is_one_by_one(tiny_model: Path, images: data.ConcatDataset) -> None:
    """Every image counts alike, whatever its size; a part is the mean over the images that have it."""
    packed, learnt = gradients(objective(tiny_model, images, pack=True), MIXED)
    alone = [gradients(objective(tiny_model, images), [index]) for index in MIXED]
    assert packed["loss"] == pytest.approx(sum(losses["loss"] for losses, _ in alone) / 4, abs=1e-5)
    for name, value in packed.items():
        own = [losses[name] for losses, _ in alone if name in losses]
        assert value == pytest.approx(sum(own) / len(own), abs=1e-5)
    assert packed.keys() == {"loss", "preview", "large", "edit", "end"}
    for number, gradient in enumerate(learnt):
        expected = torch.stack([own[number] for _, own in alone]).mean(dim=0)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_row_has_no_padding_and_no_neighbours(tiny_model: Path, images: data.ConcatDataset) -> None:
    """As many tokens as the sequences have; another first sequence changes no logit of the second, but for rounding
    where the row becomes longer."""
    given = objective(tiny_model, images, pack=True)
    one, longer = (given.sequences.packed([first, 9]) for first in (5, 0))
    first, second = one.sequences
    other = replace(one, sequences=[replace(first, ids_T=first.ids_T.flip(0)), second])
    seen: list[Any] = []
    handle = given.trained.register_forward_pre_hook(lambda _, ids: seen.append(ids[0]))
    logits = [batch.logits(given.trained)[0] for batch in (one, other, longer)]
    handle.remove()
    assert seen[0].shape == (1, sum(len(sequence.ids_T) for sequence in one.sequences))
    written = sum(one.lengths[1].values())
    assert torch.equal(logits[0][-written:], logits[1][-written:])
    assert not torch.equal(logits[0][:9], logits[1][:9])
    assert len(logits[2]) > len(logits[0])
    torch.testing.assert_close(logits[2][-written:], logits[0][-written:], atol=1e-4, rtol=0)


def test_batches_of_all_sizes(images: data.ConcatDataset) -> None:
    """An epoch shows every image once, and none a second time to fill up a batch of its size."""
    batches = data.Batches(data.one_bucket(data.buckets(images)), 5, seed=0, repeats=images.repeats)
    shown = [batches[step] for step in range(batches.per_epoch)]
    assert sorted(index for batch in shown for index in batch) == list(range(10))
    assert any(len({images.sizes[index] for index in batch}) > 1 for batch in shown)


def test_compiled_rows_of_any_lengths(
    tiny_model: Path, images: data.ConcatDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gradients as without, and what one row compiled serves the next ones (here by the eager backend)."""
    counter, plain = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: plain(call, **options, backend=counter))
    eager, compiled = (objective(tiny_model, images, pack=True, compile=asked) for asked in (False, True))
    compiled.compile()
    counts = []
    for indices in (MIXED, [0, 7], [9, 9, 9, 1, 2]):
        (losses, learnt), (expected, gradient) = gradients(compiled, indices), gradients(eager, indices)
        assert losses == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(learnt, gradient, rtol=1e-4, atol=1e-6)
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts == counts[:1] * 3
    assert compiled.validation_losses() == pytest.approx(eager.validation_losses(), abs=1e-5)


def test_not_with_equal_pixels() -> None:
    stage = {**STAGE, "pack": True, "equal_pixels": True}
    with pytest.raises(UserError, match="pack puts images of all sizes into a batch"):
        config.from_dict({"output": "x", "data": {"train": "a", "validation": "b"}, "autoregressive": stage})


def test_every_image_counts_the_same(tiny_model: Path, images: data.ConcatDataset) -> None:
    """Also in what is compared with the model without adapters: a divided row has the mean of its parts."""
    sequences = objective(tiny_model, images).sequences
    draw = torch.Generator().manual_seed(0)
    numbers = [torch.rand(sum(own.values()), generator=draw) for own in sequences.packed(MIXED).lengths]
    assert len({len(own) for own in numbers}) > 1
    whole = sequences.packed(MIXED).image_mean(torch.cat(numbers)[None])
    parts = [sequences.padded([index]).image_mean(own[None]) for index, own in zip(MIXED, numbers, strict=True)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
