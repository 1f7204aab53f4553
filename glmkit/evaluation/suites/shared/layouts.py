"""Which image file belongs to which prompt: our own file names, and those of public benchmarks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glmkit.errors import UserError
from glmkit.inputs.images import IMAGE_SUFFIXES
from glmkit.records import Prompt
from glmkit.text import some

MAX_DEPTH = 4  # folders around a benchmark's own


@dataclass(frozen=True)
class GridTile:
    """Point at one image of a grid of equal images in one file; row and column count from 0 at the top left.

    `jpeg`: the benchmark saves it as JPEG before it looks at it.
    """

    path: Path
    row: int
    column: int
    rows: int = 2
    columns: int = 2
    jpeg: bool = True


ImageFiles = Mapping[tuple[str, int], Path | GridTile]  # (prompt id, seed) -> image


def nested(folder: Path) -> Iterator[list[Path]]:
    """Yield the folder, the folders in it, the folders in those: archives and clones have their own folders around."""
    level = [folder]
    for _ in range(MAX_DEPTH):
        yield level
        level = [path for parent in level for path in _folders_in(parent)]


def _folders_in(folder: Path) -> list[Path]:
    with suppress(OSError):  # one that may not be read
        return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_dir())
    return []


def only(folders: Sequence[Path], holding: str) -> Path:
    """Return the one folder; UserError for several, of which the user must name one."""
    if len(folders) > 1:
        found = ", ".join(map(str, folders))
        raise UserError(f"several folders hold {holding}", found=found, fix=f"name one of them, such as {folders[0]}")
    return folders[0]


def by_name(
    images: Path, prompts: Sequence[Prompt], prefix: str = "", separator: str = "_"
) -> dict[tuple[str, int], Path | GridTile]:
    """Find `<prompt id>_<seed>.png`; a name without a seed is seed 0. UserError when a seed has two images.

    `prefix` is what ids have before the names of files, `separator` what stands before the seed. A name that is none
    as it stands may have other letters of the kind that `PromptNames.find_alike` takes for the same.
    """
    known = PromptNames(prompt.id for prompt in prompts)
    files: dict[tuple[str, int], Path | GridTile] = {}
    for path in image_files(images):
        match = re.fullmatch(rf"(.+){separator}(\d+)", path.stem)
        for find in (known.find, known.find_alike):
            if name := find(prefix + path.stem):
                add(files, (name, 0), path)
            elif match and (name := find(prefix + match[1])):
                add(files, (name, int(match[2])), path)
            if name:
                break
    return files


def grids_by_name(
    folder: Path, prompts: Sequence[Prompt], prefix: str = "", *, jpeg: bool = True
) -> dict[tuple[str, int], Path | GridTile]:
    """Find grids of four named after the prompt, and single images whose names hold a seed, too.

    UserError when a prompt has both. `prefix` is that of `by_name`.
    """
    found = by_name(folder, prompts, prefix)
    known = PromptNames(prompt.id for prompt in prompts)
    names = {path: prefix + file_of(path).stem for path in found.values()}
    grids = {
        name: path
        for (name, _), path in found.items()
        if name in (known.find(names[path]), known.find_alike(names[path]))
    }
    files: dict[tuple[str, int], Path | GridTile] = {}
    for (name, seed), path in found.items():
        if name not in grids:
            files[name, seed] = path
        elif path is not grids[name]:
            raise UserError(f"{folder} holds a grid and single images of {name!r}", fix="keep one of the two")
        else:
            files |= {(name, tile): GridTile(file_of(path), *divmod(tile, 2), jpeg=jpeg) for tile in range(4)}
    return files


def grids_by_class(
    folder: Path, prompts: Sequence[Prompt], classes: Iterable[str]
) -> dict[tuple[str, int], Path | GridTile]:
    """Find grids in the folders of OneIG-Bench's classes, those of one model, or images named after prompt ids."""
    files = grids_by_name(folder, prompts)
    for name in classes:
        of_models = [folder / name, *sorted(path for path in (folder / name).glob("*") if path.is_dir())]
        found = [images for path in of_models if (images := grids_by_name(path, prompts, f"{name}-"))]
        if len(found) > 1:
            raise UserError(f"{folder / name} holds images of several models", fix="name a folder that holds one")
        files |= found[0] if found else {}
    return files


def image_files(folder: Path) -> list[Path]:
    """List the images in a folder by their names, without what macOS leaves beside them."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")


class PromptNames:
    """Find the prompt that a file is named after; 7 and 0007 are one name unless both are prompts."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = set(ids)
        self._short, self._alike = self._by(_without_zeros), self._by(_plain)

    def _by(self, form: Callable[[str], str]) -> dict[str, str]:
        """Map forms of ids to the ids, without those that several ids share."""
        counts = Counter(map(form, self._ids))
        return {form(name): name for name in self._ids if counts[form(name)] == 1}

    def find(self, name: str) -> str | None:
        """Return the id of the prompt, or None."""
        return name if name in self._ids else self._short.get(_without_zeros(name))

    def find_alike(self, name: str) -> str | None:
        """Return the id that differs at most in case, in how accents are stored, and in '-', '_' or a space; or None.

        File systems and other programs change these: `Simple_002.WEBP` is the image of simple-002.
        """
        return self._alike.get(_plain(name))


def _plain(name: str) -> str:
    return _without_zeros(re.sub(r"[-_\s]+", "-", unicodedata.normalize("NFC", name).casefold()))


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d+$)", "", name)


def add(files: dict[tuple[str, int], Path | GridTile], key: tuple[str, int], path: Path) -> None:
    """Add the image of a prompt and seed; UserError when there is one already."""
    if key in files:
        names = f"{file_of(files[key]).name} and {path.name}"
        raise UserError(f"{path.parent} holds two images of {key[0]!r} with seed {key[1]}", found=names, fix="keep one")
    files[key] = path


def file_of(image: Path | GridTile) -> Path:
    """Give the file that holds an image."""
    return image.path if isinstance(image, GridTile) else image


def no_image(images: Path, names: str) -> UserError:
    """Make the error for a folder without an image of the suite; `names` shows how they should be called."""
    present = image_files(images) or sorted(images.iterdir())
    found = some([path.name for path in present]) or "an empty folder"
    return UserError(
        f"no image in {images} is named after a prompt of the suite", found=found, fix=f"names like {names}"
    )
