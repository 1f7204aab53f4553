"""A process notices that another one has died, also while its GPU waits for it.

A dead process closes its connections, by which exchanges on CPUs fail at once. An exchange of GPUs waits for half an
hour instead, and PyTorch then aborts the process without a word of ours.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from glmkit.distributed.process_group import ProcessGroup

NO_LIMIT = timedelta(days=365)  # of listening
SECONDS_TO_END = 10.0  # for a process that notices by itself: by an exchange that fails, or an error of its own


@contextlib.contextmanager
def watched(group: ProcessGroup, tell: Callable[[BaseException], None]) -> Iterator[None]:
    """End this process with exit code 2 when another one dies, after `tell` has been called with what was found.

    Each process listens to the next one, in a ring, by gloo. All processes enter and leave the block together; one
    that leaves it by an error must end soon, and the others end after it.
    """
    import torch
    import torch.distributed as dist

    ring: Any = dist.new_group(timeout=NO_LIMIT, backend="gloo")
    following, preceding = ((group.rank + step) % group.world_size for step in (1, -1))
    ended = threading.Event()

    def listen() -> None:
        try:
            dist.recv(torch.empty(1), src=following, group=ring)
        except (RuntimeError, dist.DistError) as error:
            if not ended.wait(SECONDS_TO_END):
                tell(error)
                os._exit(2)

    listener = threading.Thread(target=listen, name="glmkit-watch", daemon=True)
    listener.start()
    try:
        yield
        dist.send(torch.zeros(1), dst=preceding, group=ring)
        listener.join()
    finally:
        ended.set()
