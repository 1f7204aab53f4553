"""The images that a server answers with: those of `glmkit.load`, whatever the client asks besides."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from documents import code_blocks
from PIL import Image, PngImagePlugin
from serving.conftest import QUICK, SIZE, Serve, Served
from tiny_adapter import make_adapter

import glmkit
from glmkit.evaluation import baselines
from glmkit.generation.images import is_image_of, weights_digest
from glmkit.generation.loading import load_model
from glmkit.records import Request
from glmkit.serving.adapters import MAX_DIGESTS, AdapterSwitch, checked_adapters

PROMPT = 'A poster with "HELLO"'


def decoded(data: Any) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data.b64_json)))
    image.load()
    return image


def generated(model: Path, seed: int = 0, **options: Any) -> bytes:
    image = glmkit.load(model, device="cpu", **options).generate(PROMPT, seed=seed, height=64, width=64, **QUICK)
    return image.tobytes()


def test_images_are_those_of_generate(served: Served, tmp_path: Path) -> None:
    answer = served.client().images.generate(
        model="glm-image", prompt=PROMPT, n=2, size="64x64", extra_body={"seed": 3, **QUICK}
    )
    assert answer.data is not None
    assert answer.size == "64x64"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2 * (16 * 16 + 2 * 2)  # a preview, and the large grid
    for number, data in enumerate(answer.data):
        assert decoded(data).tobytes() == generated(served.model, seed=3 + number)
        assert data.seed == 3 + number
    path = tmp_path / "image.png"
    path.write_bytes(base64.b64decode(answer.data[0].b64_json or ""))
    request = Request("a", PROMPT, 3, 64, 64, steps=2, guidance=1.5)
    assert is_image_of(path, request, weights_digest(served.model, (), "torch.float32"))


@pytest.mark.parametrize(("kind", "format"), [("webp", "WEBP"), ("jpeg", "JPEG"), ("png", "PNG")])
def test_formats(served: Served, kind: Any, format: str) -> None:
    more = {} if kind == "png" else {"output_compression": 60}
    answer = served.client().images.generate(prompt=PROMPT, output_format=kind, extra_body={**SIZE, **QUICK}, **more)
    assert answer.data is not None
    image = decoded(answer.data[0])
    assert (image.format, image.size) == (format, (64, 64))


def test_a_stream_ends_in_the_same_image(served: Served) -> None:
    told = list(
        served.client().images.generate(
            prompt=PROMPT, stream=True, partial_images=1, extra_body={"seed": 5, **SIZE, **QUICK}
        )
    )
    kinds = [one.type for one in told]
    assert kinds[-1] == "image_generation.completed"
    assert kinds.count("image_generation.partial_image") == 1
    stages = [one.stage for one in told if one.type == "glmkit.progress"]
    assert list(dict.fromkeys(stages)) == ["prior tokens", "denoising"]
    assert decoded(told[-1]).tobytes() == generated(served.model, seed=5)
    partial = next(one for one in told if one.type == "image_generation.partial_image")
    assert partial.partial_image_index == 0
    assert decoded(partial).size == (64, 64)


@pytest.mark.parametrize("count", [1, 2])
def test_edits_are_those_of_edit(served: Served, count: int, tmp_path: Path) -> None:
    source = Image.effect_noise((96, 64), 80).convert("RGB")
    source.save(tmp_path / "source.png")
    files = [(tmp_path / "source.png").open("rb") for _ in range(count)]
    answer = served.client().images.edit(
        image=files if count > 1 else files[0], prompt="Make it red.", extra_body={"seed": "2", **SIZE, **QUICK}
    )
    model = glmkit.load(served.model, device="cpu")
    expected = model.edit([source] * count, "Make it red.", seed=2, height=64, width=64, **QUICK)
    assert answer.data is not None
    assert decoded(answer.data[0]).tobytes() == expected.tobytes()
    # An edit generates no preview, and its images are among what is read, a token for 16x16 pixels of half the size.
    height, width = served.scheduler.hybrid.condition_image_settings.halved_size(source.height, source.width)
    tokens_of_image = height * width // 16**2
    usage = answer.usage
    assert usage is not None
    assert (usage.input_tokens_details.image_tokens, usage.output_tokens) == (count * tokens_of_image, 2 * 2)
    assert usage.input_tokens_details.text_tokens + count * tokens_of_image == usage.input_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_an_image_with_a_long_text_is_edited(served: Served, tmp_path: Path) -> None:
    """ComfyUI writes its workflow beside the pixels."""
    workflow = PngImagePlugin.PngInfo()
    workflow.add_text("workflow", "x" * 3_000_000, zip=True)
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "comfy.png", pnginfo=workflow)
    with (tmp_path / "comfy.png").open("rb") as file:
        answer = served.client().images.edit(image=file, prompt="red", extra_body={**SIZE, **QUICK})
    assert answer.data is not None
    assert decoded(answer.data[0]).size == (64, 64)


def test_adapters_come_by_name_and_leave_nothing_behind(serve: Serve, tiny_model: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        make_adapter(tiny_model, tmp_path / name, "decoder", seed=seed)
        make_adapter(tiny_model, tmp_path / name, "autoregressive", seed=seed)
    named = {"first": f"{tmp_path / 'first'}:0.5", "second": str(tmp_path / "second")}
    client = serve(adapters=named).client()
    assert [model.id for model in client.models.list()] == ["glm-image", "glm-image:first", "glm-image:second"]
    both = [{"name": "first", "weight": 0.5}, {"name": "second"}]
    wanted: list[tuple[dict[str, Any], list[str]]] = [
        ({"model": "glm-image:first"}, [named["first"]]),
        ({}, []),
        ({"lora": both}, [f"{tmp_path / 'first'}:0.25", named["second"]]),
        ({"lora": "second"}, [named["second"]]),
        ({}, []),
    ]
    images = []
    for more, adapters in wanted:
        answer = client.images.generate(prompt=PROMPT, extra_body={"seed": 1, **SIZE, **QUICK, **more})
        assert answer.data is not None
        images.append(decoded(answer.data[0]).tobytes())
        assert images[-1] == generated(tiny_model, seed=1, adapters=adapters)
    assert len(set(images)) == 4


def test_weights_of_clients_do_not_fill_the_memory(tiny_model: Path, tmp_path: Path) -> None:
    make_adapter(tiny_model, tmp_path / "a", "decoder")
    switch = AdapterSwitch(
        load_model(tiny_model, device="cpu"), checked_adapters(tiny_model, {"a": str(tmp_path / "a")})
    )
    digests = [switch.digest((("a", 1 / count),)) for count in range(1, MAX_DIGESTS + 10)]
    assert len(set(digests)) == len(digests)
    assert len(switch._digests) <= MAX_DIGESTS
    assert switch.digest((("a", 1.0),)) == digests[0]


def test_a_server_decodes_in_tiles(tiny_model: Path, serve: Serve) -> None:
    """All images where it was started so."""
    client = serve(vae_tiling=True).client()
    answer = client.images.generate(prompt=PROMPT, extra_body={"seed": 1, **SIZE, **QUICK})
    assert answer.data is not None
    image, options = decoded(answer.data[0]), {"height": 64, "width": 64, **QUICK}
    tiled = glmkit.load(tiny_model, device="cpu").generate(PROMPT, seed=1, vae_tiling=True, **options)
    assert image.tobytes() == tiled.tobytes() != generated(tiny_model, seed=1)
    assert image.info["vae_tiling"] == "True"


def test_the_client_of_the_readme(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (block for block in code_blocks("README.md", "python") if "base_url" in block)
    for written, here in (("http://127.0.0.1:8000", served.url), ("1024x1024", "64x64")):
        assert written in code
        code = code.replace(written, here)
    monkeypatch.chdir(tmp_path)
    exec(f"import base64, openai\n{code}", {})
    with Image.open("open.png") as image:
        assert image.size == (64, 64)


def test_our_own_baseline_asks_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
    baseline = baselines.find("openai:glm-image")
    assert baseline is not None
    image, _ = baseline.generate(Request("a", PROMPT, 0, 64, 96))
    assert image.size == (96, 64)
