"""Request files and image files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import glmkit
from glmkit.errors import UserError
from glmkit.files import write_jsonl
from glmkit.generation.images import image_text, is_image_of, save_png, weights_digest
from glmkit.generation.requests import check_request, read_requests, size_like
from glmkit.inputs.prompts import parse_seeds
from glmkit.records import Request

BASE = Request("", "", seed=7, height=128, width=64, steps=5, guidance=2.0)


def test_records_override_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows: list[dict[str, object]] = [
        {"prompt": "one"},
        {
            "id": "b",
            "prompt": "two",
            "seed": 3,
            "size": "96x160",
            "steps": 9,
            "guidance": 1,
            "condition_images": ["a.png"],
        },
        {"id": "c", "prompt": "a suite's row", "split": "simple", "language": "en", "texts": ["x"]},
    ]
    write_jsonl(path, rows)
    (first, second, third), failed = read_requests(path, BASE)
    assert not failed
    assert first == replace(BASE, id="0001", prompt="one")
    assert (second.id, second.seed, second.height, second.width) == ("b", 3, 160, 96)
    assert (second.steps, second.guidance, second.condition_images) == (9, 1, (str(tmp_path / "a.png"),))
    assert third == replace(BASE, id="c", prompt="a suite's row", texts=("x",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": ""}], "record 1: the prompt is empty"),
        ([{"prompt": "a", "sizes": "32x32"}], "unknown key 'sizes'"),
        ([{"prompt": "a", "id": "../a"}], "file name"),
        ([{"prompt": "a", "id": []}], "file name"),
        ([{"prompt": "a", "id": "x" * 250}], "too long"),
        ([{"prompt": "a", "id": "字" * 85}], "too long"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "two records"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "X"}], "two records"),
        ([{"prompt": "a", "id": "\u00e9"}, {"prompt": "b", "id": "e\u0301"}], r"file name|two records"),
        ([{"prompt": "a", "id": "nul"}], "Windows reserves"),
        ([{"prompt": "a", "id": "COM1.b"}], "Windows reserves"),
        ([{"prompt": "a", "negative_prompt": "b"}], "no negative prompt"),
        ([{"prompt": "a", "width": 512, "height": 768}], '"size": "512x768"'),
        ([{"prompt": "a", "cfg_scale": 3}], '"guidance"'),
        ([{"prompt": "a", "num_inference_steps": 3}], '"steps"'),
        ([{"text": "a"}], '"prompt"'),
        ([{"Text": "a"}], '"prompt"'),
        ([{"prompt": "a", "Prompt": "b"}], "unknown key 'Prompt'"),
        ([{"prompt": "a", "image": "a.png"}], '"condition_images"'),
        ([{"prompt": "a", "num_images": 3}], "--count N"),
        ([], "no records"),
    ],
)
def test_files_that_cannot_be_served(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_requests(tmp_path / "prompts.jsonl", BASE)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"id": "bad"}', "the prompt is missing"),
        ('{"id": "bad", "prompt": null}', "the prompt is missing"),
        ('{"id": "bad", "prompt": ["a"]}', "the prompt is missing"),
        ('{"id": "bad", "prompt": " "}', "empty"),
        ('{"id": "bad", "prompt": "a \\ud83d"}', "surrogate"),
        ('{"id": "bad", "prompt": "a \\u0000"}', "zero byte"),
        ('{"id": "bad", "prompt": "' + "a" * 20_000 + '"}', "too long"),
        ('{"id": "bad", "prompt": "a", "size": "100x64"}', "multiples of 32"),
        ('{"id": "bad", "prompt": "a", "size": "big"}', "WIDTHxHEIGHT"),
        ('{"id": "bad", "prompt": "a", "size": "²56x256"}', "WIDTHxHEIGHT"),
        ('{"id": "bad", "prompt": "a", "size": "320000x320000"}', "too large"),
        ('{"id": "bad", "prompt": "a", "size": [64, 96]}', '"size": "64x96"'),
        ('{"id": "bad", "prompt": "a", "size": 512}', '"size": "512x512"'),
        ('{"id": "bad", "prompt": "a", "seed": "one"}', "seed is not a number"),
        ('{"id": "bad", "prompt": "a", "seed": 1.5}', "whole number"),
        ('{"id": "bad", "prompt": "a", "seed": true}', "seed is not a number"),
        ('{"id": "bad", "prompt": "a", "seed": -1}', "a seed must be"),
        ('{"id": "bad", "prompt": "a", "seed": 1e40}', "a seed must be"),
        ('{"id": "bad", "prompt": "a", "steps": 0}', "number of steps"),
        ('{"id": "bad", "prompt": "a", "guidance": 1e400}', "guidance"),
        ('{"id": "bad", "prompt": "a", "guidance": 1' + "0" * 400 + "}", "guidance"),
        ('{"id": "bad", "prompt": "a", "guidance": NaN}', "guidance"),
        ('{"id": "bad", "prompt": "a", "condition_images": "a.png"}', "list of paths"),
        ('{"id": "bad", "prompt": "a", "condition_images": [5]}', "list of paths"),
        ('{"id": "bad", "prompt": "a", "condition_images": [null]}', "list of paths"),
        ('{"id": "bad", "prompt": "a", "condition_images": [[]]}', "list of paths"),
        ('{"id": "bad", "prompt": "a", "condition_images": ["a", "a", "a", "a"]}', "1 to 3"),
        ('{"id": "bad", "prompt": "a", "texts": [5]}', "list of texts"),
        ('{"id": "bad", "prompt": "a", "texts": "a"}', "list of texts"),
    ],
)
def test_a_record_that_cannot_be_served_leaves_the_others(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(f'{{"prompt": "a"}}\n{row}\n{{"prompt": "b"}}\n', encoding="utf-8")
    requests, failed = read_requests(tmp_path / "prompts.jsonl", BASE)
    assert [one.id for one in requests] == ["0001", "bad", "0003"]
    assert list(failed) == ["bad"]
    assert message in str(failed["bad"])
    json.dumps([one.prompt for one in requests], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\n  two 'TWO'  \r\n"),
        ("a.TXT", "\ufeffone\ntwo 'TWO'"),
        ("a.json", '[{"prompt": "one"}, {"prompt": "two \'TWO\'"}]'),
        ("a.csv", "prompt,seed,texts,guidance\none,,,\ntwo 'TWO',7,TWO,2.0\n"),
        ("a.csv", "Prompt,SEED\none,\ntwo 'TWO',7\n"),
        ("a.jsonl", '{"Prompt": "one"}\n{"PROMPT": "two \'TWO\'", "Seed": 7}\n'),
        ("a.jsonl", '{"prompt": "one", "negative_prompt": ""}\n{"prompt": "two \'TWO\'", "seed": 7.0, "size": null}\n'),
    ],
)
def test_prompts_as_people_keep_them(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    requests, failed = read_requests(tmp_path / name, BASE)
    assert requests == [replace(BASE, id="0001", prompt="one"), replace(BASE, id="0002", prompt="two 'TWO'")]
    assert not failed


def test_texts_are_kept_where_quotes_do_not_say_them(tmp_path: Path) -> None:
    rows = [{"prompt": "a 'X'", "texts": ["X"]}, {"prompt": "a „X“", "texts": ["X"]}, {"prompt": "a 'X'", "texts": []}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    requests, _ = read_requests(tmp_path / "a.jsonl", BASE)
    assert [one.texts for one in requests] == [None, ("X",), ()]
    path = tmp_path / "a.png"
    save_png(path, Image.new("RGB", (64, 128)), image_text(requests[1], "nano"))
    assert is_image_of(path, requests[1], "")
    assert not is_image_of(path, replace(requests[1], texts=None), "")


@pytest.mark.parametrize(
    ("name", "content", "right"), [("a.txt", '{"prompt": "a"}\n', "a.jsonl"), ("a.jsonl", "a red poster\n", "a.txt")]
)
def test_a_file_under_the_name_of_another_kind(name: str, content: str, right: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"call it {right}"):
        read_requests(tmp_path / name, BASE)


def test_several_images_of_one_prompt(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "prompt": "a"}, {"id": "y", "prompt": "b", "seed": 3}])
    requests, _ = read_requests(tmp_path / "a.jsonl", BASE, count=2)
    assert [(one.id, one.seed) for one in requests] == [("x_7", 7), ("x_8", 8), ("y_3", 3), ("y_4", 4)]
    with pytest.raises(UserError, match="gives seeds, too"):
        read_requests(tmp_path / "a.jsonl", BASE, seeds=[1])
    assert parse_seeds("0,5, 7-9") == [0, 5, 7, 8, 9]
    for wrong in ("", "a", "-1", "1,1", "5-2", "0-99999999999", "1.5", "²"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(wrong)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (1000, 300), (300, 1199), (33, 40), (4000, 1001)])
def test_size_like(width: int, height: int) -> None:
    across, down = size_like(width, height, 256**2)
    assert across % 32 == down % 32 == 0
    assert max(across, down) <= 4 * min(across, down)
    assert 0.5 < across * down / 256**2 < 1.5
    assert (down > across) == (height > width)


def test_the_image_carries_its_request(tmp_path: Path) -> None:
    one = replace(BASE, prompt='ein “Gruß” 你好 "HI"', condition_images=("a.png",))
    image = Image.new("RGB", (64, 128), "red")
    save_png(tmp_path / "a.png", image, image_text(one, "nano", ("x", "y")))
    with Image.open(tmp_path / "a.png") as opened:
        text = opened.text  # type: ignore[attr-defined]
        assert opened.size == (64, 128)
        assert opened.convert("RGB").getpixel((5, 5)) == (255, 0, 0)
    assert text["prompt"] == one.prompt
    assert (text["seed"], text["size"], text["steps"], text["guidance"]) == ("7", "64x128", "5", "2.0")
    assert (text["model"], text["adapters"], text["condition_images"]) == ("nano", "x\ny", "a.png")
    assert text["version"] == f"glmkit {glmkit.__version__}"
    shared = image_text(
        replace(one, condition_images=("/home/alice/a.png",)), "/home/alice/model", ("/home/alice/runs/mine/adapter",)
    )
    assert "alice" not in "".join(shared.values())


def test_an_image_is_recognised_by_content(tmp_path: Path) -> None:
    """Names do not count: the same weights under another name are the same, other weights under the same are not."""
    for name in ("model", "adapter", "source"):
        (tmp_path / name).write_text(name)
    request, path = replace(BASE, prompt="a", condition_images=(str(tmp_path / "source"),)), tmp_path / "a.png"
    weights = weights_digest(tmp_path / "model")
    assert not is_image_of(path, request, weights)
    text = image_text(request, "nano", (), weights)
    save_png(path, Image.effect_noise((64, 128), 50).convert("RGB"), text)
    assert is_image_of(path, request, weights)
    (tmp_path / "model").rename(tmp_path / "renamed")
    assert is_image_of(path, request, weights_digest(tmp_path / "renamed"))
    assert not is_image_of(path, replace(request, seed=8), weights)
    assert not is_image_of(path, request, weights_digest(tmp_path / "renamed", [str(tmp_path / "adapter")]))
    (tmp_path / "renamed").write_text("other weights")
    assert not is_image_of(path, request, weights_digest(tmp_path / "renamed"))
    (tmp_path / "source").write_text("another image")
    assert not is_image_of(path, request, weights)
    (tmp_path / "source").write_text("source")
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_image_of(path, request, weights)


@pytest.mark.parametrize("text", ["", "a\0", "\ud800"])
def test_texts_are_whole_as_prompts_are(text: str) -> None:
    request = Request("a", "A sign.", 0, 64, 64, texts=("OPEN", text))
    with pytest.raises(UserError, match="one of the texts is"):
        check_request(request)
