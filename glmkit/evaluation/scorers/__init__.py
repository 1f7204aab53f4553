"""One file per learned scorer, which gives an image, or an image and its prompt, one number.

`pickscore.py` is the scorer `pickscore`, `--scorer pickscore:LOCATION`. Its module has `ABOUT`, `FIX` (what to type to
get the weights) and `CHECKED` (the package that it needs), and `load(location, device) -> Scorer`; LOCATION is a file
or a folder with the published weights, which users download. All of them prefer images that look pretty, and most read
the first words of a prompt only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.named_files import NamedFiles, find
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.extras import require

__all__ = ["Scorer", "find", "load_scorers", "load_weights", "loading", "names", "resolve"]

_FILES = NamedFiles(__name__, "scorer")
names, resolve = _FILES.names, _FILES.resolve


class Scorer(Protocol):
    """Score one image. `metric` names the score, `definition` says what it is, `identity` what decides it.

    `most_tokens` is how much it reads of a prompt, 0 where it reads none.
    """

    metric: str
    definition: str
    identity: EngineIdentity
    most_tokens: int

    def score(self, image: Image.Image, prompt: str) -> float:
        """Score an image in RGB."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, those that begin and end it included."""
        ...


def load_scorers(resolved: Sequence[str], device: str) -> list[Scorer]:
    """Load the scorers of MODULE:LOCATION; UserError for what is missing."""
    scorers = []
    for spec in resolved:
        module, location = find(spec)
        require(module.CHECKED, "a learned scorer")
        scorers.append(module.load(location, device))
    return scorers


def load_weights(path: Path, fix: str) -> Any:
    """Load a file of tensors, which may hold no code; UserError with `fix` for anything else."""
    import torch

    if not path.is_file():
        raise UserError(f"{path} does not exist", fix=fix)
    with loading(path, fix):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def loading(path: Path, fix: str) -> Iterator[None]:
    """Turn what goes wrong while weights are loaded into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may end in any
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path} does not hold the weights of this scorer", found=first[:200], fix=fix) from error
