"""A new model from an architecture file: configs that transformers and diffusers read, fresh weights that learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from glmkit.errors import UserError
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.models import checkpoint
from glmkit.models.checkpoint import defaults
from glmkit.pretraining import initialise

ARCHITECTURE = Path(__file__).parents[2] / "recipes" / "nano" / "pretrain" / "architecture.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialise, "CORPUS", 300)
        initialise.initialise(folder, ARCHITECTURE)
    return folder


def test_sizes_and_published_values(folder: Path) -> None:
    """What the file gives is taken, everything else stays as published; every component knows the codebook size."""
    sizes = yaml.safe_load(ARCHITECTURE.read_text())
    language = checkpoint.config(folder, "autoregressive")
    assert (
        language["text_config"]["num_hidden_layers"]
        == sizes["vision_language_encoder"]["text_config"]["num_hidden_layers"]
    )
    published = checkpoint.PUBLISHED["vision_language_encoder"]["text_config"]
    assert language["text_config"]["rms_norm_eps"] == published["rms_norm_eps"]
    assert language["text_config"]["rope_parameters"]["rope_theta"] == published["rope_parameters"]["rope_theta"]
    tokenizer = prompt_tokenizer(folder)
    assert language["image_start_token_id"] == sizes["codebook_size"] == language["vq_config"]["num_embeddings"]
    assert checkpoint.config(folder, "decoder")["prior_vq_quantizer_codebook_size"] == sizes["codebook_size"]
    ids = tokenizer.text_to_image("a red poster", 256, 256)
    assert ids[-1] == language["image_start_token_id"]
    assert max(ids) < language["text_config"]["vocab_size"]
    assert defaults.load(folder).steps == sizes["defaults"]["steps"]


def test_the_architecture_says_how_tokens_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initialise, "CORPUS", 300)
    architecture = tmp_path / "architecture.yaml"
    given = "sampling: {temperature: 1.0, top_p: 1.0}"
    assert given in ARCHITECTURE.read_text()
    architecture.write_text(ARCHITECTURE.read_text().replace(given, "sampling: {top_p: 0.8}"))
    initialise.initialise(tmp_path / "model", architecture)
    assert defaults.load(tmp_path / "model").sampling == {"temperature": 0.9, "top_p": 0.8, "top_k": 50}


def test_stock_classes_read_the_configs(folder: Path) -> None:
    from diffusers import GlmImageTransformer2DModel
    from transformers import GlmImageConfig

    reference = GlmImageTransformer2DModel.from_config(GlmImageTransformer2DModel.load_config(folder / "transformer"))
    ours = checkpoint.new_component(folder, "decoder").state_dict()
    assert {name: value.shape for name, value in reference.state_dict().items()} == {
        n: v.shape for n, v in ours.items()
    }
    assert GlmImageConfig.from_pretrained(folder / "vision_language_encoder").vq_config.num_embeddings == 2048


def test_it_does_nothing_twice(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    initialise.initialise(folder, "no/such/file.yaml")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@torch.no_grad()
def test_a_fresh_decoder_predicts_nothing_yet(folder: Path) -> None:
    """adaLN-Zero: every block leaves its input as it is, the output is zero, and all other layers are not."""
    torch.manual_seed(0)
    decoder = initialise.fresh_component(folder, "decoder")
    size = torch.tensor([[64.0, 64.0]])
    given = (torch.randn(1, 16, 8, 8), torch.randn(1, 3, 192), None, torch.zeros(1, 16, dtype=torch.long))
    times = torch.tensor([300.0])
    assert decoder(*given, torch.zeros(1, dtype=torch.bool), times, size, torch.zeros(1, 2)).abs().max() == 0
    zero = {name for name, value in decoder.named_parameters() if name.endswith("weight") and value.abs().max() == 0}
    assert zero == {"norm_out.linear.weight", "proj_out.weight"} | {
        f"transformer_blocks.{number}.norm1.linear.weight"
        for number in range(len(decoder.transformer_blocks))  # type: ignore[arg-type]
    }


def test_fresh_weights_follow_the_seed(folder: Path) -> None:
    for part in ("autoregressive", "semantic_vq"):
        states = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            states.append(initialise.fresh_component(folder, part).state_dict())
        name = next(name for name, value in states[0].items() if value.ndim == 2)
        assert torch.equal(states[0][name], states[1][name])
        assert not torch.equal(states[0][name], states[2][name])
        assert states[0][name].std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("codebook_size: 2048", "codebook_sise: 1024", "did you mean 'codebook_size'"),
        ("  num_layers: 8", "  num_layer: 8", "did you mean 'num_layers'"),
        ("defaults:", "# defaults:", "defaults is missing"),
        ("codebook_size: 2048", "codebook_size: 2048\ncodebook_size: 512", "given twice"),
        ("top_p: 1.0", "top_pp: 1.0", "did you mean 'top_p'"),
    ],
)
def test_bad_architectures(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "architecture.yaml"
    path.write_text(ARCHITECTURE.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        initialise.initialise(tmp_path / "model", path)
    assert said in str(caught.value)
    assert not (tmp_path / "model").exists()
