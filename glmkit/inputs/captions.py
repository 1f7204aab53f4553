"""One image with its captions, made of what a record, a row of a table or two files say."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.inputs.boxes import Box, read_boxes
from glmkit.inputs.images import IMAGE_SUFFIXES
from glmkit.inputs.tables import TableImage
from glmkit.text import check_text

# What others call the columns whose names a recipe leaves to their defaults.
CAPTION_NAMES = ("caption", "captions", "prompt", "prompts", "description")
FILE_NAMES = (
    *("file_name", "file", "filename", "image", "image_path", "path", "img"),
    *("chosen_file_name", "chosen"),  # of pairs
)
IMAGE_NAMES = ("img", "picture", "photo", "png", "jpg", "jpeg", "webp", "image_bytes", "file_name", "chosen")
REJECTED_NAMES = ("rejected_file_name",)


@dataclass(frozen=True)
class CaptionedImage:
    """One image and what is said of it. `name` is how errors call it.

    Of several `captions` each epoch shows one. `texts` are those that the glyph encoder reads, None: those in quotes.
    `condition_images`: those that the caption, an instruction, changes into this one. `boxes` or `mask` (white on
    text) tell where text stands. `rejected`: the worse image of a pair. `repeats`: how often its folder says that an
    epoch shows it. `error` says why it cannot be used.
    """

    name: str
    image: Path | TableImage = Path()
    captions: tuple[str, ...] = ()
    texts: tuple[str, ...] | None = None
    condition_images: tuple[Path | TableImage, ...] = ()
    boxes: tuple[Box, ...] | None = None
    mask: Path | TableImage | None = None
    rejected: Path | TableImage | None = None
    repeats: int = 1
    error: UserError | None = None


class Names:
    """Finds the files that a record names, however their letters are composed or capitalised on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path:
        """Return the path of a file that exists, or else the one that was named."""
        path = self.folder / name
        if os.path.exists(path):
            return path
        start, *parts = (self.folder / name.replace("\\", "/")).parts or ("",)
        found = Path(start)
        if not os.path.exists(found):
            found, parts = Path(), [start, *parts]
        for part in parts:
            if os.path.exists(found / part):
                found = found / part
            elif len(entries := self._listing(found).get(same_name(part), [])) == 1:
                found = found / entries[0]
            else:
                return path
        return found

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._entries:
            entries: dict[str, list[str]] = {}
            for entry in os.listdir(folder) if folder.is_dir() else ():
                entries.setdefault(same_name(entry), []).append(entry)
            self._entries[folder] = entries
        return self._entries[folder]


def same_name(name: str) -> str:
    """Return what names have in common that differ in capitals, or in how accents are composed (NFC, NFD)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def by_file_name(records: list[dict[str, Any]], names: Names) -> list[dict[str, Any]]:
    """Return a record per image where the only one has images as its keys: {"a.png": "a red sign"}.

    Kohya's scripts write their names without suffixes.
    """
    if len(records) != 1 or not records[0]:
        return records
    images = [path for path in names.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    files = {path.stem: path.name for path in images} | {
        name: name for name in records[0] if Path(name).suffix.lower() in IMAGE_SUFFIXES
    }
    missing = [name for name in records[0] if not os.path.exists(names.find(files.get(name, name)))]
    if len(missing) == len(records[0]) or any(name not in files for name in missing):
        return records
    return [
        {"file_name": files.get(name, name), **(value if isinstance(value, dict) else {"text": value})}
        for name, value in records[0].items()
    ]


def column(wanted: str, default: str, others: Sequence[str], known: list[str], where: str, key: str) -> str:
    """Return the column to read: the wanted one or, where that is the default, the only one with another known name.

    Names with capitals are read where there is none without. UserError when there is none, or several.
    """
    candidates = [wanted] if wanted in known else [name for name in others if name in known and wanted == default]
    if not candidates and wanted == default:
        candidates = [name for name in known if name.lower() in (default, *others)]
    if len(candidates) == 1 and known.count(candidates[0]) == 1:
        return candidates[0]
    fix = shlex.quote(f"data.columns.{key}={candidates[0] if candidates else 'NAME'}")
    raise UserError(f"{where} has no column {wanted}", found=f"columns {', '.join(known)}", fix=fix)


def captions_of(value: Any, name: str) -> tuple[str, ...]:
    """Return the captions in a cell: a text, or a list of texts; UserError for anything else, and for none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if wrong := [one for one in values if not isinstance(one, str) and one is not None]:
        found = f"{type(wrong[0]).__name__} {wrong[0]!r:.80}"
        raise UserError(f"the caption of {name} is no text", found=found, fix="a text, or a list of texts")
    texts = [one for one in values if one and one.strip()]
    for text in texts or [""]:
        check_text(text, f"the caption of {name}")
    return tuple(dict.fromkeys(texts))


def texts_of(value: Any, name: str) -> tuple[str, ...] | None:
    """Return the texts that an image is said to show; None where nothing is said."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(
            f"the texts of {name} are no list of texts",
            found=f"{value!r:.80}",
            fix='"texts": ["OPEN"], or data.columns.texts=NAME',
        )
    for text in value:
        check_text(text, f"a text of {name}")
    return tuple(value)


def from_values(
    name: str,
    image: Path | TableImage,
    values: Mapping[str, Any],
    caption: str,
    columns: Columns,
    others: Mapping[str, Sequence[Path | TableImage]],
) -> CaptionedImage:
    """Make the image of a record or a row; whatever is wrong with it is its `error`.

    `caption` is the column of captions, `others` holds condition images, the mask and the rejected image by their
    columns.
    """
    masks, conditions = others.get(columns.mask, ()), tuple(others.get(columns.condition_image, ()))
    rejected = others.get(columns.rejected, ())
    try:
        if image in rejected:
            raise UserError(f"the better and the rejected image of {name} are one", fix="two images, or no pair")
        if len(masks) > 1:
            raise UserError(f"{name} has several masks", fix="one mask, white on all texts")
        if len(rejected) > 1:
            raise UserError(f"{name} has several rejected images", fix="a record for each of them")
        return checked(
            CaptionedImage(
                name,
                image,
                captions_of(values.get(caption), name),
                texts_of(values.get(columns.texts), name),
                conditions,
                read_boxes(values.get(columns.boxes), name),
                masks[0] if masks else None,
                rejected[0] if rejected else None,
            )
        )
    except UserError as error:
        return CaptionedImage(name, error=error)


def checked(image: CaptionedImage) -> CaptionedImage:
    """Set the error of an image whose file is not there."""
    if isinstance(image.image, Path) and not os.path.exists(image.image):
        error = UserError(f"the caption of {image.image.name} has no image", found=f"{image.image} does not exist")
        return replace(image, error=error)
    return image
