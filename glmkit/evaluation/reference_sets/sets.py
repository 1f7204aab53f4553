"""Reference sets: images of another model, known by name, as features with their provenance; and distances to them.

A set is a folder of the cache: `manifest.json` (what was read), `prompts.jsonl`, and a folder of features for each
extractor. The images themselves stay where the user has them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit.errors import UserError, unknown
from glmkit.evaluation.features import extractors
from glmkit.evaluation.features.store import COMPLETE, ImageSource, StoredFeatures, extract_features
from glmkit.files import cache_folder, write_jsonl
from glmkit.runs import OtherRun, open_run, read_manifest


@dataclass(frozen=True)
class ReferenceSet:
    """Describe a set, with the folder of each of its complete features."""

    name: str
    folder: Path
    complete: tuple[Path, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Say what was read, and how."""
        settings: Mapping[str, Any] = read_manifest(self.folder)["settings"]
        return settings


def root() -> Path:
    """Name the folder of all sets."""
    return cache_folder() / "references"


def names() -> list[str]:
    """List the sets, unfinished ones too."""
    return sorted(path.parent.name for path in root().glob("*/manifest.json"))


def get(name: str) -> ReferenceSet:
    """Find the set of that name; UserError with the nearest name, or with the command that makes one."""
    known = names()
    if not known:
        raise UserError(
            f"there is no reference set {name!r}", fix=f"glmkit reference add {shlex.quote(name)} --images DIR"
        )
    if name not in known:
        raise unknown("reference set", name, known)
    folder = root() / name
    complete = tuple(sorted(path.parent for path in folder.glob(f"*/{COMPLETE}")))
    return ReferenceSet(name, folder, complete)


def add(
    name: str,
    source: ImageSource,
    about: Mapping[str, Any],
    specs: Sequence[str],
    device: str,
    limit: int | None = None,
) -> ReferenceSet:
    """Make or continue a set: one pass over the source for each extractor that it lacks.

    `about` are JSON values that identify the source; a set of that name with another source is a UserError.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError("the name of a reference set is the name of a folder", found=name, fix="letters, digits, . _ -")
    loaded = [extractors.load(spec, device) for spec in specs]  # what is missing must show before the first image
    folder = root() / name
    try:
        open_run(folder, "reference", {**about, "limit": limit}, device)
    except OtherRun as error:
        fix = f"repeat the command that made it, choose another name, or delete {folder}"
        raise UserError(f"the reference set {name} is made of something else", found=error.found, fix=fix) from error
    for extractor in loaded:
        target = folder / extractors.slug(extractor)
        stored = extract_features(source, extractor, target, unique=True, title=extractor.label, limit=limit)
        _write_prompts(folder / "prompts.jsonl", stored)
    return get(name)


def _write_prompts(path: Path, stored: StoredFeatures) -> None:
    """Write the distinct prompts of a set, to generate them with another model: `glmkit generate --prompts FILE`."""
    prompts = dict.fromkeys(record["prompt"] for record in stored.records() if record["prompt"])
    if prompts:
        write_jsonl(path, ({"id": f"{number:06d}", "prompt": prompt} for number, prompt in enumerate(prompts)))
