"""Make this process like one on Windows: nothing of POSIX nor Triton, and strict about files and encodings.

Triton is hidden from everyone; what is POSIX from the code of glmkit alone, since libraries ask `sys.platform` before
they use it.
"""

from __future__ import annotations

import builtins
import errno
import os
import signal
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = (
    *("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline", "curses", "crypt", "spwd"),
    *("nis", "posix", "posixpath"),
)
FUNCTIONS = (
    *("fork", "forkpty", "register_at_fork", "kill", "killpg", "getuid", "geteuid", "getgid", "getpgid", "setsid"),
    *("sched_getaffinity", "sched_setaffinity", "nice", "sysconf", "statvfs", "getloadavg", "uname", "chown", "mkfifo"),
    *("posix_spawn", "getpriority", "wait", "wait3", "wait4", "setuid", "setgid", "openpty", "O_NOFOLLOW"),
)
SIGNALS = ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGQUIT", "alarm", "setitimer")
MISSING = {*FUNCTIONS, *SIGNALS}


def is_ours(name: str) -> bool:
    """Tell whether a module is glmkit's."""
    return name.split(".")[0] == "glmkit"


class Lacking(types.ModuleType):
    """`os` and `signal` without MISSING."""

    def __getattribute__(self, name: str) -> Any:
        if name in MISSING and is_ours(sys._getframe(1).f_globals.get("__name__", "")):
            raise AttributeError(f"no {name} on Windows")
        return super().__getattribute__(name)


def hide_posix() -> None:
    """Take away the modules, functions and signals that Windows lacks, and Triton."""
    sys.modules["triton"] = None  # type: ignore[assignment]
    os.__class__ = signal.__class__ = Lacking
    whole_import = builtins.__import__

    def lacking_import(name: str, globals: Any = None, *more: Any, **options: Any) -> Any:
        if name.split(".")[0] in MODULES and is_ours((globals or {}).get("__name__", "")):
            raise ModuleNotFoundError(f"no {name} on Windows", name=name)
        return whole_import(name, globals, *more, **options)

    builtins.__import__ = lacking_import


def want_encodings() -> None:
    """Make it an error that glmkit leaves the encoding of text to the system; for `python -X warn_default_encoding`."""
    warnings.filterwarnings("error", category=EncodingWarning, module=r"glmkit\.")


def in_use(path: str) -> bool:
    """Tell whether this process has the file, or one below the folder, open or mapped."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    used = {line[line.index("/") :] for line in maps if "/" in line}
    for link in os.listdir("/proc/self/fd"):
        try:
            used.add(os.readlink(f"/proc/self/fd/{link}"))
        except OSError:
            continue
    return any(name == path or name.startswith(f"{path}/") for name in used)


def keep_files_in_use(folder: Path) -> None:
    """Refuse below `folder` to rename onto what exists, and to move, replace or remove what is open or mapped."""

    def guarded(function: Callable[..., Any], targets: Callable[[str], bool]) -> Callable[..., Any]:
        def call(*paths: Any, dir_fd: int | None = None) -> Any:
            start = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            names = [os.path.normpath(os.path.join(start, path)) for path in paths]
            if Path(names[-1]).is_relative_to(folder):
                if taken := [name for name in names if in_use(name) and not name.endswith(".lock")]:
                    raise PermissionError(errno.EACCES, "in use", taken[0])
                if targets(names[-1]):
                    raise FileExistsError(errno.EEXIST, "exists", names[-1])
            return function(*paths) if dir_fd is None else function(*paths, dir_fd=dir_fd)

        return call

    os.rename = guarded(os.rename, os.path.exists)
    os.replace = guarded(os.replace, os.path.isdir)
    os.unlink = os.remove = guarded(os.unlink, lambda _: False)
