"""What is computed once an image: ids as the published path gives them, latents of stock diffusers, text shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoint
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.files import write_jsonl
from glmkit.generation.condition_images import encode_condition_image
from glmkit.generation.sequence import grids
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq.model import prepare_image
from glmkit.pretraining.posters import PosterDataset
from glmkit.training import data, features

CPU = torch.device("cpu")
# width, height: sides within the toy processor's bounds (128 to 512), where the published path keeps the size
SIZES = [(256, 256), (128, 256), (192, 128), (256, 256), (224, 288)]


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return HybridModel(tiny_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth and rough images of several sizes."""
    folder = tmp_path_factory.mktemp("images")
    for number, (width, height) in enumerate(SIZES):
        levels = np.random.default_rng(number).integers(0, 256, (9 + 20 * number, 11, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"image '{number}'")
    return folder


@pytest.fixture(scope="module")
def images(folder: Path) -> data.FileDataset:
    return data.FileDataset(folder)


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    assert other.unique().numel() > 5
    return (one == other).float().mean().item()


def test_halving_is_the_processors(images: data.FileDataset, folder: Path) -> None:
    """The processor computes in whole numbers, so a few levels differ by rounding (its weights have 8 to 16 bits)."""
    for index in range(len(SIZES)):
        image = Image.open(folder / f"{index}.png")
        for size in ((128, 96), (352, 176), (32, 32)):
            ours = (features.resize_as_processor(images.pixels([index], CPU), *size)[0] + 1) * 127.5
            theirs = (prepare_image(image, size, [0.5] * 3, [0.5] * 3) + 1) * 127.5
            torch.testing.assert_close(ours, ours.round(), atol=1e-3, rtol=0)
            different = (ours - theirs).abs().round()
            assert different.max() <= 2
            assert (different > 0).float().mean() < 0.03


def test_large_ids_are_those_of_a_source_image(hybrid: HybridModel, images: data.FileDataset, folder: Path) -> None:
    """The same file through the published path of an edit: PIL, the processor's resize, the encoder."""
    found = features.precompute_large_tokens(hybrid, images, features.FeatureCache(CPU))
    for index, (width, height) in enumerate(SIZES):
        source = encode_condition_image(hybrid, Image.open(folder / f"{index}.png"))
        assert source.size == (height, width), "the bounds keep this size"
        assert found[[index]].shape[1:] == grids(height, width).large
        assert agreement(found[[index]][0], source.token_ids) >= 0.97


def test_preview_ids(hybrid: HybridModel, images: data.FileDataset, folder: Path) -> None:
    """The whole image at the preview's size, resized as the processor resizes; not a part of the large ids."""
    found = features.precompute_preview_tokens(hybrid, images, features.FeatureCache(CPU))
    for index, (width, height) in enumerate(SIZES):
        rows, columns = grids(height, width).preview
        settings = hybrid.condition_image_settings
        pixels = prepare_image(
            Image.open(folder / f"{index}.png"), (rows * 16, columns * 16), settings.mean, settings.std
        )
        assert agreement(found[[index]][0], hybrid.semantic_vq.encode(pixels[None])[0]) >= 0.97
    assert found[[0]].shape == (1, 16, 16)
    assert found[[1]].shape == (1, 22, 11)


@torch.no_grad()
def test_latents_are_the_normalised_distribution_of_stock(hybrid: HybridModel, images: data.FileDataset) -> None:
    stock = tiny_checkpoint.diffusers_pipeline(hybrid.folder).vae
    found = features.precompute_latents(hybrid, images, features.FeatureCache(CPU))
    for index in range(len(SIZES)):
        posterior = stock.encode(images.pixels([index], CPU)).latent_dist
        statistics = (stock.config.latents_mean, stock.config.latents_std)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
        expected = torch.cat([(posterior.mode() - mean) / std, posterior.std / std], dim=1)
        torch.testing.assert_close(found[[index]], expected, atol=1e-4, rtol=1e-4)


def test_rows_are_those_of_the_images(images: data.FileDataset) -> None:
    """Images of several sizes in one folder: every index gives its own row, in the order asked for."""
    found = features.precompute(images, torch.tensor, features.FeatureCache(CPU), "numbers")
    assert found[[3, 0]].tolist() == [3, 0]
    assert found[[2]].tolist() == [2]
    assert found[[4]].tolist() == [4]


def test_more_images_than_a_chunk(monkeypatch: pytest.MonkeyPatch, images: data.FileDataset) -> None:
    monkeypatch.setattr(features, "CHUNK_PIXELS", 1)
    found = features.precompute(
        images, lambda rows: images.pixels(rows, CPU).mean(dim=(1, 2, 3)), features.FeatureCache(CPU), "means"
    )
    torch.testing.assert_close(found[[3, 0]], images.pixels([3, 0], CPU).mean(dim=(1, 2, 3)))


@dataclass
class Counting:
    """Encodes an image to its number and remembers how often it was asked."""

    asked: list[int] = field(default_factory=list)

    def __call__(self, indices: list[int]) -> torch.Tensor:
        self.asked += indices
        return torch.tensor(indices)[:, None].float()


def numbers(
    images: data.ImageDataset, folder: Path, about: str = "", gpu_bytes: float = 2**20
) -> tuple[Any, list[int]]:
    """What is kept of the images' numbers, and which of them had to be encoded."""
    encode = Counting()
    cache = features.FeatureCache(CPU, folder, gpu_bytes)
    kept = features.precompute(
        images, encode, cache, "numbers", keys=images.keys, depends_on=lambda: {"weights": about}
    )
    return kept, encode.asked


def test_what_is_in_files_is_not_encoded_again(images: data.FileDataset, tmp_path: Path) -> None:
    """Found by content and by everything else that decides the value; also by a set that has one image more."""
    _, asked = numbers(images, tmp_path)
    assert sorted(asked) == [0, 1, 2, 3, 4]
    kept, asked = numbers(images, tmp_path)
    assert asked == []
    assert kept[[3, 0]].tolist() == [[3], [0]]
    assert numbers(images, tmp_path, about="other weights")[1] != []
    assert numbers(images, tmp_path / "elsewhere")[1] != []
    alone = data.FileDataset(images.where)
    assert alone.keys is not None
    alone.keys[2] = "of another image"
    assert numbers(alone, tmp_path)[1] == [2]


def test_equal_images_are_encoded_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (32, 32), "red" if name == "b" else "blue").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    kept, asked = numbers(data.FileDataset(tmp_path), tmp_path / "cache")
    assert sorted(asked) == [1, 2]
    assert kept[[0, 1, 2]].tolist() == [[2], [1], [2]]


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "gone"])
def test_a_broken_file_is_made_again(images: data.FileDataset, tmp_path: Path, harm: str) -> None:
    numbers(images, tmp_path)
    assert images.keys is not None
    (path,) = tmp_path.rglob(images.keys[4])
    content = path.read_bytes()
    harmed = {"cut": content[:-2], "changed": content[:-1] + bytes([content[-1] ^ 1]), "empty": b""}
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(harmed[harm])
    kept, asked = numbers(images, tmp_path)
    assert asked == [4]
    assert kept[[4]].tolist() == [[4]]
    assert path.read_bytes() == content


