"""Images with captions where people have them: folders of many layouts, tables, and data sets of the hub.

Images are opened later, one by one. What cannot be read at all is a UserError; a record or a row that cannot be used
comes with its error; what was chosen or passed over is a note for the report.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmkit import shipped
from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.files import exists, read_text
from glmkit.inputs import splits
from glmkit.inputs.captions import (
    CAPTION_NAMES,
    FILE_NAMES,
    IMAGE_NAMES,
    REJECTED_NAMES,
    CaptionedImage,
    Names,
    by_file_name,
    captions_of,
    checked,
    column,
    from_values,
    same_name,
)
from glmkit.inputs.hub import HUB_DATASET, fetch
from glmkit.inputs.images import IMAGE_SUFFIXES
from glmkit.inputs.records import read_records
from glmkit.inputs.tables import (
    RecordImage,
    TableImage,
    arrow_columns,
    arrow_rows,
    image_in_cell,
    is_base64_image,
    parquet_columns,
    parquet_rows,
)
from glmkit.text import some

METADATA = ("metadata.jsonl", "metadata.json", "metadata.csv", "metadata.tsv")
RECORDS = (".jsonl", ".json", ".csv", ".tsv")
CAPTION_SUFFIXES = (".txt", ".caption")
OF_DATASETS = (*IMAGE_SUFFIXES, *RECORDS, *CAPTION_SUFFIXES, ".parquet", ".arrow", ".md", ".yaml", ".yml")
PHOTOS = (".heic", ".heif")  # images of cameras that cannot be read, and are not passed over either
REPEATED = re.compile(r"(\d+)_(.+)")  # kohya's folders: how often an epoch shows their images, and what they are
PICK_A_PIC = ("jpg_0", "jpg_1", "label_0")  # two images of a caption, and whether the first is preferred: 1, 0, 0.5
MAX_CAPTION_BYTES = 2**20


@dataclass(frozen=True)
class Found:
    """Hold what a location has, and what its reader noticed."""

    images: tuple[CaptionedImage, ...]
    notes: tuple[str, ...] = ()


def read_captioned_images(location: str, columns: Columns, role: str = "train") -> Found:
    """Read a folder or one split of it (`FOLDER:SPLIT`), a table, or a data set of the hub (`OWNER/NAME:SPLIT`).

    Of several splits and no choice, that named as the `role` is taken, train or validation. UserError where nothing is
    found, or where a choice is left.
    """
    reader = _Reader(columns, role)
    try:
        images = tuple(reader.location(location))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"{location[:200]} cannot be read", found=error, fix="check the path") from error
    if not images:
        fix = f"put images and a {METADATA[0]} (file_name, text) there, or a .txt file beside each; unpack archives"
        raise UserError(f"no images in {location}", found="; ".join(dict.fromkeys(reader.notes)) or None, fix=fix)
    return Found(images, tuple(dict.fromkeys(reader.notes)))


class _Reader:
    """Reads whatever layout is there; `notes` tell what was chosen and what was passed over."""

    def __init__(self, columns: Columns, role: str) -> None:
        self.columns, self.role = columns, role
        self.notes: list[str] = []
        self._seen: set[Path] = set()
        self._tables: list[Path] = []  # that stand beside images, and have no name that says what they are

    def location(self, location: str) -> Iterator[CaptionedImage]:
        """Read what a recipe names."""
        path, split = Path(shipped.find(location)).expanduser(), None
        before, _, after = location.rpartition(":")
        if not exists(path) and before and Path(shipped.find(before)).expanduser().is_dir():
            path, split = Path(shipped.find(before)).expanduser(), after
        elif not exists(path) and (parent := Path(before).expanduser().parent).is_dir():
            of_card = self._declared(parent)
            if any(configuration == Path(before).name for configuration, _ in of_card):
                return self.parquet(
                    splits.choose(of_card, Path(before).name, after, self.role, str(parent), self.notes)
                )
        if path.is_dir():
            return self.folder(path, split)
        if path.suffix == ".parquet":
            return self.parquet([path] if path.exists() else sorted(path.parent.glob(path.name)))
        if path.suffix in RECORDS and path.exists():
            return self.records(path)
        if path.exists():
            kinds = ", ".join((*RECORDS, ".parquet"))
            fix = f"a folder, or a table ({kinds}); unpack an archive first"
            if path.suffix == ".toml":
                fix = f"data.{self.role}=FOLDER, with the image_dir that this file names"
            raise UserError(f"{location} is no data set", fix=fix)
        if HUB_DATASET.fullmatch(location):
            files, notes = fetch(location, self.role)
            self.notes += notes
            return self.parquet(files)
        fix = "data.train=FOLDER data.validation=FOLDER"
        if self.role == "validation":
            fix = "data.validation=FOLDER, or data.validation=0.1 to keep a tenth of the training images back"
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", location):
            fix = f"data.train={location}:train for a data set of the hub"
        raise UserError(f"image folder {location} does not exist", fix=shipped.did_you_mean(location, fix))

    def folder(self, folder: Path, split: str | None = None) -> Iterator[CaptionedImage]:
        """Read a folder of any layout; its own metadata and images come before those of its sub-folders."""
        self._seen.add(folder.resolve())
        entries = self._entries(folder)
        tables = [folder / name for name in METADATA if (folder / name) in entries]
        images = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES]
        folders = [path for path in entries if path.is_dir()]
        if not tables:
            images += [path for path in entries if path.suffix.lower() in PHOTOS and _is_alone(path, images)]
        unknown = [path.name for path in entries if path.is_file() and path.suffix.lower() not in OF_DATASETS]
        unknown = [name for name in unknown if folder / name not in images]
        if unknown and (images or tables or not folders):
            self.notes.append(f"neither images nor captions in {folder}: {some(unknown)}")
        self._tables += [path for path in entries if path.suffix in RECORDS and path.name not in METADATA]
        if split is None and tables:
            self.notes += [f"{table.name} is not read, since {tables[0].name} is there" for table in tables[1:]]
            return self.records(tables[0])
        arrow = [path for path in entries if path.suffix == ".arrow" and not path.name.startswith("cache-")]
        if split is None and folder / "state.json" in entries and arrow:
            return self.arrow(arrow)
        if of_card := self._declared(folder):
            return self.parquet(splits.choose(of_card, None, split, self.role, str(folder), self.notes))
        of_split = splits.folders(folders)
        if (
            not images
            and not any(path.suffix == ".parquet" for path in entries)
            and ((split is not None and of_split) or len(of_split) > 1 or ("", self.role) in of_split)
        ):
            chosen = splits.choose(of_split, None, split, self.role, str(folder), self.notes)
            return (image for one in chosen for image in self.folder(one))
        if files := splits.parquet_files(folder):
            return self.parquet(splits.choose(splits.groups(files), None, split, self.role, str(folder), self.notes))
        if split is not None:
            raise UserError(
                f"{folder} has no split {split}",
                fix=shlex.quote(f"data.{self.role}={folder}") + ", or a folder of its own",
            )
        return self.text_files(folder, images, entries) if images else self._sub_folders(folders)

    def _declared(self, folder: Path) -> dict[splits.Key, list[Path]]:
        """Sort the parquet files of a folder as its card does."""
        card = splits.read_card(folder)
        return splits.declared(card, splits.parquet_files(folder)) if card else {}

    def _entries(self, folder: Path) -> list[Path]:
        """List a folder without what systems and other programs leave, of which the notes tell."""
        every = sorted(folder.iterdir())
        foreign = [path.name for path in every if splits.is_foreign(path.name)]
        if foreign:
            self.notes.append(f"passed over in {folder}: {some(foreign)}")
        return [path for path in every if path.name not in set(foreign)]

    def _sub_folders(self, folders: Sequence[Path]) -> Iterator[CaptionedImage]:
        """Read folders in a folder; `10_style` shows its images 10 times per epoch, as in kohya's scripts."""
        for folder in folders:
            if folder.resolve() in self._seen:  # a link to where we came from
                continue
            self._seen.add(folder.resolve())
            repeats = REPEATED.fullmatch(folder.name)
            count = int(repeats[1]) if repeats and self.role == "train" else 1
            images = list(self.folder(folder))
            if count > 1 and images:
                self.notes.append(f"{folder}: {count} times per epoch, as its name says")
            yield from (replace(image, repeats=image.repeats * max(1, count)) for image in images)

    def records(self, table: Path) -> Iterator[CaptionedImage]:
        """Read records that name files beside their table."""
        names = Names(table.parent)
        records = by_file_name(read_records(table), names)
        if not records:
            fix = "a first line of file_name,text, or one JSON object with these keys per line"
            raise UserError(f"{table} holds no records", fix=fix)
        known = list(dict.fromkeys(key for record in records for key in record))
        own = self.columns.image
        file = (
            own
            if own in known and own != "image"
            else column("file_name", "file_name", FILE_NAMES, known, str(table), "image")
        )
        caption = self._caption(known, str(table))
        columns = self._as_called(known)
        named: set[Path | TableImage] = set()
        for number, record in enumerate(records, start=1):
            where = f"{table}, record {number}"
            try:
                image = _image(record.get(file), table, number, file, names)
                others = {
                    key: [
                        _image(one, table, number, key, names)
                        for one in (value if isinstance(value, list) else [value])
                    ]
                    for key in (columns.condition_image, columns.mask, columns.rejected)
                    if (value := record.get(key)) not in (None, "")
                }
            except UserError as error:
                yield CaptionedImage(where, error=error)
                continue
            named |= {image, *(path for paths in others.values() for path in paths)}
            name = where if isinstance(image, TableImage) else str(image)
            yield from_values(name, image, record, caption, columns, others)
        if table.name in METADATA:
            listed = (path for path in table.parent.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
            for forgotten in sorted(path for path in listed if not splits.is_foreign(path.name) and path not in named):
                missing = UserError(f"image {forgotten} has no caption", fix=f"add it to {table.name}, or take it away")
                yield CaptionedImage(str(forgotten), error=missing)
            deeper = (path for path in table.parent.iterdir() if path.is_dir() and not splits.is_foreign(path.name))
            if unnamed := [str(path) for one in sorted(deeper) for path in _images_below(one) if path not in named]:
                self.notes.append(f"images that {table} does not name: {some(unnamed)}")

    def text_files(self, folder: Path, images: Sequence[Path], entries: Sequence[Path]) -> Iterator[CaptionedImage]:
        """Read images with a caption file of their name beside each."""
        texts: dict[str, list[Path]] = {}
        for path in entries:
            if path.suffix.lower() in CAPTION_SUFFIXES:
                texts.setdefault(same_name(path.stem), []).append(path)
        named = REPEATED.fullmatch(folder.name)
        if named and not texts and not self._tables:
            self.notes.append(f"{folder} has no captions: its name, {named[2]}, is that of every image in it")
            yield from (CaptionedImage(str(path), path, captions_of(named[2], str(path))) for path in images)
        else:
            yield from (self._with_text_file(path, texts.get(same_name(path.stem), [])) for path in images)
        with_image = {same_name(path.stem) for path in images}
        if alone := [path.name for stem, paths in texts.items() if stem not in with_image for path in paths]:
            self.notes.append(f"texts in {folder} without an image of their name: {some(alone)}")
        if deeper := [path.name for path in entries if path.is_dir() and any(_images_below(path))]:
            self.notes.append(f"folders in {folder} are not read, since it holds images itself: {some(deeper)}")

    def _with_text_file(self, image: Path, texts: Sequence[Path]) -> CaptionedImage:
        name = str(image)
        try:
            if not texts:
                tables = [
                    table for table in self._tables if not table.with_name(f"{table.stem}{image.suffix}").exists()
                ]
                typed = [shlex.quote(f"data.{self.role}={table}") for table in tables]
                fix = f"{typed[0]}, if that has the captions; else " if len(tables) == 1 else ""
                raise UserError(f"image {name} has no caption", fix=f"{fix}write {image.stem}.txt")
            contents = {read_text(text, MAX_CAPTION_BYTES).strip() for text in texts}
            if len(contents) > 1:
                found = ", ".join(text.name for text in texts)
                raise UserError(f"image {name} has two captions", found=found, fix="keep one of the two")
            return checked(CaptionedImage(name, image, captions_of(contents.pop(), name)))
        except UserError as error:
            return CaptionedImage(name, error=error)

    def parquet(self, files: Sequence[Path]) -> Iterator[CaptionedImage]:
        """Read parquet files; the images in them are read when they are needed."""
        for file in files:
            needed = self._needed(file, parquet_columns(file))
            yield from self._rows(file, parquet_rows(file, needed), needed)

    def arrow(self, files: Sequence[Path]) -> Iterator[CaptionedImage]:
        """Read the files that `datasets` saved."""
        for file in files:
            needed = self._needed(file, arrow_columns(file))
            yield from self._rows(file, arrow_rows(file, needed), needed)

    def _needed(self, file: Path, known: list[str]) -> list[str]:
        """Return the columns to read, that of the image and that of the caption first."""
        caption = self._caption(known, str(file))
        if set(PICK_A_PIC) <= set(known):
            return [PICK_A_PIC[0], caption, *PICK_A_PIC[1:], *(["has_label"] * ("has_label" in known))]
        image = column(self.columns.image, "image", IMAGE_NAMES, known, str(file), "image")
        used = (image, caption, *vars(self._as_called(known)).values())
        return [name for name in dict.fromkeys(used) if name in known]

    def _as_called(self, known: Sequence[str]) -> Columns:
        """Return the columns as they are called here: rejected images by other names, the others with capitals."""
        called = {}
        for key, wanted in vars(self.columns).items():
            if wanted in known or wanted != Columns.model_fields[key].default:
                continue
            names = (wanted, *REJECTED_NAMES) if key == "rejected" else (wanted,)
            if like := [name for name in known if name.lower() in names]:
                called[key] = like[0]
        return self.columns.model_copy(update=called)

    def _rows(
        self, file: Path, rows: Iterator[tuple[int, dict[str, Any]]], needed: Sequence[str]
    ) -> Iterator[CaptionedImage]:
        changed, (image, caption, *_) = file.stat().st_mtime_ns, needed
        names, columns, ties = Names(Path()), self._as_called(needed), 0
        for number, cells in rows:
            where = f"{file}, row {number + 1}"
            if "label_0" in needed:
                try:
                    preferred = _preferred(cells, where)
                except UserError as error:
                    yield CaptionedImage(where, error=error)
                    continue
                if preferred is None:
                    ties += 1
                    continue
                image, rejected = preferred
                columns = self.columns.model_copy(update={"rejected": rejected})
            images: dict[str, list[Path | TableImage]] = {}
            try:
                for key in (image, columns.condition_image, columns.mask, columns.rejected):
                    cell = cells.get(key)
                    several = isinstance(cell, list) and key != image
                    for item, one in enumerate(cell if isinstance(cell, list) and several else [cell]):
                        content = image_in_cell(one, file.parent)
                        if isinstance(content, Path):
                            images.setdefault(key, []).append(names.find(str(content)))
                        elif content:
                            table_image = TableImage(file, changed, number, key, item if several else None)
                            images.setdefault(key, []).append(table_image)
            except TypeError as error:
                yield CaptionedImage(where, error=UserError(f"{where} holds no image", found=error))
                continue
            if image in images:
                yield from_values(where, images[image][0], cells, caption, columns, images)
            else:
                yield CaptionedImage(where, error=UserError(f"{where} holds no image"))
        if ties:
            self.notes.append(f"pairs of {file} of which neither image is preferred, left out: {ties}")

    def _caption(self, known: list[str], where: str) -> str:
        name = column(self.columns.caption, "text", CAPTION_NAMES, known, where, "caption")
        if name != self.columns.caption:
            self.notes.append(f"captions are those of column {name}")
        return name


def _image(value: Any, table: Path, number: int, key: str, names: Names) -> Path | TableImage:
    """Return the file that a record names, or the one that it holds in base64."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{table}, record {number}: {key} must name a file", found=value)
    if is_base64_image(value):
        return RecordImage(table, table.stat().st_mtime_ns, number - 1, key, data=value)
    return names.find(value)


def _preferred(cells: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """Return the columns of the preferred and of the other image of Pick-a-Pic; None of a tie, or without a label.

    UserError for any other label.
    """
    label = cells["label_0"]
    if label in (None, 0.5) or label != label or cells.get("has_label") is False:
        return None
    if label not in (0, 1):
        raise UserError(f"label_0 of {where} is no preference", found=label, fix="1, 0, or 0.5 of a tie")
    first, second, _ = PICK_A_PIC
    return (first, second) if label == 1 else (second, first)


def _is_alone(photo: Path, images: Sequence[Path]) -> bool:
    """Tell whether an image that cannot be read lies there in no other form."""
    return same_name(photo.stem) not in {same_name(path.stem) for path in images}


def _images_below(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and in the folders in it, but for foreign ones."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(map(splits.is_foreign, path.relative_to(folder).parts)):
            yield path
