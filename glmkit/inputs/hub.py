"""Data sets of the hub: one split of one configuration, as parquet files."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from glmkit.errors import UserError
from glmkit.inputs import splits

# OWNER/NAME[/CONFIGURATION]:SPLIT; no drive of Windows
HUB_DATASET = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<configuration>[^:\\]+))?:(?P<split>[^/:\\]+)")
CONVERTED = "refs/convert/parquet"  # the branch with parquet files that the hub makes of other formats


def fetch(location: str, role: str) -> tuple[list[Path], list[str]]:
    """Download the parquet files of a split; returns them, and notes of what was chosen."""
    from huggingface_hub import snapshot_download

    match = HUB_DATASET.fullmatch(location)
    assert match is not None
    name, notes = match["name"], list[str]()
    try:
        revision, files = _listed(name)
        chosen = splits.choose(
            splits.groups({Path(file): PurePosixPath(file) for file in files}),
            match["configuration"],
            match["split"],
            role,
            name,
            notes,
        )
        patterns = [path.as_posix() for path in chosen]
        folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:  # the hub's client and the one below it raise errors of their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = "check the name; a folder of your own needs a path that exists"
        raise UserError(f"cannot get dataset {name} from the hub", found=reason, fix=fix) from error
    return [folder / path for path in patterns], notes


def _listed(name: str) -> tuple[str | None, list[str]]:
    """Return the revision with parquet files, and these; without a connection, those that were downloaded before."""
    from huggingface_hub import HfApi, snapshot_download

    for revision in (None, CONVERTED):
        try:
            files = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        except Exception as error:
            try:
                folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
            except Exception:
                if revision is None:
                    raise error from None
                break
            files = [path.as_posix() for path in splits.parquet_files(folder).values()]
        if found := sorted(file for file in files if file.endswith(".parquet")):
            return revision, found
    raise UserError(f"dataset {name} has no parquet files", fix="download it, and give its folder")
