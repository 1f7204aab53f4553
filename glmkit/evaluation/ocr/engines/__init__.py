"""One file per OCR engine; `cvtg_paddleocr.py` is the engine `cvtg-paddleocr`.

An engine is named NAME or NAME:LOCATION, where LOCATION is what it needs on this machine: a Python, a folder. Its
module has

- `NAME`: the engine with its settings, as scores call it, and `check()`: UserError when it lacks something here; starts
  nothing,
- `identity(location) -> EngineIdentity`: what decides its results; UserError with what to type when something is
  missing,
- where they are known: `LIMITS`, sentences on what it does not read, and `characters(location)`, those it can read,
- `processes(cores) -> int`: how many of it run well at the same time,
- `command(location, threads, number) -> list[str]`: the program of process `number`, usually `process.local_command`,
- `load(location, threads, number)`, when that program is `process.local_command`: the function
  (image file, max_tokens) -> recognized lines.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from glmkit.evaluation.named_files import NamedFiles

_FILES = NamedFiles(__name__, "OCR engine")


def names() -> list[str]:
    """List the engines that glmkit has."""
    return _FILES.names()


def resolve(spec: str) -> str:
    """Turn NAME[:LOCATION] into MODULE[:LOCATION]; UserError when there is no such engine."""
    name, colon, location = spec.partition(":")
    return f"{_FILES.module(name)}{colon}{location}"


def find(engine: str) -> tuple[ModuleType, str]:
    """Import the module of MODULE[:LOCATION]; returns it with the location."""
    module, _, location = engine.partition(":")
    return importlib.import_module(module), location
