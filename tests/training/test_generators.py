"""The losses of the two generators, against cross-entropy and flow matching written out over reference models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch
from decoder_calls import decoder_calls
from PIL import Image
from torch import Tensor

from glmkit.config import DecoderStage
from glmkit.generation.condition_images import encode_condition_images
from glmkit.generation.denoising import to_image, upsample_prior_tokens
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import training_sequence
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import PretrainAutoregressiveStage, PretrainDecoderStage
from glmkit.pretraining.posters import EditDataset, PosterDataset
from glmkit.pretraining.pretrain import pretraining_kinds
from glmkit.records import Request
from glmkit.training import data, features
from glmkit.training.objectives import stage_kinds
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.objectives.decoder import DecoderObjective

CPU = torch.device("cpu")
STAGE: dict[str, Any] = {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3}
SIZE = 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel(tiny_model)


@pytest.fixture(scope="module")
def images(posters: Path) -> tuple[data.ImageDataset, data.ImageDataset]:
    return data.FileDataset(posters / "train"), data.FileDataset(posters / "validation")


def autoregressive(hybrid: HybridModel, images: Any, **changes: Any) -> AutoregressiveObjective:
    stage = PretrainAutoregressiveStage(**STAGE, **changes)
    objective = pretraining_kinds()["autoregressive"].build(hybrid, images, stage, features.FeatureCache(CPU))
    assert isinstance(objective, AutoregressiveObjective)
    return objective


def reference_nats(
    hybrid: HybridModel, images: data.ImageDataset, index: int, with_preview: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """log-likelihoods of one image's preview, large grid and end, each token on its own."""
    pixels = images.pixels([index], CPU)
    preview, large = (
        features.preview_token_ids(hybrid.semantic_vq, pixels)[0],
        features.large_token_ids(hybrid.semantic_vq, pixels)[0],
    )
    if not with_preview:
        preview = preview[:0]
    prompt = prompt_tokenizer(hybrid.folder).text_to_image(images.captions[index], *images.sizes[index])
    grids_in_order = [tokens for tokens in (preview, large) if tokens.numel()]
    sequence = training_sequence(prompt, grids_in_order, hybrid.autoregressive.config)
    model = tiny_checkpoint.diffusers_pipeline(hybrid.folder).vision_language_encoder
    hidden = model.model.language_model(
        input_ids=sequence.ids_T[None], position_ids=sequence.positions_3T[:, None]
    ).last_hidden_state
    nats = -model.lm_head(hidden)[0].double().log_softmax(dim=-1)
    at = torch.arange(len(prompt) - 1, len(sequence.ids_T) - 1)  # each token predicts its successor
    written = torch.cat(
        [preview.flatten(), large.flatten(), torch.tensor([hybrid.autoregressive.config.image_end_token_id])]
    )
    assert torch.equal(sequence.ids_T[at + 1], written)
    of_preview, of_large, of_end = nats[at, written].split([preview.numel(), large.numel(), 1])
    return of_preview, of_large, of_end


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


def decoder(hybrid: HybridModel, images: Any, **changes: Any) -> DecoderObjective:
    stage = DecoderStage(**{**STAGE, "caption_dropout": 0.0, **changes})
    objective = stage_kinds()["decoder"].build(hybrid, images, stage, features.FeatureCache(CPU))
    assert isinstance(objective, DecoderObjective)
    return objective


