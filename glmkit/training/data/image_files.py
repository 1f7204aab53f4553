"""Training images from files: read once to see that they are good, and again when their pixels are needed.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from glmkit import runs
from glmkit.config import ImageSettings
from glmkit.errors import UserError, one_line
from glmkit.files import read_regular
from glmkit.generation.sequence import MAX_CONDITION_IMAGES
from glmkit.hashing import json_sha256
from glmkit.inputs.boxes import Box, check_boxes
from glmkit.inputs.captions import CaptionedImage
from glmkit.inputs.datasets import read_captioned_images
from glmkit.inputs.images import MAX_BYTES, read, read_image, read_mask
from glmkit.inputs.tables import TableImage
from glmkit.sizes import parse_size
from glmkit.training.data.bucketing import Fit, fit, same_size, shared_fits

MAX_SHOWN_REASONS = 5
MAX_STRETCH = 0.02  # of a mask in one direction, which rounding its size may need


@dataclass(frozen=True)
class FittedImage:
    """An image in a file or in a table, how it is fitted, and the text boxes or the mask that belong to it.

    `key` names the fitted image's content, `text_key` where text stands in it.
    """

    content: Path | TableImage
    name: str
    fit: Fit
    boxes: tuple[Box, ...] | None
    mask: Path | TableImage | None
    key: str
    text_key: str

    @classmethod
    def create(
        cls,
        content: Path | TableImage,
        name: str,
        fitted: Fit,
        boxes: tuple[Box, ...] | None,
        mask: Path | TableImage | None = None,
        changes: tuple[str, ...] = (),
    ) -> FittedImage:
        """Read the content of image and mask for their keys; `changes`: what `inputs.images` made of the content."""
        key = _digest(_bytes(content), (fitted.scaled, fitted.size), *changes)
        return cls(content, name, fitted, boxes, mask, key, _digest(_bytes(mask) if mask else b"", (key, boxes)))

    def refitted(self, fitted: Fit) -> FittedImage:
        """Return the same image fitted in another way."""
        keys = (_digest(key.encode(), (fitted.scaled, fitted.size)) for key in (self.key, self.text_key))
        return replace(self, fit=fitted, key=next(keys), text_key=next(keys))

    @property
    def has_text_positions(self) -> bool:
        """Tell whether it is known where text stands."""
        return self.mask is not None or self.boxes is not None

    def pixels(self) -> np.ndarray:
        """Read H W 3 levels."""
        return np.asarray(self.fit.apply(read_image(_source(self.content), self.name)))

    def text_mask(self) -> np.ndarray:
        """Read H W levels, 255 on text, from the mask or the boxes; there must be one of them."""
        if self.mask is not None:
            return np.asarray(self.fit.apply(read_mask(_source(self.mask), f"the mask of {self.name}")))
        canvas = Image.new("L", read_image(_source(self.content), self.name).size)
        for left, top, right, bottom in self.boxes or ():
            ImageDraw.Draw(canvas).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=255)
        return np.asarray(self.fit.apply(canvas))


@dataclass(frozen=True)
class TrainingExample:
    """A captioned image that can be used, `size` (height, width) before fitting, the condition images of an edit, and
    the rejected image of a pair.

    `changes`: what reading changed of any of its files, and what sharing a bucket did.
    """

    about: CaptionedImage
    size: tuple[int, int]
    target: FittedImage
    condition_images: tuple[FittedImage, ...] = ()
    rejected: FittedImage | None = None
    changes: tuple[str, ...] = ()

    @property
    def other_sizes(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes of the condition images that are not fitted as the target is."""
        return tuple(image.fit.size for image in self.condition_images if image.fit != self.target.fit)

    @property
    def largest(self) -> tuple[int, int] | None:
        """Return the size that may be fitted anew: for a pair the one that both images have once they are scaled.

        None for a pair of images that are not fitted alike, which keeps its shape.
        """
        if self.rejected is None:
            return self.size
        return self.target.fit.scaled if self.rejected.fit == self.target.fit else None

    def refitted(self, fitted: Fit) -> TrainingExample:
        """Return the same example with its target, and what is fitted alike, fitted in another way."""
        if fitted == self.target.fit:
            return self
        conditions = (
            image.refitted(fitted) if image.fit == self.target.fit else image for image in self.condition_images
        )
        return replace(
            self,
            target=self.target.refitted(fitted),
            condition_images=tuple(conditions),
            rejected=self.rejected and self.rejected.refitted(fitted),
            changes=(*self.changes, "in the shape of others, to fill a batch"),
        )

    @property
    def source(self) -> str:
        """Return what this shares with those that are held back with it: its image or, of a pair, its prompt."""
        if self.rejected is None:
            return self.target.key
        return json_sha256(self.about.captions[0])


