"""The errors that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_FOUND = 500  # letters of what was found that a message shows


class UserError(Exception):
    """Say what the user can mend: what is wrong, what was found, what to type.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __init__(self, what: str, *, found: object = None, fix: str | None = None) -> None:
        self.what, self.found, self.fix = what, found, fix
        lines = [what]
        if found is not None:
            text = str(found)
            lines.append(f"  found: {text if len(text) <= MAX_FOUND else text[:MAX_FOUND] + ' ...'}")
        if fix is not None:
            lines.append(f"  try:   {fix}")
        super().__init__("\n".join(lines))


class GenerationError(UserError):
    """An image could not be generated: the request cannot be served, or failed in a way that the message names."""

    @classmethod
    def of(cls, error: Exception) -> GenerationError:
        """Wrap any error of a request, and keep what a UserError says."""
        if isinstance(error, UserError):
            return cls(error.what, found=error.found, fix=error.fix)
        reason = f"{type(error).__name__}: {error}".strip()[:300]
        return cls("the image could not be generated", found=reason, fix="another prompt or size, or whole model files")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the known name closest in spelling to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Make the error for a name that is not in a set of known names."""
    known = sorted(known)
    guess = nearest(name, known)
    fix = f"did you mean {guess!r}? Known: {', '.join(known)}" if guess else f"one of {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}", fix=fix)
