"""What a model generates when nothing is said: `glmkit.json` in its folder, else the public checkpoint's defaults.

How prior tokens are sampled stands where transformers reads it, in the generation config of the autoregressive model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from glmkit import errors
from glmkit.errors import UserError
from glmkit.models.checkpoint.configs import read_config
from glmkit.records import SAMPLING
from glmkit.sizes import parse_size

FILE = "glmkit.json"
GENERATION_CONFIG = Path("vision_language_encoder", "generation_config.json")
EXAMPLE = {"defaults": {"size": "256x256", "steps": 20, "guidance": 2.5}}


@dataclass(frozen=True)
class Defaults:
    """Hold size in pixels, decoder steps, guidance, and how tokens are sampled; the values are the public model's."""

    height: int = 1024
    width: int = 1024
    steps: int = 30
    guidance: float = 1.5
    temperature: float = SAMPLING["temperature"]
    top_p: float = SAMPLING["top_p"]
    top_k: int = SAMPLING["top_k"]

    @property
    def sampling(self) -> dict[str, Any]:
        """Return those values that a `Request` calls the same."""
        return {name: getattr(self, name) for name in SAMPLING}


def load(folder: Path) -> Defaults:
    """Read the defaults of a model folder; `glmkit.json` holds keys as EXAMPLE does."""
    sampling = _sampling(folder / GENERATION_CONFIG)
    path = folder / FILE
    if not path.exists():
        return Defaults(**sampling)
    stored = dict(read_config(path, EXAMPLE).get("defaults") or {})
    known = {field.name for field in fields(Defaults)} - {"height", "width", *SAMPLING} | {"size"}
    for key in stored:
        if key not in known:
            raise errors.unknown(f"default in {path}", key, known)
    if "size" in stored:
        try:
            stored["height"], stored["width"] = parse_size(str(stored.pop("size")))
        except UserError as error:
            raise UserError(f"{path}: {error.what}", found=error.found, fix='"size": "256x256"') from error
    return replace(Defaults(), **stored, **sampling)


def _sampling(path: Path) -> dict[str, Any]:
    """Read the values of SAMPLING that a generation config gives; without sampling the likeliest token is taken."""
    if not path.exists():
        return {}
    stored = read_config(path, {"do_sample": True, **SAMPLING})
    given = {name: stored[name] for name in SAMPLING if stored.get(name) is not None}
    return {**given, "top_k": 1} if stored.get("do_sample") is False else given
