"""The script that measures low precision on a GPU runs at tiny size, and names what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import load_script

from glmkit.files import read_json, write_json

OPTIONS = ("--tiny", "--device", "cpu", "--only")


@pytest.fixture(scope="module")
def script() -> Any:
    for name in ("speed_h200", "train_h200", "precision_lab", "precision_checks"):
        load_script(name)
    return load_script("precision_h200")


def results(script: Any, out: Path, model: Path, *only: str) -> dict[str, list[dict[str, Any]]]:
    assert script.main([str(out), "--model", str(model), *OPTIONS, *only]) == 0
    found = {name: read_json(out / f"{name}.json") for name in script.chosen(only)}
    assert all(one["model"] == str(model) and one["environment"]["versions"]["torch"] for one in found.values())
    return {name: one["rows"] for name, one in found.items()}


@pytest.mark.usefixtures("sums_in_order")
def test_results_are_right(script: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Of products, and of a whole model: what is compared is equal, and rounding is seen."""
    of = results(script, tmp_path, tiny_model, "kernels", "8bit-rows")
    cases = [row["case"] for rows in of.values() for row in rows]
    assert len(cases) == len(set(cases))
    for row in of["kernels"][:-1]:
        assert row["equal_alone"], row
        assert row["plain_relative_error"] < 1e-5 < row["relative_error"] < 2e-3, "inputs in float16"
    assert of["kernels"][-1]["skipped"] == "no 8-bit products here"
    *steps, tokens, latents, denoised = of["8bit-rows"]
    for compared in (*steps, denoised):
        assert max(compared[name] for name in ("relative_error", "plain_relative_error", "from_plain")) < 1e-4
    assert tokens["equal_alone"]
    assert tokens["equal_again"]
    assert latents["equal_again"]


@pytest.mark.thorough
def test_sections(script: Any, tiny_model: Path, tmp_path: Path) -> None:
    of = results(script, tmp_path, tiny_model, "nano", "8bit", "4bit-caps", "diffusers")
    of_8bit = [name for name in script.NAMES if name.startswith("8bit-")]
    assert list(of) == ["nano", *of_8bit, "4bit-caps", "diffusers"]
    assert not [row for rows in of.values() for row in rows if "error" in row]
    assert [row["a_seed_twice"] for row in of["nano"]] == [True] * 3
    ratios = of["diffusers"][-1]["ratios"]
    assert set(ratios) == {"exact", *(f"8bit, {row['case']}" for row in of["8bit-images"])}


@pytest.mark.thorough
def test_training(script: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With products that are emulated here."""
    monkeypatch.setattr(script, "_multiplies", lambda _: True)
    monkeypatch.setattr("glmkit.training.quantization.check", lambda *_: None)
    rows = results(script, tmp_path, tiny_model, "training")["training"]
    assert [row["case"] for row in rows] == ["nano, seed 0, base auto", "nano, seed 0, base fp8-compute"]
    assert all(row[f"{stage}_after"] > 0 for row in rows for stage in ("autoregressive", "decoder"))


def test_what_is_wrong_is_an_error(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its row, and of the script; other rows are measured."""
    right = load_script("precision_checks").right
    assert right(True, equal=True) == {"equal": True}
    wrong = right(False, equal=False)
    assert wrong["error"] == "not so: far from what it should be, equal"
    monkeypatch.setitem(script.WHOLE, "kernels", lambda _: iter([{"case": "a"} | wrong, {"case": "b"}]))
    assert script.main([str(tmp_path), *OPTIONS, "kernels"]) == 1
    assert [row["case"] for row in read_json(tmp_path / "kernels.json")["rows"]] == ["a", "b"]


def test_a_section_ends_in_time(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.WHOLE, "kernels", lambda _: iter([{"case": "a"}, {"case": "b"}]))
    monkeypatch.setitem(script.LIMITS, "kernels", 0)
    assert script.main([str(tmp_path), *OPTIONS, "kernels"]) == 0
    assert read_json(tmp_path / "kernels.json")["rows"] == [{"case": "no time left"}]


def test_totals_of_a_former_run_are_compared(script: Any, tmp_path: Path) -> None:
    rows = [{"case": "64x64, reuse 2", "total": 2.0}, {"case": "32x32", "total": 1.0}, {"case": "64x64", "error": "x"}]
    write_json(tmp_path / "8bit-images.json", {"rows": rows})
    lab = script.Lab("nano", torch.device("cpu"), script.TINY, tmp_path, tmp_path)
    request = script.Request("a", "b", height=64, width=64)
    assert script._measured_before(lab, request) == {"8bit, 64x64, reuse 2": 2.0}


def test_the_sizes_are_those_that_are_published(script: Any) -> None:
    """Products of the AR model and of the decoder's blocks."""
    from glmkit.models.checkpoint import published

    language, decoder = published.VISION_LANGUAGE_ENCODER["text_config"], published.TRANSFORMER
    width, inner, head = language["hidden_size"], language["intermediate_size"], language["head_dim"]
    heads = language["num_attention_heads"] + 2 * language["num_key_value_heads"]
    packed, of_blocks = script.FULL.packed, script.FULL.float8
    assert packed["qkv"] == (heads * head, width, False)
    assert packed["gate and up"] == (2 * inner, width, True)
    assert packed["down"] == (width, inner, False)
    assert packed["head"] == (language["vision_vocab_size"], width, False)
    width = decoder["num_attention_heads"] * decoder["attention_head_dim"]
    assert of_blocks == {
        "qkv": (3 * width, width),
        "out": (width, width),
        "ff 1": (4 * width, width),
        "ff 2": (width, 4 * width),
    }
