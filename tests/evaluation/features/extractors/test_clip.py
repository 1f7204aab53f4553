"""CLIP features against transformers' CLIP with the same weights; truncation; what may carry a published name."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel

from glmkit.errors import UserError
from glmkit.evaluation.features import extractors
from glmkit.evaluation.features.extractors import clip as clip_features
from glmkit.evaluation.features.extractors.clip import OpenClip
from glmkit.evaluation.metrics import clip as metric
from glmkit.models.clip import model as own_format

START, END = 49406, 49407
LONG = "a fox " * 60
TEXTS = ["a red fox!", "", "Zwölf Boxkämpfer", LONG]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.build(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def clip(folder: Path) -> OpenClip:
    return OpenClip(str(folder), "cpu")


@pytest.fixture(scope="module")
def reference(folder: Path) -> CLIPModel:
    return tiny_clip.reference(load_file(folder / "open_clip_model.safetensors"))


def unit(features: torch.Tensor) -> np.ndarray:
    array: np.ndarray = (features / features.norm(dim=-1, keepdim=True)).detach().numpy()
    return array


def test_images_as_transformers_sees_them(clip: OpenClip, reference: CLIPModel) -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(tiny_clip.PREPARATION[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = reference.visual_projection(reference.vision_model((pixels - mean) / std).pooler_output)
    found = clip.extract(images)
    assert found.dtype == np.float32
    assert found.shape == (3, clip.width)
    np.testing.assert_allclose(found, unit(expected), atol=2e-6)


def test_texts_as_transformers_sees_them_with_the_end_token_after_a_cut(clip: OpenClip, reference: CLIPModel) -> None:
    encode = open_clip.tokenizer.SimpleTokenizer().encode
    rows = []
    for text in TEXTS:
        ids = [START, *encode(text)[:75], END]
        rows.append(ids + [0] * (77 - len(ids)))
    hidden = reference.text_model(input_ids=torch.tensor(rows)).last_hidden_state
    ends = torch.tensor([row.index(END) for row in rows])
    expected = reference.text_projection(hidden[torch.arange(len(rows)), ends])
    np.testing.assert_allclose(clip.encode_texts(TEXTS), unit(expected), atol=2e-6)
    without_end = reference.text_projection(hidden[3, 75])
    assert np.abs(clip.encode_texts([LONG])[0] - unit(without_end)).max() > 1e-3


def test_a_text_is_truncated_when_its_tokens_with_start_and_end_exceed_the_context(clip: OpenClip) -> None:
    assert [clip.is_truncated("fox " * words) for words in (1, 75, 76, 200)] == [False, False, True, True]
    assert clip.is_truncated("fox " * 75 + "!")  # the token of ! has the number of the padding


def test_the_slug_follows_the_weights_and_not_the_place(clip: OpenClip, tmp_path: Path) -> None:
    same, other = tiny_clip.build(tmp_path / "a" / "tiny"), tiny_clip.build(tmp_path / "b" / "tiny", seed=1)
    assert extractors.slug(clip) == extractors.slug(OpenClip(str(same), "cpu"))
    assert extractors.slug(clip) != extractors.slug(OpenClip(str(other), "cpu"))
    assert extractors.load(clip.spec, "cpu").label == clip.label


def test_only_openai_weights_from_the_hub_have_published_names(clip: OpenClip) -> None:
    assert metric.name(clip.label, clip.model) == f"clip_tiny_{clip.weights_sha256[:8]}_cosine"
    assert "Not comparable" in metric.about(clip.label, clip.model, clip.weights_sha256)["definition"]
    assert metric.name("clip-ViT-L-14/openai", metric.DEFAULT) == "clip_cosine"
    assert "Not comparable" not in metric.about("clip-ViT-L-14/openai", metric.DEFAULT, "0" * 64)["definition"]
    assert list(clip.distances) == ["rbf"]
    assert clip.distances["rbf"] != "cmmd"


def test_hub_weights_get_the_activation_they_were_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip only warns when OpenAI's weights meet GELU instead of QuickGELU."""
    asked = {}

    def create(name: str, **options: object) -> None:
        asked[name] = options
        raise RuntimeError("no network\nsecond line")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(UserError, match=r"no network$|found: no network") as error:
        OpenClip("ViT-L-14/openai", "cpu")
    assert "glmkit" in str(error.value)
    assert "second line" not in str(error.value)
    assert asked["ViT-L-14"]["force_quick_gelu"] is True
    assert asked["ViT-L-14"]["pretrained"] == "openai"


