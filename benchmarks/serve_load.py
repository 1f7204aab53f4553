"""Load a server as clients do, and check every image: python benchmarks/serve_load.py --out FILE

The server is `glmkit serve` as a process of its own. Each request is sampled by the seed: most want an image, whose
pixels must be those of `glmkit.load`; others go away early, send too much, garbage, or slowly. At the end nothing may
be held, and the server's memory must not grow from one fifth of the requests to the next.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

import glmkit
from glmkit import runs
from glmkit.files import write_json

HEAD = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PROMPTS = ('A poster that says "OPEN"', "Sign “café”", "标语「你好」", "a red star on blue")
SIZES = ("64x64", "96x64", "128x128")
SEEDS = 3
KINDS = {"image": 60, "stream": 12, "goes away": 10, "malformed": 8, "too large": 4, "slow": 4, "dies": 2}
MALFORMED = (b"{", b"[]", b'{"prompt": 1}', b'{"prompt": "a", "x": 1}', b"\xff\xfe", b'{"prompt": "a", "size": "1x1"}')
MAX_BODY = 100_000
TRIES, WAIT = 600, 0.5  # of a request that finds the queue full; seconds between two of them
STEPS = 2
SAMPLES = 40  # of the memory, in equal distances


class Load:
    """Requests against one server, and what became of them."""

    def __init__(self, port: int, pid: int, expected: dict[tuple[str, str, int], bytes], every: int) -> None:
        self.port, self.pid, self.expected, self.every = port, pid, expected, every
        self.outcomes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.memory: list[int] = []
        self.refused = 0
        self._lock = threading.Lock()

    def run(self, number: int, rng: random.Random) -> None:
        """Make one request, and count how it ended."""
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        prompt, size, seed = rng.choice(PROMPTS), rng.choice(SIZES), rng.randrange(SEEDS)
        fields = {"prompt": prompt, "size": size, "seed": seed, "num_inference_steps": STEPS}
        try:
            outcome = getattr(self, f"_{kind.replace(' ', '_')}")(fields, rng)
        except Exception as error:  # counted, and named in the result
            outcome = f"wrong: {type(error).__name__}: {error}"[:200]
        with self._lock:
            self.outcomes[f"{kind}: {outcome}"] += 1
            if number % self.every == 0:
                self.memory.append(resident(self.pid))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """Send a request, again when the queue is full, and return the answer's status and text."""
        for _ in range(TRIES):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
            connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
            connection.close()
            if status != 429:
                break
            with self._lock:
                self.refused += 1
            time.sleep(WAIT)
        return status, text

    def _check(self, data: str, fields: dict[str, Any]) -> str:
        pixels = Image.open(io.BytesIO(base64.b64decode(data))).tobytes()
        key = (fields["prompt"], fields["size"], fields["seed"])
        return "right" if pixels == self.expected[key] else "wrong: another image"

    def _image(self, fields: dict[str, Any], _: random.Random) -> str:
        started = time.perf_counter()
        status, text = self._post(json.dumps(fields).encode())
        if status != 200:
            return f"wrong: {status} {text[:100]!r}"
        with self._lock:
            self.seconds.append(time.perf_counter() - started)
        return self._check(json.loads(text)["data"][0]["b64_json"], fields)

    def _stream(self, fields: dict[str, Any], _: random.Random) -> str:
        status, text = self._post(json.dumps({**fields, "stream": True, "partial_images": 1}).encode())
        if status != 200:
            return f"wrong: {status} {text[:100]!r}"
        last = text.decode().strip().rsplit("\n\n", 1)[-1]
        data = json.loads(last.partition("data: ")[2])
        return self._check(data["b64_json"], fields) if "b64_json" in data else f"wrong: {last[:100]}"

    def _goes_away(self, fields: dict[str, Any], rng: random.Random) -> str:
        body = json.dumps({**fields, "stream": rng.random() < 0.5}).encode()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(rng.random())
        return "gone"

    def _dies(self, fields: dict[str, Any], _: random.Random) -> str:
        """A client that is killed in the middle of its request."""
        body = json.dumps(fields).encode()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
        return "gone"

    def _malformed(self, _: dict[str, Any], rng: random.Random) -> str:
        status, text = self._post(rng.choice(MALFORMED))
        return "refused" if status == 400 and json.loads(text)["error"]["message"] else f"wrong: {status}"

    def _too_large(self, fields: dict[str, Any], _: random.Random) -> str:
        try:
            status, _text = self._post(json.dumps({**fields, "user": "x" * MAX_BODY}).encode())
        except (BrokenPipeError, ConnectionResetError):
            return "refused"  # the server has answered and closed before all was sent
        return "refused" if status == 413 else f"wrong: {status}"

    def _slow(self, fields: dict[str, Any], rng: random.Random) -> str:
        body = json.dumps(fields).encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as connection:
            connection.sendall(f"{HEAD}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            with suppress(BrokenPipeError, ConnectionResetError):  # a full queue answers before all is sent
                for start in range(0, len(body), 40):
                    connection.sendall(body[start : start + 40])
                    time.sleep(rng.random() / 2)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        head, _, text = answer.partition(b"\r\n\r\n")
        if b" 429 " in head.splitlines()[0]:
            return "full"
        return self._check(json.loads(text)["data"][0]["b64_json"], fields)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


def expected_images(model: str) -> dict[tuple[str, str, int], bytes]:
    """Generate the pixels of every request that may come, without a server."""
    loaded = glmkit.load(model, device="cpu")
    images = {}
    for prompt in PROMPTS:
        for size in SIZES:
            width, height = map(int, size.split("x"))
            for seed in range(SEEDS):
                image = loaded.generate(prompt, seed=seed, width=width, height=height, num_inference_steps=STEPS)
                images[prompt, size, seed] = image.tobytes()
    return images


def get(port: int, path: str) -> tuple[int, str]:
    """Return the status and the text of a path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def held(port: int) -> int:
    """Return how many places of the queue are taken."""
    return int(re.search(r"^glmkit_held_images (\d+)$", get(port, "/metrics")[1], re.MULTILINE)[1])  # type: ignore[index]


def main() -> None:
    """Run the load and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8, help="at the same time (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    expected = expected_images(arguments.model)
    command = [sys.executable, "-m", "glmkit", "serve", "--model", arguments.model, "--device", "cpu", "--port", "0"]
    command += ["--max-body", str(MAX_BODY), "--queue", "6"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            while get(port, "/ready")[0] != 200:
                time.sleep(0.2)
            every = max(1, arguments.requests // SAMPLES)
            load, started = Load(port, server.pid, expected, every), time.perf_counter()
            with ThreadPoolExecutor(arguments.clients) as pool:
                for number in range(arguments.requests):
                    pool.submit(load.run, number, random.Random(f"{arguments.seed}:{number}"))
            seconds = time.perf_counter() - started
            deadline = time.monotonic() + 60
            while held(port) and time.monotonic() < deadline:
                time.sleep(0.1)
            still_held = held(port)
            load.memory.append(resident(server.pid))
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    wrong = sum(count for outcome, count in load.outcomes.items() if ": wrong" in outcome)
    fifth = max(1, len(load.memory) // 5)
    parts = [load.memory[start : start + fifth] for start in range(0, len(load.memory), fifth)]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "environment": runs.environment(),
        "cores": os.cpu_count(),
        "requests": arguments.requests,
        "clients": arguments.clients,
        "seconds": round(seconds, 1),
        "outcomes": dict(sorted(load.outcomes.items())),
        "full_queue_answers": load.refused,
        "wrong": wrong,
        "held_at_the_end": still_held,
        "exit_code": code,
        "seconds_of_an_image": {
            "median": round(statistics.median(load.seconds), 3),
            "p95": round(sorted(load.seconds)[int(0.95 * len(load.seconds))], 3),
        },
        "resident_mib": {
            "by_fifths": [round(statistics.mean(part) / 2**20, 1) for part in parts[:5]],
            "largest": round(max(load.memory) / 2**20, 1),
        },
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=1))
    sys.exit(1 if wrong or still_held else 0)


if __name__ == "__main__":
    main()
