"""Section `data`: which images a recipe trains on, and how files become images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from glmkit.config.section import Section, is_size


class DataSource(Section):
    """Training images of one origin."""

    path: str
    """A folder, FOLDER:SPLIT, a table (JSON, CSV, parquet), or OWNER/NAME:SPLIT or OWNER/NAME/CONFIGURATION:SPLIT of
    the hub."""
    repeats: int = Field(default=1, gt=0)
    """How often an epoch shows each image."""
    regularization: bool = False
    """True: nothing is learnt from these images; what is generated for them stays as it is (see
    `regularization_weight` of the stages)."""


class Columns(Section):
    """Name the columns of a table."""

    image: str = "image"
    """The image, in parquet and arrow files; JSON lines have `file_name`."""
    caption: str = "text"
    """The caption; for an edit, the instruction."""
    condition_image: str = "condition_image"
    """The image that an instruction changes: a record that has one is an edit."""
    rejected: str = "rejected"
    """The image of the same caption that is worse: a record that has one is a pair, for stages with `dpo`."""
    boxes: str = "text_boxes"
    """Where text stands: lists of left, top, right, bottom in pixels."""
    mask: str = "mask"
    """Where text stands: an image that is white there."""
    texts: str = "texts"
    """What the glyph encoder reads: a list of texts in place of those that the caption has in quotes."""


class ImageSettings(Section):
    """How files become training images, whose sides are multiples of 32. Nothing is scaled up or mirrored."""

    size: str | None = None
    """WIDTHxHEIGHT: the most pixels of an image; larger ones are scaled down, whatever their aspect."""
    fit: Literal["crop", "exact"] = "crop"
    """`crop` around the centre to a size on the grid of 32 pixels, or refuse what would have to be cropped."""
    max_crop: float = Field(default=0.2, ge=0, lt=1)
    """The share of an image that may be cut off for a batch with images of nearly its shape, where a batch would
    otherwise repeat one image; 0 keeps all shapes apart."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with images that are broken."""
    columns: Columns = Columns()
    """What the columns of a table are called."""

    _size = field_validator("size", mode="before")(is_size)


class Data(ImageSettings):
    """Images from files, to train on and to measure progress with."""

    train: tuple[DataSource, ...] = ()
    """One origin or a list of them: folders with metadata or captions beside the images, tables, data sets."""
    prompts: str | None = Field(default=None, min_length=1)
    """A file of prompts, as `generate --prompts` takes it, in place of images: for stages with a section `rl`."""
    validation: str | float | None = None
    """Images that no step learns; their losses show over-fitting. A path as in `train`, or a share such as 0.1 of the
    training images. None: the losses of training images are measured, which show none. With `prompts`, prompts."""
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
        if self.train and self.prompts is not None:
            raise ValueError("give either data.train, images, or data.prompts, for stages with a section rl; not both")
        if not self.train and self.prompts is None:
            raise ValueError(
                "data.train is missing: a folder, a file or a data set with images and captions; stages with a section "
                "rl learn from data.prompts, a file"
            )
        return self

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Self:
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(
                f"data.validation is a path, or a share between 0 and 1 such as 0.1, not {self.validation:g}"
            )
        if self.train and all(source.regularization for source in self.train):
            raise ValueError("every entry of data.train says regularization, so there is nothing to learn")
        return self

    @property
    def has_regularization(self) -> bool:
        """Tell whether there are regularization images, which nothing is learnt from."""
        return any(source.regularization for source in self.train)
