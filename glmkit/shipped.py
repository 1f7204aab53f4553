"""The files that come with glmkit: nano, the small CLIP, data sets, recipes, prompts, and published scores.

They lie in `data/`, `recipes/` and `benchmarks/` of the repository; the build copies them into the wheel as
`glmkit/share/` (see pyproject.toml).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import glmkit
from glmkit.errors import UserError, nearest, note_once, unknown

_PACKAGE = Path(glmkit.__file__).parent
ROOT = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent
FOLDERS = ("benchmarks", "data", "recipes")  # a wheel has these alone


def find(path: str | Path) -> str:
    """Return `path`, or the shipped file or folder of that name, such as data/posters, where `path` does not exist.

    Data that are taken so are named on stderr, once.
    """
    parts = Path(path).parts
    is_name = parts[:1] in [(folder,) for folder in FOLDERS] and ".." not in parts
    # A Path raises for a name that is too long.
    if not is_name or os.path.exists(path) or not os.path.exists(ROOT / path):
        return str(path)
    if parts[0] == "data":
        note_once(f"{path} is not in this folder: that of glmkit is read, {ROOT / path}")
    return str(ROOT / path)


def did_you_mean(path: str | Path, otherwise: str) -> str:
    """Return what to type for a path that leads nowhere: the nearest one, in a folder or shipped; else `otherwise`."""
    wanted = Path(path).expanduser()
    with suppress(OSError, ValueError):  # a folder without rights, a name that no file can have
        if wanted.exists():
            return otherwise
        for root in (Path(), ROOT) if {*wanted.parts[:1]} & {*FOLDERS} else (Path(),):
            if near := _nearest(root, wanted):
                return f"did you mean {near if root == Path() else near.relative_to(root)}? Otherwise {otherwise}"
    return otherwise


def _nearest(root: Path, wanted: Path) -> Path | None:
    """Follow a path from `root`, by the nearest folder, or file of the same kind, where a name is not there."""
    found = root
    for part in wanted.parts:
        if not (found / part).exists():
            entries = [one for one in found.iterdir() if one.is_dir() or one.suffix == wanted.suffix != ""]
            guess = nearest(part, sorted(one.name for one in entries))
            if guess is None:
                return None
            part = guess
        found /= part
    return found


def recipes() -> dict[str, Path]:
    """Return the shipped recipes by name: `poster_lora` is for GLM-Image, `nano/poster_lora` for nano."""
    folder = ROOT / "recipes"
    files = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("nano/*.yaml"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def recipe(name: str | Path) -> Path:
    """Return the file of a recipe: its path, or that of the shipped recipe of this name."""
    path = Path(find(name))
    return path if path.exists() else recipes().get(str(name), path)


def copy_recipe(name: str, data: Iterable[str], folder: Path) -> list[Path]:
    """Copy a shipped recipe and those of its `data` that are shipped, too, into `folder`; returns what is new there.

    The copy names the copies, as paths from here: the shipped data set of the same name would be read in their place.
    UserError when there is no such recipe, or when something of that name is in `folder` already.
    """
    if name not in recipes():
        raise unknown("recipe", name, recipes())
    original = recipes()[name]
    copies = {folder / original.name: original}
    copies |= {folder / path: ROOT / path for path in data if (ROOT / path).exists()}
    for target in copies:
        if target.exists():
            raise UserError(f"{target} is there already", fix=f"glmkit recipe copy {name} ANOTHER_FOLDER")
    for target, source in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if source == original:
            _copy_text(source, target, {path.relative_to(ROOT).as_posix(): copy for copy, path in copies.items()})
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    return list(copies)


def _copy_text(source: Path, target: Path, renamed: dict[str, Path]) -> None:
    """Copy a recipe with other paths in it, in YAML's quotes where they are more than letters, digits and `_./-`."""
    names = {path: copy.as_posix() for path, copy in renamed.items()}
    quoted = {
        path: name if re.fullmatch(r"[\w./-]+", name) else json.dumps(name, ensure_ascii=False)
        for path, name in names.items()
    }
    text = re.sub("|".join(map(re.escape, quoted)), lambda found: quoted[found[0]], source.read_text(encoding="utf-8"))
    target.write_text(text, encoding="utf-8")
