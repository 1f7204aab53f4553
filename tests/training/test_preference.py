"""Learning from pairs: the loss against known answers and formulas written out, and what it makes of a toy model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from glmkit import config
from glmkit.config import STAGES, Lora
from glmkit.config.dpo import DecoderDpo, Dpo
from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.models.hybrid import HybridModel
from glmkit.training import checks, data, features, lora
from glmkit.training.finetune import finetune
from glmkit.training.objectives import stage_kinds
from glmkit.training.objectives.preference import pair_losses

CPU = torch.device("cpu")
BETTER = [1, 3, 5, 7]  # images of the set, each behind its rejected one
PAIR = [1, 5]
TARGETS = {"autoregressive": "q_proj", "decoder": "to_q"}
BOTH = pytest.mark.parametrize("stage", ["autoregressive", "decoder"])


@pytest.fixture(scope="module")
def folder(posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in train/ and validation/: posters, and the same in other colours and upside down."""
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "validation"):
        records = []
        for number, record in enumerate(read_jsonl(posters / split / "metadata.jsonl")):
            image = Image.open(posters / split / record["file_name"])
            if image.height != 64:
                continue
            for kind, shown in (("chosen", image), ("rejected", ImageOps.invert(image).rotate(180))):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                shown.save(folder / split / kind / f"{number}.png")
            files = {f"{kind}_file_name": f"{kind}/{number}.png" for kind in ("chosen", "rejected")}
            records.append({"prompt": record["text"], **files})
        write_jsonl(folder / split / "metadata.jsonl", records)
    return folder


@pytest.fixture(scope="module")
def images(folder: Path) -> data.FileDataset:
    return data.FileDataset(folder / "train")


def objective(stage: str, model: Path, images: data.ImageDataset, strength: float = 0.3) -> Any:
    hybrid = HybridModel(model)
    adapters = Lora(rank=2, targets=(TARGETS[stage],))
    torch.manual_seed(0)
    lora.inject(getattr(hybrid, stage), adapters)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in getattr(hybrid, stage).named_parameters():
            if "lora_B" in name:
                parameter.copy_(strength * torch.randn(parameter.shape, generator=generator))
    settings = STAGES[stage].model_validate(
        {"lora": adapters, "steps": 1, "global_batch_size": 2, "learning_rate": 1e-3, "caption_dropout": 0, "dpo": {}}
    )
    return stage_kinds()[stage].build(hybrid, (images, images), settings, features.FeatureCache(CPU))


