"""What a server refuses: fields, bodies, images, paths, requests without a key, and settings."""

from __future__ import annotations

import http.client
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving.conftest import EDITS, FIELDS, GENERATIONS, Serve, Served, ask, form

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.serving import server
from glmkit.serving.settings import ServerSettings


def png(width: int, height: int) -> bytes:
    """A PNG whose header says so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"prompt": "  "}, 400, "prompt"),
        ({"prompt": "a" * 4001}, 400, "prompt"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": ["a"]}, 400, "prompt"),
        ({"n": 5}, 400, "n"),
        ({"n": 0}, 400, "n"),
        ({"n": True}, 400, "n"),
        ({"seed": False}, 400, "seed"),
        ({"guidance_scale": True}, 400, "guidance_scale"),
        ({"output_format": "webp", "output_compression": True}, 400, "output_compression"),
        ({"lora": [{"name": "a", "weight": True}]}, 400, "lora"),
        ({"n": 2, "stream": True}, 400, "n"),
        ({"size": "100x64"}, 400, "size"),
        ({"size": "4096x4096"}, 400, "size"),
        ({"size": "²56x256"}, 400, "size"),
        ({"size": "64"}, 400, "size"),
        ({"num_inference_steps": 101}, 400, "num_inference_steps"),
        ({"num_inference_steps": 0}, 400, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, 400, "guidance_scale"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**63}, 400, "seed"),
        ({"model": "dall-e-3"}, 404, "model"),
        ({"model": "glm-image:../x"}, 404, "model"),
        ({"lora": "/etc"}, 400, "lora"),
        ({"lora": [{"name": "x", "path": "/etc"}]}, 400, "lora"),
        ({"quality": "low"}, 400, "quality"),
        ({"reuse": 2}, 400, "reuse"),
        ({"vae_tiling": True}, 400, "vae_tiling"),
        ({"response_format": "url"}, 400, "response_format"),
        ({"background": "transparent"}, 400, "background"),
        ({"moderation": "auto"}, 400, "moderation"),
        ({"style": "vivid"}, 400, "style"),
        ({"negative_prompt": "x"}, 400, "negative_prompt"),
        ({"mask": "x"}, 400, "mask"),
        ({"output_compression": 50}, 400, "output_compression"),
        ({"partial_images": 1}, 400, "partial_images"),
        ({"stream": "yes"}, 400, "stream"),
        ({"prompt": "a\0"}, 400, "prompt"),
        ({"prompt": "a\ud800"}, 400, "prompt"),
        ({"texts": ["a"] * 17}, 400, "texts"),
        ({"texts": ["a", "b\0"]}, 400, "texts"),
        ({"texts": ["\ud800"]}, 400, "texts"),
        ({"texts": ["a" * 2001] * 2}, 400, "texts"),
        ({"unknown": 1}, 400, "unknown"),
        ({"lora": {"name": "a"}}, 400, "lora"),
        ({"lora": ["a"]}, 400, "lora"),
    ],
)
def test_fields_that_are_refused(served: Served, change: dict[str, Any], status: int, param: str) -> None:
    found, answer, headers = ask(served, {**FIELDS, **change})
    assert (found, answer["error"]["param"]) == (status, param)
    assert answer["error"]["message"]
    assert "--" not in answer["error"]["message"], "a client has no options"
    assert answer["error"]["type"] == "invalid_request_error"
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"prompt": "a", "n": 1, "n": 2}', {}, 400),
        (b"[]", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"\xff", {}, 400),
        (b'{"prompt": "a"}', {"Content_Type": "text/plain"}, 415),
        (b"x" * 300_000, {}, 413),
        (b"{}", {"Content_Length": "999999"}, 413),
        (b"{}", {"Origin": "http://evil.example"}, 403),
        (b"{}", {"Host": "evil.example"}, 400),
    ],
)
def test_bodies_that_are_refused(serve: Serve, body: bytes, headers: dict[str, str], status: int) -> None:
    served = serve(max_body=200_000)
    found, answer, _ = ask(served, body, **headers)
    assert found == status
    assert answer["error"]["message"]


def test_a_body_of_unknown_length_is_counted(serve: Serve) -> None:
    served = serve(max_body=100_000)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request(
        "POST", GENERATIONS, iter([b"x" * 60_000] * 3), {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413


def drawn(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("prompt", b"a")], "image"),
        ([("prompt", b"a"), ("image", b"no image")], "image"),
        ([("prompt", b"a"), ("image", b"%!PS-Adobe-3.0 EPSF-3.0\n")], "image"),
        ([("prompt", b"a"), ("image", png(60_000, 60_000))], "image"),
        ([("prompt", b"a"), ("image", png(64, 64))], "image"),
        ([("prompt", b"a"), ("image", drawn(64, 64)), ("image", png(64, 64))], "image"),
        ([("prompt", b"a"), ("image", drawn(1, 1))], "image"),
        ([("prompt", b"a"), ("image", drawn(1, 5000))], "image"),
        ([("prompt", b"a"), ("image", drawn(64, 64)), ("image", drawn(16, 80))], "image"),
        ([("prompt", b"a"), *[("image", b"x")] * 4], "image"),
        ([("prompt", b"a"), ("prompt", b"b"), ("image", b"x")], None),
        ([("prompt", b"a"), ("lora", b"[{")], "lora"),
    ],
)
def test_edits_that_are_refused(served: Served, parts: list[tuple[str, bytes]], param: str | None) -> None:
    body, kind = form(*parts)
    before = served.scheduler.counts["batches"]
    found, answer, _ = ask(served, body, EDITS, Content_Type=kind)
    assert found == 400
    assert param in (None, answer["error"]["param"])
    assert served.scheduler.counts["batches"] == before, "nothing was queued"


def test_what_is_no_image_is_named(served: Served) -> None:
    """A telephone's photo under the name of a PNG is refused with what it is, and with what to send."""
    body, kind = form(("prompt", b"a"), ("image", b"\0\0\0\x18ftypheic" + bytes(range(100))))
    found, answer, _ = ask(served, body, EDITS, Content_Type=kind)
    assert (found, answer["error"]["code"]) == (400, "invalid_image")
    assert answer["error"]["message"] == (
        "image 1 is not an image; found: HEIC, or AVIF that Pillow cannot read; "
        "try: a PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF file"
    )


