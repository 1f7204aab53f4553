"""Another shape for a trained nano: growing changes nothing, pruning loses what is least, a narrow embedding fits."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import tiny_checkpoint
import torch

from glmkit.generation.loading import load_model
from glmkit.generation.pipeline import generate_batch
from glmkit.models.decoder.model import DecoderBlock
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining.config import PretrainData
from glmkit.records import Request

reshape = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "nano_reshape.py")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.build(tmp_path_factory.mktemp("reshape") / "tiny")


def test_grown_model_generates_the_same_image(tiny: Path, tmp_path: Path) -> None:
    before = HybridModel.load(tiny, torch.device("cpu"), torch.float32).autoregressive
    units = before.config.intermediate_size + 8
    layers = ["0", "0", *map(str, range(1, before.config.num_hidden_layers))]
    wide = [str(tmp_path / "wide"), "--model", str(tiny), "--layers", *layers, "--units", str(units)]
    assert reshape.main(wide) == 0

    after = HybridModel.load(tmp_path / "wide", torch.device("cpu"), torch.float32).autoregressive
    request = Request("a", "a red sign", 64, 64, steps=2)
    images = [
        generate_batch(load_model(folder, torch.device("cpu"), "float32"), [request])[0]
        for folder in (_in_bfloat16(tiny, tmp_path / "same"), tmp_path / "wide")
    ]

    assert len(after.language_model.layers) == len(before.language_model.layers) + 1
    assert after.config.intermediate_size == units
    assert images[0].tobytes() == images[1].tobytes()


def _in_bfloat16(model: Path, out: Path) -> Path:
    """Growing writes bfloat16: what it is compared with must have been rounded, too."""
    reshape.reshape(model, out, "autoregressive", {}, reshape.load_component(model, "autoregressive").state_dict())
    return out


def test_inputs_that_others_replace_go_first() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=generator).double()
    inputs[:, 4] = 2 * inputs[:, 1] - inputs[:, 3]  # one of these three tells nothing
    weight = torch.randn(3, 6, generator=generator)

    alive, fewer = reshape.least_important(weight, inputs.T @ inputs, 5)

    assert int(alive.sum()) == 5
    assert not alive[[1, 3, 4]].all()
    torch.testing.assert_close(inputs[:, alive] @ fewer.double().T, inputs @ weight.double().T, rtol=0, atol=2e-3)


def test_remaining_weights_are_the_best_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(400, 8, generator=generator).double() @ torch.randn(8, 8, generator=generator).double()
    weight = torch.randn(3, 8, generator=generator)

    alive, fewer = reshape.least_important(weight, inputs.T @ inputs, 5)

    best = torch.linalg.lstsq(inputs[:, alive], inputs @ weight.double().T).solution.T
    torch.testing.assert_close(fewer.double(), best, rtol=0.02, atol=0.02)


def test_pruned_model_has_fewer_units(tiny: Path) -> None:
    data = PretrainData.model_validate({"posters": {"count": 4, "validation": 1, "size": "64x64", "workers": 1}})

    state = reshape.prune(tiny, 8, data)

    names = [name for name in state if name.endswith("mlp.down_proj.weight")]
    assert names
    assert all(state[name].shape[1] == 8 for name in names)
    assert all(len(state[name.replace("down", "gate_up")]) == 16 for name in names)


def test_pruned_glyph_encoder_has_fewer_units_and_runs(tiny: Path, tmp_path: Path) -> None:
    state = reshape.prune_glyph(tiny, 8, [["SALE"], ["BEAN", "THERE"]])

    reshape.reshape(tiny, tmp_path / "pruned", "glyph", {"d_ff": 8}, state)

    pruned = HybridModel.load(tmp_path / "pruned", torch.device("cpu"), torch.float32)
    assert {len(tensor) for name, tensor in pruned.glyph.state_dict().items() if "wi_" in name} == {8}
    assert pruned.glyph.encode_texts([["SALE"]])[0].isfinite().all()


def test_narrow_time_embedding_gives_nearly_the_same_modulation() -> None:
    nano = Path(__file__).parents[2] / "data" / "nano"
    decoder = HybridModel.load(nano, torch.device("cpu"), torch.float32).decoder
    block = cast(DecoderBlock, decoder.transformer_blocks[0])

    state = reshape.narrow_time(nano, decoder.config.time_embed_dim, 200)

    name = "transformer_blocks.0.norm1.linear"
    narrow = reshape.TimeAndSize(decoder.config)
    start = "time_condition_embed."
    narrow.load_state_dict({key.removeprefix(start): value for key, value in state.items() if key.startswith(start)})
    times, sizes = torch.tensor([100.0, 500.0, 900.0]), torch.full((3, 2), 256.0)
    given = [times, sizes, torch.zeros_like(sizes)]
    with torch.no_grad():
        before = block.norm1.linear(decoder.time_condition_embed(*given))
        after = narrow(*given) @ state[f"{name}.weight"].T + state[f"{name}.bias"]
    assert (after - before).std() < 0.2 * (before - before.mean(dim=0)).std()


def test_projections_give_in_float32_what_bfloat16_rounds_them_to(tiny: Path, tmp_path: Path) -> None:
    """Beside a bias of 60 bfloat16 has steps of 0.25: what is smaller counts only when nothing is rounded."""
    hybrid = HybridModel.load(tiny, torch.device("cpu"), torch.float32)
    state, size = hybrid.autoregressive.state_dict(), hybrid.autoregressive.config.rotary_dim
    projection = "language_model.layers.0.self_attn.{}_proj.bias"
    state[projection.format("q")][:size] += 60.0
    state[projection.format("k")] += 60.0
    reshape.reshape(tiny, tmp_path / "steep", "autoregressive", {}, state)

    given = [str(tmp_path / "fitted"), "--model", str(tmp_path / "steep"), "--rounding", "--posters", "24"]
    assert reshape.main(given) == 0

    data = {"count": 16, "seed": 1, "world": "everyday"}
    images, _ = reshape.posters.load(PretrainData.model_validate({"posters": data, "edits": {**data, "count": 1}}))
    logits = {}
    for name in ("steep", "fitted"):
        hybrid = HybridModel.load(tmp_path / name, torch.device("cpu"), torch.float32)
        model = hybrid.autoregressive
        sequences = reshape.TokenSequences(images, hybrid, reshape.FeatureCache(torch.device("cpu")))
        (indices, *_) = reshape.first_batches(reshape.buckets(images), 16, len(images.captions))
        logits[name] = sequences.padded(indices).logits(model)
        for module_name, module in model.named_modules():
            if module_name.endswith(("q_proj", "k_proj", "v_proj")):
                module.register_forward_hook(lambda *given: given[-1].bfloat16().float())
        logits[f"{name} rounded"] = sequences.padded(indices).logits(model)
    bias = model.state_dict()[projection.format("k")].view(-1, model.config.head_dim)

    def apart(first: str, second: str) -> float:
        return float((logits[first] - logits[second]).norm() / logits[second].norm())

    assert apart("fitted", "steep rounded") < 0.5 * apart("steep", "steep rounded")
    assert bias[:, size:].abs().max() == 0
