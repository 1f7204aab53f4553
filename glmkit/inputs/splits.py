"""Splits and configurations of data sets, kept apart by the names of folders and files as `datasets` does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from glmkit.errors import UserError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
FOREIGN = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
Key = tuple[str, str]  # configuration, split; "" where a name says nothing


def is_foreign(name: str) -> bool:
    """Tell whether systems and programs leave files of this name: hidden ones, previews, copies of open documents."""
    return name.startswith((".", "~$")) or name.casefold() in FOREIGN


def parquet_files(folder: Path) -> dict[Path, PurePath]:
    """Return the parquet files in a folder with their paths below it, but for foreign ones."""
    below = {file: file.relative_to(folder) for file in sorted(folder.rglob("*.parquet"))}
    return {file: path for file, path in below.items() if not any(map(is_foreign, path.parts))}


def groups(files: Mapping[Path, PurePath]) -> dict[Key, list[Path]]:
    """Sort files by configuration and split."""
    found: dict[Key, list[Path]] = {}
    for file, path in files.items():
        found.setdefault(_key(path), []).append(file)
    return found


def folders(candidates: Sequence[Path]) -> dict[Key, list[Path]]:
    """Return the folders that are named as splits are."""
    found: dict[Key, list[Path]] = {}
    for path in candidates:
        if path.name.casefold() in SPLITS:
            found.setdefault(("", SPLITS[path.name.casefold()]), []).append(path)
    return found


def _key(path: PurePath) -> Key:
    shard = SHARD.fullmatch(path.stem)
    words = re.split(r"[^a-z0-9]+|(?<=[a-z])(?=\d)", path.stem.casefold())
    split = next((SPLITS[word] for word in words if word in SPLITS), "")
    if shard and SPLITS.get(shard[1]) is None:
        split = shard[1]  # a name of its own, such as train_sft
    configuration = []
    for part in path.parts[:-1]:
        if part.casefold() in SPLITS and not split:
            split = SPLITS[part.casefold()]
        elif part != "data" and part.casefold() not in SPLITS:
            configuration.append(part)
    if not split and configuration and path.stem.isdigit():  # CONFIGURATION/SPLIT/0000, as the hub converts
        split = configuration.pop()
    return "/".join(configuration), split


def choose(
    found: Mapping[Key, list[Path]],
    configuration: str | None,
    split: str | None,
    role: str,
    where: str,
    notes: list[str],
) -> list[Path]:
    """Return the files of one configuration and one split, and note what else there is.

    Without a choice the configuration `default` and the split of the `role` are taken, or the only one. UserError where
    that leaves none or several.
    """
    left = _one(found, 0, configuration, "default", where, role)
    left = _one(left, 1, SPLITS.get(split or "", split), role, where, role)
    ((key, files),) = left.items()
    if len(found) > 1:
        others = ", ".join(_name(other) for other in sorted(found) if other != key)
        notes.append(f"{where}: {_name(key)} is taken; not taken: {others}")
    return files


def _one(
    found: Mapping[Key, list[Path]], place: int, wanted: str | None, default: str, where: str, role: str
) -> dict[Key, list[Path]]:
    names = sorted({key[place] for key in found})
    chosen = wanted if wanted is not None else default if default in names else names[0] if len(names) == 1 else None
    if chosen not in names:
        kind = ("configuration", "split")[place]
        form = (f"{where}/CONFIGURATION:SPLIT", f"{where}:SPLIT")[place]
        what = f"{where} has no {kind} {wanted}" if wanted is not None else f"{where} holds more than one {kind}"
        shown = ", ".join(name or "files without one" for name in names)
        raise UserError(what, found=shown, fix=f"data.{role}={form}, with one of them")
    return {key: files for key, files in found.items() if key[place] == chosen}


def _name(key: Key) -> str:
    return "/".join(part for part in key if part) or "files without a split"
