"""Weights in torchao's layout: what is written is what its documentation and its own files have, and is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_adapter
import torch
from torch import Tensor

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import read_json
from glmkit.generation.loading import load_model
from glmkit.models import checkpoint
from glmkit.models.checkpoint import weights
from glmkit.models.checkpoint.components import COMPONENTS
from glmkit.models.quantized import PackedLinear, PackedMatrix, from_words

Q_PROJ, TO_Q = "model.language_model.layers.0.self_attn.q_proj", "transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def quantized(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchao") / "model"
    assert main(["quantize", str(tiny_model), "--out", str(folder)]) == 0
    return folder


def stored(folder: Path, component: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a component's folder, and the metadata of its file."""
    entries = weights.stored_tensors(folder / COMPONENTS[component].folder, COMPONENTS[component].stem)
    return dict(weights.read(entries)), weights.read_metadata(next(iter(entries.values())).file)


def matrices(folder: Path, component: str) -> dict[str, PackedMatrix]:
    module = getattr(load_model(folder, "cpu", precision="8bit"), component)
    return {name: layer.matrix for name, layer in module.named_modules() if isinstance(layer, PackedLinear)}


def test_the_layout(quantized: Path) -> None:
    """Names, types and texts as torchao 0.18 wrote them by way of diffusers and transformers."""
    tensors, metadata = stored(quantized, "decoder")
    layout = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items() if name.startswith(TO_Q)}
    assert layout == {
        f"{TO_Q}._weight_qdata": ((32, 32), torch.float8_e4m3fn),
        f"{TO_Q}._weight_scale": ((32, 1), torch.float32),
        f"{TO_Q}.bias": ((32,), torch.float32),
    }
    assert json.loads(metadata[f"{TO_Q}.weight"]) == {
        "_type": "Float8Tensor",
        "_data": {
            "block_size": [1, 32],
            "mm_config": None,
            "act_quant_kwargs": None,
            "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
            "dtype": {"_type": "torch.dtype", "_data": "float32"},
        },
        "_tensor_data_names": ["qdata", "scale"],
    }
    assert json.loads(metadata[f"{TO_Q}.bias"]) == {"_type": "Tensor"}
    assert {f"{TO_Q}.weight", f"{TO_Q}.bias", "proj_out.weight"} < set(json.loads(metadata["tensor_names"]))
    tensors, metadata = stored(quantized, "autoregressive")
    layout = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items() if name.startswith(Q_PROJ)}
    assert layout == {
        f"{Q_PROJ}._weight_qdata": ((64, 64), torch.int8),
        f"{Q_PROJ}._weight_scale": ((64, 1), torch.float32),
        f"{Q_PROJ}._weight_zero_point": ((64, 1), torch.int8),
        f"{Q_PROJ}.bias": ((64,), torch.float32),
    }
    about = json.loads(metadata[f"{Q_PROJ}.weight"])
    assert (about["_type"], about["_data"]["reduce_range"]) == ("Int8Tensor", False)
    assert "lm_head.weight" in tensors
    config = read_json(quantized / "transformer" / "config.json")["quantization_config"]
    assert (config["quant_method"], config["quant_type"]["default"]["_type"]) == ("torchao", "Float8WeightOnlyConfig")


@pytest.mark.parametrize("component", ["autoregressive", "decoder"])
def test_a_folder_in_8_bits_is_the_model_in_8_bits(tiny_model: Path, quantized: Path, component: str) -> None:
    """The same values, scales and biases as of one that is packed when it is loaded; the folder says it by itself."""
    ours, expected = matrices(quantized, component), matrices(tiny_model, component)
    assert ours.keys() == expected.keys()
    for name, matrix in expected.items():
        assert torch.equal(ours[name].values.view(torch.uint8), matrix.values.view(torch.uint8))
        assert torch.equal(ours[name].scale, matrix.scale)
        assert (ours[name].bias is None) == (matrix.bias is None)
    assert load_model(quantized, "cpu").precision == "8bit"
    module = checkpoint.load_component(quantized, component)
    for name, matrix in expected.items():
        if name != "lm_head":
            assert torch.equal(cast(Tensor, module.get_submodule(name).weight), matrix.unpack())


def test_adapters_of_the_exact_model_fit(tiny_model: Path, quantized: Path, tmp_path: Path) -> None:
    tiny_adapter.make_adapter(tiny_model, tmp_path, "decoder")
    hybrid = load_model(quantized, "cpu", adapters=[str(tmp_path / "decoder")])
    assert cast(PackedLinear, hybrid.decoder.get_submodule(TO_Q)).matrix.change is not None


