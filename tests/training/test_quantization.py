"""The frozen base in bfloat16, 8 and 4 bits: what is held how, what it costs, and that training is as with float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from glmkit.cli import main
from glmkit.config import DecoderStage, Lora, Recipe, Stage
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import benchmark as speed
from glmkit.training import checks, data, features, loop, lora, quantization
from glmkit.training.context import StageContext
from glmkit.training.objectives import stage_kinds
from glmkit.training.stage import StageModel, prepare_stage

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LORA: dict[str, Any] = {"rank": 2, "targets": ("to_q", "ff.net.2", "linear")}


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))


@pytest.mark.usefixtures("ampere")
def test_types() -> None:
    kinds = {base: Lora(**LORA, base=base) for base in ("auto", "float32", "bfloat16", "nf4")}
    assert quantization.dtype(None, GPU) == torch.float32, "a part that is trained as a whole"
    assert [quantization.dtype(kind, GPU) for kind in kinds.values()] == [
        torch.bfloat16,
        torch.float32,
        torch.bfloat16,
        torch.bfloat16,
    ]
    assert quantization.dtype(kinds["auto"], CPU) == quantization.dtype(kinds["nf4"], CPU) == torch.float32


def test_types_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 but for a base in bfloat16, which is refused; no step runs in bfloat16 either."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    for base in ("auto", "float32", "nf4"):
        settings = Lora.model_validate({**LORA, "base": base})
        assert quantization.dtype(settings, GPU) == torch.float32
    with pytest.raises(UserError, match=r"(?s)decoder.lora.base: bfloat16 .*Tesla T4.*decoder.lora.base=auto"):
        quantization.check("decoder", Lora(**LORA, base="bfloat16"), GPU)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.model_validate(
        {
            "model": "nano",
            "output": "run",
            "data": {"train": "train", "validation": "validation"},
            "decoder": {"steps": 1, "global_batch_size": 1, "learning_rate": 1, "compile": True, "lora": LORA},
        }
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"(?s)decoder.compile: true needs .*no-such-compiler.*decoder.compile=false"):
        checks.settings(recipe, CPU)


def needed(base: str) -> None:
    """The library of a base, or no test of it."""
    if base in ("nf4", "int8"):
        pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("base", ["bfloat16", "nf4", "int8"])
def test_a_base_that_cannot_be_had(base: str, uninstall: Callable[..., None]) -> None:
    uninstall("bitsandbytes")
    with pytest.raises(UserError, match="decoder.lora.base=auto" if base == "bfloat16" else r"glmkit\[train\]"):
        quantization.check("decoder", Lora.model_validate({**LORA, "base": base}), CPU)


def test_fp8_needs_no_library(uninstall: Callable[..., None]) -> None:
    uninstall("bitsandbytes")
    quantization.check("decoder", Lora(**LORA, base="fp8"), CPU)


def test_computing_in_8_bits_needs_a_gpu_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Lora(**LORA, base="fp8-compute")
    with pytest.raises(UserError, match=r"multiplies 8-bit numbers(?s:.*)CPU(?s:.*)decoder\.lora\.base=fp8"):
        quantization.check("decoder", settings, CPU)
    monkeypatch.setattr("glmkit.models.float8.multiplies_on", lambda _: True)
    quantization.check("decoder", settings, CPU)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "fp8", "dora": True},
        {"base": "fp8-compute", "dora": True},
        {"offload": True, "dora": True},
        {"offload": True, "base": "nf4"},
        {"offload": True, "base": "fp8-compute"},
    ],
)
def test_bases_that_do_not_fit_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"base: fp8 or offload: true|such as fp8; not (nf4|fp8-compute)"):
        Lora(**LORA, **changes)


def prepare(
    name: str, stage: Stage, hybrid: HybridModel, datasets: data.Datasets, cache: features.FeatureCache
) -> StageModel:
    return prepare_stage(StageContext(Path(), name, 0, CPU), stage_kinds()[name], stage, hybrid, datasets, cache)


def gradients(
    model: Path, posters: Path, base: str, dtype: torch.dtype, offload: bool = False, every: int = 0
) -> dict[str, Tensor]:
    """Of the decoder's adapters after one batch, under the autocast of a GPU where the base is in bfloat16."""
    settings = Lora.model_validate({**LORA, "base": base, "offload": offload})
    stage = DecoderStage(steps=1, global_batch_size=2, learning_rate=1e-3, lora=settings, gradient_checkpointing=every)
    images = data.FileDataset(posters / "train"), data.FileDataset(posters / "validation")
    hybrid = HybridModel(model)
    decoder: Any = checkpoint.load_component(model, "decoder", CPU, dtype).requires_grad_(False)
    hybrid.decoder = decoder
    prepared = prepare("decoder", stage, hybrid, images, features.FeatureCache(CPU))
    objective, wrapped = prepared.objective, prepared.adapted
    assert wrapped is not None
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)

    low = dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=low), lora.autocast_decides(hybrid.decoder, low):
        objective.loss([0, 1], torch.Generator().manual_seed(0))[0].backward()
    return {name: value.grad for name, value in wrapped.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(
    ("base", "least"), [("bfloat16", 0.999), ("int8", 0.99), ("fp8", 0.99), ("fp8-compute", 0.98), ("nf4", 0.9)]
)
def test_the_gradient_is_that_of_a_float32_base(base: str, least: float, tiny_model: Path, posters: Path) -> None:
    needed(base)
    exact = gradients(tiny_model, posters, "float32", torch.float32)
    dtype = torch.bfloat16 if base == "bfloat16" else torch.float32
    found = gradients(tiny_model, posters, base, dtype)
    assert found.keys() == exact.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    one, other = (torch.cat([side[name].flatten() for name in sorted(side)]) for side in (exact, found))
    assert least < torch.cosine_similarity(one, other, dim=0) < 1 - 1e-9, "close, and not the same base"


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize(("base", "dtype"), [("float32", torch.float32), ("fp8", torch.bfloat16)])
def test_an_offloaded_base_is_no_other(
    base: str, dtype: torch.dtype, every: int, tiny_model: Path, posters: Path
) -> None:
    """To the last bit, with blocks that are computed again and without."""
    here = gradients(tiny_model, posters, base, dtype, every=every)
    offloaded = gradients(tiny_model, posters, base, dtype, offload=True, every=every)
    assert here.keys() == offloaded.keys()
    assert len(here) > 4
    assert all(torch.equal(here[name], offloaded[name]) and here[name].abs().max() > 0 for name in here)


@pytest.mark.parametrize(("stage", "base"), [("decoder", "auto"), ("autoregressive", "fp8")])
def test_the_trained_part_comes_when_the_encoders_have_left(
    stage: str, base: str, tiny_model: Path, posters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both at a time take more memory than training; and the adapter begins alike when nothing is left to encode."""
    together: list[set[str]] = []
    load = HybridModel._load

    def loading(hybrid: HybridModel, part: str) -> Any:
        together.append({part, *(other for other in checkpoint.COMPONENTS if other in vars(hybrid))})
        return load(hybrid, part)

    monkeypatch.setattr(HybridModel, "_load", loading)
    job = speed.TrainingCase(stage, 64, 64, 2, base=base)
    images = data.FileDataset(posters / "train"), data.FileDataset(posters / "validation")
    began = []
    for _ in ("encoded", "from files"):
        wrapped = prepare(
            stage, job.stage, HybridModel(tiny_model), images, features.FeatureCache(CPU, tmp_path)
        ).adapted
        assert wrapped is not None
        began.append({name: value for name, value in wrapped.named_parameters() if "lora_A" in name})
    encoders = {"semantic_vq"} | ({"vae", "glyph"} if stage == "decoder" else set())
    assert set().union(*together) == encoders | {stage}
    assert not [parts for parts in together if stage in parts and parts & encoders]
    assert all(torch.equal(began[0][name], began[1][name]) for name in began[0])
    assert began[0]


def test_what_is_held_how(tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    hybrid = HybridModel(tiny_model)
    matrices = {name for name, _ in quantization.layer_matrices(hybrid.decoder)}
    quantization.quantize(hybrid.decoder, "nf4")
    small = {name for name, value in hybrid.decoder.named_modules() if "Linear4bit" in type(value).__name__}
    assert small == matrices
    assert any(name.startswith("transformer_blocks.0.") for name in small)
    assert type(hybrid.decoder.proj_out) is nn.Linear
    assert not [name for name, value in hybrid.decoder.named_parameters() if value.requires_grad]


@pytest.mark.parametrize("base", ["int8", "fp8", "fp8-compute", "nf4"])
def test_bytes_are_told_before_anything_is_quantised(base: str) -> None:
    needed(base)
    with torch.device("meta"):
        told = quantization.matrix_bytes(checkpoint.new_component(checkpoint.NANO, "decoder"), base, 4)
    module = HybridModel(checkpoint.NANO).decoder
    names = {name for name, _ in quantization.layer_matrices(module)}
    quantization.quantize(module, base)
    is_plain = {name for name in names if type(module.get_submodule(name)) is nn.Linear}
    computed = {name for name in names if ".attn1." in name or ".ff." in name}
    assert is_plain == (names - computed if base == "fp8-compute" else set())
    held = sum(tensor.nbytes for name in names for tensor in tensors_of(module.get_submodule(name)))
    # bitsandbytes has some tables a layer besides, which weigh something in a small model.
    assert told <= held <= 1.1 * told


def tensors_of(layer: Any) -> Iterator[Tensor]:
    parameter = layer.weight
    yield from (parameter, *layer.buffers())
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        yield from (state.absmax, state.code)
        state = state.state2
    if getattr(parameter, "SCB", None) is not None:
        yield parameter.SCB


@pytest.mark.parametrize(("base", "offload"), [("nf4", False), ("int8", False), ("fp8", False), ("fp8", True)])
def test_a_run_with_a_quantised_base_goes_on_exactly(
    base: str, offload: bool, tiny_model: Path, posters: Path, tmp_path: Path
) -> None:
    """Killed between two saved states; the adapter that was saved loads and draws as users do it."""
    needed(base)
    recipe = {
        "model": str(tiny_model),
        "output": str(tmp_path / "whole"),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        "autoregressive": {
            "lora": {"rank": 2, "dropout": 0.2, "targets": ["q_proj", "down_proj"], "base": base, "offload": offload},
            "steps": 5,
            "save_every": 2,
            "global_batch_size": 2,
            "learning_rate": 0.01,
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["finetune", "--device", "cpu", str(tmp_path / "recipe.yaml")]
    assert main(command) == 0

    class Killed(Exception):
        pass

    step = loop.Loop.take_step

    def dying(self: loop.Loop) -> Any:
        if self.step == 3:
            raise Killed
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "take_step", dying)
        with pytest.raises(Killed):
            main([*command, f"output={tmp_path / 'parts'}"])
    assert main([*command, f"output={tmp_path / 'parts'}"]) == 0
    whole, parts = (
        load_file(tmp_path / run / "adapter" / "autoregressive" / "adapter_model.safetensors")
        for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
