"""What a server refuses, and how it ends what is no longer wanted."""

from __future__ import annotations

import gc
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from serving.conftest import QUICK, SIZE, Serve, Served
from tiny_adapter import make_adapter

from glmkit.errors import UserError
from glmkit.generation import denoising
from glmkit.serving import scheduler
from glmkit.serving.settings import ServerSettings

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
FIELDS = {"prompt": "a", **SIZE, **QUICK}


def ask(
    served: Served, values: Any = None, path: str = GENERATIONS, method: str = "POST", **headers: str
) -> tuple[int, Any, Message]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    body = values if isinstance(values, bytes) or values is None else json.dumps(values)
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(text) if is_json else text, answer.headers


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def form(*parts: tuple[str, bytes], file: str = "image") -> tuple[bytes, str]:
    lines = b""
    for name, value in parts:
        as_file = f'; filename="{name}.png"' if name == file else ""
        lines += f'--edge\r\nContent-Disposition: form-data; name="{name}"{as_file}\r\n\r\n'.encode() + value + b"\r\n"
    return lines + b"--edge--\r\n", "multipart/form-data; boundary=edge"


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
        ({"texts": ["a"] * 17}, 400, "texts"),
        ({"unknown": 1}, 400, "unknown"),
    ],
)
def test_fields_that_are_refused(served: Served, change: dict[str, Any], status: int, param: str) -> None:
    found, answer, headers = ask(served, {**FIELDS, **change})
    assert (found, answer["error"]["param"]) == (status, param)
    assert answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"
    assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
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
    if "Host" not in headers:
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


def test_a_mask_is_refused_by_name(served: Served) -> None:
    body, kind = form(("prompt", b"a"), ("mask", b"x"), file="mask")
    found, answer, _ = ask(served, body, EDITS, Content_Type=kind)
    assert (found, answer["error"]["code"]) == (400, "invalid_value") or answer["error"]["param"] in ("mask", "image")


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


