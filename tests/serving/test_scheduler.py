"""How requests share a server, and how those end that fail or are no longer wanted; what it counts."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from serving.conftest import EDITS, FIELDS, GENERATIONS, Serve, Served, ask, form, until
from tiny_adapter import make_adapter

from glmkit.generation import denoising
from glmkit.serving import scheduler


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


@pytest.mark.parametrize(
    ("path", "kind"), [(GENERATIONS, "application/json"), (EDITS, "multipart/form-data; boundary=e")]
)
def test_a_client_that_goes_away_while_it_sends(
    path: str, kind: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Its request is no fault of the server: nothing is logged as failed, and its place is given back."""
    served = serve()
    with caplog.at_level("INFO", "glmkit.serve"):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
            connection.sendall(head.encode() + b"--e\r\n")
            until(lambda: served.scheduler.held == 1)
        until(lambda: (path, 499) in served.scheduler.answered)
    assert served.scheduler.held == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


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
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
def test_a_signal_finishes_what_runs(number: signal.Signals, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "glmkit", "serve", "--model", str(tiny_model), "--device", "cpu", "--port", "0"]
    with subprocess.Popen([*command, "--no-warm-up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        try:
            assert one.stdout is not None
            port = int(one.stdout.readline().rsplit(":", 1)[1])
            served = Served(port, None, tiny_model)  # type: ignore[arg-type]
            until(lambda: ask(served, None, "/ready", "GET")[0] == 200)
            thread, answers = start(served, {**FIELDS, "prompt": "a secret", "num_inference_steps": 60})
            until(lambda: b"\nglmkit_batches_total 1\n" in ask(served, None, "/metrics", "GET")[1])
            one.send_signal(number)
            thread.join(60)
            _, log = one.communicate(timeout=60)
        finally:
            one.kill()
    assert answers[0][0] == 200
    assert "a secret" not in log
    assert GENERATIONS in log
    assert "Traceback" not in log
    if number == signal.SIGINT:
        assert one.returncode == 130
        assert log.endswith("the server has stopped\n")
        assert "to continue" not in log
