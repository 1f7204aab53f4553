"""glmkit bench train: the real step, on toy weights; floors as the published table counts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from processes import TORCHRUN, free_port

from glmkit import config
from glmkit.cli import main
from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import benchmark as speed
from glmkit.training.flops import sequence_tokens, training_flops
from glmkit.training.loop import Loop
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.stage import quantize_and_offload

CPU = torch.device("cpu")


def rows_of(out: Path, *options: str, exit_code: int = 0) -> list[dict[str, Any]]:
    assert main(["bench", "train", *options, "--device", "cpu", "--steps", "1", "--out", str(out)]) == exit_code
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("stage", ["decoder", "autoregressive"])
def test_rows(stage: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "train", "--model", str(tiny_model), "--stage", stage, "--size", "128x128", "--batch", "1", "2"]
    out = tmp_path / "rows.jsonl"
    assert (
        main(
            [*command, "--gradient-checkpointing", "1", "--steps", "2", "--device", "cpu", "--json", "--out", str(out)]
        )
        == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["share_of_lower_bound"] < 1
        assert row["spread"][0] <= row["step"] <= row["spread"][1]
        assert row["share_of_lower_bound"] == pytest.approx(row["lower_bound"] / row["step"])
        assert row["samples_per_second"] == pytest.approx(row["batch"] / row["step"])


def test_one_model_for_rows_that_can_share_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each row has its own recomputation, images and optimizer."""
    built: list[str] = []
    peaks: list[tuple[int, int, int]] = []
    take = Loop.take_step

    def building(transformer: Any, settings: config.Lora, device: torch.device) -> None:
        built.append(settings.base)
        quantize_and_offload(transformer, settings, device)

    monkeypatch.setattr(speed, "quantize_and_offload", building)

    def taking(loop: Any) -> Any:
        peaks.append((loop.objective.trained.gradient_checkpointing, len(loop.batches[0]), loop.step))
        return take(loop)

    monkeypatch.setattr(Loop, "take_step", taking)
    options = ["--model", str(tiny_model), "--size", "64x64", "--batch", "1", "2", "--gradient-checkpointing", "0", "1"]
    rows = rows_of(tmp_path / "rows.jsonl", *options, "--base", "auto", "fp8")
    assert built == ["auto", "fp8"]
    assert [(row["gradient_checkpointing"], row["batch"]) for row in rows[:4]] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert peaks[:8] == [(every, batch, step) for batch in (1, 2) for every in (0, 1) for step in (0, 1)]


def test_a_row_that_fails_is_told_and_the_next_one_comes(
    tiny_model: Path, tmp_path: Path, uninstall: Callable[..., None]
) -> None:
    uninstall("bitsandbytes")
    options = ["--model", str(tiny_model), "--stage", "autoregressive", "--size", "64x64", "--pack", "--base"]
    missing, fits = rows_of(tmp_path / "both.jsonl", *options, "nf4", "fp8")
    assert missing["base"] == "nf4"
    assert "needs the package bitsandbytes" in missing["error"]
    assert missing["pack"]
    assert fits["base"] == "fp8"
    assert fits["tokens_per_second"] > 0
    assert "error" not in fits
    (alone,) = rows_of(tmp_path / "none.jsonl", *options, "nf4", exit_code=2)
    assert "step" not in alone


def test_memory_that_runs_out_leaves_nothing_behind(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next row of the same model begins without the gradients of the one that failed."""
    take = Loop.take_step

    def failing(loop: Any) -> Any:
        found = [value.grad for value in loop.parameters if value.grad is not None]
        assert not found
        if len(loop.batches[0]) == 2:
            for value in loop.parameters:
                value.grad = torch.ones_like(value)
            raise torch.OutOfMemoryError("no more")
        return take(loop)

    monkeypatch.setattr(Loop, "take_step", failing)
    jobs = [speed.TrainingCase("decoder", 64, 64, batch) for batch in (2, 1)]
    large, small = speed.measure_cases(jobs, lambda dtype: HybridModel(tiny_model, CPU, dtype), CPU, 1)
    assert large["error"] == "OutOfMemoryError: no more"
    assert large["batch"] == 2
    assert small["step"] > 0


def test_all_weights_learn(tiny_model: Path, tmp_path: Path) -> None:
    """In float32 and without adapters; each weight has a gradient, so a step is half as much work again."""
    learning: list[tuple[int, int, torch.dtype]] = []
    take = Loop.take_step

    def taking(loop: Any) -> Any:
        every = list(loop.objective.trained.parameters())
        learning.append((len(loop.parameters), len(every), every[0].dtype))
        return take(loop)

    options = ["--model", str(tiny_model), "--size", "64x64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "take_step", taking)
        (row,) = rows_of(tmp_path / "full.jsonl", *options, "--full-finetuning")
    assert row["full_finetuning"]
    assert learning[0][0] == learning[0][1] > 10
    assert learning[0][2] == torch.float32
    (adapters,) = rows_of(tmp_path / "adapters.jsonl", *options)
    flops, fewer = (one["lower_bound"] * one["tflops"] for one in (row, adapters))
    assert flops / fewer == pytest.approx(1.5, rel=0.1)


def launch_two(program: str, *options: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `glmkit bench train` in two processes of torchrun; `program` is the module, or a file in its place."""
    command = [sys.executable, "-m", *TORCHRUN, free_port(), *program.split(), "bench", "train", *map(str, options)]
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=own)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_two_processes_share_a_step(sharded: bool, tiny_model: Path, tmp_path: Path) -> None:
    """One row, by the first process; the bound is that of both, and shards hold the weights."""
    out = tmp_path / "rows.jsonl"
    options = ["--model", tiny_model, "--size", "64x64", "--batch", 2, "--steps", 1, "--device", "cpu", "--out", out]
    accelerate = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if sharded else {}
    result = launch_two("-m glmkit", *options, **accelerate)
    assert result.returncode == 0, result.stderr
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["processes"], row["sharded"]) == (2, sharded)
    assert row["samples_per_second"] == pytest.approx(2 / row["step"])
    assert result.stderr.count("weights in shards: ") == sharded
    assert result.stdout.count("2 processes") == 1
    hybrid = HybridModel(tiny_model, CPU)
    case = speed.TrainingCase("decoder", 64, 64, 2)
    flops = 2 * training_flops(hybrid, case, sequence_tokens(hybrid, case))
    assert row["lower_bound"] * 2 * row["tflops"] * 1e12 == pytest.approx(flops)


