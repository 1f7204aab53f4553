"""One file an OCR engine; `cvtg_paddleocr.py` is the engine `cvtg-paddleocr`.

An engine is named NAME or NAME:WHERE, where WHERE is a place on this machine that it needs. Its module has

- `READER`: what its readings are called, and `check()`: UserError when it lacks something here; starts nothing,
- `identity(where) -> Identity`: what decides its readings; UserError with what to type when something is missing,
- `processes(cores) -> int`: how many of it run well at the same time,
- `command(where, threads, number) -> list[str]`: the program of process `number`, usually `reading.here`,
- `load(where, threads, number)`, when that program is `reading.here`: the function (image file, tokens) -> lines.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from glmkit.errors import unknown


def names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def named(spec: str) -> str:
    """NAME[:WHERE] with the module in the place of the name; UserError when there is no such engine."""
    name, colon, where = spec.partition(":")
    if name not in names():
        raise unknown("OCR engine", name, names())
    return f"{__name__}.{name.replace('-', '_')}{colon}{where}"


def find(engine: str) -> tuple[ModuleType, str]:
    """The module and the place of MODULE[:WHERE]."""
    module, _, where = engine.partition(":")
    return importlib.import_module(module), where