class Stalled:
    """Holds the model's thread at its next step, until it is let go."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        real = served.scheduler._is_wanted

        def is_wanted(job: Any) -> bool:
            self.reached.set()
            assert self.go.wait(30)
            return real(job)

        monkeypatch.setattr(served.scheduler, "_is_wanted", is_wanted)


def start(served: Served, values: Any = FIELDS) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask(served, values)))
    thread.start()
    return thread, answers


def test_a_full_queue_says_when_to_come_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(queue=2)
    stalled = Stalled(served, monkeypatch)
    first, answers = start(served, {**FIELDS, "n": 2})
    assert stalled.reached.wait(20)
    until(lambda: served.scheduler.held == 2)
    status, answer, headers = ask(served, FIELDS)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (429, "queue_full", "rate_limit_error")
    assert 1 <= int(headers["Retry-After"]) <= 120
    stalled.go.set()
    first.join()
    assert answers[0][0] == 200
    assert ask(served, FIELDS)[0] == 200


def test_likes_share_a_batch_and_none_starves(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(batch=3)
    stalled = Stalled(served, monkeypatch)
    threads = [start(served)]
    assert stalled.reached.wait(20)
    sizes = ["64x64", "96x64", "64x64", "64x64", "64x64"]
    for number, size in enumerate(sizes):
        threads.append(start(served, {**FIELDS, "size": size}))
        until(lambda number=number: served.scheduler.waiting == number + 1)  # type: ignore[misc]
    order: list[list[str]] = []
    real = served.scheduler._generate

    def generate(batch: Sequence[Any]) -> None:
        order.append([str(job.request.width) for job in batch])
        real(batch)

    monkeypatch.setattr(served.scheduler, "_generate", generate)
    stalled.go.set()
    for thread, answers in threads:
        thread.join()
        assert answers[0][0] == 200
    assert order == [["64", "64", "64"], ["96"], ["64"]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_dropped(serve: Serve, stream: bool) -> None:
    served = serve()
    body = json.dumps({**FIELDS, "num_inference_steps": 100, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: served.scheduler.counts["batches"] == 1)
    until(lambda: served.scheduler.counts["cancelled"] == 1)
    assert served.scheduler.counts["finished"] == 0
    until(lambda: served.scheduler.held == 0)
    assert ask(served, FIELDS)[0] == 200


def test_a_deadline_ends_a_request(serve: Serve) -> None:
    served = serve(deadline=0.05)
    status, answer, _ = ask(served, {**FIELDS, "num_inference_steps": 100})
    assert (status, answer["error"]["code"]) == (504, "timeout")
    until(lambda: served.scheduler.held == 0)


def test_what_fails_is_an_error_of_its_own(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served, real = serve(batch=4), denoising.denoise

    def denoise(hybrid: Any, requests: Any, *rest: Any) -> Any:
        if requests[0].seed == 1:
            raise RuntimeError("broken")
        return real(hybrid, requests, *rest)

    monkeypatch.setattr(scheduler, "denoise", denoise)
    assert ask(served, {**FIELDS, "seed": 0})[0] == 200
    status, answer, _ = ask(served, {**FIELDS, "seed": 1})
    assert status == 500
    assert "broken" in answer["error"]["message"]
    status, text, _ = ask(served, {**FIELDS, "seed": 1, "stream": True})
    assert status == 200
    assert b"event: error" in text
    assert ask(served, {**FIELDS, "seed": 2})[0] == 200


def test_an_adapter_too_strong_is_an_error_of_its_own_requests(serve: Serve, tiny_model: Path, tmp_path: Path) -> None:
    """Finite weights that overflow are found by the image: the server says so, and serves the others."""
    make_adapter(tiny_model, tmp_path / "strong", "decoder")
    path = tmp_path / "strong" / "decoder" / "adapter_model.safetensors"
    save_file({name: torch.full_like(value, 1e30) for name, value in load_file(path).items()}, path)
    served = serve(adapters={"strong": str(tmp_path / "strong")})
    before = ask(served, {**FIELDS, "seed": 1})[1]["data"]
    status, answer, headers = ask(served, {**FIELDS, "seed": 1, "lora": "strong"})
    assert (status, answer["error"]["code"]) == (500, "generation_failed")
    assert "an adapter too strong" in answer["error"]["message"]
    assert headers["x-should-retry"] == "false"
    assert ask(served, {**FIELDS, "seed": 1})[1]["data"] == before


def test_nothing_large_waits_for_the_garbage_collector(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request took is free when it ends, however it ends: a cycle would hold it for thousands of requests."""
    served, real = serve(), denoising.denoise

    def denoise(hybrid: Any, requests: Any, *rest: Any) -> Any:
        latents = real(hybrid, requests, *rest)
        if requests[0].seed == 1:
            raise RuntimeError("broken")
        return latents

    monkeypatch.setattr(scheduler, "denoise", denoise)
    ask(served, FIELDS)  # what stays for the next one
    gc.collect()
    gc.disable()
    try:
        assert ask(served, {**FIELDS, "size": "96x64"})[0] == 200
        assert ask(served, {**FIELDS, "stream": True, "partial_images": 1})[0] == 200
        assert ask(served, {**FIELDS, "seed": 1})[0] == 500
        source = io.BytesIO()
        Image.new("RGB", (64, 64)).save(source, "png")
        body, content = form(("image", source.getvalue()), ("prompt", b"a"), ("num_inference_steps", b"2"))
        assert ask(served, body, EDITS, Content_Type=content)[0] == 200
        slow = json.dumps({**FIELDS, "num_inference_steps": 100}).encode()
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(slow)}\r\n\r\n".encode() + slow)
            until(lambda: served.scheduler.counts["batches"] == 6)
        until(lambda: served.scheduler.counts["cancelled"] == 1)
        until(lambda: served.scheduler.held == 0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [one for one in gc.garbage if isinstance(one, torch.Tensor | Image.Image)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_metrics(serve: Serve) -> None:
    served = serve()
    ask(served, FIELDS)
    ask(served, None, "/any/path", "GET")
    status, text, _ = ask(served, None, "/metrics", "GET")
    assert status == 200
    lines = text.decode().splitlines()
    assert f'glmkit_requests_total{{path="{GENERATIONS}",status="200"}} 1' in lines
    assert 'glmkit_requests_total{path="other",status="404"} 1' in lines
    assert "glmkit_images_finished_total 1" in lines
    assert "glmkit_queue_images 0" in lines


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_signal_finishes_what_runs(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "glmkit", "serve", "--model", str(tiny_model), "--device", "cpu", "--port", "0"]
    with subprocess.Popen([*command, "--no-warm-up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        try:
            assert one.stdout is not None
            port = int(one.stdout.readline().rsplit(":", 1)[1])
            served = Served(port, None, tiny_model)  # type: ignore[arg-type]
            until(lambda: ask(served, None, "/ready", "GET")[0] == 200)
            thread, answers = start(served, {**FIELDS, "prompt": "a secret", "num_inference_steps": 60})
            until(lambda: b"\nglmkit_batches_total 1\n" in ask(served, None, "/metrics", "GET")[1])
            one.send_signal(signal.SIGTERM)
            thread.join(60)
            _, log = one.communicate(timeout=60)
        finally:
            one.kill()
    assert answers[0][0] == 200
    assert "a secret" not in log
    assert GENERATIONS in log
    assert "Traceback" not in log
