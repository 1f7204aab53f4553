"""Whether all processes of a launcher see the same folder: those of another machine may have one of their own."""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError
from glmkit.files import explained, make_folder

SECONDS = 90.0  # for a new file to show on every machine: those with NFS look again after at most 60 s


def check_shared(folder: Path, group: ProcessGroup) -> None:
    """Raise UserError, in every process, unless all see a file that the first one has put into `folder`.

    They wait for each other here, so that nothing begins on one machine what ends on another.
    """
    if group.world_size == 1:
        return
    path = folder / f".{group.gather_objects(secrets.token_hex(8))[0]}.shared"
    if group.is_main:
        make_folder(folder)
        with explained(path):
            path.touch()
    group.barrier()
    found = group.gather_objects((socket.gethostname(), _appears(path)))
    if group.is_main:
        path.unlink(missing_ok=True)
    without = [f"rank {rank} on {host}" for rank, (host, is_there) in enumerate(found) if not is_there]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise UserError(
            f"the processes do not share the folder {folder}",
            found=f"{without[0]}{more} cannot see what rank 0 on {found[0][0]} writes there",
            fix="a folder on a disk that all machines mount, under the same path on each",
        )


def check_shared_by_launched(folder: Path) -> None:
    """Do the same for a command whose processes share nothing but files, once in each of them.

    Those that were started without the address of the first one cannot ask it, and go on.
    """
    if ProcessGroup.from_environment().world_size == 1 or "MASTER_ADDR" not in os.environ:
        return
    import torch

    from glmkit.distributed.together import together

    with together(torch.device("cpu")) as group:
        check_shared(folder, group)


def _appears(path: Path) -> bool:
    """Wait until a file is there; False when it does not come."""
    end = time.monotonic() + SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
        if path.parent.is_dir():
            os.listdir(path.parent)  # makes NFS look again
    return True