@pytest.mark.parametrize("lora", [{"name": "a"}, ["a"], [{"name": "a", "strength": 1}], 3])
def test_how_adapters_are_named_is_said(served: Served, lora: Any) -> None:
    _, answer, _ = ask(served, {**FIELDS, "lora": lora})
    assert answer["error"]["message"] == 'lora is a name, or a list of {"name": NAME, "weight": NUMBER}'


@pytest.mark.parametrize(
    ("host", "status"), [("localhost", 200), ("LOCALHOST:80", 200), ("[::1]:8", 200), ("a.b:8", 400)]
)
def test_names_of_the_host(served: Served, host: str, status: int) -> None:
    found, answer, _ = ask(served, None, "/health", "GET", Host=host)
    assert found == status
    assert status == 200 or "127.0.0.1, localhost, [::1]" in answer["error"]["message"]


def test_adapters_are_checked_before_the_model_is_loaded(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "load_model", lambda *_: pytest.fail("the model was loaded"))
    start = ["serve", "--model", str(tiny_model), "--port", "0", "--adapter"]
    assert main([*start, f"style={tmp_path / 'none'}"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([*start, f"style={tmp_path / 'my style'}:much"]) == 2
    assert f"--adapter style='{tmp_path / 'my style'}:0.8'" in capsys.readouterr().err


def test_a_mask_is_refused_by_name(served: Served) -> None:
    body, kind = form(("prompt", b"a"), ("mask", b"x"), file="mask")
    found, answer, _ = ask(served, body, EDITS, Content_Type=kind)
    assert (found, answer["error"]["code"]) == (400, "invalid_value") or answer["error"]["param"] in ("mask", "image")


@pytest.mark.parametrize("field", ["prompt", "size", "texts"])
def test_a_field_that_is_sent_as_a_file_is_refused(served: Served, field: str) -> None:
    """`curl -F prompt=@prompt.txt` must not be read as a prompt that is the name of the file."""
    body, kind = form((field, b"a"), file=field)
    found, answer, _ = ask(served, body, EDITS, Content_Type=kind)
    assert (found, answer["error"]["param"]) == (400, field)
    assert answer["error"]["message"] == f"{field} is sent as text, not as a file"


def test_paths_that_do_not_exist(served: Served) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", GENERATIONS, 405), ("GET", "/v1/models/x", 404)):
        found, answer, headers = ask(served, None, path, method)
        assert found == status
        assert answer["error"]["message"]
        assert headers["X-Request-Id"]


def test_a_key_opens_all_but_the_page(serve: Serve) -> None:
    served = serve(api_key="a-secret-key")
    for path in ("/", "/health", "/ready"):
        assert ask(served, None, path, "GET")[0] == 200
    for path, method in ((GENERATIONS, "POST"), ("/v1/models", "GET"), ("/metrics", "GET"), ("/v1/glmkit", "GET")):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "a-secret-key"}):
            assert ask(served, FIELDS, path, method, **headers)[0] == 401
    assert ask(served, FIELDS, Authorization="Bearer a-secret-key")[0] == 200


def test_unsafe_settings_are_refused() -> None:
    with pytest.raises(UserError, match="only with a key"):
        ServerSettings(host="0.0.0.0")
    with pytest.raises(UserError, match="8 characters"):
        ServerSettings(api_key="short")
    with pytest.raises(UserError, match="letters, digits"):
        ServerSettings(adapters={"../x": "a"})
    ServerSettings(host="0.0.0.0", api_key="long enough")
