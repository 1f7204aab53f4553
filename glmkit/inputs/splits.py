"""Splits and configurations of data sets, kept apart as `datasets` does: by the card, else by the names of files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from glmkit.config.values import parse
from glmkit.errors import UserError
from glmkit.files import read_regular

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
CARD, MAX_CARD_BYTES = "README.md", 2**24
FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
GLOB = re.compile(r"\*\*/|\*\*|.", re.DOTALL)
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


def read_card(folder: Path) -> str:
    """Return the card in a folder, in UTF-8 with the line ends of any system; "" where there is none."""
    card = folder / CARD
    if not card.is_file():
        return ""
    text = read_regular(card, str(card), MAX_CARD_BYTES).decode("utf-8-sig", "replace")
    return text.replace("\r\n", "\n")


def declared(card: str, files: Mapping[Path, PurePath]) -> dict[Key, list[Path]]:
    """Sort files by the `configs` of a data set's card; empty when it declares none, or none of these files.

    Source of the form: https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    found: dict[Key, list[Path]] = {}
    names = {file: path.as_posix() for file, path in files.items()}
    for configuration, split, pattern in _declarations(card):
        start = re.split(r"[*?]", pattern, maxsplit=1)[0]
        matching = [file for file, name in names.items() if name.startswith(start) and _fits(name, pattern)]
        if matching:
            found.setdefault((configuration, SPLITS.get(split.casefold(), split)), []).extend(matching)
    return {key: list(dict.fromkeys(matching)) for key, matching in found.items()}


def _fits(path: str, pattern: str) -> bool:
    """Tell whether a glob matches a path: ** any folders or letters, * and ? letters but for /.

    Keeps all places that the pattern so far may end at: a regular expression of many ** would take for ever.
    """
    ends = {0}
    for part in GLOB.findall(pattern):
        if part == "**/":
            ends |= {place + 1 for place in range(min(ends), len(path)) if path[place] == "/"}
        elif part == "**":
            ends = set(range(min(ends), len(path) + 1))
        elif part == "*":
            for end in sorted(ends):
                while end < len(path) and path[end] != "/" and end + 1 not in ends:
                    end += 1
                    ends.add(end)
        else:
            here = {end: path[end : end + 1] for end in ends}
            ends = {end + 1 for end, letter in here.items() if letter == part or (part == "?" and letter not in "/")}
        if not ends:
            return False
    return len(path) in ends


def _declarations(card: str) -> Iterator[tuple[str, str, str]]:
    """Yield configuration, split and pattern of paths of each declaration that has its form."""
    front = FRONT_MATTER.match(card)
    try:
        values = parse(front[1], CARD, yaml.SafeLoader) if front else None
    except UserError:
        return
    for entry in _list(values.get("configs") if isinstance(values, dict) else None):
        if not isinstance(entry, dict):
            continue
        folder = f"{entry['data_dir']}/" if isinstance(entry.get("data_dir"), str) else ""
        for one in _list(entry.get("data_files", "**" if folder else None)):
            split, paths = (one.get("split", "train"), one.get("path")) if isinstance(one, dict) else ("train", one)
            for path in _list(paths):
                if isinstance(path, str):
                    yield str(entry.get("config_name", "default")), str(split), folder + path.removeprefix("./")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


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
        typed = shlex.quote(f"data.{role}={where if names == [''] else form}")
        fix = typed if names == [""] else f"{typed}, with one of them"
        raise UserError(what, found=shown, fix=fix)
    return {key: files for key, files in found.items() if key[place] == chosen}


def _name(key: Key) -> str:
    return "/".join(part for part in key if part) or "files without a split"
