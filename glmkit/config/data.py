"""Section `data`: which images a recipe trains on, and how files become images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from glmkit.config.section import Section, parse_size
from glmkit.errors import UserError


class DataSource(Section):
    """Training images of one origin."""

    path: str
    """A folder, a parquet file, or OWNER/NAME:SPLIT of the hub."""
    repeats: int = Field(default=1, gt=0)
    """How often an epoch shows each image."""
    regularization: bool = False
    """True: nothing is learnt from these images; what is generated for them stays as it is (see
    `regularization_weight` of the stages)."""


class Columns(Section):
    """What the columns of a table are called."""

    image: str = "image"
    """The image, in parquet and arrow files; JSON lines have `file_name`."""
    caption: str = "text"
    """The caption; for an edit, the instruction."""
    condition_image: str = "condition_image"
    """The image that an instruction changes: a record that has one is an edit."""
    boxes: str = "text_boxes"
    """Where text stands: lists of left, top, right, bottom in pixels."""
    mask: str = "mask"
    """Where text stands: an image that is white there."""


class ImageSettings(Section):
    """How files become training images, whose sides are multiples of 32. Nothing is scaled up or mirrored."""

    size: str | None = None
    """WIDTHxHEIGHT: the most pixels of an image; larger ones are scaled down, whatever their aspect."""
    fit: Literal["crop", "exact"] = "crop"
    """`crop` around the centre to a size on the grid of 32 pixels, or refuse what would have to be cropped."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with images that are broken."""
    columns: Columns = Columns()
    """What the columns of a table are called."""

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        try:
            if value is not None and min(parse_size(value)) < 32:
                raise ValueError("an image has at least 32x32 pixels")
        except UserError as error:
            raise ValueError(error.what) from error
        return value


class Data(ImageSettings):
    """Images from files, to train on and to measure progress with."""

    train: tuple[DataSource, ...] = ()
    """One origin or a list of them: folders with `metadata.jsonl` or `.txt` captions, parquet files, datasets."""
    validation: str | None = None
    """A folder of images that no step learns; their losses show over-fitting."""
    gpu_cache_gib: float = Field(default=1.0, ge=0)
    """GiB of precomputed features (prior tokens, latents, glyph embeddings) that may stay on the GPU."""

    @field_validator("train", mode="before")
    @classmethod
    def _as_sources(cls, value: Any) -> Any:
        sources = [value] if isinstance(value, (str, Mapping)) else value
        if not isinstance(sources, (list, tuple)):
            return () if sources is None else sources
        return tuple({"path": source} if isinstance(source, str) else source for source in sources)

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if not self.train:
            raise ValueError("data.train is missing: a folder, a file or a data set with images and captions")
        return self

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Self:
        if self.train and self.validation is None:
            raise ValueError("data.validation (a folder) is missing: without it over-fitting stays unseen")
        if self.train and all(source.regularization for source in self.train):
            raise ValueError("every entry of data.train says regularization, so there is nothing to learn")
        return self

    @property
    def has_regularization(self) -> bool:
        """Whether there are regularization images, which nothing is learnt from."""
        return any(source.regularization for source in self.train)
