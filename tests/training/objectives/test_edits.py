"""The losses of edits: what generation reads and writes, on the condition images of each edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch
from decoder_calls import decoder_calls
from PIL import Image
from reference_losses import (
    CPU,
    STAGE,
    autoregressive,
    decoder,
    reference_error,
    reference_nats,
    sample_times_and_noise,
    seeded,
)
from torch import Tensor

from glmkit.generation.condition_images import encode_condition_images
from glmkit.generation.denoising import to_image, upsample_prior_tokens
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import training_sequence
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import PretrainDecoderStage
from glmkit.pretraining.posters import EditDataset, PosterDataset
from glmkit.pretraining.pretrain import pretraining_kinds
from glmkit.records import Request
from glmkit.training import data, features
from glmkit.training.objectives.autoregressive import AutoregressiveObjective


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


def reference_edit_error(
    hybrid: HybridModel, images: data.ImageDataset, index: int, noise: Tensor, time: float
) -> Tensor:
    """`reference_error` of an edit: its source, written at timestep 0 into diffusers' cache, is read by the target."""
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
    """Every row reads its own sources, of any sizes, through the cache that diffusers writes."""
    edits = request.getfixturevalue(name)
    loss, _ = decoder(hybrid, edits).loss(indices, seeded(7))
    times, noise = sample_times_and_noise(7, len(indices), 128, 128)
    rows = [reference_edit_error(hybrid, edits[0], index, noise[row], times[row]) for row, index in enumerate(indices)]
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), abs=1e-4)
    without = [reference_error(hybrid, edits[0], index, noise[row], times[row]) for row, index in enumerate(indices)]
    assert abs(loss - torch.stack(without).mean()) > 1e-3, "the sources matter"


@torch.no_grad()
def test_an_edit_is_conditioned_on_its_own_prior_tokens(hybrid: HybridModel, edits: Any) -> None:
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
