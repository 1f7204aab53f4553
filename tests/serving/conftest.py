"""A real server on a port of its own, with the toy model, in a thread."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from glmkit.generation.loading import load_model

pytest.importorskip("fastapi", reason="no FastAPI: pip install 'glmkit[serve]'")

import uvicorn

from glmkit.models.hybrid import HybridModel
from glmkit.serving.adapters import AdapterSwitch, checked_adapters
from glmkit.serving.app import create_app
from glmkit.serving.scheduler import Scheduler
from glmkit.serving.settings import ServerSettings

if TYPE_CHECKING:
    from openai import OpenAI

SIZE = {"size": "64x64"}
QUICK = {"num_inference_steps": 2, "guidance_scale": 1.5}
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
FIELDS = {"prompt": "a", **SIZE, **QUICK}


@dataclass
class Served:
    """A running server."""

    port: int
    scheduler: Scheduler
    model: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none") -> OpenAI:
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


Serve = Callable[..., Served]


@contextmanager
def running(hybrid: HybridModel, **settings: Any) -> Iterator[Served]:
    chosen = ServerSettings(**{"warm_up": False, **settings})
    scheduler = Scheduler(hybrid, AdapterSwitch(hybrid, checked_adapters(hybrid.folder, chosen.adapters)), chosen)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    server = uvicorn.Server(uvicorn.Config(create_app(scheduler, chosen), log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield Served(listening.getsockname()[1], scheduler, hybrid.folder)
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
    assert scheduler.held == 0


@pytest.fixture
def serve(tiny_model: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda model=tiny_model, **settings: stack.enter_context(
            running(load_model(model, device="cpu"), **settings)
        )


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Iterator[Served]:
    with running(load_model(tiny_model, device="cpu")) as one:
        yield one


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
