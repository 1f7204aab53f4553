"""glmkit generate and edit from the command line: files, lines of JSON, resuming, and what bad input says."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_adapter import make_adapter

from glmkit.cli import main
from glmkit.evaluation.plan import GenerationSettings
from glmkit.files import read_jsonl, write_json, write_jsonl
from glmkit.generation import hybrid_generator, requests
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.models.hybrid import HybridModel
from glmkit.records import Prompt, Request

QUICK = ["--size", "64x96", "--steps", "2", "--device", "cpu"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path = tmp_path / "source.png"
    Image.fromarray(levels).resize((160, 128), Image.Resampling.BICUBIC).save(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "cache")


def test_one_image(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "a.png"
    command = ["generate", "a poster with 'HI'", "--model", str(tiny_model), "--seed", "3", "--out", str(out), "--json"]
    assert main([*command, *QUICK]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["file"], result["seed"], result["width"], result["height"]) == (str(out), 3, 64, 96)
    assert (result["steps"], result["guidance"], result["model"]) == (2, 1.5, str(tiny_model))
    with Image.open(out) as image:
        assert image.size == (64, 96)
        assert image.text["prompt"] == "a poster with 'HI'"  # type: ignore[attr-defined]
        first = image.tobytes()
    assert files(out.parent) == ["a.png"]
    out.unlink()
    assert main([*command, *QUICK]) == 0
    assert Image.open(out).tobytes() == first


@pytest.mark.parametrize("command", [["generate", "a"], ["edit", "a.png", "a"]])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the model is looked for, let alone loaded."""
    (tmp_path / "file").touch()
    assert main([*command, "--out", str(tmp_path / "file" / "b.png"), "--model", str(tmp_path / "none")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_defaults_come_from_the_model(tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "96x64", "steps": 3, "guidance": 4.0}})
    assert main(["generate", "a", "--model", str(tiny_copy), "--out", str(tmp_path / "a.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["width"], result["height"], result["steps"], result["guidance"]) == (96, 64, 3, 4.0)
    config = tiny_copy / "vision_language_encoder" / "generation_config.json"
    write_json(config, {"temperature": 1.0, "top_p": 0.5, "top_k": None, "eos_token_id": 1})
    request = requests.new_request(tiny_copy, "a", "a")
    assert (request.temperature, request.top_p, request.top_k) == (1.0, 0.5, 50)
    settings = GenerationSettings.with_defaults(str(tiny_copy), "cpu")
    assert settings.request(Prompt("a", "a"), 0).top_p == 0.5
    assert {"temperature": 1.0, "top_p": 0.5}.items() <= settings.to_dict().items()
    assert "top_k" not in settings.to_dict()
    write_json(config, {"top_p": "x"})
    assert main(["generate", "a", "--model", str(tiny_copy), "--out", str(tmp_path / "b.png")]) == 2
    assert "generation_config.json" in capsys.readouterr().err
    write_json(config, {"do_sample": False})
    assert requests.new_request(tiny_copy, "a", "a").top_k == 1
    write_json(tiny_copy / "glmkit.json", {"defaults": {"stepps": 3}})
    assert main(["generate", "a", "--model", str(tiny_copy), "--out", str(tmp_path / "b.png")]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("“HELLO” over 'OPEN' and 「你好」", "texts: OPEN | HELLO | 你好"),
        ("HELLO", "texts: none; words that the image shall show go in quotes"),
    ],
)
def test_the_texts_that_quotes_name_are_shown(
    prompt: str, said: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", prompt, "--model", str(tiny_model), "--out", str(tmp_path / "a.png"), *QUICK]
    assert main(command) == 0
    assert said in capsys.readouterr().err.splitlines()


def test_edit(tiny_model: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = []
    for count in (1, 3):
        out = tmp_path / f"{count}.png"
        command = ["edit", *[str(source)] * count, "make it green", "--model", str(tiny_model), "--out", str(out)]
        assert main([*command, *QUICK, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["condition_images"] == [str(source)] * count
        images.append(Image.open(out).tobytes())
    assert images[0] != images[1]


def test_an_edit_keeps_the_shape_of_its_source(
    tiny_copy: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "128x128", "steps": 1}})
    Image.open(source).resize((200, 100)).save(source)
    assert main(["edit", str(source), "a", "--model", str(tiny_copy), "--out", str(tmp_path / "a.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["width"], result["height"]) == (192, 96)


def write_prompts(path: Path, source: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"id": "one", "prompt": "a red poster with 'ONE'", "seed": 1},
        {"id": "two", "prompt": "a longer prompt with 'TWO' and \"THREE\"", "size": "96x64"},
        {"id": "three", "prompt": "another", "seed": 5},
        {"id": "four", "prompt": "an edit", "condition_images": [source.name]},
    ]
    write_jsonl(path, rows)
    return rows


def test_a_file_of_prompts_resumes(
    tiny_model: Path, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed and run again has the images of a run that was not; complete ones stay."""
    rows = write_prompts(tmp_path / "prompts.jsonl", source)

    def run(out: Path) -> int:
        command = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(out), "--batch-size", "2"]
        return main([*command, "--model", str(tiny_model), "--json", *QUICK])

    assert run(tmp_path / "whole") == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "whole"),
        "generated": 4,
        "skipped": 0,
        "failed": 0,
    }
    original, calls = decode_prior_tokens, []

    def killed(hybrid: HybridModel, requests: list[Request], *given: Any, **named: Any) -> list[Image.Image]:
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(hybrid, requests, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(hybrid_generator, "decode_prior_tokens", killed)
        assert run(tmp_path / "parts") == 130
    assert [row["id"] for row in read_jsonl(tmp_path / "parts" / "images.jsonl")] == ["one", "three"]
    capsys.readouterr()
    assert run(tmp_path / "parts") == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 2
    for row in rows:
        whole, parts = (Image.open(tmp_path / name / f"{row['id']}.png") for name in ("whole", "parts"))
        assert whole.tobytes() == parts.tobytes()
    journal = read_jsonl(tmp_path / "parts" / "images.jsonl")
    assert [row["id"] for row in journal] == [row["id"] for row in rows]
    assert all(row["file"] == f"{row['id']}.png" and row["error"] is None for row in journal)
    rows[0]["prompt"] = "something else"
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    assert run(tmp_path / "parts") == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 3


def test_a_failure_is_a_row(tiny_model: Path, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prompts(tmp_path / "prompts.jsonl", source)
    kept = source.read_bytes()
    source.write_bytes(b"no image")
    command = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out")]
    command += ["--model", str(tiny_model), *QUICK]
    assert main(command) == 1
    assert "four: " in capsys.readouterr().err
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "out" / "images.jsonl")}
    assert "is not an image" in rows["four"]["error"]
    assert rows["four"]["file"] is None
    assert files(tmp_path / "out") == [".work", "images.jsonl", "one.png", "three.png", "two.png"]
    source.write_bytes(kept)
    assert main(command) == 0
    assert all(row["error"] is None for row in read_jsonl(tmp_path / "out" / "images.jsonl"))


@pytest.mark.parametrize("place", ["before", "behind"])
def test_an_adapter_does_not_swallow_the_prompt(
    place: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_adapter(tiny_model, tmp_path / "ad", "decoder")
    adapter = ["--adapter", str(tmp_path / "ad" / "decoder")]
    words = ["a", *adapter] if place == "behind" else [*adapter, "a"]
    assert (
        main(["generate", *words, "--model", str(tiny_model), "--out", str(tmp_path / "a.png"), "--json", *QUICK]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["prompt"], result["adapters"]) == ("a", adapter[1:])


def test_bad_records_are_rows_among_images(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of one prompt ends the others; two images of each good one, and nothing again the second time."""
    lines = ['{"id": "good", "prompt": "a"}', '{"id": "half", "prompt": "a \\ud83d"}', '{"id": "five", "prompt": 5}']
    lines += ['{"id": "gone", "prompt": "a", "condition_images": ["' + "x" * 300 + '"]}']
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    command = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out"), "--json"]
    command += ["--model", str(tiny_model), "--size", "64x64", "--steps", "1", "--count", "2"]
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "out"),
        "generated": 2,
        "skipped": 0,
        "failed": 4,
    }
    errors = {row["id"]: row["error"] for row in read_jsonl(tmp_path / "out" / "images.jsonl")}
    assert [id for id, error in errors.items() if error is None] == ["good_0", "good_1"]
    assert "record 2" in errors["half"]
    assert "record 3" in errors["five"]
    assert errors["gone_0"]
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["skipped"] == 2


@pytest.mark.parametrize(
    "environment", [{"WORLD_SIZE": "0"}, {"WORLD_SIZE": "-3"}, {"RANK": "x"}, {"RANK": "1"}, {"LOCAL_RANK": ""}]
)
def test_an_environment_of_no_launcher(
    environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "a.txt").write_text("a")
    assert main(["generate", "--prompts", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out")]) == 2
    assert "unset RANK WORLD_SIZE LOCAL_RANK" in capsys.readouterr().err


BAD = {
    "unknown model": (["generate", "a", "--model", "nanoo"], "did you mean 'nano'"),
    "missing folder": (["generate", "a", "--model", "./no/where"], "does not exist"),
    "not a model folder": (["generate", "a", "--model", "TMP"], "not a model folder"),
    "odd size": (["generate", "a", "--size", "100x64"], "multiples of 32"),
    "long size": (["generate", "a", "--size", "640x128"], "4 times"),
    "no size": (["generate", "a", "--size", "big"], "WIDTHxHEIGHT"),
    "empty prompt": (["generate", " "], "prompt is empty"),
    "no prompt": (["generate"], "either a prompt or --prompts"),
    "no prompts": (["generate", "--prompts", "TMP/none.jsonl"], "--out must be a folder"),
    "missing prompts": (["generate", "--prompts", "TMP/none.jsonl", "--out", "TMP/out"], "none.jsonl does not exist"),
    "not a PNG": (["generate", "a", "--out", "TMP/a.jpg"], "--out TMP/a.png"),
    "long name": (["generate", "a", "--out", "TMP/" + "x" * 300 + ".png"], "--out is no name of a file"),
    "a name with a zero": (["generate", "a", "--out", "TMP/a\0.png"], "--out is no name of a file"),
    "half a name": (["generate", "a", "--out", "TMP/a\ud800.png"], "--out is no name of a file"),
    "empty name": (["generate", "a", "--out", ""], "a path is empty"),
    "no name": (["generate", "a", "--out", "/"], "--out image.png"),
    "long model": (["generate", "a", "--model", "./" + "x" * 300], "File name too long"),
    "no steps": (["generate", "a", "--steps", "0"], "number of steps"),
    "bad device": (["generate", "a", "--device", "gpu"], "--device auto, cpu or cuda"),
    "missing adapter": (["generate", "a", "--adapter", "TMP/none"], "does not exist"),
    "adapters without a prompt": (["generate", "--adapter", "TMP/none", "TMP"], "--adapter once for each"),
    "a file for a prompt": (["generate", "TMP/prompts.txt"], "--prompts TMP/prompts.txt"),
    "a file with a space": (["generate", "TMP/my prompts.txt"], "--prompts 'TMP/my prompts.txt'"),
    "half a character": (["generate", "a \ud83d"], "half a character"),
    "long prompt": (["generate", "a" * 20_000], "too long"),
    "large size": (["generate", "a", "--size", "320000x320000"], "too large"),
    "superscript size": (["generate", "a", "--size", "²56x256"], "WIDTHxHEIGHT"),
    "a device without images": (["generate", "a", "--device", "meta"], "--device cpu"),
    "several into a file": (["generate", "a", "--count", "2"], "--out must be a folder"),
    "no images": (["generate", "a", "--count", "0", "--out", "TMP/out"], "--count must be 1"),
    "strange seeds": (["generate", "a", "--seeds", "x", "--out", "TMP/out"], "--seeds 0,1,2"),
    "missing source": (["edit", "TMP/none.png", "a"], "none.png does not exist"),
    "corrupt source": (["edit", "TMP/corrupt.png", "a"], "is not an image"),
    "long source": (["edit", "TMP/long.png", "a"], "4 times"),
    "many sources": (["edit", *["TMP/source.png"] * 4, "a"], "1 to 3"),
    "empty edit": (["edit", "TMP/source.png", ""], "prompt is empty"),
    "forgotten edit": (["edit", "TMP/source.png", "TMP/source.png"], "the prompt comes last"),
}


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, what is wrong and what to type, no traceback, and no file."""
    argv, message = BAD[name]
    (tmp_path / "corrupt.png").write_bytes(b"\x89PNG no")
    Image.new("RGB", (900, 100)).save(tmp_path / "long.png")
    (tmp_path / "prompts.txt").write_text("a")
    (tmp_path / "my prompts.txt").write_text("a")
    before = files(tmp_path)
    argv = [word.replace("TMP", str(tmp_path)) for word in argv]
    for option, value in (("--out", str(tmp_path / "a.png")), ("--model", str(tiny_model)), ("--steps", "1")):
        argv += [] if option in argv else [option, value]
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert message.replace("TMP", str(tmp_path)) in shown.err
    assert shown.err.removeprefix("texts: none; words that the image shall show go in quotes\n").startswith("error: ")
    assert "Traceback" not in shown.err
    assert not shown.out
    assert files(tmp_path) == before


def test_a_truncated_checkpoint(tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_copy / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    out = tmp_path / "a.png"
    assert main(["generate", "a", "--model", str(tiny_copy), "--out", str(out), *QUICK]) == 2
    assert f"{path} is truncated" in capsys.readouterr().err
    assert main(["info", str(tiny_copy)]) == 2
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a"}])
    command = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--model", str(tiny_copy)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert files(tmp_path) == ["model", "prompts.jsonl"]


def test_a_full_disk(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the image is written, then the disk is full: the old image stays, nothing else is left."""
    out = tmp_path / "a.png"
    out.write_bytes(b"the old image")

    def full(_: Image.Image, path: Path, **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert main(["generate", "a", "--model", str(tiny_model), "--out", str(out), *QUICK]) == 2
    assert "no space left" in capsys.readouterr().err
    assert files(tmp_path) == ["a.png"]
    assert out.read_bytes() == b"the old image"
    write_jsonl(tmp_path / "prompts.jsonl", [{"id": "x", "prompt": "a"}])
    command = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*command, "--model", str(tiny_model), *QUICK]) == 2
    assert files(tmp_path / "out") == [".work", "images.jsonl"]  # the prior tokens wait for the next try


def test_adapters(tiny_model: Path, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter changes the image and is written into it; with another model it is refused."""
    import torch
    from peft import LoraConfig, get_peft_model

    from glmkit.models import checkpoint
    from glmkit.models.checkpoint import adapters

    config = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "proj_out"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(checkpoint.load_component(tiny_model, "decoder"), config).save_pretrained(
        str(tmp_path / "ad" / "decoder")
    )
    adapters.write_base(tmp_path / "ad" / "decoder", "decoder", tiny_model)
    images = []
    for name, more in (("plain", []), ("adapted", ["--adapter", str(tmp_path / "ad")])):
        out = tmp_path / f"{name}.png"
        assert main(["generate", "a", "--model", str(tiny_model), "--out", str(out), *QUICK, *more]) == 0
        images.append(Image.open(out))
    assert images[0].tobytes() != images[1].tobytes()
    assert images[1].text["adapters"] == "ad"  # type: ignore[attr-defined]
    checkpoint.save_component(tiny_copy, "decoder", checkpoint.new_component(tiny_copy, "decoder"))
    capsys.readouterr()
    command = ["generate", "a", "--model", str(tiny_copy), "--adapter", str(tmp_path / "ad"), *QUICK]
    assert main([*command, "--out", str(tmp_path / "c.png")]) == 2
    assert "adapter of another model" in capsys.readouterr().err


def test_info(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "glm-image", "--json"]) == 0
    counts = {row["component"]: row["parameters"] for row in json.loads(capsys.readouterr().out)["components"]}
    assert counts["language_model"] == 8_847_155_200
    assert counts["decoder"] == 6_926_882_880
    assert main(["info", str(tiny_model)]) == 0
    assert "language_model" in capsys.readouterr().out
    assert main(["info", "glm-imag"]) == 2
    assert "did you mean 'glm-image'" in capsys.readouterr().err
