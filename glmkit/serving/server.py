"""Load the model and run the server until a signal ends it."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from types import FrameType

import uvicorn

from glmkit.errors import UserError
from glmkit.generation.loading import load_model
from glmkit.generation.options import InferenceOptions
from glmkit.models import checkpoint
from glmkit.serving.adapters import AdapterSwitch, checked_adapters
from glmkit.serving.app import create_app
from glmkit.serving.scheduler import Scheduler
from glmkit.serving.settings import ServerSettings

KEEP_ALIVE = 15  # seconds that an idle connection stays open


class Server(uvicorn.Server):
    """Ends politely: at a signal what waits is refused, what runs is finished. A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler) -> None:
        super().__init__(config)
        self.scheduler = scheduler

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking jobs; uvicorn waits for the answers that are under way."""
        if not self.should_exit:
            # Not here: a signal may come while this thread holds the scheduler's lock.
            threading.Thread(target=self.scheduler.stop, daemon=True).start()
        super().handle_exit(sig, frame)


def serve(
    model: str, device: str, dtype: str, options: InferenceOptions, settings: ServerSettings, precision: str
) -> int:
    """Serve a model; returns when a signal has ended it. UserError when it cannot start."""
    # 1. Take the port first, since loading takes long.
    listening = _listen(settings)
    # 2. Load the model, with all components: an edit may come at any time. Adapters that do not fit are refused before.
    adapters = checked_adapters(checkpoint.resolve(model), settings.adapters)
    hybrid = load_model(model, device, dtype, (), options, tuple(checkpoint.COMPONENTS), precision)
    scheduler = Scheduler(hybrid, AdapterSwitch(hybrid, adapters), settings)
    # 3. Serve.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    listening.listen()  # who reads the next line may connect
    print(f"serving {hybrid.name} at http://{host}:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        create_app(scheduler, settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
    try:
        Server(config, scheduler).run([listening])
    except KeyboardInterrupt:  # which uvicorn raises again when it has ended
        print("the server has stopped", file=sys.stderr)
        return 130
    return 0


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        where = f"{settings.host}:{settings.port}"
        raise UserError("the address cannot be served", found=f"{where}: {error.strerror}", fix="--port 0") from error
    return listening
