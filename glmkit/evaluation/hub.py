"""Repositories of the hub: those that are on this machine, and those that are downloaded."""

from __future__ import annotations

from pathlib import Path

from glmkit.errors import UserError

WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def cached_repository(hub_id: str) -> Path:
    """Find the cached folder of a repository with its weights; UserError with the command that downloads it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        folder = None
    if folder is None or not any(file for pattern in WEIGHTS for file in folder.rglob(pattern)):
        raise UserError(f"{hub_id} is not on this machine", fix=f"hf download {hub_id} (or its first use downloads it)")
    return folder


def model_folder(name: str, fix: str) -> Path:
    """Return the folder `name`, or that of a hub id, which is downloaded; UserError with `fix` for neither."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = f"{name} is neither a folder nor a hub id that can be fetched"
        raise UserError(what, found=str(error).splitlines()[0], fix=fix) from error
