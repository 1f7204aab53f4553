"""The clip stage: its loss against open_clip's, wrong captions, images prepared as open_clip does, a whole run."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import read_json
from glmkit.models import clip
from glmkit.posters.grammar import SHAPES
from glmkit.pretraining import initialise
from glmkit.pretraining.clip import CaptionedImages, ClipObjective, contrastive_loss, recall_at_1, wrong_caption
from glmkit.training import data

CPU = torch.device("cpu")
SIZES = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 64, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def images(posters: Path) -> data.FileDataset:
    return data.FileDataset(posters / "train")


@pytest.fixture(scope="module")
def tiny(images: data.FileDataset, tmp_path_factory: pytest.TempPathFactory) -> clip.ClipModel:
    folder = tmp_path_factory.mktemp("clip")
    clip.create(folder, SIZES, images.captions)
    torch.manual_seed(5)
    return clip.load(folder)


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_the_loss_without_wrong_captions_is_that_of_open_clip() -> None:
    images, captions, scale = unit(2, 5, 8)[0], unit(2, 5, 8)[1], torch.tensor(9.0)
    ours = contrastive_loss(images, captions, images, torch.zeros(5, dtype=torch.bool), scale)
    torch.testing.assert_close(ours, open_clip.loss.ClipLoss()(images, captions, scale))


def test_the_loss_of_a_image_counts_every_wrong_caption_that_is_there() -> None:
    images, captions, wrong = unit(3, 4, 8)
    there = torch.tensor([True, False, True, True])
    own, others = 9 * images @ captions.T, 9 * images @ wrong[there].T
    of_images = torch.cat([own, others], dim=1).log_softmax(dim=1).diagonal()
    of_captions = own.log_softmax(dim=0).diagonal()
    expected = -(of_images.mean() + of_captions.mean()) / 2
    torch.testing.assert_close(contrastive_loss(images, captions, wrong, there, torch.tensor(9.0)), expected)


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ('Red card, "left" at the top, no shapes.', {'Red card, "left" at the bottom, no shapes.'}),
        (
            'Red card, "TOP" at the top, a pink star at the bottom.',
            {f'Red card, "TOP" at the top, a pink {kind} at the bottom.' for kind in SHAPES if kind != "star"}
            | {'Red card, "TOP" at the bottom, a pink star at the top.'},
        ),
        ('Red card, "a star" in the middle, a star in the left corner.', None),
        ('Red card, "circle" in the middle.', {None}),
        ("“top” in the upper part, 'left', two words", {"“top” in the lower part, 'left', two words"}),
        ("卡片，「左右」在顶部", {"卡片，「左右」在底部"}),
        ("左上角写着“星星”", {"右上角写着“星星”"}),
    ],
)
def test_wrong_captions(caption: str, wrong: set[str | None] | None) -> None:
    """One thing is said wrongly, wherever it is said, and never inside quotes."""
    found = {wrong_caption(caption, random.Random(seed)) for seed in range(200)}
    if wrong is None:
        assert all(other and '"a star" in the middle' in other and other != caption for other in found)
    else:
        assert found == wrong


def test_a_caption_without_a_wrong_one_is_left_out(tiny: clip.ClipModel, images: data.FileDataset) -> None:
    class Plain(data.FileDataset):
        def __init__(self) -> None:
            vars(self).update(vars(images))
            self.captions = [*images.captions[:5], "Only a word."]

    pairs = CaptionedImages(tiny, Plain(), CPU)
    _, there = pairs.wrong([4, 5], torch.tensor([0, 1]))
    assert there.tolist() == [True, False]
    wrong = wrong_caption(images.captions[4], random.Random("4 0"))
    assert wrong
    assert torch.equal(pairs.wrong_captions[4, 0], tiny.tokenizer([wrong])[0])


def test_images_are_prepared_as_open_clip_does(
    tiny: clip.ClipModel, images: data.FileDataset, posters: Path, tmp_path: Path
) -> None:
    """Also where they are not square: 96x64 is number 4."""
    clip.create(tmp_path, SIZES, images.captions)
    clip.save(tmp_path, tiny, torch.float32)
    prepare = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")[2]
    pairs = CaptionedImages(tiny, images, CPU)
    for index in (0, 4):
        reference = prepare(Image.open(posters / "train" / f"{index}.png"))
        ours = pairs.images[[index]][0].float() / 127.5 - 1
        np.testing.assert_allclose(ours.numpy(), reference.numpy(), atol=1.01 / 127.5)


def test_every_other_caption_has_the_prefix(tiny: clip.ClipModel, images: data.FileDataset) -> None:
    ids = CaptionedImages(tiny, images, CPU).captions
    assert torch.equal(ids[[0, 2]], tiny.tokenizer([images.captions[0], images.captions[2]]))
    assert torch.equal(ids[[1]], tiny.tokenizer([clip.PREFIX + images.captions[1]]))


def test_recall() -> None:
    captions = torch.eye(4)
    assert recall_at_1(captions, captions) == 1
    assert recall_at_1(captions[[1, 0, 2, 3]], captions) == 0.5


def test_the_scale_of_the_logits_stays_below_100(tiny: clip.ClipModel, images: data.FileDataset) -> None:
    objective = ClipObjective(tiny, images, images, CPU)
    scale: Any = tiny.model.logit_scale
    before = scale.detach().clone()
    scale.data.fill_(7.0)
    objective.after_step(1, torch.Generator())
    assert math.exp(scale.item()) == pytest.approx(100)
    scale.data.copy_(before)


def test_a_run_from_recipe_to_folder(posters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It learns four posters by heart, writes what open_clip loads, goes on from there, and refuses company."""
    monkeypatch.setattr(initialise, "CORPUS", 50)
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(SIZES))
    model, run = tmp_path / "model", tmp_path / "run"
    stage = {"steps": 40, "global_batch_size": 4, "learning_rate": 3e-3, "save_every": 20}
    recipe = {
        "model": str(model),
        "architecture": str(tmp_path / "sizes.yaml"),
        "save": str(model),
        "output": str(run),
        "data": {"train": str(posters / "train"), "validation": str(posters / "train")},
        "clip": stage,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    assert main(["pretrain", str(path), "--device", "cpu"]) == 0
    result = read_json(run / "clip.json")
    assert result["after"]["recall_at_1"] == 1
    assert result["after"]["loss"] < 0.5 * result["before"]["loss"]
    reference, *_ = open_clip.create_model_and_transforms(f"local-dir:{model}")
    assert float(reference.logit_scale.detach()) != pytest.approx(math.log(1 / 0.07), rel=1e-4)

    again = ["architecture=null", f"save={tmp_path / 'more'}", f"output={tmp_path / 'run2'}", "clip.steps=1"]
    assert main(["pretrain", str(path), *again, "--device", "cpu"]) == 0
    first = read_json(tmp_path / "run2" / "clip.json")["before"]["loss"]
    assert first == pytest.approx(result["after"]["loss"], abs=0.05), "it does not start from the saved weights"
    assert (tmp_path / "more" / clip.CONFIG).exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model=nowhere", "nowhere is not a CLIP folder"),
        ("samples.prompts=[a]", "stands alone"),
        ("vae={steps: 1, global_batch_size: 1, learning_rate: 1}", "stands alone"),
        ("clip.lora={targets: [a]}", "clip.lora"),
    ],
)
def test_bad_recipes(
    posters: Path, tmp_path: Path, override: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "output": str(tmp_path / "run"),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        "clip": {"steps": 1, "global_batch_size": 1, "learning_rate": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert main(["pretrain", str(tmp_path / "recipe.yaml"), override, "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_architecture_that_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump({"embed_dim": 8, "vision_cfg": {}}))
    with pytest.raises(UserError, match=r"sizes\.yaml: text_cfg is missing"):
        initialise.initialise_clip(tmp_path / "model", tmp_path / "sizes.yaml")
    assert not (tmp_path / "model").exists()
