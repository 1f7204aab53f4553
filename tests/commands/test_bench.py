"""glmkit bench speed: both pipelines on the same weights, one line of JSON, a result file, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoint
import torch

from glmkit.cli import main
from glmkit.files import read_json
from glmkit.generation.benchmark import decoder_flops
from glmkit.generation.diffusers_pipeline import diffusers_pipeline
from glmkit.generation.loading import load_model
from glmkit.generation.pipeline import generate_batch
from glmkit.generation.random_model import RandomModel, published_folder
from glmkit.generation.sequence import PromptTokenizer
from glmkit.models import checkpoint
from glmkit.records import Request

CPU = torch.device("cpu")


def test_both_sides_and_a_result_file(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "speed.json"
    command = ["bench", "speed", "--model", str(tiny_model), "--against", "diffusers", "--size", "64x64", "96x64"]
    command += ["--steps", "2", "--repeats", "2", "--device", "cpu", "--compile", "off"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result == read_json(out)
    assert result["ratio"] == pytest.approx(result["diffusers"] / result["glmkit"])
    assert [(row["size"], row["steps"]) for row in result["rows"]] == [("64x64", 2), ("96x64", 2)]
    for row in result["rows"]:
        assert set(row["stages"]) == {"prior_tokens", "denoising", "vae"}
        assert sum(stage["share"] for stage in row["stages"].values()) == pytest.approx(1, abs=0.2)
        for side in ("glmkit", "diffusers"):
            total = row["spread"][side]["total"]
            assert 0 < total["min"] <= total["median"] <= total["max"]
            assert row["peak_memory_gib"][side] > 0
            assert row["first_call"][side] > 0
        assert row["stages"]["prior_tokens"]["share_of_lower_bound"] > 0
        assert row["stages"]["denoising"]["share_of_lower_bound"] > 0
    assert result["environment"]["versions"]["diffusers"]
    assert result["date"]
    assert "CPU" in result["device"]


def test_table_without_diffusers(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "speed", "--model", str(tiny_model), "--size", "64x64", "--steps", "6", "--repeats", "1"]
    command += ["--reuse", "3", "--guided", "0.5", "--out", str(tmp_path / "a.json")]
    assert main([*command, "--device", "cpu", "--compile", "off"]) == 0
    (row,) = read_json(tmp_path / "a.json")["rows"]
    assert (row["reuse"], row["guided"]) == (3, 0.5)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("64x64", "prior_tokens", "denoising", "vae", "peak memory", "first call"))


def test_diffusers_runs_on_shared_tensors(tiny_model: Path) -> None:
    """Shared, not copied, and the same image as diffusers' pipeline loaded from the folder."""
    hybrid = load_model(tiny_model, CPU, torch.float32)
    shared = diffusers_pipeline(hybrid)
    ours = hybrid.autoregressive.lm_head.weight
    assert shared.vision_language_encoder.lm_head.weight.data_ptr() == ours.data_ptr()
    assert shared.transformer.proj_out.weight.data_ptr() == hybrid.decoder.proj_out.weight.data_ptr()
    images = []
    for pipe in (shared, tiny_checkpoint.diffusers_pipeline(tiny_model)):
        pipe.vision_language_encoder.generation_config = shared.vision_language_encoder.generation_config
        generator = torch.Generator().manual_seed(3)
        arguments = {"prompt": "a 'B'", "height": 64, "width": 64, "num_inference_steps": 2, "generator": generator}
        images.append(np.asarray(pipe(**arguments).images[0]))
    assert np.array_equal(images[0], images[1])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "full", "--device", "cpu"], "need a CUDA GPU"),
        (["--model", "nanoo"], "did you mean 'nano'"),
        (["--size", "100x64"], "multiples of 32"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--against", "diffusers", "--memory", "low"], "all components at once"),
    ],
)
def test_bad_input(argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    assert main(["bench", "speed", *argv, "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not out.exists()


@pytest.mark.parametrize("kind", ["speed", "train", "price"])
def test_a_place_for_results_is_looked_at_before_anything_is_measured(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").touch()
    others = ["--run", str(tmp_path / "run")] if kind == "price" else []
    for out, found in ((tmp_path / "a" / "b.json", "Not a directory"), (tmp_path, "Is a directory")):
        assert main(["bench", kind, *others, "--model", "nowhere", "--out", str(out)]) == 2
        assert found in capsys.readouterr().err
    assert main(["bench", kind, *others, "--model", "nowhere", "--out", str(tmp_path / "new" / "b.json")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_random_weights_generate_at_the_sizes_of_a_folder(tiny_model: Path) -> None:
    """Finite images from configs alone; the same weights every time."""
    request = Request("a", "a 'B'", 0, 64, 64, steps=1)
    images = []
    for _ in range(2):
        hybrid = RandomModel(tiny_model, "cpu", torch.float32, "random")
        hybrid.optimize_for_inference()
        images.append(np.asarray(generate_batch(hybrid, [request])[0]))
    assert np.array_equal(images[0], images[1])
    assert images[0].std() > 0


def test_published_folder(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "full")
    assert checkpoint.config(folder, "decoder")["num_layers"] == 30
    ids = PromptTokenizer(folder / "processor").text_to_image("a poster with 'HELLO'", 1024, 1024)
    assert ids[-1] == 16384
    assert max(ids) < 168064


def test_floor_of_the_published_decoder(tmp_path: Path) -> None:
    """58 TFLOP a pass at 1024 px and 331 at 2048, as counted for the published model."""
    hybrid = RandomModel(published_folder(tmp_path / "full"), "meta", torch.bfloat16, "full")
    with torch.device("meta"):
        hybrid.decoder = checkpoint.build_component("decoder", checkpoint.config(hybrid.folder, "decoder"))  # type: ignore[assignment]
    assert decoder_flops(hybrid, 4096) / 1e12 == pytest.approx(58, rel=0.03)
    assert decoder_flops(hybrid, 16384) / 1e12 == pytest.approx(331, rel=0.03)