def reference_error(
    hybrid: HybridModel, images: data.ImageDataset, index: int, noise: Tensor, time: float, drop: bool = False
) -> Tensor:
    """Squared velocity error C h w of one image at one time in 1..1000, alone through diffusers.

    `noise` 2 C h w: what is mixed into the latents, and what they deviate by from their mean, in standard deviations.
    """
    noise, own = noise
    reference = tiny_checkpoint.diffusers_pipeline(hybrid.folder)
    pixels, (height, width) = images.pixels([index], CPU), images.sizes[index]
    posterior = reference.vae.encode(pixels).latent_dist
    raw = posterior.mode() + posterior.std * own
    statistics = (reference.vae.config.latents_mean, reference.vae.config.latents_std)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    clean = (raw - mean) / std
    tokens = (height // 16) * (width // 16)
    strength = 0.75 * math.sqrt(tokens / 256) + 0.25
    sigma = strength / (strength + 1000 / time - 1)
    token_ids = features.large_token_ids(hybrid.semantic_vq, pixels)
    prior = torch.from_numpy(np.kron(token_ids[0].numpy(), np.ones((2, 2), dtype=np.int64))).flatten()[None]
    predicted = reference.transformer(
        hidden_states=(1 - sigma) * clean + sigma * noise[None],
        encoder_hidden_states=reference._get_glyph_embeds(["" if drop else images.captions[index]], device=CPU),
        prior_token_id=prior,
        prior_token_drop=torch.full_like(prior, drop, dtype=torch.bool),
        timestep=torch.tensor([time - 1]),
        target_size=torch.tensor([[height, width]], dtype=torch.float32),
        crop_coords=torch.zeros(1, 2),
    ).sample
    error: Tensor = (predicted - (noise[None] - clean))[0].square()
    return error


def sample_times_and_noise(
    seed: int, count: int, height: int, width: int, std: float = 1.0
) -> tuple[list[float], Tensor]:
    """The times in 1..1000 of the step whose generator has this seed, and the noise of `reference_error` B 2 C h w."""
    generator = seeded(seed)
    times = 1 + 999 * torch.sigmoid(std * torch.randn(count, generator=generator))
    noise = [torch.randn(count, 4, height // 8, width // 8, generator=generator) for _ in range(2)]
    return times.tolist(), torch.stack(noise, dim=1)


@pytest.mark.parametrize("indices", [[0], [2, 0, 3, 1], [4, 5]])
@torch.no_grad()
def test_decoder_loss(hybrid: HybridModel, images: Any, indices: list[int]) -> None:
    """Own prior, each id for 2x2 decoder tokens; texts of several lengths in one batch; not square as well."""
    loss, shown = decoder(hybrid, images, logit_std=1.3).loss(indices, seeded(7))
    height, width = images[0].sizes[indices[0]]
    times, noise = sample_times_and_noise(7, len(indices), height, width, std=1.3)
    rows = [
        reference_error(hybrid, images[0], index, row, time)
        for index, row, time in zip(indices, noise, times, strict=True)
    ]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    assert shown == {}


@torch.no_grad()
def test_dropped_is_the_unconditional_of_generation(hybrid: HybridModel, images: Any) -> None:
    loss, _ = decoder(hybrid, images, caption_dropout=1.0).loss([0, 1], seeded(7))
    times, noise = sample_times_and_noise(7, 2, SIZE, SIZE)
    rows = [reference_error(hybrid, images[0], index, noise[index], times[index], drop=True) for index in (0, 1)]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    conditional, _ = decoder(hybrid, images).loss([0, 1], seeded(7))
    assert abs(loss - conditional) > 1e-3


@torch.no_grad()
def test_prior_and_text_are_dropped_together(hybrid: HybridModel, images: Any) -> None:
    objective = decoder(hybrid, images, caption_dropout=0.4)
    empty = hybrid.glyph.encode_texts([[]])[0][0]
    gone = []
    for _, glyph, mask, _, drop, *_ in decoder_calls(objective, [0, 1, 2, 3], range(60)):
        for row in range(4):
            text = glyph[row][mask[row]]
            is_empty = text.shape == empty.shape and torch.allclose(text, empty, atol=1e-6)
            assert is_empty == bool(drop[row])
            gone.append(is_empty)
    assert 0.28 < np.mean(gone) < 0.52


@torch.no_grad()
def test_a_drop_tells_nothing_about_the_time(hybrid: HybridModel, images: Any) -> None:
    """Both come from the step's seed. In a batch of 16 and more torch's normal numbers follow its uniform ones."""
    steps = decoder_calls(decoder(hybrid, images, caption_dropout=0.4), [0, 1, 2, 3] * 8, range(15))
    gone = torch.cat([drop for _, _, _, _, drop, *_ in steps]).numpy()
    times = torch.cat([timestep for _, _, _, _, _, timestep, *_ in steps]).numpy()
    for measure in (times, np.abs(times - 500)):
        assert abs(np.corrcoef(gone, measure)[0, 1]) < 0.15


@torch.no_grad()
def test_the_prior_alone_may_be_dropped(hybrid: HybridModel, images: Any) -> None:
    ((_, _, mask, prior, drop, *_),) = decoder_calls(decoder(hybrid, images, prior_token_drop=1.0), [0, 1], [3])
    assert drop.all()
    assert mask.sum(dim=1).gt(1).all(), "the texts stay"
    blocks = prior.view(2, 2, 2, 2, 2)  # B h 2 w 2
    assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks)), "one id for 2x2 tokens"


@torch.no_grad()
def test_text_counts_more(hybrid: HybridModel) -> None:
    """Weights of 1 + text_weight * share of text, relative to their mean; the plain error is shown beside it."""
    posters = PosterDataset(2, SIZE, SIZE, seed=0, workers=1, split="train")
    objective = decoder(hybrid, (posters, posters), text_weight=5.0)
    loss, shown = objective.loss([0, 1], seeded(7))
    times, noise = sample_times_and_noise(7, 2, SIZE, SIZE)
    error = torch.stack([reference_error(hybrid, posters, index, noise[index], times[index]) for index in (0, 1)])
    mask = posters.text_mask([0, 1], CPU)
    assert mask is not None
    weight = (1 + 5 * mask.view(2, 1, 8, 8, 8, 8).mean(dim=(3, 5))).expand_as(error)
    assert loss.item() == pytest.approx(((error * weight).sum() / weight.sum()).item(), rel=2e-3)
    assert shown["mse"].item() == pytest.approx(error.mean().item(), abs=1e-4)


@torch.no_grad()
def test_decoder_validation(hybrid: HybridModel, images: Any) -> None:
    """Eight times spread over the schedule, fixed noise, nothing dropped; the same whatever was trained before."""
    objective = decoder(hybrid, images, caption_dropout=0.5)
    losses = objective.validation_losses()
    rows = []
    for number, time in enumerate(np.linspace(60, 940, 8)):
        noise = torch.randn(3, 4, 8, 8, generator=seeded(1000 * number))
        noise = torch.stack([noise, torch.zeros_like(noise)], dim=1)
        rows += [reference_error(hybrid, images[1], index, noise[index], float(time)).mean() for index in range(3)]
    assert losses == {"loss": pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)}
    torch.manual_seed(5)
    objective.loss([0, 1], seeded(1))
    assert objective.validation_losses() == losses


