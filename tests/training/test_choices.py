"""What a recipe may ask of the losses: captions left out, text alone or all but text, and staying as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glmkit import config
from glmkit.config import STAGES, AutoregressiveStage, DecoderStage, GlyphStage, Lora
from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.models.hybrid import HybridModel
from glmkit.training import data, features, lora
from glmkit.training.context import StageContext
from glmkit.training.objectives import EVERY, stage_kinds
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.objectives.regularization import RegularizationImages, without_adapters
from glmkit.training.stage import prepare_stage

CPU = torch.device("cpu")
STAGE: dict[str, Any] = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3}
TARGETS = {"autoregressive": "q_proj", "decoder": "to_q", "glyph": "q"}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images(posters: Path) -> data.FileDataset:
    return data.FileDataset(posters / "train")


@pytest.fixture(scope="module")
def regular(posters: Path, images: data.FileDataset) -> data.ConcatDataset:
    """The training images, and three behind them that are for regularization."""
    return data.ConcatDataset([images, data.FileDataset(posters / "validation", repeats=4, regularization=True)])


def objective(stage: str, hybrid: HybridModel, images: data.ImageDataset, **changes: Any) -> Any:
    kinds: dict[str, Any] = {"autoregressive": AutoregressiveStage, "decoder": DecoderStage, "glyph": GlyphStage}
    settings = kinds[stage](**{**STAGE, **({} if stage == "autoregressive" else {"caption_dropout": 0.0}), **changes})
    return stage_kinds()[stage].build(hybrid, (images, images), settings, features.FeatureCache(CPU))


def adapted(stage: str, model: Path, images: data.ImageDataset, **changes: Any) -> Any:
    """The objective of a stage whose adapters have learnt something."""
    hybrid = HybridModel(model)
    settings = Lora(rank=2, targets=(TARGETS[stage],))
    torch.manual_seed(0)
    lora.inject(getattr(hybrid, stage), settings)
    draw = seeded(5)
    with torch.no_grad():
        for name, parameter in getattr(hybrid, stage).named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return objective(stage, hybrid, images, **{"lora": settings, **changes})


@torch.no_grad()
def test_a_dropped_caption_leaves_an_empty_prompt(tiny_model: Path, images: data.FileDataset) -> None:
    """The template and the sizes, as the published processor writes them for no text; the tokens and positions of the
    image follow as ever."""
    hybrid = HybridModel(tiny_model)
    dropping = objective("autoregressive", hybrid, images, caption_dropout=1.0)
    given: list[tuple[torch.Tensor, ...]] = []
    dropping.trained.register_forward_pre_hook(lambda _, seen: given.append(seen))
    dropping.loss([3, 1], seeded(0))
    ids_BT, positions_3BT = given[0]
    tokenizer = prompt_tokenizer(tiny_model).tokenizer
    content = [{"role": "user", "content": [{"type": "text", "text": ""}]}]
    text = tokenizer.apply_chat_template(content, tokenize=False)
    size = tokenizer.grid_bos_token + "{} {}" + tokenizer.grid_eos_token
    text += size.format(2, 2) + size.format(16, 16) + tokenizer.bos_token
    prompt = tokenizer(text, add_special_tokens=not text.startswith(tokenizer.bos_token))["input_ids"]
    assert ids_BT[:, : len(prompt)].tolist() == [prompt, prompt]
    assert ids_BT[0, len(prompt) : len(prompt) + 256].tolist() == dropping.sequences.preview[[3]].flatten().tolist()
    assert positions_3BT[:, 0, len(prompt)].tolist() == [len(prompt)] * 3


@torch.no_grad()
def test_captions_are_dropped_by_share(tiny_model: Path, images: data.FileDataset) -> None:
    """Neither all nor none of a batch; validation losses keep theirs, so that they can be compared."""
    hybrid = HybridModel(tiny_model)
    dropping, plain = (objective("autoregressive", hybrid, images, caption_dropout=share) for share in (0.4, 0.0))
    padded, asked = dropping.sequences.padded, []

    def watched(indices: list[int], dropped: list[bool]) -> Any:
        asked.extend(dropped)
        return padded(indices, dropped)

    dropping.sequences.padded = watched
    for seed in range(4):
        dropping.loss([0, 1, 2, 3], seeded(seed))
    dropping.sequences.padded = padded
    assert 2 <= sum(asked) <= 11
    assert len(asked) == 16
    assert dropping.validation_losses() == plain.validation_losses()


def gradient_of_velocity(given: Any) -> torch.Tensor:
    """How the loss changes with every predicted velocity, B C h w."""
    velocities: list[torch.Tensor] = []

    def watched(_: Any, __: Any, velocity: torch.Tensor) -> None:
        velocity.retain_grad()
        velocities.append(velocity)

    handle = given.decoder.register_forward_hook(watched)
    given.loss([0, 1], seeded(7))[0].backward()
    handle.remove()
    gradient = velocities[0].grad
    assert gradient is not None
    return gradient


def boxed(posters: Path, folder: Path, boxes: list[list[int]]) -> data.FileDataset:
    """The training images, all with these text boxes."""
    shutil.copytree(posters / "train", folder)
    rows = read_jsonl(folder / "metadata.jsonl")
    write_jsonl(folder / "metadata.jsonl", [{**row, "text_boxes": boxes} for row in rows])
    return data.FileDataset(folder)


@pytest.mark.parametrize("inside", [True, False])
def test_the_loss_may_be_on_text_alone_or_on_all_but_text(
    tiny_model: Path, posters: Path, tmp_path: Path, inside: bool
) -> None:
    images = boxed(posters, tmp_path / "boxed", [[8, 16, 40, 24]])
    hybrid = HybridModel(tiny_model)
    hybrid.decoder.requires_grad_(True)
    weights = {"other_weight": 0.0} if inside else {"text_weight": -1.0}
    gradient = gradient_of_velocity(objective("decoder", hybrid, images, **weights))
    text = torch.zeros(8, 8, dtype=torch.bool)
    text[2, 1:5] = True
    touched = gradient.abs().sum(dim=1) > 0
    assert torch.equal(touched, (text if inside else ~text).expand(2, 8, 8))
    plain = gradient_of_velocity(objective("decoder", hybrid, images))
    share = (4 * 4 / 64 + 2 * 4 / 96) / 6  # of an epoch; the mean is over what counts
    torch.testing.assert_close(gradient, plain * touched[:, None] / (share if inside else 1 - share))


def test_images_without_text_have_no_loss_on_text(tiny_model: Path, tmp_path: Path, posters: Path) -> None:
    """None of it where others have; a mistake where none has, or where it is unknown."""
    hybrid = HybridModel(tiny_model)
    hybrid.decoder.requires_grad_(True)
    sets = [boxed(posters, tmp_path / name, boxes) for name, boxes in (("bare", []), ("boxed", [[8, 16, 40, 24]]))]
    given = objective("decoder", hybrid, data.ConcatDataset(sets), other_weight=0.0)
    loss, _ = given.loss([0, 1], seeded(7))
    loss.backward()
    gradient = hybrid.decoder.proj_out.weight.grad
    assert loss == 0
    assert gradient is not None
    assert not gradient.any()
    with pytest.raises(UserError, match="no image has a place"):
        objective("decoder", hybrid, sets[0], other_weight=0.0)
    unknown = data.FileDataset(posters / "train")
    for images in (unknown, data.ConcatDataset([sets[1], unknown])):
        with pytest.raises(UserError, match=r"where text stands[^$]*masks in .*train"):
            objective("decoder", hybrid, images, other_weight=0.0)


def test_a_batch_has_the_loss_of_its_parts(tiny_model: Path, tmp_path: Path, posters: Path) -> None:
    """Where some images have much text and others none, however the batch is divided."""
    hybrid = HybridModel(tiny_model)
    sets = [boxed(posters, tmp_path / name, boxes) for name, boxes in (("bare", []), ("boxed", [[0, 0, 64, 48]]))]
    given = objective("decoder", hybrid, data.ConcatDataset(sets), text_weight=9.0, other_weight=0.5)
    assert given.mean_weight == pytest.approx(0.5 + 9.5 * (4 * 0.75 + 2 * 0.5) / 12)  # six of twelve have text
    error, batch = torch.rand(4, 16, 8, 8, generator=seeded(1)), [0, 1, 6, 7]
    whole, first, second = (given._weighted(error[own], batch[own])[0] for own in (EVERY, slice(2), slice(2, 4)))
    assert whole.item() == pytest.approx((first + second).item() / 2, rel=1e-6)
    assert second > 5 * first


@pytest.mark.parametrize("stage", ["autoregressive", "decoder", "glyph"])
def test_preserving_pulls_to_the_model_without_adapters(tiny_model: Path, images: data.FileDataset, stage: str) -> None:
    """On the images of the step: the distance that is written out here, weighted; its gradient reaches adapters."""
    given = adapted(stage, tiny_model, images, regularization_weight=3.0)
    alone = adapted(stage, tiny_model, images)
    loss, shown = given.loss([0, 1], seeded(7))
    plain, shown_alone = alone.loss([0, 1], seeded(7))
    base = objective(stage, HybridModel(tiny_model), images, **lora_of(stage))
    with torch.no_grad():
        after, before = (outputs(one, [0, 1]) for one in (given, base))
        if stage == "autoregressive":
            drift = (before.exp() * (before - after)).sum(dim=-1).mean()
        else:
            drift = (before - after).square().mean()
    assert drift > 1e-4
    assert "drift" not in shown_alone
    assert shown["drift"].item() == pytest.approx(drift.item(), rel=1e-3)
    assert loss.item() == pytest.approx((plain + 3 * drift).item(), rel=1e-4)
    (loss - plain.detach()).backward()
    learnt = [value for name, value in given.trained.named_parameters() if "lora_B" in name]
    assert all(value.requires_grad and value.grad is not None and value.grad.any() for value in learnt)


@pytest.mark.parametrize("stage", ["autoregressive", "decoder", "glyph"])
def test_preserving_is_the_same_however_memory_is_spent(tiny_model: Path, images: data.FileDataset, stage: str) -> None:
    """Layers that are computed again after the look at the model without adapters, and blocks that come and go."""
    gradients = []
    for offload, every in ((False, 0), (False, 1), (True, 1)):
        lora = {"rank": 2, "targets": [TARGETS[stage]], "offload": offload}
        settings = {**STAGE, "lora": lora, "regularization_weight": 3.0, "gradient_checkpointing": every}
        given = prepare_stage(
            StageContext(Path(), stage, 0, CPU),
            stage_kinds()[stage],
            STAGES[stage].model_validate(settings),
            HybridModel(tiny_model),
            (images, images),
            features.FeatureCache(CPU),
        ).objective
        learnt = [value for value in given.trained.parameters() if value.requires_grad]
        draw = seeded(5)
        with torch.no_grad():
            for value in learnt:
                value.normal_(std=0.3, generator=draw)
        given.trained.train()
        given.loss([0, 1], seeded(7))[0].backward()
        gradients.append([value.grad for value in learnt])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-6)


def lora_of(stage: str) -> dict[str, Any]:
    return {"lora": Lora(rank=2, targets=(TARGETS[stage],))}


def outputs(given: Any, indices: list[int]) -> torch.Tensor:
    """Log-probabilities, or the velocity of the step with seed 7."""
    velocity: torch.Tensor
    if isinstance(given, AutoregressiveObjective):
        return given.sequences.padded(indices).logits(given.trained).log_softmax(dim=-1)
    velocity, _ = given.predict_velocity(given.train, given.sample_inputs(indices, seeded(7)))
    return velocity


def test_other_images_may_be_preserved(tiny_model: Path, images: data.FileDataset, regular: data.ConcatDataset) -> None:
    """They are in no epoch, and every step looks at as many of them as it learns from."""
    assert regular.regularization == [6, 7, 8]
    assert regular.repeats == [1] * 6 + [0] * 3
    batches = data.Batches(data.buckets(regular), 2, 0, regular.repeats)
    assert {index for step in range(batches.per_epoch) for index in batches[step]} == set(range(6))
    chosen = RegularizationImages(regular)
    picks = [chosen([0, 1], seeded(seed)) for seed in range(20)]
    assert {index for pick in picks for index in pick} == {6, 7, 8}
    assert {len(pick) for pick in picks} == {2}
    assert chosen([0, 1], seeded(3)) == picks[3]
    for stage in ("autoregressive", "decoder"):
        given = adapted(stage, tiny_model, regular, regularization_weight=1.0)
        of_these = given.loss([0, 1], seeded(7))[1]["drift"]
        given.regularization = RegularizationImages(images)
        assert of_these > 0
        assert of_these != given.loss([0, 1], seeded(7))[1]["drift"]


def test_without_adapters_the_model_is_what_it_was(tiny_model: Path, images: data.FileDataset) -> None:
    given = adapted("decoder", tiny_model, images)
    base = objective("decoder", HybridModel(tiny_model), images)
    flags = [parameter.requires_grad for parameter in given.trained.parameters()]
    with without_adapters(given.trained):
        inside = outputs(given, [0, 1])
    assert torch.equal(inside, outputs(base, [0, 1]))
    assert not inside.requires_grad
    assert (outputs(given, [0, 1]) - inside).abs().max() > 1e-3
    assert flags == [parameter.requires_grad for parameter in given.trained.parameters()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regularization_weight": 1.0}, "regularization_weight needs a lora section"),
        ({"text_weight": -1, "other_weight": 0}, "leave nothing to learn"),
        ({"caption_dropout": 1.5}, "less than or equal to 1"),
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "learning_rate: 1, not 0.0001"),
    ],
)
def test_what_a_stage_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.from_dict({"output": "x", "data": {"train": "a", "validation": "b"}, "decoder": {**STAGE, **changes}})


def test_preserved_places_need_a_stage_that_preserves() -> None:
    places = [{"path": "a"}, {"path": "b", "regularization": True}]
    values = {"output": "x", "data": {"train": places, "validation": "c"}, "decoder": STAGE}
    with pytest.raises(UserError, match=r"decoder\.regularization_weight=1"):
        config.from_dict(values)
    values["data"] = {"train": [places[1]], "validation": "c"}
    with pytest.raises(UserError, match="nothing to learn"):
        config.from_dict(values)
