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

from glmkit.evaluation.named_files import NamedFiles, find

__all__ = ["find", "names", "resolve"]

_FILES = NamedFiles(__name__, "judge")
names, resolve = _FILES.names, _FILES.resolve
