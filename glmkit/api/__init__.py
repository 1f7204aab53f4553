"""The Python API: load a model, generate and edit images, fine-tune, evaluate, report, sweep.

The commands are layers over it.

`glmkit` itself imports each name when it is first used, so that `import glmkit` loads neither torch nor this package.
"""

from glmkit.api.evaluation import Evaluation, evaluate, report
from glmkit.api.model import GeneratedImage, Model, load
from glmkit.api.sweeps import Sweep, sweep
from glmkit.api.training import FinetuneRun, finetune

__all__ = [
    "Evaluation",
    "FinetuneRun",
    "GeneratedImage",
    "Model",
    "Sweep",
    "evaluate",
    "finetune",
    "load",
    "report",
    "sweep",
]