@pytest.mark.parametrize("train_glyph", [False, True])
def test_what_the_decoder_stage_trains(tiny_model: Path, images: Any, train_glyph: bool) -> None:
    hybrid = HybridModel(tiny_model)
    hybrid.decoder.requires_grad_(True)
    objective = decoder(hybrid, images, train_glyph=train_glyph)
    objective.loss([0, 1], seeded(0))[0].backward()
    trained = {id(parameter) for parameter in objective.trained.parameters() if parameter.requires_grad}
    glyph = list(hybrid.glyph.parameters())
    assert all((id(parameter) in trained) == train_glyph for parameter in glyph)
    assert all((parameter.grad is not None) == train_glyph for parameter in glyph if parameter.ndim > 1)
    assert all(id(parameter) in trained for parameter in hybrid.decoder.parameters())


@pytest.fixture(scope="module")
def edits() -> tuple[data.ImageDataset, data.ImageDataset]:
    """Four pairs each, with two posters behind the training pairs; of a size that the model reads as it is."""
    posters = PosterDataset(2, 128, 128, seed=1, workers=1, split="train")
    pairs = [EditDataset(4, 128, 128, seed=seed, workers=1, split="train") for seed in (2, 3)]
    return data.ConcatDataset([pairs[0], posters]), pairs[1]


def seen_by_the_model(objective: AutoregressiveObjective, indices: list[int]) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """Ids and positions that the model was given for a loss, and that loss."""
    given: list[tuple[Tensor, ...]] = []
    handle = objective.trained.register_forward_pre_hook(lambda _, seen: given.append(seen))
    loss, shown = objective.loss(indices, seeded(0))
    handle.remove()
    return given[0], loss, shown


def as_request(images: data.ImageDataset, index: int, folder: Path) -> Request:
    """The edit as a user asks for it: the sources in files, the instruction as prompt."""
    paths = []
    for source in images.condition_images[index]:
        paths.append(str(folder / f"{source}.png"))
        to_image(images.pixels([source], CPU)[0]).save(paths[-1])
    height, width = images.sizes[index]
    return Request(str(index), images.captions[index], height=height, width=width, condition_images=tuple(paths))


