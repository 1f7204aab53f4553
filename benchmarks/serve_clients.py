"""Ask a server of OpenAI's images API for images, several clients at the same time, and print what they waited.

    python benchmarks/serve_clients.py PORT --clients 16 --images 30 --size 1024x1024 --steps 20

Each client asks for its next image when it has the last one, as a stream with one partial image. The measurement begins
when as many images are done as there are clients, so that the queue is as full as it stays, and ends `--images` later;
then all clients go away. It needs the standard library alone, and runs as a process of its own: what a client does must
not take the time of the server's threads.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

PATH = "/v1/images/generations"


@dataclass
class Image:
    """When an image was asked for, and when its partial image and the image had arrived, in seconds of one clock."""

    asked: float
    partial: float = math.nan
    done: float = math.nan


@dataclass
class Clients:
    """Threads that ask until somebody has seen enough: `done` in the order of arrival, and the `errors` of all."""

    port: int
    fields: dict[str, Any]
    done: list[Image] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    seeds: count[int] = field(default_factory=count)

    def ask_again_and_again(self) -> None:
        """Ask for one image after the other; an error is the last answer."""
        while True:
            with self.changed:
                fields = {**self.fields, "seed": next(self.seeds)}
            try:
                image = self.ask(fields)
            except Exception as error:
                with self.changed:
                    self.errors.append(f"{type(error).__name__}: {error}"[:200])
                    self.changed.notify()
                return
            with self.changed:
                self.done.append(image)
                self.changed.notify()

    def ask(self, fields: dict[str, Any]) -> Image:
        """Ask for one image, and read its stream to the end."""
        image, name = Image(time.perf_counter()), ""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", PATH, json.dumps(fields), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {answer.read(200).decode(errors='replace')}")
        for line in answer:
            kind, _, value = line.decode().strip().partition(": ")
            if kind == "event":
                name = value
            elif kind == "data" and name == "error":
                raise RuntimeError(value)
            elif kind == "data" and name.endswith(".partial_image"):
                image.partial = time.perf_counter()
            elif kind == "data" and name.endswith(".completed"):
                image.done = time.perf_counter()
        connection.close()
        if math.isnan(image.done):
            raise RuntimeError("the stream ended without an image")
        return image


def measure(port: int, clients: int, images: int, seconds: float, fields: dict[str, Any]) -> dict[str, Any]:
    """Return images per hour and seconds of waiting of `images` images after the first `clients`.

    Fewer images count when `seconds` are over, or no client is left: what is not measured is None.
    """
    crowd, ends = Clients(port, fields), time.perf_counter() + seconds
    for _ in range(clients):
        threading.Thread(target=crowd.ask_again_and_again, daemon=True).start()
    with crowd.changed:
        crowd.changed.wait_for(
            lambda: len(crowd.done) >= clients + images or len(crowd.errors) == clients, ends - time.perf_counter()
        )
        first, counted, errors = crowd.done[:clients], crowd.done[clients : clients + images], list(crowd.errors)
    took = counted[-1].done - first[-1].done if counted else None
    waited, to_partial = [one.done - one.asked for one in counted], [one.partial - one.asked for one in counted]
    return {
        "clients": clients,
        "images": len(counted),
        "seconds": took,
        "images_per_hour": 3600 * len(counted) / took if took else None,
        "p50_s": percentile(waited, 0.5),
        "p95_s": percentile(waited, 0.95),
        "first_partial_p50_s": percentile(to_partial, 0.5),
        "first_partial_p95_s": percentile(to_partial, 0.95),
        "errors": errors,
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least a share of them does not exceed (nearest rank); None of no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def main() -> int:
    """Measure, print JSON, and leave; what the clients still wait for is dropped with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", default="1024x1024")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompt", default='A poster that says "OPEN"')
    parser.add_argument("--seconds", type=float, default=600, help="after which it ends with the images it has")
    given = parser.parse_args()
    fields = {"prompt": given.prompt, "size": given.size, "num_inference_steps": given.steps}
    fields |= {"stream": True, "partial_images": 1}
    result = measure(given.port, given.clients, given.images, given.seconds, fields)
    print(json.dumps(result), flush=True)
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
