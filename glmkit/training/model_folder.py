"""The model folder that full training writes into: made by the run, or by a pretraining; never a base model.

A file in it names its maker. A model that anybody else put there stays as it is.
"""

from __future__ import annotations

from pathlib import Path

from glmkit.errors import UserError
from glmkit.files import atomic_folder, write_json
from glmkit.hashing import MADE_BY, json_sha256
from glmkit.models import checkpoint
from glmkit.models.checkpoint.configs import read_config
from glmkit.runs import read_manifest

PRETRAINING = "pretraining"  # whose recipes share one folder


def run_id(run: Path) -> str:
    """Return the name of a run by the content of its manifest."""
    manifest = read_manifest(run)
    return json_sha256([manifest[key] for key in ("kind", "settings", "started")])[:16]


def claim(folder: Path, maker: str) -> None:
    """Say in a new folder who made it: a run (its `run_id`) or PRETRAINING."""
    write_json(folder / MADE_BY, {"run": maker})


def check_ours(folder: Path, run: Path) -> None:
    """Raise UserError when neither this run nor a pretraining made the folder."""
    path = folder / MADE_BY
    maker = read_config(path, {"run": ""}).get("run") if path.exists() else None
    if maker not in (PRETRAINING, run_id(run)):
        raise UserError(
            f"{folder} was not made by this run, so nothing is written into it",
            found="a model of another run" if maker else "a model that was there before",
            fix="output=NEW_FOLDER (for pretraining, save=NEW_FOLDER)",
        )


def writable_copy(base: Path, target: Path, run: Path, maker: str | None = None) -> Path:
    """Return `target`, which starts as a copy of the model folder `base` and goes on as what the run made of it.

    `maker` of a new copy is the run, if not said otherwise. UserError when there is a model that is not ours.
    """
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()  # Windows renames no folder onto another, also if that is empty
        with atomic_folder(target) as unfinished:
            checkpoint.copy(base, unfinished)
            claim(unfinished, maker or run_id(run))
    check_ours(target, run)
    return target
