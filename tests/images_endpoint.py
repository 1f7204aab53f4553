"""A local HTTP server that speaks the protocol of OpenAI's images endpoint, for tests.

What it answers stands in the prompt: "busy" is 429 the first two times, "refused" 400, "address" a URL instead of data,
"broken" data that is none, "text" no image, "endless" an answer without an end, "lost" none at all, "echo" the
request's header; a key that is none of KEYS is 401, the model "none" 404.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

KEYS = ("Bearer secret", "Basic bWU6d29yZA==")  # the second is me:word@ in the address
USAGE = {"input_tokens": 20, "output_tokens": 4160, "total_tokens": 4180}


class Endpoint(ThreadingHTTPServer):
    def __init__(self, seconds: float = 0.0, handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.seconds = seconds
        self.asked: list[dict[str, Any]] = []  # the body of every request
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed does not wait for its answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def prompts(self) -> list[str]:
        return [self.RequestHandlerClass.text(body) for body in self.asked]  # type: ignore[attr-defined]


@contextmanager
def running(seconds: float = 0.0, handler: type[Handler] | None = None) -> Iterator[Endpoint]:
    """A server that takes `seconds` for each answer."""
    server = Endpoint(seconds, handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def png(size: str) -> bytes:
    width, height = map(int, size.split("x"))
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(stream, format="PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    @staticmethod
    def text(body: dict[str, Any]) -> str:
        """What a request asks for."""
        return str(body["prompt"])

    def log_message(self, *given: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, png(self.path.strip("/")), "image/png")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            tries = self.server.prompts().count(self.text(body))
            self.server.asked.append(body)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(self.server.seconds)
        with self.server.lock:
            self.server.at_once -= 1
        if "lost" in self.text(body):
            self.connection.close()
            return
        if "endless" in self.text(body):
            self._send_slowly(self.text(body))
            return
        status, answer = self.answer(body, tries)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self._send(status, data, "application/json")

    def answer(self, body: dict[str, Any], tries: int) -> tuple[int, dict[str, Any] | bytes]:
        prompt = body["prompt"]
        if "echo" in prompt:
            return 400, {"error": {"message": f"{dict(self.headers)} {'x' * 10**6}"}}
        if self.path != "/v1/images/generations" or body["model"] == "none":
            return 404, {"error": {"message": "no such model"}}
        if self.headers["Authorization"] not in KEYS:
            return 401, {"error": {"message": "wrong key"}}
        if "busy" in prompt and tries < 2:
            return 429, {"error": {"message": "slow down"}}
        if "refused" in prompt:
            return 400, {"error": {"message": "not allowed by the safety system"}}
        image = {"b64_json": base64.b64encode(png(body["size"])).decode(), "revised_prompt": f"better: {prompt}"}
        if "address" in prompt:
            image = {"url": f"{self.server.url}/{body['size']}"}
        if "text" in prompt:
            image = {"b64_json": base64.b64encode(b"%!PS").decode()}
        if "broken" in prompt:
            image = {"b64_json": "%%%"}
        return 200, {"created": 0, "data": [image], "usage": USAGE}

    def _send_slowly(self, prompt: str) -> None:
        """A letter at a time without an end, of a good or a bad answer, or a packed one."""
        self.send_response(500 if "bad" in prompt else 200)
        self.send_header("Content-Type", "application/json")
        if "packed" in prompt:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with suppress(OSError):  # the client goes away
            while True:
                self.wfile.write(b" " * (1 if "slow" in prompt else 1 << 16))
                time.sleep(0.01)

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)
