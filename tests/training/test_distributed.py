"""Two processes, with all weights each or in shards, do what one does: the same curve, adapters and files. Each goes on
where the other stopped, and what fails in one ends both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import TORCHRUN, free_port, launch
from safetensors.torch import load_file

from glmkit import config
from glmkit.cli import main
from glmkit.config import BlockStage
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.models.hybrid import HybridModel
from glmkit.pretraining import config as pretraining
from glmkit.pretraining.config import PretrainAutoregressiveStage, PretrainDecoderStage
from glmkit.pretraining.posters import PosterDataset
from glmkit.pretraining.pretrain import pretraining_kinds
from glmkit.training import distributed, features
from glmkit.training import fsdp as sharding
from glmkit.training.context import StageContext
from glmkit.training.loop import Loop
from glmkit.training.stage import prepare_stage

CPU = torch.device("cpu")
DYING = str(Path(__file__).with_name("dying.py"))
IN_SHARDS = ("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2")
LORA: dict[str, Any] = {"rank": 2, "targets": ["q_proj", "down_proj"]}
COMMON: dict[str, Any] = {"steps": 5, "global_batch_size": 4, "learning_rate": 0.01}


def values(model: str, output: str, **data: Any) -> dict[str, Any]:
    """Adapters by micro-batches that are shared whole, with dropout; then a whole part, by the rows of one."""
    common = {**COMMON, "ema": 0.5, "validation_every": 2, "save_every": 2}
    return {
        "model": model,
        "output": output,
        "data": data,
        "autoregressive": {**common, "micro_batch_size": 2, "caption_dropout": 0.3, "lora": {**LORA, "dropout": 0.2}},
        "decoder": {**common, "caption_dropout": 0.3},
        "save_dtype": "float32",
        "samples": {"prompts": ["a poster with 'HI'"], "size": "64x32", "steps": 1},
    }


@pytest.fixture(scope="module")
def whole(tiny_model: Path, posters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process, and its recipe."""
    folder = tmp_path_factory.mktemp("whole")
    sets = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values(str(tiny_model), str(folder / "run"), **sets)))
    assert main(["finetune", str(folder / "recipe.yaml"), "--device", "cpu"]) == 0
    return folder


def curve(run: Path, stage: str) -> list[dict[str, float]]:
    rows = read_jsonl(run / f"{stage}.log.jsonl")
    return [
        {
            name: value
            for name, value in {**row, **row.get("validation", {})}.items()
            if name not in ("time", "validation")
        }
        for row in rows
    ]


def assert_same(run: Path, other: Path, *stages: str) -> None:
    for stage in stages or ("autoregressive", "decoder"):
        ours, theirs = curve(run, stage), curve(other, stage)
        assert [row.keys() for row in ours] == [row.keys() for row in theirs]
        for our, their in zip(ours, theirs, strict=True):
            assert our == pytest.approx(their, rel=1e-5)
    files = [{path.relative_to(one) for path in one.rglob("*") if path.is_file()} for one in (run, other)]
    assert {path for path in files[0] ^ files[1] if "events.out" not in path.name} == set()
    learnt = [path for path in files[0] if path.suffix == ".safetensors"]
    assert stages or {path.parent.name for path in learnt} > {"autoregressive", "transformer"}
    assert learnt
    for path in learnt:
        found, expected = load_file(run / path), load_file(other / path)
        # A step is 0.01 long. Adam takes one also where a gradient is only rounding, so single weights may differ.
        far = {name: (found[name] - expected[name]).square().mean().sqrt().item() for name in expected}
        assert found.keys() == far.keys()
        # What a bias adds to all keys alike, softmax does not see: there every gradient is rounding.
        assert max(value for name, value in far.items() if not name.endswith("k_proj.bias")) < 1e-5


def stop(command: list[str], stage: str) -> None:
    """Run a command of one process until step 3 of a stage."""
    step = Loop.take_step

    def stopped(self: Loop) -> Any:
        if (self.context.name, self.step) == (stage, 3):
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "take_step", stopped)
        assert main(command) == 130


