"""The semantic tokenizer: the codebook follows features, dead entries come back, captions have no quoted words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmkit.errors import UserError
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import SemanticVqStage
from glmkit.pretraining.posters import EverydayDataset
from glmkit.pretraining.semantic_vq import (
    CAPTION_TOKENS,
    TEXT_CLASSES,
    Captioner,
    CodebookAverages,
    SemanticVqObjective,
    blanked_caption_ids,
    ink,
)
from glmkit.training import data

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(seed)), dim=-1)


def test_codes_follow_the_mean_of_their_features() -> None:
    codebook = torch.nn.Parameter(unit(4, 6))
    averages = CodebookAverages(codebook, decay=0.5)
    centres = unit(4, 6, seed=1)
    features = F.normalize(centres.repeat(50, 1) + 0.05 * torch.randn(200, 6, generator=seeded(2)), dim=-1)
    ids = torch.arange(4).repeat(50)
    for _ in range(30):
        averages.follow(features, ids)
    expected = F.normalize(features.view(50, 4, 6).mean(dim=0), dim=-1)
    torch.testing.assert_close(codebook.data, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(averages.count, torch.full((4,), 50.0), rtol=1e-3, atol=0)
    assert not codebook.requires_grad


def test_a_code_that_nobody_chooses_keeps_its_place() -> None:
    codebook = torch.nn.Parameter(unit(3, 6))
    before = codebook.detach().clone()
    averages = CodebookAverages(codebook, decay=0.9)
    for _ in range(50):
        averages.follow(unit(8, 6, seed=1), torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(codebook.data[1:], before[1:], atol=1e-3, rtol=0)
    assert averages.used[0] > 0.9
    assert averages.used[1:].max() == 0


def test_dead_codes_come_back_as_far_features() -> None:
    codebook = torch.nn.Parameter(unit(4, 6))
    averages = CodebookAverages(codebook, decay=0.9)
    alive = codebook.detach()[:2].clone()
    for _ in range(20):
        averages.follow(alive, torch.tensor([0, 1]))
    far = -alive[:1] - alive[1:]
    features = torch.cat([alive[:1].expand(500, 6), F.normalize(far, dim=-1).expand(500, 6)])
    averages.revive(features, seeded(0), everything=False)
    torch.testing.assert_close(codebook.data[:2], alive, atol=1e-4, rtol=0)
    torch.testing.assert_close(codebook.data[2:], F.normalize(far, dim=-1).expand(2, 6), atol=1e-5, rtol=0)
    assert averages.used.min() >= 0.1
    assert torch.equal(averages.sum[2:], codebook.data[2:])
    before = codebook.data.clone()
    averages.revive(features, seeded(1), everything=False)
    assert torch.equal(codebook.data, before), "who came back gets time to be used"
    averages.revive(unit(2, 6, seed=5), seeded(1), everything=True)
    assert not torch.isclose(codebook.data, before).all(dim=1).any()


def test_the_ink_of_a_thin_line_is_its_colour() -> None:
    """One pixel of a cell is enough; cells of background have none, whatever little noise they have."""
    background, colour = torch.tensor([0.8, -0.2, 0.1]), torch.tensor([-1.0, 0.5, 0.9])
    pixels = background[None, :, None, None].repeat(2, 1, 16, 24)
    pixels += 0.02 * torch.rand(pixels.shape, generator=seeded(0))
    pixels[1, :, 5, 8:16] = colour[:, None]
    colours, has_ink = ink(pixels, 4)
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    expected[1, 1, 2:4] = True
    assert torch.equal(has_ink, expected)
    torch.testing.assert_close(colours[1, :, 1, 2], colour, rtol=0, atol=0)


def test_quoted_words_are_blanked(tiny_model: Path) -> None:
    tokenizer = prompt_tokenizer(tiny_model).tokenizer
    captions = ['a red poster with "HELLO" and “ONE”', 'a red poster with "OTHER" and “WORDS”', "a" * 500]
    table = blanked_caption_ids(tokenizer, captions, CPU)
    assert table.shape == (3, CAPTION_TOKENS)
    assert torch.equal(table[0], table[1])
    assert (table[:, 0] == tokenizer.bos_token_id).all()
    assert table[0, -1] == 0
    assert table[2, -1] != 0
    words = [index for index in table[0].tolist() if index][1:]
    assert tokenizer.decode(words) == 'a red poster with "" and ""'


@torch.no_grad()
def test_the_captioner_looks_back_only_and_at_the_codes() -> None:
    torch.manual_seed(0)
    captioner = Captioner(8, 30, side=4).eval()
    quantized, words = torch.randn(2, 8, 3, 5), torch.randint(1, 30, (2, 7))
    logits = captioner(quantized, words)
    other = words.clone()
    other[:, 5] = (other[:, 5] + 1) % 30
    changed = captioner(quantized, other)
    torch.testing.assert_close(changed[:, :5], logits[:, :5], atol=1e-5, rtol=0)
    assert (changed[:, 5:] - logits[:, 5:]).abs().max() > 1e-3
    assert (captioner(quantized + 1, words) - logits).abs().max() > 1e-3
    assert (captioner(quantized.flip(3), words) - logits).abs().max() > 1e-3, "where a code stands matters"


def make(
    tiny_model: Path, train: data.ImageDataset, validation: data.ImageDataset, **changes: Any
) -> SemanticVqObjective:
    torch.manual_seed(0)
    hybrid = HybridModel(tiny_model)
    hybrid.semantic_vq.requires_grad_(True)
    values: dict[str, Any] = {
        "steps": 10,
        "global_batch_size": 4,
        "learning_rate": 1e-3,
        "revive_every": 2,
    }
    return SemanticVqObjective(hybrid, None, (train, validation), SemanticVqStage(**values, **changes))


@pytest.fixture
def objective(tiny_model: Path, posters: Path) -> SemanticVqObjective:
    return make(tiny_model, data.FileDataset(posters / "train"), data.FileDataset(posters / "validation"))


@pytest.mark.parametrize(("key", "name"), [("shape_weight", "shapes"), ("text_weight", "texts")])
def test_tokens_are_asked_for_what_is_there(tiny_model: Path, key: str, name: str) -> None:
    """In every cell where a shape stands, or a character, as the scene says, and nowhere else; nothing else changes."""
    images = EverydayDataset(8, 128, 128, seed=0, workers=1, split="train")
    asked, plain = make(tiny_model, images, images, **{key: 2.0}), make(tiny_model, images, images)
    labels = images.character_labels(range(8), CPU)
    assert (labels > 6).any()
    assert ((labels > 0) & (labels <= 6)).any()
    cells = asked._cells(images, range(8), 4, 4)
    assert cells is not None
    assert torch.equal(cells, labels.long())
    finer = asked._cells(images, range(8), 8, 8)
    assert finer is not None
    assert torch.equal(finer[:, ::2, 1::2], cells)
    wanted = (cells > 0) & (cells <= 6) if name == "shapes" else cells > 6
    head = asked.cell_heads[name]
    assert isinstance(head, torch.nn.Conv2d)
    features = torch.randn(8, head.in_channels, 4, 4, generator=seeded(1))
    logits = F.pixel_shuffle(head(features), 4).log_softmax(dim=1)
    classes = torch.where(wanted, cells - 1 if name == "shapes" else cells % TEXT_CLASSES, 0)
    picked = logits.gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(asked._cell_loss(name, features, cells), -picked[wanted].mean())
    loss, shown = asked.loss(range(8), seeded(0))
    without, fewer = plain.loss(range(8), seeded(0))
    torch.testing.assert_close(loss.detach(), without.detach() + 2 * shown[name])
    assert name not in fewer
    loss.backward()
    gradient = head.weight.grad
    assert gradient is not None
    assert gradient.any()
    assert asked.validation_losses()[name] > 0
    assert name not in plain.validation_losses()


def test_tokens_are_asked_for_ink(tiny_model: Path, posters: Path) -> None:
    """The colours that stand on the background, of any images; nothing else changes."""
    images = data.FileDataset(posters / "train")
    asked, plain = make(tiny_model, images, images, ink_weight=2.0), make(tiny_model, images, images)
    loss, shown = asked.loss(range(4), seeded(0))
    without, fewer = plain.loss(range(4), seeded(0))
    torch.testing.assert_close(loss.detach(), without.detach() + 2 * shown["ink"])
    assert "ink" not in fewer
    loss.backward()
    gradient = asked.ink_head.weight.grad
    assert gradient is not None
    assert gradient.any()
    assert asked.validation_losses()["ink"] > 0


def test_files_know_no_shapes(tiny_model: Path, posters: Path) -> None:
    images = data.FileDataset(posters / "train")
    with pytest.raises(UserError, match="which character stands where"):
        make(tiny_model, images, images, shape_weight=1.0)


def test_the_stage(objective: SemanticVqObjective) -> None:
    """Gradients reach the encoder through quantized features; the codebook moves by averages; scoring changes none."""
    before = objective.validation_losses()
    codebook = objective.averages.codebook
    first = codebook.detach().clone()
    loss, shown = objective.loss([0, 1, 2, 3], seeded(0))
    loss.backward()
    moved = codebook.detach().clone()
    assert not torch.equal(first, moved)
    assert codebook.grad is None
    encoder = objective.tokenizer.visual.patch_embed.proj.weight.grad
    assert encoder is not None
    assert encoder.abs().max() > 0
    assert all(not value.requires_grad for value in shown.values())
    objective.after_step(1, seeded(1))
    assert torch.equal(codebook, moved)
    objective.after_step(2, seeded(1))
    assert not torch.isclose(codebook, moved).all(dim=1).any(), "the first time all entries are replaced"
    revived = codebook.detach().clone()
    objective.loss([0, 1, 2, 3], seeded(0))
    objective.after_step(10, seeded(1))
    assert torch.isfinite(codebook).all()
    assert not torch.equal(codebook, revived)
    scores = objective.validation_losses()
    assert objective.validation_losses() == scores
    assert scores["loss"] == pytest.approx(scores["colours"] + scores["caption"])
    assert 0 < scores["codebook_usage"] <= 1
    assert before.keys() == scores.keys()