FAILING = """
import sys
from glmkit.cli import main
from glmkit.training.loop import Loop
take = Loop.take_step
def failing(loop):
    if loop.context.group.rank == 1:
        raise RuntimeError("no more memory")
    return take(loop)
Loop.take_step = failing
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.thorough
def test_what_fails_in_one_of_two_ends_both(tiny_model: Path, tmp_path: Path) -> None:
    """A row with an error would leave the other waiting for its part of the step."""
    (tmp_path / "failing.py").write_text(FAILING)
    options = ["--model", tiny_model, "--size", "64x64", "--batch", 2, "--device", "cpu"]
    result = launch_two(str(tmp_path / "failing.py"), *options)
    assert result.returncode != 0
    assert result.stderr.count("error: ") == 1
    assert "a setting failed in one of several processes" in result.stderr
    assert "RuntimeError: no more memory" in result.stderr


@pytest.mark.parametrize(
    ("case", "fix"),
    [
        (speed.TrainingCase("decoder", 64, 64, 3), "--batch 4"),
        (speed.TrainingCase("autoregressive", 64, 64, 4, pack=True), "leave out --pack"),
    ],
)
def test_a_batch_that_two_cannot_share(case: speed.TrainingCase, fix: str) -> None:
    """The advice is an option: there is no recipe whose keys could be changed."""
    with pytest.raises(UserError, match=f"2 processes cannot share the micro-batches[\\s\\S]*{fix}$"):
        list(
            speed.measure_cases(
                [case],
                lambda _: pytest.fail("nothing is built"),
                CPU,
                1,
                group=ProcessGroup(0, 2),
            )
        )


def test_no_row_begins_too_late(tiny_model: Path) -> None:
    (row,) = speed.measure_cases(
        [speed.TrainingCase("decoder", 64, 64, 1)], lambda _: HybridModel(tiny_model), CPU, 1, seconds=0
    )
    assert row["error"] == "no time left"
    assert row["stage"] == "decoder"


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes name their data from the root of the repository."""
    monkeypatch.chdir(RECIPES.parent)


