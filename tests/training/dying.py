"""`python dying.py WHERE COMMAND...`: glmkit, killed by SIGKILL before step WHERE = [STAGE:]NUMBER or its result is
written (WHERE = result)."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from glmkit import cli, files
from glmkit.training import finetune, loop


def die() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def main(where: str, *command: str) -> int:
    if where == "result":
        write = files.write_json
        patched: Any = finetune
        patched.write_json = lambda path, value: die() if path.name == "decoder.json" else write(path, value)
    else:
        stage, _, number = where.rpartition(":")
        step = loop.Loop.take_step

        def take_step(self: loop.Loop) -> Any:
            return die() if self.step == int(number) and self.context.name.startswith(stage) else step(self)

        loop.Loop.take_step = take_step  # type: ignore[method-assign]
    return cli.main(list(command))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