class FileDataset:
    """Images of a folder, a table or a data set (see `inputs.datasets`); those with a condition image are edits.

    How images become sizes on the grid is `bucketing.fit`; transparent regions lie on white, and nothing is mirrored.
    Images that cannot be used are a UserError, or left out and listed in `dropped` where `on_bad_image` is skip.
    `changes` counts what was done to the others. With `regularization` no step learns them.
    """

    def __init__(
        self,
        where: str | Path,
        settings: ImageSettings | None = None,
        repeats: int = 1,
        regularization: bool = False,
        role: str = "train",
    ) -> None:
        self.where, self._settings = str(where), settings or ImageSettings()
        self._max_pixels = prod(parse_size(self._settings.size)) if self._settings.size else None
        self._repeats, self._regularization, self._role = repeats, regularization, role
        self.fill(self._examples())

    @property
    def n_different(self) -> int:
        """Tell how many images differ in their content, or pairs in their prompt."""
        return len({example.source for example in self.examples})

    def hold_back(self, count: int) -> FileDataset:
        """Take `count` different images out; returns them as a set of their own.

        Which ones depends on their content alone, so that equal images stay together and others may join them. So do
        pairs of one prompt: what is learnt of some would be measured on others.
        """
        keys = sorted({example.source for example in self.examples})
        chosen, held = set(keys[:count]), self.examples
        others = copy.copy(self)
        others.notes, others.dropped, others._repeats = (), [], 1
        others.fill([example for example in held if example.source in chosen])
        self.fill([example for example in held if example.source not in chosen])
        return others

    def fill(self, examples: Sequence[TrainingExample]) -> None:
        """Hold these images; all captions of an image are neighbours."""
        self.examples = examples
        self.changes = Counter(change for example in examples for change in self._changes(example))
        self._has_text_positions = self._check_text_positions(examples)
        self.captions: list[str] = []
        self.texts: list[tuple[str, ...] | None] = []
        self.condition_images: dict[int, tuple[int, ...]] = {}
        self.rejected: dict[int, int] = {}
        self.same_image: dict[int, int] = {}
        self.repeats: list[int] = []
        self.regularization: list[int] = []
        self._images: list[FittedImage] = []
        for example in examples:
            self._add_example(example)
        self.sizes = [image.fit.size for image in self._images]
        self.keys: list[str] | None = [image.key for image in self._images]
        self.text_keys: list[str] | None = [image.text_key for image in self._images]

    def _add_example(self, example: TrainingExample) -> None:
        for condition_image in example.condition_images:
            self._add("", None, condition_image, 0)
        first = len(self._images)
        conditions = tuple(range(first - len(example.condition_images), first))
        count = len(example.about.captions)
        if example.rejected is not None:  # one entry for each caption, as the better image has
            self.rejected |= {first + count + number: first + number for number in range(count)}
            self._add_captions(example, example.rejected, conditions, 0)
        first = len(self._images)
        self._add_captions(
            example, example.target, conditions, 0 if self._regularization else self._repeats * example.about.repeats
        )
        if self._regularization:
            self.regularization.append(first)

    def _add_captions(
        self, example: TrainingExample, image: FittedImage, conditions: tuple[int, ...], repeats: int
    ) -> None:
        """Add an image once for each of its captions; the first stands for all of them."""
        first = len(self._images)
        for index, caption in enumerate(example.about.captions, start=first):
            if conditions:
                self.condition_images[index] = conditions
            if index > first:
                self.same_image[index] = first
            self._add(caption, example.about.texts, image, repeats * (index == first))

    def _examples(self) -> list[TrainingExample]:
        """Read every image once; UserError for bad ones, or notes of them in `dropped`."""
        found = read_captioned_images(self.where, self._settings.columns, self._role)
        self.notes = found.notes
        with ThreadPoolExecutor(runs.cores()) as pool:
            results = list(pool.map(self._example, found.images))
        self.dropped = [result for result in results if isinstance(result, UserError)]
        examples = [result for result in results if isinstance(result, TrainingExample)]
        if self.dropped and (self._settings.on_bad_image == "error" or not examples):
            raise _one_error(self.where, self.dropped)
        return examples

    def _check_text_positions(self, examples: Sequence[TrainingExample]) -> bool:
        """Tell whether it is known of all images where text stands; UserError when of some only."""
        unknown = [example.target.name for example in examples if not example.target.has_text_positions]
        if 0 < len(unknown) < len(examples):
            raise UserError(
                f"{self.where} tells where text stands for some images only",
                found=f"neither {self._settings.columns.boxes} nor {self._settings.columns.mask} for {unknown[0]}",
                fix="an empty list of boxes for an image without text",
            )
        return not unknown

    def _add(self, caption: str, texts: tuple[str, ...] | None, image: FittedImage, repeats: int) -> None:
        self.captions.append(caption)
        self.texts.append(texts)
        self._images.append(image)
        self.repeats.append(repeats)

    def _changes(self, example: TrainingExample) -> Iterator[str]:
        yield from example.changes
        if example.target.fit.scaled != example.size:
            yield "scaled down"
        if example.target.fit.scaled != example.target.fit.size:
            yield "cropped"
        if self._max_pixels is not None and prod(example.size) < self._max_pixels:
            yield "smaller than data.size"

    def _example(self, image: CaptionedImage) -> TrainingExample | UserError:
        """Open, decode and fit every file of a captioned image; returns what is wrong otherwise."""
        if image.error is not None:
            return image.error
        try:
            name = f"image {image.name}"
            pixels, _, changes = read(_source(image.image), name)
            check_boxes(image.boxes or (), *pixels.size, name)
            fitted, rejected, changes_rejected = self._pair(image, pixels, name)
            changes = tuple(dict.fromkeys(changes + changes_rejected))
            if image.mask is not None:
                _check_shape(read_mask(_source(image.mask), f"the mask of {name}"), pixels, name)
            target = FittedImage.create(image.image, name, fitted, image.boxes, image.mask, changes)
            if len(image.condition_images) > MAX_CONDITION_IMAGES:
                fix = f"1 to {MAX_CONDITION_IMAGES}"
                raise UserError(f"{name} has too many condition images", found=len(image.condition_images), fix=fix)
            condition_images = []
            for content in image.condition_images:
                name_before = f"the condition image of {name}"
                before, _, changes_before = read(_source(content), name_before)
                fitted_before = self._fitted(before, name_before)
                created = FittedImage.create(content, name_before, fitted_before, (), changes=changes_before)
                condition_images.append(created)
                changes = tuple(dict.fromkeys(changes + changes_before))
        except UserError as error:
            return error
        size = pixels.height, pixels.width
        return TrainingExample(image, size, target, tuple(condition_images), rejected, changes)

    def _pair(
        self, image: CaptionedImage, pixels: Image.Image, name: str
    ) -> tuple[Fit, FittedImage | None, tuple[str, ...]]:
        """Fit an image, and to the same size the rejected one if there is any; returns what reading changed of that."""
        fitted = self._fitted(pixels, name)
        if image.rejected is None:
            return fitted, None, ()
        other_name = f"the rejected image of {name}"
        other, _, changes = read(_source(image.rejected), other_name)
        first = ((pixels.height, pixels.width), fitted)
        second = ((other.height, other.width), self._fitted(other, other_name))
        try:
            fitted, other_fit = same_size(first, second, self._settings.max_crop if self._settings.fit == "crop" else 0)
        except UserError as error:
            raise UserError(f"{name} {error.what}", found=error.found, fix=error.fix) from error
        return fitted, FittedImage.create(image.rejected, other_name, other_fit, (), changes=changes), changes

    def _fitted(self, image: Image.Image, name: str) -> Fit:
        try:
            return fit(image.height, image.width, self._max_pixels, self._settings.fit == "exact")
        except UserError as error:
            raise UserError(f"{name} {error.what}", found=error.found, fix=error.fix) from error

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Read images of one size as B 3 H W in [-1, 1]."""
        with ThreadPoolExecutor(runs.cores()) as pool:
            batch = np.stack(list(pool.map(lambda index: self._images[index].pixels(), indices)))
        return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """Read B 1 H W in [0, 1], 1 where text stands; None where that is unknown."""
        if not self._has_text_positions:
            return None
        levels = np.stack([self._images[index].text_mask() for index in indices])
        return torch.from_numpy(levels).to(device).unsqueeze(1).float() / 255


def share_buckets(sets: Sequence[FileDataset], batch_size: int, max_crop: float) -> None:
    """Give images of rare shapes those of others, over all sets (see `bucketing.shared_fits`)."""
    examples = [example for images in sets for example in images.examples if example.largest is not None]
    kinds = [(example.other_sizes, len(example.condition_images)) for example in examples]
    fits = [(example.largest, example.target.fit) for example in examples if example.largest is not None]
    refitted = map(TrainingExample.refitted, examples, shared_fits(fits, kinds, batch_size, max_crop))
    for images in sets:
        images.fill([example if example.largest is None else next(refitted) for example in images.examples])


def _source(content: Path | TableImage) -> Path | bytes:
    return content.read() if isinstance(content, TableImage) else content


def _bytes(content: Path | TableImage) -> bytes:
    source = _source(content)
    return read_regular(source, str(source), MAX_BYTES) if isinstance(source, Path) else source


def _check_shape(mask: Image.Image, image: Image.Image, name: str) -> None:
    """UserError for a mask that would have to be stretched; one of another size is scaled as the image is."""
    (width, height), (columns, rows) = mask.size, image.size
    if abs(width * rows - height * columns) > MAX_STRETCH * height * columns:
        raise UserError(
            f"the mask of {name} has another shape than the image",
            found=f"{width}x{height}, the image {columns}x{rows}",
            fix="give both one size",
        )


def _digest(content: bytes, *settings: object) -> str:
    return hashlib.sha256(content + repr(settings).encode()).hexdigest()[:32]


def _one_error(where: str, errors: Sequence[UserError]) -> UserError:
    """Make one error of those of all images that cannot be used."""
    if len(errors) == 1:
        return errors[0]
    reasons = [one_line(error) for error in errors[:MAX_SHOWN_REASONS]]
    if len(errors) > MAX_SHOWN_REASONS:
        reasons.append(f"and {len(errors) - MAX_SHOWN_REASONS} more")
    fix = "mend them, or data.on_bad_image=skip to train without them"
    return UserError(f"{len(errors)} images of {where} cannot be used", found="\n         ".join(reasons), fix=fix)