def rewrite(folder: Path, changes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Change stored tensors of the AR model."""
    tensors, metadata = stored(folder, "autoregressive")
    weights.write(folder / "vision_language_encoder", "model", {**tensors, **changes}, 20_000, metadata)
    return tensors


@pytest.fixture
def copied(quantized: Path, tmp_path: Path) -> Path:
    checkpoint.copy(quantized, tmp_path / "copy")
    return tmp_path / "copy"


def test_values_of_others(copied: Path) -> None:
    """-128, a scale per 64 inputs, and, for another layer, zero points: in shards, in which parts may lie apart."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-128, 128, (64, 64), generator=generator).to(torch.int8)
    scale, zeros = torch.rand(64, 1, generator=generator), torch.randint(-9, 9, (64, 1), generator=generator)
    other = Q_PROJ.replace("q_proj", "o_proj")
    changes = {f"{Q_PROJ}._weight_qdata": values, f"{Q_PROJ}._weight_scale": scale}
    before = rewrite(copied, changes | {f"{other}._weight_zero_point": zeros.to(torch.int8)})
    ours = matrices(copied, "autoregressive")
    packed = ours["language_model.layers.0.self_attn.q_proj"]
    assert torch.equal(from_words(packed.values, 8), values)
    assert torch.equal(packed.unpack(), values.float() * scale)
    module = checkpoint.load_component(copied, "autoregressive")
    shifted = (before[f"{other}._weight_qdata"].double() - zeros) * before[f"{other}._weight_scale"].double()
    weight = cast(Tensor, module.get_submodule("language_model.layers.0.self_attn.o_proj").weight)
    torch.testing.assert_close(weight.double(), shifted, rtol=1e-6, atol=1e-7)
    repacked = ours["language_model.layers.0.self_attn.o_proj"].unpack().double()
    torch.testing.assert_close(repacked, shifted, rtol=0, atol=float(shifted.abs().max()) / 250)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{Q_PROJ}._weight_scale": torch.ones(3, 1)}, "_weight_scale does not fit its matrix"),
        ({f"{Q_PROJ}._weight_qdata": torch.ones(64, 32, dtype=torch.uint8)}, "a layout that is not read here"),
        ({f"{Q_PROJ}._weight_qdata": torch.ones(64, 32, dtype=torch.int8)}, "another shape than the config says"),
    ],
)
def test_broken_files(copied: Path, changes: dict[str, Tensor], message: str) -> None:
    rewrite(copied, changes)
    with pytest.raises(UserError, match=message):
        checkpoint.load_component(copied, "autoregressive")


def test_what_8_bits_do_not_go_with(quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(quantized), "--out", str(tmp_path / "again")]) == 2
    assert "is in 8 bits already" in capsys.readouterr().err
    assert main(["quantize", str(quantized), "--precision", "4bit", "--out", str(tmp_path / "four")]) == 2
    assert "files are in 8 bits" in capsys.readouterr().err
    with pytest.raises(UserError, match="which 4 bits would round again"):
        load_model(quantized, "cpu", precision="4bit")
    tiny_adapter.make_adapter(quantized, tmp_path / "one", "decoder")
    merge = ["merge", str(quantized), "--adapter", str(tmp_path / "one"), "--out", str(tmp_path / "merged")]
    assert main(merge) == 2
    assert "holds its decoder in 8 bits" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_stock_libraries_load_it(quantized: Path) -> None:
    """Where torchao is installed: the same values, as far as bfloat16 has them."""
    pytest.importorskip("torchao")
    from diffusers import GlmImageTransformer2DModel
    from transformers import GlmImageForConditionalGeneration

    transformer = GlmImageTransformer2DModel.from_pretrained(quantized / "transformer")
    language = GlmImageForConditionalGeneration.from_pretrained(quantized / "vision_language_encoder")
    theirs = {
        "decoder": transformer.transformer_blocks[0].attn1.to_q.weight,
        "autoregressive": language.model.language_model.layers[0].self_attn.q_proj.weight,
    }
    names = {"decoder": TO_Q, "autoregressive": Q_PROJ.removeprefix("model.")}
    for component, weight in theirs.items():
        expected = matrices(quantized, component)[names[component]].unpack()
        torch.testing.assert_close(weight.dequantize().float(), expected, rtol=2**-7, atol=1e-6)
