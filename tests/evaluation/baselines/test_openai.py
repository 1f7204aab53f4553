"""openai:MODEL against a server that speaks the protocol: retries, refusals, cost, resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import images_endpoint
import pytest
from PIL import Image

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.evaluation import baselines, bounded_http, endpoints, plan
from glmkit.evaluation.baselines import openai
from glmkit.evaluation.generated_images import generate_images
from glmkit.evaluation.plan import GenerationSettings
from glmkit.files import read_json
from glmkit.records import Generation, Prompt


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[images_endpoint.Endpoint]:
    with images_endpoint.running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


def generated(folder: Path, *prompts: str, model: str = "openai:gpt-image-1", seeds: int = 1) -> list[Generation]:
    drawing = GenerationSettings(
        model, (), seeds, height=32, width=64, steps=None, guidance=None, dtype="", prompt_sizes=False
    )
    asked = [Prompt(id=f"p{number}", prompt=prompt, texts=("x",)) for number, prompt in enumerate(prompts)]
    return generate_images(folder, asked, drawing, "cpu", {}, baseline=baselines.find(model))


def test_images_carry_what_is_known_and_nothing_else(endpoint: images_endpoint.Endpoint, tmp_path: Path) -> None:
    (row,) = generated(tmp_path, "a sign", model="openai:gpt-image-1@high")
    assert row.peak_memory_gib is None  # it is not this process that generates
    assert endpoint.asked == [{"model": "gpt-image-1", "prompt": "a sign", "size": "64x32", "n": 1, "quality": "high"}]
    with Image.open(tmp_path / str(row.file)) as image:
        assert image.size == (64, 32)
        text = dict(image.text)  # type: ignore[attr-defined]
    assert text.pop("version").startswith("glmkit ")
    assert text == {
        "prompt": "a sign",
        "revised_prompt": "better: a sign",
        "seed": "0",
        "size": "64x32",
        "model": "openai:gpt-image-1@high",
    }


def test_a_busy_endpoint_is_asked_again_until_it_answers(endpoint: images_endpoint.Endpoint, tmp_path: Path) -> None:
    (row,) = generated(tmp_path, "busy")
    assert row.error is None
    assert endpoint.prompts() == ["busy"] * 3


def test_what_concerns_one_image_is_its_row_and_is_asked_again_next_time(
    endpoint: images_endpoint.Endpoint, tmp_path: Path
) -> None:
    rows = generated(tmp_path, "good", "refused", "address", "broken", "text", model="openai:dall-e-3")
    errors = [row.error or "" for row in rows]
    assert errors[0] == errors[2] == ""
    assert "not allowed by the safety system" in errors[1]
    assert "broken data" in errors[3]
    assert "is not an image" in errors[4]
    assert sorted(endpoint.prompts()) == ["address", "broken", "good", "refused", "text"]  # once each, by four workers
    assert {body["response_format"] for body in endpoint.asked} == {"b64_json"}
    endpoint.asked.clear()
    assert [row.error for row in generated(tmp_path, "good", "refused", "address", model="openai:dall-e-3")][::2] == [
        None
    ] * 2
    assert endpoint.prompts() == ["refused"]


def test_four_requests_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with images_endpoint.running(seconds=0.2) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        rows = generated(tmp_path, "a", "b", seeds=4)
    assert [row.id for row in rows] == [f"p{prompt}_{seed}" for prompt in (0, 1) for seed in range(4)]
    assert sorted(server.prompts()) == ["a"] * 4 + ["b"] * 4
    assert 1 < server.most_at_once <= 4


@pytest.mark.parametrize(
    ("model", "environment", "message"),
    [
        ("openai:gpt-image-1", {"OPENAI_API_KEY": "wrong"}, "refuses the key"),
        ("openai:none", {}, "has no model none"),
        ("openai:gpt-image-1", {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "cannot be reached"),
        ("openai:gpt-image-1", {"OPENAI_API_KEY": ""}, "export OPENAI_API_KEY"),
    ],
)
def test_what_concerns_all_images_ends_the_run(
    endpoint: images_endpoint.Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    environment: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        generated(tmp_path, *(f"sign {number}" for number in range(20)), model=model)
    assert len(endpoint.asked) <= openai.EndpointBaseline.workers
    assert not (tmp_path / "images").exists()


@pytest.mark.usefixtures("endpoint")
def test_too_many_requests_end_the_run_and_it_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(endpoints, "RETRIES", 0)
        with pytest.raises(UserError, match="it continues"):
            generated(tmp_path, "busy")
    assert [row.error for row in generated(tmp_path, "busy")] == [None]


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("kind", ["", "bad"])
def test_an_answer_without_an_end_is_the_error_of_its_image(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(bounded_http, "SECONDS", 0.5)
    rows = generated(tmp_path, "good", f"endless {kind}", f"endless slow {kind}", f"endless packed {kind}")
    errors = [row.error or "" for row in rows]
    assert errors[0] == ""
    assert errors[1].endswith("the answer is longer than 1,048,576 bytes")
    assert errors[2].endswith("the answer took longer than 0.5 s")
    assert errors[3].endswith("the answer is compressed, which was not asked for")


def test_a_lost_connection_is_asked_as_often_as_it_says(
    endpoint: images_endpoint.Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 2)
    monkeypatch.setattr(endpoints, "_pause", lambda _error, _tries: 0.01)
    with pytest.raises(UserError, match="cannot be reached"):
        generated(tmp_path, "lost")
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize("key", ["sk-1234567890", "odd/key+with=signs"])
def test_no_message_and_no_file_holds_the_key(
    key: str, endpoint: images_endpoint.Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{endpoint.url}/{quote(key, safe='')}/tenant-77X/v1")
    (row,) = generated(tmp_path, "echo")
    assert row.error is not None
    assert "Bearer ***" in row.error
    assert len(row.error) < 400
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{key[:3]}word@127.0.0.1:9/{quote(key)}/tenant-77X/v1")
    monkeypatch.setattr(endpoints, "RETRIES", 0)
    with pytest.raises(UserError) as caught:
        generated(tmp_path, "unreachable")
    found = baselines.find("openai:m").identity()["endpoint"]  # type: ignore[union-attr]
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    for text in (str(caught.value), found, kept):
        assert not any(word in text for word in (key, quote(key, safe=""), "word@", "tenant-77X"))
    assert found.endswith("/v1/")


@pytest.mark.parametrize(
    ("name", "value"), [("BASE_URL", "http://a\nb"), ("API_KEY", "clé\n"), ("BASE_URL", "http://[::")]
)
def test_an_address_or_key_that_is_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv(f"OPENAI_{name}", value)
    with pytest.raises(UserError, match=r"(?s)no usable address or key.*OPENAI_BASE_URL"):
        baselines.find("openai:gpt-image-1")


def test_the_package_is_an_extra(uninstall: Callable[..., None]) -> None:
    uninstall("openai")
    with pytest.raises(UserError, match=r'pip install "glmkit\[openai\]"'):
        baselines.find("openai:gpt-image-1")


@pytest.mark.parametrize(
    ("model", "size", "dollars"),
    [
        ("gpt-image-1", "1024x1024", 20 * 5e-6 + 4160 * 40e-6),
        ("dall-e-3", "1024x1024", 0.04),
        ("dall-e-3@hd", "1024x1792", 0.12),
        ("a-model-of-somebody", "1024x1024", None),
    ],
)
def test_prices(model: str, size: str, dollars: float | None) -> None:
    from openai.types import ImagesResponse

    answer = ImagesResponse.model_validate(
        {
            "created": 0,
            "usage": {**images_endpoint.USAGE, "input_tokens_details": {"image_tokens": 0, "text_tokens": 20}},
        }
    )
    name, _, quality = model.partition("@")
    found = openai.price(name, quality, size, answer)
    assert found is None if dollars is None else found == pytest.approx(dollars)


@pytest.mark.usefixtures("ocr_log")
def test_from_the_command_line(
    endpoint: images_endpoint.Endpoint,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rate and cost are shown, the endpoint is recorded and its password is not; a repeated command asks nothing."""

    monkeypatch.setattr(plan, "DEFAULT_ENGINE", "fake_ocr")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:word@{endpoint.url.removeprefix('http://')}/v1")
    monkeypatch.chdir(tmp_path)
    command = ["eval", "--suite", "text-render", "--split", "regions", "--limit", "2", "--model", "openai:gpt-image-1"]
    main([*command, "--size", "64x64"])
    assert "per minute · 0.33 $" in capfd.readouterr().err
    (folder,) = Path("reports").iterdir()
    assert folder.name.startswith("text-render-openai-gpt-image-1-")
    settings = read_json(folder / "manifest.json")["settings"]
    assert (settings["endpoint"], settings["steps"], settings["prompt_sizes"]) == (f"{endpoint.url}/v1/", None, False)
    assert not any(word in json.dumps(settings) for word in ("secret", "word@"))
    before = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    assert main([*command, "--size", "64x64"]) == 0
    assert len(endpoint.asked) == 2
    assert (folder / "summary.json").read_bytes() == before
    for options, message in (
        ("--steps 3", "knows no steps"),
        ("--adapter x", "knows no adapters"),
        ("--reuse 2", "no reuse"),
    ):
        assert main([*command, *options.split()]) == 2
        assert message in capfd.readouterr().err
