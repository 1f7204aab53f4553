"""glmkit: run, fine-tune, evaluate and compare GLM-Image models.

    import glmkit
    model = glmkit.load("nano")
    image = model.generate('A poster that says "OPEN"', seed=0)

The names below are imported when they are first used, so that `import glmkit` is quick and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmkit.api import (
        Evaluation,
        FinetuneRun,
        GeneratedImage,
        Model,
        Sweep,
        evaluate,
        finetune,
        load,
        report,
        sweep,
    )
    from glmkit.errors import GenerationError, UserError

__version__ = "0.2.0"
__all__ = [
    "Evaluation",
    "FinetuneRun",
    "GeneratedImage",
    "GenerationError",
    "Model",
    "Sweep",
    "UserError",
    "evaluate",
    "finetune",
    "load",
    "report",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'glmkit' has no attribute {name!r}")
    module = importlib.import_module("glmkit.errors" if name.endswith("Error") else "glmkit.api")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
