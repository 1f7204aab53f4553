"""The errors that users see, and notes that they see once."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from functools import cache

MAX_LETTERS = 500  # of each line of a message
LESS_MEMORY = "a smaller size, fewer images at a time, --vae-tiling or --memory low, and nothing else on this device"


class UserError(Exception):
    """Say what the user can mend: what is wrong, what was found, what to type.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __init__(self, what: str, *, found: object = None, fix: str | None = None) -> None:
        self.what, self.found, self.fix = what, found, fix
        lines = [shorten(what)]
        if found is not None:
            lines.append(f"  found: {shorten(str(found))}")
        if fix is not None:
            lines.append(f"  try:   {shorten(fix)}")
        super().__init__("\n".join(lines))


@cache
def note_once(line: str) -> None:
    """Print a line on stderr, once per process."""
    print(line, file=sys.stderr)


class GenerationError(UserError):
    """An image could not be generated: the request cannot be served, or failed in a way that the message names."""

    @classmethod
    def of(cls, error: Exception) -> GenerationError:
        """Wrap any error of a request, and keep what a UserError says."""
        if isinstance(error, UserError):
            return cls(error.what, found=error.found, fix=error.fix)
        if is_out_of_memory(error):
            return cls("there is not enough memory for the image", found=first_line(error), fix=LESS_MEMORY)
        reason = f"{type(error).__name__}: {error}".strip()[:300]
        return cls("the image could not be generated", found=reason, fix="another prompt or size, or whole model files")


def shorten(text: str) -> str:
    """Cut lines that would fill the screen: what was found may be anything."""
    lines = text.split("\n")
    return "\n".join(line if len(line) <= MAX_LETTERS else f"{line[:MAX_LETTERS]} ..." for line in lines)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python, of a GPU, or of torch on a CPU says that there is no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "memory" in str(error) and "allocate" in str(error)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, for rows, logs and lists: its parts behind semicolons."""
    return "; ".join(" ".join(line.split()) for line in str(error).splitlines() if line.strip())


def first_line(error: BaseException) -> str:
    """Return the class of an error and its first line, which says what happened."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the known name closest in spelling to `name`, or None when nothing is close."""
    known = list(known)
    by_letters = {one.casefold(): one for one in reversed(known)}  # a name in capitals has no letter in common
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    matches = matches or difflib.get_close_matches(name.casefold(), by_letters, n=1, cutoff=0.5)
    return by_letters.get(matches[0], matches[0]) if matches else None


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Make the error for a name that is not in a set of known names; those that begin with it are the nearest."""
    known = sorted(known)
    if len(family := [one for one in known if one.startswith(f"{name}-")]) > 1:
        return UserError(f"unknown {kind} {name!r}", fix=f"did you mean one of {', '.join(family)}?")
    guess = nearest(name, known)
    fix = f"did you mean {guess!r}? Known: {', '.join(known)}" if guess else f"one of {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}", fix=fix)
