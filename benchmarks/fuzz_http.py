"""An endpoint that answers a command with a file, and a client that sends a file to `glmkit serve`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from fuzz_cases import Scenario

from glmkit.cli import main as glmkit

START_SECONDS, ANSWER_SECONDS = 60, 60
MAX_BODY = 80 << 20  # more than the server takes
BROKEN = 71  # exit code of an answer that no server may give
BOUNDARY = "fuzz"
FIELDS = {"prompt": "Make it red.", "size": "64x64", "num_inference_steps": "1", "seed": "3"}


@contextmanager
def endpoint(lab: Path, scenario: Scenario) -> Iterator[dict[str, str]]:
    """Serve the file `scenario.answer` as whatever an endpoint is asked for, in a process of its own."""
    if scenario.answer is None:
        yield {}
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = os.fork()
        if child == 0:
            _serve(listening, lab / scenario.answer)
        port = listening.getsockname()[1]
        try:
            yield {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "secret"}
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _serve(listening: socket.socket, path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            try:
                body = b"" if not path.is_file() else path.open("rb").read(1 << 20)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            return

    try:
        server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket = listening
        server.serve_forever()
    finally:
        os._exit(0)


def serve_and_ask(argv: Sequence[str], request: str, printed: Path) -> int:
    """Run `glmkit serve`, send it one request, and stop it; returns 0, 2 when it refused, 1 when it took the request
    and says why there is no image, or `BROKEN`.

    `request` is JSON for an image or an image to be edited; `printed` is the file that this process prints into.
    """
    ended: list[int] = []

    def ask() -> None:
        try:
            ended.append(_ask(request, printed))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask, daemon=True).start()
    try:
        code = glmkit(list(argv))
    except KeyboardInterrupt:
        code = 130
    return ended[0] if ended else code


def _ask(request: str, printed: Path) -> int:
    started = time.monotonic()
    while (found := re.search(r" at http://(\S+):(\d+)", printed.read_text())) is None:
        if time.monotonic() - started > START_SECONDS:
            return BROKEN
        time.sleep(0.05)
    status, answer = _send(found[1].strip("[]"), int(found[2]), Path(request))
    (Path("out") / "answer.json").write_bytes(answer)
    try:
        content = json.loads(answer)
        if status == 200:
            return 0 if content["data"][0]["b64_json"] else BROKEN
        message = content["error"]["message"]
        if (status, content["error"]["code"]) == (500, "generation_failed") and "; try: " in message:
            print(f"error: {message.replace('; try: ', chr(10) + '  try: ')}", file=sys.stderr)
            return 1
        if 400 <= status < 500 and isinstance(message, str) and message:
            print(f"error: {message}\n  try: what {content['error'].get('param')} may be", file=sys.stderr)
            return 2
    except (ValueError, LookupError, TypeError):
        pass
    print(f"the server answered {status}: {answer[:500]!r}", file=sys.stderr)
    return BROKEN


def _send(host: str, port: int, request: Path) -> tuple[int, bytes]:
    body = request.open("rb").read(MAX_BODY) if request.is_file() else b""
    kind, path = "application/json", "/v1/images/generations"
    if request.suffix == ".png":
        kind, path = f"multipart/form-data; boundary={BOUNDARY}", "/v1/images/edits"
        parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}' for name, text in FIELDS.items()]
        image = b'Content-Disposition: form-data; name="image"; filename="image.png"\r\n\r\n' + body
        split = f"\r\n--{BOUNDARY}\r\n".encode()
        body = split.join([b"", *(part.encode() for part in parts), image]) + f"\r\n--{BOUNDARY}--\r\n".encode()
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was read to its end: the answer is there
        connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, answer.read()