@pytest.mark.parametrize("name", ["ViT-L-15/openai", "ViT-L-14/opena", "nowhere"])
def test_an_unknown_model_is_told_before_any_download(name: str) -> None:
    with pytest.raises(UserError, match="unknown CLIP"):
        OpenClip(name, "cpu")


def test_a_folder_without_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="holds no weights"):
        OpenClip(str(tmp_path), "cpu")


def test_ours_has_its_own_name_wherever_glmkit_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / metric.OURS).mkdir()  # as in a clone
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip_features, "FOLDER_OF_OURS", folder)
    ours = OpenClip(metric.OURS, "cpu")
    assert (ours.spec, ours.label) == ("clip:glmkit", "clip-glmkit")
    assert metric.name(ours.label, ours.model) == "clip_glmkit_cosine"
    assert "Not comparable" in metric.about(ours.label, ours.model, ours.weights_sha256)["definition"]


def test_the_clip_that_ships_sees_the_colour_of_a_poster() -> None:
    clip = OpenClip(metric.OURS, "cpu")
    posters = clip.extract([Image.new("RGB", (256, 256), colour) for colour in ("red", "blue")])
    texts = clip.encode_texts([metric.text(f"A poster with a {colour} background.") for colour in ("red", "blue")])
    cosines = posters @ texts.T
    assert cosines[0, 0] > cosines[0, 1]
    assert cosines[1, 1] > cosines[1, 0]


def test_ours_is_where_it_should_be_or_is_told_how_to_get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clip_features, "FOLDER_OF_OURS", tmp_path / "absent")
    with pytest.raises(UserError, match="our CLIP is not in"):
        OpenClip(metric.OURS, "cpu")


@pytest.mark.parametrize(("cosine", "score"), [(0.316, 0.79), (-0.2, 0.0), (0.0, 0.0)])
def test_the_scale_of_cvtg(cosine: float, score: float) -> None:
    assert metric.clipscore(cosine) == pytest.approx(score)


def test_a_clip_of_our_own_format_with_its_own_tokenizer(tmp_path: Path) -> None:
    """Another context length, another tokenizer, half precision on the disk."""
    text: Any = tiny_clip.SIZES["text_cfg"]
    sizes = {**tiny_clip.SIZES, "text_cfg": {**text, "context_length": 24, "vocab_size": 300}}
    own_format.create(tmp_path, sizes, ["a red fox", "an owl"] * 10)
    own_format.save(tmp_path, own_format.load(tmp_path), torch.float16)
    ours, clip = own_format.load(tmp_path), OpenClip(str(tmp_path), "cpu")
    assert [clip.is_truncated(text) for text in ("", "x" * 22, "x" * 23)] == [False, False, True]
    with torch.no_grad():
        black = ours.images(torch.full((1, 3, 32, 32), -1.0)).numpy()
        ends = ours.texts(torch.tensor([[1, *ours.tokenizer(["x" * 40])[0, 1:23].tolist(), 2]])).numpy()
    np.testing.assert_allclose(clip.extract([Image.new("RGB", (50, 70))]), black, atol=1e-6)
    np.testing.assert_allclose(clip.encode_texts(["x" * 40]), ends, atol=1e-6)


def test_code_in_a_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the folder says that its code is to be trusted, or somebody says yes on the terminal."""
    for name in ("open_clip_config.json", "tokenizer.json"):
        shutil.copy(clip_features.FOLDER_OF_OURS / name, tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ValueError, match="custom"):
        own_format.tokenizer_of(f"local-dir:{tmp_path}")
    assert not (tmp_path / "ran").exists()
