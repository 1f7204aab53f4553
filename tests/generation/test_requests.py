"""Request files and image files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import glmkit
from glmkit.errors import UserError
from glmkit.files import write_jsonl
from glmkit.generation.images import image_text, is_image_of, save_png, weights_digest
from glmkit.generation.requests import read_requests, size_like
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
    first, second, third = read_requests(path, BASE)
    assert first == replace(BASE, id="0001", prompt="one")
    assert (second.id, second.seed, second.height, second.width) == ("b", 3, 160, 96)
    assert (second.steps, second.guidance, second.condition_images) == (9, 1, (str(tmp_path / "a.png"),))
    assert third == replace(BASE, id="c", prompt="a suite's row")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": ""}], "record 1: the prompt is empty"),
        ([{"prompt": "a"}, {"id": "x"}], "record 2: the prompt is missing"),
        ([{"prompt": "a", "sizes": "32x32"}], "unknown key 'sizes'"),
        ([{"prompt": "a", "size": "100x64"}], "multiples of 32"),
        ([{"prompt": "a", "size": "big"}], "WIDTHxHEIGHT"),
        ([{"prompt": "a", "seed": "one"}], "seed is not a number"),
        ([{"prompt": "a", "id": "../a"}], "file name"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "two records"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "X"}], "two records"),
        ([{"prompt": "a", "id": "nul"}], "Windows reserves"),
        ([{"prompt": "a", "id": "COM1.b"}], "Windows reserves"),
        ([{"prompt": "a", "condition_images": "a.png"}], "list of paths"),
        ([], "no records"),
    ],
)
def test_records_that_cannot_be_served(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_requests(tmp_path / "prompts.jsonl", BASE)


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