@pytest.mark.usefixtures("at_home")
def test_a_recipe_is_measured_as_it_is(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each stage with its batch, on edits where its data has edits, at the size that is asked for."""
    given = [str(RECIPES / "edit_lora.yaml"), "decoder.global_batch_size=4", "decoder.micro_batch_size=2"]
    rows = rows_of(tmp_path / "rows.jsonl", "--model", str(tiny_model), "--size", "64x64", "--recipe", *given)
    assert [(row["stage"], row["batch"], row["accumulation_steps"], row["edits"], row["steps"]) for row in rows] == [
        ("autoregressive", 2, 1, True, 500),
        ("decoder", 4, 2, True, 1000),
    ]
    assert all(row["size"] == "64x64" and 0 < row["share_of_lower_bound"] < 1 for row in rows)
    assert "accumulation steps 2" in capsys.readouterr().out


@pytest.mark.usefixtures("at_home")
def test_a_recipe_that_weighs_text_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    """Its data know where text stands, and so does the noise in their place."""
    row = {"file_name": "a.png", "text": 'A poster that says "ABC"', "text_boxes": [[4, 4, 40, 20]]}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    recipe = [str(RECIPES / "decoder_lora.yaml"), f"data.train={tmp_path}", "data.validation=null"]
    given = [*recipe, "decoder.text_weight=2", "decoder.global_batch_size=1"]
    (measured,) = rows_of(tmp_path / "rows.jsonl", "--model", str(tiny_model), "--size", "64x64", "--recipe", *given)
    assert measured.get("error") is None
    assert 0 < measured["share_of_lower_bound"] < 1


@pytest.mark.usefixtures("at_home")
def test_a_recipe_that_preserves_is_timed_with_what_it_is_reminded_of(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the image's own passes for the frozen model's look at it; other images cost all of it again."""
    reminded: list[bool] = []
    drift = AutoregressiveObjective._drift

    def noting(self: AutoregressiveObjective, batch: Any, logits: torch.Tensor) -> torch.Tensor:
        reminded.append(bool(self.regularization))
        return drift(self, batch, logits)

    monkeypatch.setattr(AutoregressiveObjective, "_drift", noting)
    recipe, how = str(RECIPES / "ar_lora.yaml"), ("--model", str(tiny_model), "--size", "64x64")
    ordinary = "data.train=[data/layouts/train, {path: data/layouts/regularization, regularization: true}]"
    floors: list[float] = []
    for data, preserve in (
        (ordinary, 0.5),
        ("data.train=data/layouts/train", 0.5),
        ("data.train=data/layouts/train", 0),
    ):
        given = [recipe, data, f"autoregressive.regularization_weight={preserve}"]
        (row,) = rows_of(tmp_path / f"{len(floors)}.jsonl", *how, "--recipe", *given)
        floors.append(row["lower_bound"] * row["tflops"])
        assert (row["regularization_weight"], row["regularization_images"]) == (preserve, data == ordinary)
    own, looked, plain = sorted(floors, reverse=True)
    assert floors == [own, looked, plain]
    assert own - looked == pytest.approx(plain, rel=1e-6)
    assert set(reminded[: len(reminded) // 2]) == {True}
    assert set(reminded[len(reminded) // 2 :]) == {False}


@pytest.mark.usefixtures("at_home")
def test_the_glyph_stage_trains_the_encoder_through_a_frozen_decoder(tiny_model: Path) -> None:
    stage = config.load(RECIPES / "glyph_lora.yaml", [f"model={tiny_model}", "glyph.micro_batch_size=null"]).glyph
    assert stage is not None
    job, hybrid = (
        speed.TrainingCase.from_recipe("glyph", stage, (64, 64), edits=False),
        HybridModel(tiny_model, CPU, torch.float32),
    )
    (row,) = speed.measure_cases([job], lambda _: hybrid, CPU, 1)
    assert row["stage"] == "glyph"
    assert row["step"] > 0
    assert not any(value.requires_grad for value in hybrid.decoder.parameters())
    learning = [name for name, value in hybrid.glyph.named_parameters() if value.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["ar_lora.yaml", "--batch", "2"], "found: --batch"),
        (["nano/pretrain/vae.yaml"], "vae: unknown key"),
        (["no_lora.yaml"], "does not exist"),
    ],
)
def test_recipes_that_cannot_be_measured(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--recipe", str(RECIPES / given[0]), *given[1:], "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pack"], "--stage autoregressive"),
        (["--full-finetuning", "--base", "nf4"], "--base and --offload are for frozen weights"),
        (["--full-finetuning", "--offload"], "--base and --offload are for frozen weights"),
        (["--offload", "--base", "nf4"], "not nf4"),
        (["--model", "full"], "--model nano"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_go_together(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", *options, "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err


def test_floors_of_the_published_sizes() -> None:
    """TFLOP a sample of LoRA on the published sizes: 51.2 for 1481 tokens, about 127 for 1024x1024 without glyphs."""
    with torch.device("meta"):
        parts: Any = {
            part: checkpoint.build_component(part, checkpoint.PUBLISHED[checkpoint.COMPONENTS[part].folder])
            for part in ("autoregressive", "decoder")
        }
    hybrid = cast(HybridModel, SimpleNamespace(**parts))
    codes, pixels = speed.TrainingCase("autoregressive", 1024, 1024, 1), speed.TrainingCase("decoder", 1024, 1024, 1)
    assert training_flops(hybrid, codes, 1481) / 1e12 == pytest.approx(51.2, rel=0.02)
    assert training_flops(hybrid, pixels, 4096) / 1e12 == pytest.approx(127.5, rel=0.01)
    # An edit: the source's tokens through all weights, too; the target's read both images, the source's their own.
    weights, attention = 30 * 12 * 4096**2 * 2 * 4096 * 2, 30 * 4 * 4096 * 4096**2
    edit = speed.TrainingCase("decoder", 1024, 1024, 1, edits=True)
    assert training_flops(hybrid, edit, 4096) == pytest.approx(2 * weights + 3.5 * 3 * attention, rel=0.001)
    again = speed.TrainingCase("decoder", 1024, 1024, 1, gradient_checkpointing=1)
    assert training_flops(hybrid, again, 4096) / training_flops(hybrid, pixels, 4096) == pytest.approx(1.45, abs=0.02)