@pytest.fixture(scope="module")
def of_two_sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[data.ImageDataset, data.ImageDataset]:
    """Two edits of 128x128, each of an image of 160x128 and one of 128x192."""
    folder, rows, rng = tmp_path_factory.mktemp("edits"), [], np.random.default_rng(0)
    for number in range(2):
        for name, size in (("a", (128, 160, 3)), ("b", (192, 128, 3)), ("after", (128, 128, 3))):
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{name}{number}.png")
        sources = [f"a{number}.png", f"b{number}.png"]
        rows.append({"file_name": f"after{number}.png", "condition_image": sources, "text": f"Join them {number}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images = data.FileDataset(folder)
    return images, images


@pytest.mark.parametrize(("name", "batches"), [("edits", ([1, 3], [5])), ("of_two_sources", ([2, 5], [5]))])
@torch.no_grad()
def test_the_loss_of_an_edit_is_on_what_generation_writes(
    hybrid: HybridModel, name: str, batches: tuple[list[int], ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Teacher forcing sees the prompt, tokens and positions that the pipeline samples from, and asks for the target."""
    edits = request.getfixturevalue(name)
    objective = autoregressive(hybrid, edits)
    for indices in batches:
        (ids_BT, positions_3BT), loss, shown = seen_by_the_model(objective, indices)
        nats = []
        for row, index in enumerate(indices):
            asked = as_request(edits[0], index, tmp_path)
            (sources,) = encode_condition_images(hybrid, [asked])
            tokenizer = prompt_tokenizer(hybrid.folder)
            ids = [source.token_ids for source in sources]
            prompt = tokenizer.edit(asked.prompt, ids, asked.height, asked.width)
            target = features.large_token_ids(hybrid.semantic_vq, edits[0].pixels([index], CPU))[0]
            grids = [(grid.shape[0], grid.shape[1]) for grid in ids]
            sequence = training_sequence(prompt, [target], hybrid.autoregressive.config, grids)
            length = len(sequence.ids_T)
            assert torch.equal(ids_BT[row, :length], sequence.ids_T)
            assert torch.equal(positions_3BT[:, row, :length], sequence.positions_3T)
            model = tiny_checkpoint.diffusers_pipeline(hybrid.folder).vision_language_encoder
            hidden = model.model.language_model(
                input_ids=sequence.ids_T[None], position_ids=sequence.positions_3T[:, None]
            ).last_hidden_state
            at = torch.arange(len(prompt) - 1, length - 1)
            written = sequence.ids_T[at + 1]
            assert written.tolist() == [*target.flatten().tolist(), hybrid.autoregressive.config.image_end_token_id]
            nats.append(-model.lm_head(hidden)[0].double().log_softmax(dim=-1)[at, written])
        per_row = torch.stack(nats)
        assert set(shown) == {"edit", "end"}
        assert shown["edit"].item() == pytest.approx(per_row[:, :-1].mean().item(), abs=1e-4)
        expected = per_row[:, :-1].mean() + per_row[:, -1].mean() / 64
        assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


@torch.no_grad()
def test_sources_and_posters_beside_edits_are_text_to_image(hybrid: HybridModel, edits: Any) -> None:
    objective = autoregressive(hybrid, edits)
    for index in (0, 8):
        _, shown = objective.loss([index], seeded(0))
        expected = [part.mean().item() for part in reference_nats(hybrid, edits[0], index)]
        assert [shown[name].item() for name in ("preview", "large", "end")] == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_validation_losses_tell_edits_apart(hybrid: HybridModel, edits: Any) -> None:
    losses = autoregressive(hybrid, edits).validation_losses()
    plain = [reference_nats(hybrid, edits[1], index)[1].mean() for index in (0, 2, 4, 6)]
    assert losses["large"] == pytest.approx(torch.stack(plain).mean().item(), abs=1e-4)
    batches = [autoregressive(hybrid, edits).validation.padded([index]) for index in (1, 3, 5, 7)]
    alone = [batch.cross_entropies(batch.logits(hybrid.autoregressive)) for batch in batches]
    assert losses["edit"] == pytest.approx(torch.cat([parts["edit"] for parts in alone]).mean().item(), abs=1e-4)
    of_decoder = decoder(hybrid, edits).validation_losses()
    assert of_decoder["edit"] != pytest.approx(of_decoder["loss"], abs=1e-4)


def stock_edit_error(hybrid: HybridModel, images: data.ImageDataset, index: int, noise: Tensor, time: float) -> Tensor:
    """`reference_error` of an edit: its source written at timestep 0 into reference's cache, which the target reads."""
    from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

    transformer = tiny_checkpoint.diffusers_pipeline(hybrid.folder).transformer
    written = GlmImageKVCache(len(transformer.transformer_blocks))
    written.set_mode("write")
    for source in images.condition_images[index]:
        pixels = images.pixels([source], CPU)
        token_ids = features.large_token_ids(hybrid.semantic_vq, pixels)
        prior = torch.from_numpy(np.kron(token_ids[0].numpy(), np.ones((2, 2), dtype=np.int64))).flatten()[None]
        transformer(
            hidden_states=hybrid.vae.encode(pixels),
            encoder_hidden_states=torch.zeros(1, 0, hybrid.decoder.config.text_embed_dim),
            prior_token_id=prior,
            prior_token_drop=torch.zeros_like(prior, dtype=torch.bool),
            timestep=torch.zeros(1),
            target_size=torch.tensor([images.sizes[source]], dtype=torch.float32),
            crop_coords=torch.zeros(1, 2),
            kv_caches=written,
        )
    written.next_sample()
    written.set_mode("read")
    forward = transformer.forward
    transformer.forward = lambda **inputs: forward(**inputs, kv_caches=written)
    try:
        return reference_error(hybrid, images, index, noise, time)
    finally:
        del transformer.forward


@pytest.mark.parametrize(("name", "indices"), [("edits", [1, 5, 3]), ("of_two_sources", [5, 2])])
@torch.no_grad()
def test_decoder_loss_of_edits(
    hybrid: HybridModel, name: str, indices: list[int], request: pytest.FixtureRequest
) -> None:
    """Every row reads its own sources, of any sizes, through the cache that reference writes."""
    edits = request.getfixturevalue(name)
    loss, _ = decoder(hybrid, edits).loss(indices, seeded(7))
    times, noise = sample_times_and_noise(7, len(indices), 128, 128)
    rows = [stock_edit_error(hybrid, edits[0], index, noise[row], times[row]) for row, index in enumerate(indices)]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    without = [reference_error(hybrid, edits[0], index, noise[row], times[row]) for row, index in enumerate(indices)]
    assert abs(loss - torch.stack(without).mean()) > 1e-3, "the sources matter"


@torch.no_grad()
def test_an_edit_is_told_its_own_codes(hybrid: HybridModel, edits: Any) -> None:
    """Never those of a stretched image, since what it keeps has to stay in place."""
    stage = PretrainDecoderStage(**STAGE, caption_dropout=0.0, prior_stretch=0.9)
    objective: Any = pretraining_kinds()["decoder"].build(hybrid, edits, stage, features.FeatureCache(CPU))
    for _, _, _, prior, *_ in decoder_calls(objective, [1, 3], range(8)):
        own = objective.train.prior_token_ids[[1, 3]].long()
        assert torch.equal(prior, upsample_prior_tokens(own))


@torch.no_grad()
def test_a_dropped_edit_reads_no_source(hybrid: HybridModel, edits: Any) -> None:
    """As the unconditional half of guidance: no prior, no text, no sources; a dropped prior alone leaves the source."""
    times, noise = sample_times_and_noise(7, 2, 128, 128)
    loss, _ = decoder(hybrid, edits, caption_dropout=1.0).loss([1, 3], seeded(7))
    rows = [
        reference_error(hybrid, edits[0], index, noise[row], times[row], drop=True) for row, index in enumerate((1, 3))
    ]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    ((*_, sources),) = decoder_calls(decoder(hybrid, edits, prior_token_drop=1.0), [1, 3], [7])
    assert sources.mask.all()  # type: ignore[attr-defined]


def test_the_gradient_goes_through_the_source(tiny_model: Path, edits: Any) -> None:
    """Without the way over the cache the key weights of the first block would get another gradient."""
    hybrid = HybridModel(tiny_model)
    hybrid.decoder.requires_grad_(True)
    objective = decoder(hybrid, edits)
    block: Any = hybrid.decoder.transformer_blocks[0]
    keys: Tensor = block.attn1.to_k.weight
    whole = torch.autograd.grad(objective.loss([1, 3], seeded(7))[0], keys)[0]
    write = objective.decoder.cache_condition_images

    def constant(sources: Any) -> Any:
        with torch.no_grad():
            return write(sources)

    objective.decoder.cache_condition_images = constant  # type: ignore[method-assign, assignment]
    partial = torch.autograd.grad(objective.loss([1, 3], seeded(7))[0], keys)[0]
    assert (whole - partial).norm() > 0.01 * whole.norm()


def test_compiled_edits_have_the_same_gradient(tiny_model: Path, edits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks are compiled for targets and for sources (here by the eager backend)."""
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: plain(call, **options, backend="eager"))
    gradients = []
    for compiled in (False, True):
        hybrid = HybridModel(tiny_model)
        hybrid.decoder.requires_grad_(True)
        objective = decoder(hybrid, edits)
        if compiled:
            for block in hybrid.decoder.transformer_blocks:
                block.compile = lambda **_: None  # type: ignore[method-assign]
            objective.compile()
        loss = objective.loss([1, 3], seeded(7))[0]
        gradients.append(torch.autograd.grad(loss, list(hybrid.decoder.transformer_blocks[0].parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