@pytest.mark.thorough
def test_two_go_on_where_one_stopped(whole: Path, tmp_path: Path) -> None:
    command = ["finetune", str(whole / "recipe.yaml"), f"output={tmp_path / 'run'}", "--device", "cpu"]
    stop(command, "autoregressive")
    result = launch(*TORCHRUN, free_port(), "-m", "glmkit", *command)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("continuing at step 2") == result.stdout.count("decoder: 5 steps") == 1
    assert_same(tmp_path / "run", whole / "run")


def test_one_goes_on_where_shards_stopped(whole: Path, tmp_path: Path) -> None:
    command = ["finetune", str(whole / "recipe.yaml"), f"output={tmp_path / 'run'}", "--device", "cpu"]
    result = launch(*IN_SHARDS, "--main_process_port", free_port(), DYING, "decoder:3", *command)
    assert (tmp_path / "run" / "decoder.state.pt").exists(), result.stderr
    here, everywhere = map(float, re.findall(r"shards: ([\d.]+) of ([\d.]+) MiB", result.stderr)[1])
    assert here == pytest.approx(everywhere / 2, rel=0.01)
    assert main(command) == 0
    assert_same(tmp_path / "run", whole / "run")


@pytest.mark.thorough
def test_shards_go_on_where_one_stopped(whole: Path, tmp_path: Path) -> None:
    command = ["finetune", str(whole / "recipe.yaml"), f"output={tmp_path / 'run'}", "--device", "cpu"]
    stop(command, "decoder")
    result = launch(*IN_SHARDS, "--main_process_port", free_port(), "-m", "glmkit", *command)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("continuing at step 2") == 1
    assert_same(tmp_path / "run", whole / "run")


