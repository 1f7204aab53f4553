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
        parquet = {Path(file): PurePosixPath(file) for file in files if file.endswith(".parquet")}
        declared = splits.declared(_card(name), parquet) if revision is None and splits.CARD in files else None
        chosen = splits.choose(
            declared or splits.groups(parquet),
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


def _card(name: str) -> str:
    """Download the card of a data set."""
    from huggingface_hub import snapshot_download

    return splits.read_card(Path(snapshot_download(name, repo_type="dataset", allow_patterns=[splits.CARD])))


def _listed(name: str) -> tuple[str | None, list[str]]:
    """Return the revision with parquet files, and its files; without a connection, those downloaded before."""
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
            files += [splits.CARD] * (folder / splits.CARD).is_file()
        if any(file.endswith(".parquet") for file in files):
            return revision, sorted(files)
    raise UserError(f"dataset {name} has no parquet files", fix="download it, and give its folder")
