"""One file per kind of judge; `posters.py` is the judge `posters`.

A judge is named KIND or KIND:LOCATION, where LOCATION is what it needs: a model, a folder, a file. Its module has

- `ABOUT`: what it is, for people, and `check()`: UserError when it lacks something here; starts nothing,
- `identity(location) -> EngineIdentity`: what decides its answers; UserError with what to type when something is
  missing,
- `load(location) -> Judge`, with whatever it needs in memory,
- `READS_TEXT`: it needs the lines that OCR recognized in an image; `IS_KEPT`: its answers are worth keeping, and depend
  on image and message alone.

How an answer is read is the suite's matter: the same answer is right in one benchmark and wrong in another.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from glmkit.evaluation.named_files import NamedFiles

_FILES = NamedFiles(__name__, "judge")


def names() -> list[str]:
    """List the kinds of judges that glmkit has."""
    return _FILES.names()


def resolve(spec: str) -> str:
    """Turn KIND[:LOCATION] into MODULE[:LOCATION]; UserError when there is no such judge."""
    name, colon, location = spec.partition(":")
    return f"{_FILES.module(name)}{colon}{location}"


def find(judge: str) -> tuple[ModuleType, str]:
    """Import the module of MODULE[:LOCATION]; returns it with the location."""
    module, _, location = judge.partition(":")
    return importlib.import_module(module), location