@pytest.fixture(scope="module")
def learnt(tiny_model: Path, images: data.FileDataset) -> dict[str, Any]:
    """The objective of each stage, whose adapters have learnt something."""
    return {stage: objective(stage, tiny_model, images) for stage in TARGETS}


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_gradient_is_that_of_the_paper() -> None:
    """Of two outcomes of a softmax: -beta sigmoid(-margin) (e_better - e_worse), for the rest of it cancels out."""
    logits = torch.tensor([0.3, -1.0, 0.7, 0.1], dtype=torch.float64, requires_grad=True)
    before = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    better, worse, beta = 2, 1, 0.5
    costs = -logits.log_softmax(dim=0)[[better, worse]]
    pair_losses(costs, -before[[better, worse]], Dpo(beta=beta, supervised_weight=0))["loss"].sum().backward()
    gains = (logits.log_softmax(dim=0) - before).detach()
    strength = -beta / (1 + math.exp(beta * (gains[better] - gains[worse])))
    expected = torch.zeros(4, dtype=torch.float64)
    expected[better], expected[worse] = strength, -strength
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize(("rewards", "smoothing"), [([0.0, 1.0, -0.5, 2.0], 0.0), ([0.0, 1.5], 0.2)])
def test_the_optimum_is_the_reference_tilted_by_the_reward(rewards: list[float], smoothing: float) -> None:
    """Preferences by Bradley and Terry with rewards r are best explained by reference x exp(r / beta) / Z.

    With smoothing e, two outcomes are, of which the better one is preferred in p (1 - 2 e) + e of the votes.
    """
    r, beta = torch.tensor(rewards, dtype=torch.float64), 0.7
    before = torch.arange(1, len(r) + 1, dtype=torch.float64).log_softmax(dim=0)
    better, worse = torch.cartesian_prod(torch.arange(len(r)), torch.arange(len(r))).T
    preferred, both = torch.sigmoid(r[better] - r[worse]), torch.cat([better, worse])
    logits = torch.zeros(len(r), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> float:
        optimizer.zero_grad()
        costs = -logits.log_softmax(dim=0)[both]
        losses = pair_losses(costs, -before[both], Dpo(beta=beta, label_smoothing=smoothing, supervised_weight=0))
        (preferred * losses["loss"]).sum().backward()
        return float((preferred * losses["loss"]).detach().sum())

    optimizer.step(closure)
    if smoothing:
        share = torch.sigmoid(r[1] - r[0]) * (1 - 2 * smoothing) + smoothing
        r = torch.stack([torch.zeros_like(share), share.logit()])
    expected = (before + r / beta).log_softmax(dim=0)
    torch.testing.assert_close(logits.detach().log_softmax(dim=0), expected, atol=1e-6, rtol=0)


@BOTH
def test_nothing_is_won_before_anything_is_learnt(stage: str, tiny_model: Path, images: data.FileDataset) -> None:
    fresh = objective(stage, tiny_model, images, strength=0.0)
    fresh.settings = fresh.settings.model_copy(update={"supervised_weight": 0})
    loss, shown = fresh.loss(PAIR, seeded())
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert shown["won"] == shown["chosen"] == shown["rejected"] == 0
    validation = fresh.validation_losses()
    assert validation["loss"] == validation["dpo"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_decoder_compares_errors_at_one_noise_and_time(tiny_model: Path, learnt: dict[str, Any]) -> None:
    """The formula of Diffusion-DPO, written out on the velocities of two models, one of them without adapters."""
    given = learnt["decoder"]
    given.settings = DecoderDpo(beta=300, supervised_weight=0.3)
    seen: list[tuple[Any, ...]] = []
    handle = given.decoder.register_forward_hook(lambda _, inputs, velocity: seen.append((inputs, velocity)))
    loss, shown = given.loss(PAIR, seeded())
    handle.remove()
    (inputs, velocity), (same, reference) = seen
    torch.testing.assert_close(reference, HybridModel(tiny_model).decoder(*same))
    assert all(torch.equal(one, other) for one, other in zip(inputs[:3], same[:3], strict=True))
    drawn = given.sample_inputs(PAIR, seeded())
    noise = drawn.noise.double().repeat(2, 1, 1, 1)
    sigma = drawn.times.sigma.double().repeat(2).reshape(-1, 1, 1, 1)
    clean = (inputs[0].double() - sigma * noise) / (1 - sigma)
    torch.testing.assert_close(clean[:2].float(), drawn.latents, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(clean[:2], clean[2:], atol=0.1)
    errors, before = (
        (one.double() - (noise - clean)).square().mean(dim=(1, 2, 3)) for one in (velocity.detach(), reference)
    )
    inside = -0.5 * 300 * ((errors[:2] - errors[2:]) - (before[:2] - before[2:]))
    expected = -F.logsigmoid(inside).mean() + 0.3 * errors[:2].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert shown["won"].item() == (inside > 0).double().mean()
    assert shown["supervised"].item() == pytest.approx(errors[:2].mean().item(), rel=1e-4)


def test_the_ar_model_compares_likelihoods(tiny_model: Path, images: data.FileDataset, learnt: dict[str, Any]) -> None:
    """DPO written out on the log-probabilities of two models, of one pair after the other."""
    given = learnt["autoregressive"]
    given.settings = Dpo(beta=15, supervised_weight=0)
    plain = HybridModel(tiny_model).autoregressive
    insides = []
    for index in PAIR:
        gains = []
        for image in (index, images.rejected[index]):
            batch = given.sequences.padded([image])
            likelihoods = []
            for model in (given.trained, plain):
                values = batch.logits(model)[0].double().log_softmax(dim=-1)
                values = values.gather(1, batch.batch.target_ids_BN[0, :, None])[:, 0]
                preview, large, end = values.split([256, 4, 1])
                likelihoods.append((preview.mean() + large.mean() + end.mean() / 64).item())
            gains.append(likelihoods[0] - likelihoods[1])
        insides.append(15 * (gains[0] - gains[1]))
    loss, shown = given.loss(PAIR, seeded())
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-one)) for one in insides) / 2, rel=1e-4)
    assert shown["won"].item() == sum(one > 0 for one in insides) / 2