def test_what_does_not_fit_is_read_from_files(images: data.FileDataset, tmp_path: Path) -> None:
    """The same batches, and a file that is lost while training runs is an error that says what to do."""
    kept, _ = numbers(images, tmp_path, gpu_bytes=0)
    assert kept[[3, 0]].tolist() == [[3], [0]]
    assert kept[[2]].tolist() == [[2]]
    inside, _ = numbers(images, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            path.unlink()
    assert inside[[3, 0]].tolist() == [[3], [0]]
    with pytest.raises(UserError, match="repeat the command"):
        kept[[0]]


def test_the_budget_is_shared() -> None:
    """Three caches of 4 images, a kilobyte each: two fit on the device (here one without memory), one does not."""
    cache, values = features.FeatureCache(torch.device("meta"), None, 10_000), torch.zeros(4, 256)
    stacks = [cache._stacked_in_memory(range(4), iter([(slice(0, 4), values)])) for _ in range(3)]
    assert [stack.device.type for stack in stacks] == ["meta", "meta", "cpu"]


def test_boxes_have_keys_of_their_own(tmp_path: Path) -> None:
    """Where text stands may change without the image, whose latents are then found again."""
    sets: list[data.FileDataset] = []
    for boxes in ([[0, 0, 16, 16]], [[0, 0, 32, 16]], [[0, 0, 16, 16]]):
        folder = tmp_path / str(len(sets))
        folder.mkdir()
        Image.new("RGB", (64, 32)).save(folder / "a.png")
        write_jsonl(folder / "metadata.jsonl", [{"file_name": "a.png", "text": "a", "text_boxes": boxes}])
        sets.append(data.FileDataset(folder))
    assert sets[0].keys == sets[1].keys == sets[2].keys
    assert sets[0].text_keys == sets[2].text_keys != sets[1].text_keys
    shares = [features.precompute_text_masks(images, features.FeatureCache(CPU, tmp_path)) for images in sets]
    assert [int(share[[0]].count_nonzero()) for share in shares if share is not None] == [4, 8, 4]


def test_text_shares() -> None:
    posters = PosterDataset(2, 64, 64, seed=0, workers=1, split="train")
    found = features.precompute_text_masks(posters, features.FeatureCache(CPU))
    mask = posters.text_mask([1], CPU)
    assert found is not None
    assert mask is not None
    share = mask.view(8, 8, 8, 8).mean(dim=(1, 3))
    torch.testing.assert_close(found[[1]][0, 0].float() / 255, share, atol=0.002, rtol=0)
    assert 0 < share.max() <= 1


def test_files_have_no_text_shares(images: data.FileDataset) -> None:
    assert features.precompute_text_masks(images, features.FeatureCache(CPU)) is None
