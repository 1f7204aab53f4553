"""What is computed once a picture: ids as the published path gives them, latents of stock diffusers, text shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
import torch
from PIL import Image

from glmkit.generation import pipeline
from glmkit.generation.sequence import grids
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq import prepare
from glmkit.training import cache, data

CPU = torch.device("cpu")
# width, height: sides within the toy processor's bounds (128 to 512), where the published path keeps the size
SIZES = [(256, 256), (128, 256), (192, 128), (256, 256), (224, 288)]


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel(tiny_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth and rough pictures of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (width, height) in enumerate(SIZES):
        levels = np.random.default_rng(number).integers(0, 256, (9 + 20 * number, 11, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture '{number}'")
    return folder


@pytest.fixture(scope="module")
def pictures(folder: Path) -> data.FilePictures:
    return data.FilePictures(folder)


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape and other.unique().numel() > 5
    return (one == other).float().mean().item()


def test_halving_is_the_processors(pictures: data.FilePictures, folder: Path) -> None:
    """The processor computes in whole numbers, so a few levels differ by rounding (its weights have 8 to 16 bits)."""
    for index in range(len(SIZES)):
        image = Image.open(folder / f"{index}.png")
        for size in ((128, 96), (352, 176), (32, 32)):
            ours = (cache.halve(pictures.pixels([index], CPU), *size)[0] + 1) * 127.5
            theirs = (prepare(image, size, [0.5] * 3, [0.5] * 3) + 1) * 127.5
            torch.testing.assert_close(ours, ours.round(), atol=1e-3, rtol=0)
            different = (ours - theirs).abs().round()
            assert different.max() <= 2 and (different > 0).float().mean() < 0.03


def test_large_ids_are_those_of_a_source_picture(
    hybrid: HybridModel, pictures: data.FilePictures, folder: Path
) -> None:
    """The same file through the published path of an edit: PIL, the processor's resize, the encoder."""
    found = cache.large_cache(hybrid.semantic_vq, pictures, CPU)
    for index, (width, height) in enumerate(SIZES):
        source = pipeline.encode_source(hybrid, Image.open(folder / f"{index}.png"))
        assert source.size == (height, width), "the bounds keep this size"
        assert found[[index]].shape[1:] == grids(height, width).large
        assert agreement(found[[index]][0], source.codes) >= 0.97


def test_preview_ids(hybrid: HybridModel, pictures: data.FilePictures, folder: Path) -> None:
    """The whole picture at the preview's size, resized as the processor resizes; not a part of the large ids."""
    found = cache.preview_cache(hybrid.semantic_vq, pictures, CPU)
    for index, (width, height) in enumerate(SIZES):
        rows, columns = grids(height, width).preview
        settings = hybrid.source_settings
        pixels = prepare(Image.open(folder / f"{index}.png"), (rows * 16, columns * 16), settings.mean, settings.std)
        assert agreement(found[[index]][0], hybrid.semantic_vq.encode(pixels[None])[0]) >= 0.97
    assert found[[0]].shape == (1, 16, 16) and found[[1]].shape == (1, 22, 11)


@torch.no_grad()
def test_latents_are_the_normalised_mode_of_stock(hybrid: HybridModel, pictures: data.FilePictures) -> None:
    stock = tiny_checkpoint.stock_pipeline(hybrid.folder).vae
    found = cache.latent_cache(hybrid.vae, pictures, CPU)
    for index in range(len(SIZES)):
        raw = stock.encode(pictures.pixels([index], CPU)).latent_dist.mode()
        statistics = (stock.config.latents_mean, stock.config.latents_std)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
        torch.testing.assert_close(found[[index]], (raw - mean) / std, atol=1e-4, rtol=0)


def test_rows_are_those_of_the_pictures(pictures: data.FilePictures) -> None:
    """Pictures of several sizes in one folder: every index gives its own row, in the order asked for."""
    found = cache.compute(pictures, lambda pixels, indices: torch.tensor(indices), CPU, "numbers")
    assert found[[3, 0]].tolist() == [3, 0] and found[[2]].tolist() == [2] and found[[4]].tolist() == [4]


def test_more_pictures_than_a_chunk(monkeypatch: pytest.MonkeyPatch, pictures: data.FilePictures) -> None:
    monkeypatch.setattr(cache, "CHUNK_PIXELS", 1)
    found = cache.compute(pictures, lambda pixels, _: pixels.mean(dim=(1, 2, 3)), CPU, "means")
    torch.testing.assert_close(found[[3, 0]], pictures.pixels([3, 0], CPU).mean(dim=(1, 2, 3)))


def test_text_shares() -> None:
    posters = data.PosterPictures(2, 64, 64, seed=0, workers=1, split="train")
    found = cache.text_cache(posters, CPU)
    mask = posters.text_mask([1], CPU)
    assert found is not None and mask is not None
    share = mask.view(8, 8, 8, 8).mean(dim=(1, 3))
    torch.testing.assert_close(found[[1]][0, 0].float() / 255, share, atol=0.002, rtol=0)
    assert 0 < share.max() <= 1


def test_files_have_no_text_shares(pictures: data.FilePictures) -> None:
    assert cache.text_cache(pictures, CPU) is None
