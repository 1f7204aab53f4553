"""Training images from files: read once to see that they are good, and again when their pixels are asked for.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from glmkit import runs
from glmkit.config import Reading, parse_size
from glmkit.errors import UserError
from glmkit.inputs.images import as_rgb, read_image
from glmkit.training.data import tables
from glmkit.training.data.bucketing import Fit, fit
from glmkit.training.data.tables import Row

SHOWN_REASONS = 5


@dataclass(frozen=True)
class Stored:
    """An image on disk or in a table, how it is fitted, and the text boxes or the mask that belong to it."""

    content: Path | bytes
    name: str
    fit: Fit
    boxes: tuple[tables.Box, ...] | None
    mask: Path | bytes | None
    key: str
    """A name for the fitted image's content."""
    text_key: str
    """A name for where text stands in it."""

    @classmethod
    def of(
        cls,
        content: Path | bytes,
        name: str,
        fitted: Fit,
        boxes: tuple[tables.Box, ...] | None,
        mask: Path | bytes | None = None,
    ) -> Stored:
        key = _digest(_bytes(content), (fitted.scaled, fitted.size))
        return cls(content, name, fitted, boxes, mask, key, _digest(_bytes(mask or b""), (key, boxes)))

    @property
    def knows_text(self) -> bool:
        return self.mask is not None or self.boxes is not None

    def pixels(self) -> np.ndarray:
        """H W 3 levels."""
        return np.asarray(self.fit.apply(_decoded(self.content, self.name)))

    def text(self) -> np.ndarray:
        """H W levels, 255 on text, from the mask or the boxes; there must be one of them."""
        if self.mask is not None:
            return np.asarray(self.fit.apply(_decoded(self.mask, f"the mask of {self.name}").convert("L")))
        canvas = Image.new("L", _decoded(self.content, self.name).size)
        for left, top, right, bottom in self.boxes or ():
            ImageDraw.Draw(canvas).rectangle((left, top, right - 1, bottom - 1), fill=255)
        return np.asarray(self.fit.apply(canvas))


@dataclass(frozen=True)
class Example:
    """A row that can be used: its image, `size` (height, width) before fitting, and the source of an edit."""

    caption: str
    size: tuple[int, int]
    target: Stored
    source: Stored | None


class FileDataset:
    """Images of a folder, a table or a dataset (see `tables.read`); rows with a source image are edits.

    How images become sizes on the grid is `fitting.fit`; transparent parts lie on white, and nothing is mirrored.
    Rows that cannot be used are a UserError, or left out and kept in `dropped` where `on_bad_image` is skip. `changes`
    counts what was done to the others. With `regularization` no step learns them.
    """

    def __init__(
        self, where: str | Path, reading: Reading | None = None, repeats: int = 1, regularization: bool = False
    ) -> None:
        self.where, self._reading = str(where), reading or Reading()
        self._most = prod(parse_size(self._reading.size)) if self._reading.size else None
        rows = tables.read(self.where, self._reading.columns)
        with ThreadPoolExecutor(runs.cores()) as pool:
            examined = list(pool.map(self._examined, rows))
        self.dropped = [result for result in examined if isinstance(result, UserError)]
        examples = [result for result in examined if isinstance(result, Example)]
        if self.dropped and (self._reading.on_bad_image == "error" or not examples):
            raise _together(self.where, self.dropped)
        self.changes = Counter(change for example in examples for change in self._changes(example))
        unknown = [example.target.name for example in examples if not example.target.knows_text]
        self._knows_text = not unknown
        if 0 < len(unknown) < len(examples):
            raise UserError(
                f"{self.where} tells where text stands for some images only",
                found=f"neither {self._reading.columns.boxes} nor {self._reading.columns.mask} for {unknown[0]}",
                fix="an empty list of boxes for an image without text",
            )
        self.captions: list[str] = []
        self.condition_images: dict[int, int] = {}
        self.repeats: list[int] = []
        self.regularization: list[int] = []
        self._stored: list[Stored] = []
        for example in examples:
            if example.source is not None:
                self.condition_images[len(self._stored) + 1] = len(self._stored)
                self._add("", example.source, 0)
            if regularization:
                self.regularization.append(len(self._stored))
            self._add(example.caption, example.target, 0 if regularization else repeats)
        self.sizes = [stored.fit.size for stored in self._stored]
        self.keys: list[str] | None = [stored.key for stored in self._stored]
        self.text_keys: list[str] | None = [stored.text_key for stored in self._stored]

    def _add(self, caption: str, stored: Stored, repeats: int) -> None:
        self.captions.append(caption)
        self._stored.append(stored)
        self.repeats.append(repeats)

    def _changes(self, example: Example) -> Iterator[str]:
        if example.target.fit.scaled != example.size:
            yield "scaled down"
        if example.target.fit.scaled != example.target.fit.size:
            yield "cropped"
        if self._most is not None and prod(example.size) < self._most:
            yield "smaller than data.size"

    def _examined(self, row: Row) -> Example | UserError:
        """Every image of a row opened, decoded and fitted; what is wrong with it otherwise."""
        if row.reason is not None:
            return row.reason
        try:
            size = _size(row.image, row.name)
            fitted = self._fitted(size, row.name)
            target = Stored.of(row.image, row.name, fitted, row.boxes, row.mask)
            source = None if row.source is None else Stored.of(row.source, f"the source of {row.name}", fitted, ())
            for name, other in (("source", row.source), ("mask", row.mask)):
                if other is not None and (found := _size(other, f"the {name} of {row.name}")) != size:
                    raise UserError(
                        f"the {name} of {row.name} has another size than the image",
                        found=f"{found[1]}x{found[0]}, the image {size[1]}x{size[0]}",
                        fix="give both one size",
                    )
        except UserError as error:
            return error
        return Example(row.caption, size, target, source)

    def _fitted(self, size: tuple[int, int], name: str) -> Fit:
        try:
            return fit(*size, self._most, self._reading.fit == "exact")
        except UserError as error:
            raise UserError(f"image {name} {error.what}", found=error.found, fix=error.fix) from error

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        with ThreadPoolExecutor(runs.cores()) as pool:
            batch = np.stack(list(pool.map(lambda index: self._stored[index].pixels(), indices)))
        return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        if not self._knows_text:
            return None
        levels = np.stack([self._stored[index].text() for index in indices])
        return torch.from_numpy(levels).to(device).unsqueeze(1).float() / 255

    def signs(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return None


def _bytes(content: Path | bytes) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _digest(content: bytes, *settings: object) -> str:
    return hashlib.sha256(content + repr(settings).encode()).hexdigest()[:32]


def _together(where: str, errors: Sequence[UserError]) -> UserError:
    """One error for all rows that cannot be used."""
    if len(errors) == 1:
        return errors[0]
    shown = [" ".join(str(error).split()) for error in errors[:SHOWN_REASONS]]
    if len(errors) > SHOWN_REASONS:
        shown.append(f"and {len(errors) - SHOWN_REASONS} more")
    fix = "mend them, or data.on_bad_image=skip to train without them"
    return UserError(f"{len(errors)} images of {where} cannot be used", found="\n         ".join(shown), fix=fix)


def _decoded(content: Path | bytes, name: str) -> Image.Image:
    if isinstance(content, Path):
        return read_image(content)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return as_rgb(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {name} cannot be read", found=error, fix="save it again, or take it away") from error


def _size(content: Path | bytes, name: str) -> tuple[int, int]:
    """Height and width of an image that was decoded to its end."""
    image = _decoded(content, name)
    return image.height, image.width