@pytest.fixture(scope="module")
def whole_ar(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process that trains every weight of the AR model, and its recipe."""
    folder = tmp_path_factory.mktemp("whole_ar")
    recipe = yaml.safe_load((whole / "recipe.yaml").read_text())
    stage = {key: value for key, value in recipe["autoregressive"].items() if key != "lora"}
    del recipe["decoder"], recipe["samples"]
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(recipe | {"autoregressive": stage, "output": str(folder / "run")})
    )
    assert main(["finetune", str(folder / "recipe.yaml"), "--device", "cpu"]) == 0
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("first", ["one", "shards"])
def test_the_whole_ar_model_in_shards(whole_ar: Path, first: str, tmp_path: Path) -> None:
    """A state that one process saved goes on in shards, and the other way round."""
    command = ["finetune", str(whole_ar / "recipe.yaml"), f"output={tmp_path / 'run'}", "--device", "cpu"]
    shards = [*IN_SHARDS, "--main_process_port", free_port()]
    if first == "one":
        stop(command, "autoregressive")
        result = launch(*shards, "-m", "glmkit", *command)
        assert result.returncode == 0, result.stderr
    else:
        result = launch(*shards, DYING, "autoregressive:3", *command)
        assert (tmp_path / "run" / "autoregressive.state.pt").exists(), result.stderr
        assert main(command) == 0
    assert "weights in shards" in result.stderr
    assert_same(tmp_path / "run", whole_ar / "run", "autoregressive")


def test_an_error_in_one_ends_both(whole: Path, tmp_path: Path) -> None:
    """The second is given a mistake, which the first waits for."""
    command = [sys.executable, "-m", "glmkit", "finetune", "--device", "cpu", str(whole / "recipe.yaml")]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    both = [
        subprocess.Popen([*command, *more], env={**common, "RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank, more in (("0", [f"output={tmp_path / 'run'}"]), ("1", ["decoder.stepz=3"]))
    ]
    try:
        said = "".join(one.communicate(timeout=120)[1] for one in both)
    finally:
        for one in both:
            one.kill()  # if it waits for ever
    assert [one.returncode for one in both] == [2, 2]
    assert said.count("error: ") == 1
    assert "decoder.stepz: unknown key" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("count", "accumulation_steps"), [(1, 1), (1, 3), (2, 4), (2, 2), (2, 1), (6, 2)])
def test_every_image_is_in_one_pass(count: int, accumulation_steps: int) -> None:
    batch = list(range(100, 112))
    passes = [distributed.passes_of(batch, accumulation_steps, ProcessGroup(index, count)) for index in range(count)]
    assert len({len(own) for own in passes}) == 1
    taken = [(one.number, index) for own in passes for one in own for index in one.indices[one.rows or slice(None)]]
    size = len(batch) // accumulation_steps
    assert taken == [(place // size, index) for place, index in enumerate(batch)]
    assert all(one.indices == batch[one.number * size :][:size] for own in passes for one in own), "draws are for all"


@pytest.mark.parametrize("stage", ["autoregressive", "decoder"])
def test_the_loss_is_the_mean_over_parts(stage: str, tiny_model: Path) -> None:
    """Also where text counts for more, captions are left out, and others are preserved."""
    images = PosterDataset(4, 64, 64, seed=1, workers=1, split="train")
    more = {
        "autoregressive": {"caption_dropout": 0.5},
        "decoder": {"caption_dropout": 0.5, "text_weight": 3.0, "prior_noise": 0.3},
    }[stage]
    lora = {
        "rank": 2,
        "targets": ["q_proj" if stage == "autoregressive" else "to_q"],
    }
    of_stage: type[BlockStage] = PretrainDecoderStage if stage == "decoder" else PretrainAutoregressiveStage
    settings = of_stage.model_validate({**COMMON, **more, "regularization_weight": 0.5, "lora": lora})
    objective: Any
    objective = prepare_stage(
        StageContext(Path(), stage, 0, CPU),
        pretraining_kinds()[stage],
        settings,
        HybridModel(tiny_model),
        (images, images),
        features.FeatureCache(CPU),
    ).objective
    with torch.no_grad():
        for value in objective.trained.parameters():
            if value.requires_grad:
                value.normal_(std=0.3, generator=torch.Generator().manual_seed(value.numel()))
        parts = [slice(0, 2), slice(2, 4)]
        losses = [objective.loss([0, 1, 2, 3], torch.Generator().manual_seed(7), *own)[0] for own in ([], *zip(parts))]
    assert losses[0].item() == pytest.approx((losses[1] + losses[2]).item() / 2, rel=1e-5)
    assert abs(losses[1] - losses[2]) > 1e-3


def recipe(**changes: Any) -> config.Recipe:
    stage = {**COMMON, "lora": LORA, **changes}
    return config.from_dict({"output": "x", "data": {"train": "a", "validation": "b"}, "autoregressive": stage})


@pytest.mark.parametrize(
    ("changes", "count", "fix"),
    [
        ({"global_batch_size": 3}, 2, "autoregressive.global_batch_size=4 autoregressive.micro_batch_size=2"),
        ({"global_batch_size": 6, "micro_batch_size": 2}, 2, "autoregressive.micro_batch_size=1"),
        ({"pack": True}, 2, "pack needs them whole.*autoregressive.micro_batch_size=2"),
        ({"lora": {**LORA, "dropout": 0.1}}, 4, "lora.dropout needs them whole.*autoregressive.micro_batch_size=1"),
        ({"equal_pixels": True, "global_batch_size": 8, "micro_batch_size": 4}, 4, "equal_pixels.*micro_batch_size=2"),
    ],
)
def test_steps_that_cannot_be_shared(changes: dict[str, Any], count: int, fix: str) -> None:
    with pytest.raises(UserError, match=f"(?s){fix}"):
        distributed.check(recipe(**changes).stages, ProcessGroup(0, count))
    distributed.check(recipe(**changes).stages, ProcessGroup())


def test_stages_of_one_process() -> None:
    values = {"output": "x", "data": {"posters": {"count": 1}}, "vae": dict(COMMON)}
    with pytest.raises(UserError, match="vae learns in one process"):
        distributed.check(pretraining.from_dict(values).stages, ProcessGroup(0, 2))


@pytest.mark.parametrize(
    ("changes", "environment", "fix"),
    [
        ({}, {"FSDP_VERSION": "1"}, "--fsdp_version 2"),
        ({}, {"FSDP_OFFLOAD_PARAMS": "true"}, "--fsdp_offload_params false"),
        ({"lora": {**LORA, "base": "nf4"}}, {}, "lora.base=auto"),
        ({"lora": {**LORA, "offload": True}}, {}, "lora.offload=false"),
        ({"optimizer": "prodigy"}, {}, "optimizer=adamw"),
    ],
)
def test_what_shards_cannot_do(
    changes: dict[str, Any], environment: dict[str, str], fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FSDP_VERSION": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=fix):
        sharding.check(recipe(**changes).stages)
