"""What a model generates when nothing is said: `glmkit.json` in its folder, else the public checkpoint's defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from glmkit import errors
from glmkit.config import parse_size
from glmkit.errors import UserError
from glmkit.models.checkpoint.configs import read_config

FILE = "glmkit.json"
EXAMPLE = {"defaults": {"size": "256x256", "steps": 20, "guidance": 2.5}}


@dataclass(frozen=True)
class Defaults:
    """Hold size in pixels, decoder steps and guidance; the values here are those of the public model's README."""

    height: int = 1024
    width: int = 1024
    steps: int = 30
    guidance: float = 1.5


def load(folder: Path) -> Defaults:
    """Read the defaults of a model folder; `glmkit.json` holds keys as EXAMPLE does."""
    path = folder / FILE
    if not path.exists():
        return Defaults()
    stored = dict(read_config(path, EXAMPLE).get("defaults") or {})
    known = {field.name for field in fields(Defaults)} - {"height", "width"} | {"size"}
    for key in stored:
        if key not in known:
            raise errors.unknown(f"default in {path}", key, known)
    if "size" in stored:
        try:
            stored["height"], stored["width"] = parse_size(str(stored.pop("size")))
        except UserError as error:
            raise UserError(f"{path}: {error.what}", found=error.found, fix='"size": "256x256"') from error
    return replace(Defaults(), **stored)
