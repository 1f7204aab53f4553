"""One file per OCR engine; `cvtg_paddleocr.py` is the engine `cvtg-paddleocr`.

An engine is named NAME or NAME:LOCATION, where LOCATION is what it needs on this machine, a Python or a folder, or how
it reads. Its module has

- `NAME`: the engine with its settings, as scores call it, and `check()`: UserError when it lacks something here; starts
  nothing,
- `identity(location) -> EngineIdentity`: what decides its results; UserError with what to type when something is
  missing,
- where they are known: `limits(location)`, sentences on what it does not read, and `characters(location)`, those it
  can read,
- `processes(cores) -> int`: how many of it run well at the same time,
- `command(location, threads, number) -> list[str]`: the program of process `number`, usually `process.local_command`,
- `load(location, threads, number)`, when that program is `process.local_command`: the function
  (image file, max_tokens) -> recognized lines.
"""

from __future__ import annotations

from glmkit.evaluation.named_files import NamedFiles, find

__all__ = ["find", "names", "resolve"]

_FILES = NamedFiles(__name__, "OCR engine")
names, resolve = _FILES.names, _FILES.resolve
