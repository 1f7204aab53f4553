"""The CLIP folder: what is written here, open_clip reads and computes alike; bad folders are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from glmkit.errors import UserError
from glmkit.models import clip

SIZES: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 280, "width": 32, "heads": 2, "layers": 1},
}
CORPUS = ['A red poster with the headline "HELLO"', 'A blue card that says "good morning"'] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, saved in bfloat16."""
    folder = tmp_path_factory.mktemp("clip") / "model"
    clip.create(folder, SIZES, CORPUS)
    torch.manual_seed(3)
    clip.save(folder, clip.load(folder), torch.bfloat16)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_reference_open_clip_computes_the_same(folder: Path) -> None:
    ours = clip.load(folder)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels, ids = torch.rand(3, 3, 32, 32) * 2 - 1, tokenizer(CORPUS[:2])
    assert torch.equal(ids, ours.tokenizer(CORPUS[:2]))
    assert ours.side == 32
    with torch.no_grad():
        torch.testing.assert_close(ours.images(pixels), model.encode_image(pixels, normalize=True))
        torch.testing.assert_close(ours.texts(ids), model.encode_text(ids, normalize=True))
        torch.testing.assert_close(ours.texts(ids).norm(dim=1), torch.ones(2))


def test_fresh_weights_follow_the_seed(tmp_path: Path) -> None:
    clip.create(tmp_path, SIZES, CORPUS)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(clip.load(tmp_path).model.state_dict()["text_projection"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_texts_keep_their_end(folder: Path) -> None:
    """The text tower's feature is read at the end token, so that a long text must not lose it."""
    tokenizer = clip.load(folder).tokenizer
    ids = tokenizer(["A RED poster", "a red poster", "a red poster " * 30])
    assert ids.shape == (3, 24)
    assert torch.equal(ids[0], ids[1])
    assert ids[0, 0] == ids[2, 0] == 1
    assert (ids == 2).sum(dim=1).tolist() == [1, 1, 1]
    assert ids[2, -1] == 2
    assert ids[0, -1] == 0
    assert tokenizer.tokenizer.decode(tokenizer(["é 中"])[0], skip_special_tokens=True) == "é 中"


def test_the_feature_of_a_text_depends_on_all_of_it(folder: Path) -> None:
    ours = clip.load(folder)
    with torch.no_grad():
        long, short = ours.texts(ours.tokenizer(["a red poster", "a red"]))
    assert (long - short).abs().max() > 1e-3


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a CLIP folder"):
        clip.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "must be an object"), ('{"model_cfg": 5}', "model_cfg"), ("{}", "model_cfg is missing")],
)
def test_a_config_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / clip.CONFIG).write_text(text)
    with pytest.raises(UserError, match=message):
        clip.load(tmp_path)


def test_other_preparation_of_images(copy: Path) -> None:
    config = json.loads((copy / clip.CONFIG).read_text())
    config["preprocess_cfg"]["resize_mode"] = "shortest"
    (copy / clip.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="prepared in another way"):
        clip.load(copy)


def test_weights_that_do_not_fit(copy: Path) -> None:
    config = json.loads((copy / clip.CONFIG).read_text())
    config["model_cfg"]["embed_dim"] = 8
    (copy / clip.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not fit") as caught:
        clip.load(copy)
    assert "size mismatch" in str(caught.value)


@pytest.mark.parametrize(("tower", "key"), [("vision_cfg", "pach_size"), ("text_cfg", "head")])
def test_sizes_that_open_clip_does_not_know(tmp_path: Path, tower: str, key: str) -> None:
    with pytest.raises(UserError, match=f"cannot build this model(.|\n)*{key}"):
        clip.create(tmp_path / "new", {**SIZES, tower: {**SIZES[tower], key: 8}}, CORPUS)
    assert not (tmp_path / "new").exists()


def test_without_open_clip(folder: Path, uninstall: Callable[..., None]) -> None:
    uninstall("open_clip_torch")
    with pytest.raises(UserError, match=r"open_clip_torch(.|\n)*glmkit\[eval\]"):
        clip.load(folder)
