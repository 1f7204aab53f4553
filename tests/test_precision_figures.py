"""Every figure of low precision in README.md and benchmarks/README.md is that of results/precision_h200."""

from __future__ import annotations

import re
from typing import Any

import pytest
from documents import ROOT, one_line, table_lines

from glmkit.files import read_json

PAGE = "benchmarks/README.md"
Rows = dict[str, dict[str, Any]]


def rows(name: str) -> Rows:
    """The measurements of a file of results, by their case."""
    return {row["case"]: row for row in read_json(ROOT / "benchmarks" / "results" / f"{name}.json")["rows"]}


def low(name: str) -> Rows:
    return rows(f"precision_h200/{name}")


def test_images() -> None:
    lines = {cells[0].strip("`"): cells[1:] for cells in table_lines(PAGE, "precision | prior tokens")}
    assert lines.keys() == {"exact", "8bit", "4bit"}
    for precision, cells in lines.items():
        image = low(f"{precision}-images")["1024x1024"]
        assert cells == [f"{image[name]:.2f}" for name in ("prior_tokens", "denoising", "total")]


def test_seconds_of_shortcuts() -> None:
    for name, *_, denoising, whole in table_lines(PAGE, "setting | passes"):
        settings = dict(part.split("=") for part in name.strip("`").split(",") if "=" in part)
        case = ", ".join(["1024x1024", *(f"{key} {value}" for key, value in settings.items() if key != "precision")])
        image = low(f"{settings.get('precision', 'exact')}-images").get(case)
        seconds = ["", ""] if image is None else [f"{image[stage]:.2f}" for stage in ("denoising", "total")]
        assert [denoising, whole] == seconds, name


def test_the_steps_of_the_ar_model() -> None:
    of = [rows("speed_h200/tokens"), low("8bit-tokens"), low("4bit-tokens")]
    lines = table_lines(PAGE, "prompts | step, exact")
    assert [cells[0] for cells in lines] == ["1", "16", "64"]
    for batch, *cells in lines:
        measured = [one[f"text, batch {batch}, prompt 50"] for one in of]
        assert cells == [f"{row[key]:.2f}" for key in ("ms_per_step", "prefill_s") for row in measured]


def test_steps_of_the_decoder_and_batches() -> None:
    sizes = [f"{side}x{side}, 30 steps" for side in (1024, 2048)]
    steps = [
        f"{of[size]['ms_per_step']:.0f}" for of in (low("8bit-decoder"), rows("speed_h200/decoder")) for size in sizes
    ]
    assert (
        f"takes {steps[0]} ms at 1024x1024 and {steps[1]} ms at 2048x2048 in `8bit` ({steps[2]} and {steps[3]} exact"
    ) in one_line(PAGE)
    batch = low("8bit-batch")["1024x1024, prior tokens by 64"]
    assert f"{batch['images_per_hour']:.0f} images are made per hour" in one_line(PAGE)


def test_caps() -> None:
    lines = table_lines(PAGE, "under a cap")
    assert len(lines) == 6
    for name, cap, *cells in lines:
        case = f"{name.partition(', ')[2]} under {cap} GiB"
        row = low(f"{name[1:5]}-caps")[case]
        seconds = f"{row['total']:.1f}" + " with loading" * (not row["components_before"])
        assert cells == [f"{row['peak_gib']:.1f}", f"{row['whole_gib']:.1f}", seconds]


def test_the_hardware_table() -> None:
    lines = {cells[0]: cells[1] for cells in table_lines("README.md", "GPU memory")}
    for card, precision in (("16 GB", "4bit"), ("24 GB", "8bit")):
        measured = low(f"{precision}-caps")
        cases = [f"{case} under {card[:2]} GiB" for case in ("1024x1024", "edit 1024x1024", "2048x2048, in tiles")]
        assert all(measured[case]["total"] for case in cases)
        whole = measured[cases[0]]["whole_gib"]
        said = f"generate and edit with `--precision {precision}`: 1024x1024 in {whole:.1f} GiB, 2048x2048 with"
        assert said in lines[card]
    peaks = [
        row["peak_memory_gib"]
        for name, batch in (("all", 2), ("compiled_recipes", 6))
        for row in read_json(ROOT / "benchmarks" / "results" / "train_h200" / f"{name}.json")["rows"]
        if (row["stage"], row["size"], row["batch"], row["gradient_checkpointing"])
        == ("decoder", "1024x1024", batch, 0)
        and row["peak_memory_gib"]
    ]
    assert f"1024x1024 by 2 in {peaks[0]:.0f} GiB, compiled by 6 in {peaks[1]:.0f} GiB" in lines["80 GB, 141 GB"]


def test_two_gpus() -> None:
    measured = read_json(ROOT / "benchmarks" / "results" / "precision_h200" / "parallel_guidance.json")["rows"]
    two = [row["stages"]["denoising"]["glmkit"] for row in measured]
    one = [low("exact-images")["1024x1024"]["denoising"], rows("speed_h200/images")["2048x2048"]["denoising"]]
    assert f"1024x1024 in {two[0]:.2f} s and one of 2048x2048 in {two[1]:.2f} s, exact" in one_line(PAGE)
    assert f"one GPU takes {one[0]:.2f} and {one[1]:.2f} s" in one_line(PAGE)


def test_training() -> None:
    rates = [
        low("training")[f"decoder, batch 4, {base}, compile"]["samples_per_second"] for base in ("fp8-compute", "auto")
    ]
    said = f"{rates[0]:.1f} samples per second of the decoder where bfloat16 gives {rates[1]:.1f} in the same run"
    assert said in one_line(PAGE)
    assert f"{rates[0] / rates[1]:.2f} times as many" in one_line(PAGE)
    assert low("training")["autoregressive, batch 10, fp8-compute, compile"]["error"]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "benchmarks/results/precision_h200").iterdir()))
def test_files_say_where_they_were_measured(name: str) -> None:
    """By versions and command, not by paths of a machine."""
    path = ROOT / "benchmarks" / "results" / "precision_h200" / name
    measured = read_json(path)
    assert measured["device"] == "NVIDIA H200"
    assert measured["environment"]["versions"]["torch"]
    assert measured["command"]
    assert not re.search(r"/(tmp|root|home|work)/", path.read_text(encoding="utf-8"))