@BOTH
def test_the_loss_is_the_mean_over_parts_of_a_batch(stage: str, learnt: dict[str, Any]) -> None:
    given = learnt[stage]
    whole = given.loss(BETTER, seeded())[0].item()
    parts = [given.loss(BETTER, seeded(), rows)[0].item() for rows in (slice(0, 2), slice(2, 4))]
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_pairs_of_the_same_tokens_have_one_prior(tiny_model: Path, images: data.FileDataset) -> None:
    given = objective("decoder", tiny_model, images)
    given.train.prior_token_ids.fill([images.rejected[BETTER[0]]], torch.full((1, 2, 2), 3, dtype=torch.int16))
    for same in (False, True):
        given.settings = DecoderDpo(same_prior=same)
        seen: list[Tensor] = []
        handle = given.decoder.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[3]))
        given.loss(BETTER[:1], seeded())
        handle.remove()
        assert torch.equal(seen[0][0], seen[0][1]) == same


@BOTH
def test_a_run_wins_its_pairs(stage: str, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    """As a recipe, with adapters that load again; the images of the other colours become less likely."""
    recipe = config.from_dict(
        {
            "model": str(tiny_model),
            "output": str(tmp_path / "run"),
            "data": {"train": str(folder / "train")},
            stage: {
                "lora": {"rank": 4, "alpha": 8, "targets": [TARGETS[stage]]},
                "steps": 12,
                "global_batch_size": 4,
                "learning_rate": 1e-2,
                "caption_dropout": 0,
                "dpo": {},
            },
        }
    )
    result = finetune(recipe, CPU)[stage]
    assert result["before"]["dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert result["after"]["dpo"] < 0.9 * result["before"]["dpo"]
    assert result["after"]["won"] == 1
    assert result["after"]["chosen"] > result["after"]["rejected"]
    about = json.loads((tmp_path / "run/data.json").read_text())
    assert (about["train"]["images"], about["train"]["pairs"]) == (4, 4)


@BOTH
def test_other_stages_learn_the_better_images_alone(
    stage: str, tiny_model: Path, posters: Path, images: data.FileDataset
) -> None:
    """As if the rejected ones were not there."""
    values = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3}
    losses = []
    for one in (images, data.FileDataset(posters / "train")):
        settings = STAGES[stage].model_validate(values)
        given: Any = stage_kinds()[stage].build(
            HybridModel(tiny_model), (one, one), settings, features.FeatureCache(CPU)
        )
        shown = [index for index, count in enumerate(one.repeats) if count]
        losses.append(given.loss([shown[0], shown[2]], seeded())[0].item())
    assert losses[0] == losses[1]


def test_images_without_a_rejected_one_are_refused(posters: Path, tiny_model: Path) -> None:
    recipe = config.from_dict(
        {
            "model": str(tiny_model),
            "output": "unused",
            "data": {"train": str(posters / "train")},
            "decoder": {
                "lora": {"targets": ["to_q"]},
                "steps": 1,
                "global_batch_size": 1,
                "learning_rate": 1e-3,
                "dpo": {},
            },
        }
    )
    with pytest.raises(UserError, match=r"decoder\.dpo learns from pairs, and 6 images have no rejected one"):
        checks.content(recipe, data.FileDataset(posters / "train"))


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("decoder", {"lora": None}, "dpo needs a lora section"),
        ("decoder", {"text_weight": 1.0}, "text_weight does nothing under dpo"),
        ("decoder", {"regularization_weight": 1.0}, "regularization_weight does nothing under dpo"),
        ("autoregressive", {"pack": True}, "pack does nothing under dpo"),
        ("glyph", {}, "dpo"),
        (
            "decoder",
            {"rl": {"rewards": {"weights": {"text": 1}}, "group_size": 2}, "global_batch_size": 2},
            "not from both",
        ),
    ],
)
def test_what_does_not_go_with_pairs_is_refused(stage: str, changes: dict[str, Any], message: str) -> None:
    values = {"lora": {"targets": ["q"]}, "steps": 1, "global_batch_size": 1, "learning_rate": 1e-3, "dpo": {}}
    with pytest.raises(ValueError, match=message):
        STAGES[stage].model_validate({**values, **changes})
