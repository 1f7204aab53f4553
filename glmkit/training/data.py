"""Training pictures with captions: from folders, or drawn by `glmkit.posters`. One interface for both.

B batch, H W rows and columns in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from glmkit import config, runs
from glmkit.errors import UserError
from glmkit.files import read_jsonl
from glmkit.generation.pictures import read_picture
from glmkit.generation.sequence import MAX_ASPECT, grids

if TYPE_CHECKING:
    from glmkit.posters.grammar import Scene

# Pictures of one size share a batch, and edits share none with others: (height, width) or (height, width, is edit).
Bucket = TypeVar("Bucket", tuple[int, int], tuple[int, int, bool])
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Pictures(Protocol):
    """Captioned pictures, each with height and width that are multiples of 32.

    The caption of an edit says what was done with another of the pictures, its source, which has the same size:
    `sources` maps the number of an edit to that of its source.
    """

    captions: list[str]
    sizes: list[tuple[int, int]]
    sources: dict[int, int]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Pictures of one size as B 3 H W in [-1, 1]."""

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """B 1 H W in [0, 1], 1 where text is drawn; None where nobody knows."""

    def letters(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        """B H/8 W/8, the ASCII code of the letter that stands there, 0 for none; None where nobody knows."""


class FolderPictures:
    """Pictures of a folder in the `imagefolder` layout: `metadata.jsonl` with `file_name` and `text`, or `.txt` files.

    A picture whose sides are not multiples of 32 is centre-cropped to the next smaller ones, never resized.
    Transparent parts lie on white, as in a source picture of an edit. Raises UserError for a caption without its
    picture, a picture without a caption, and a picture that cannot be read or drawn.
    """

    def __init__(self, folder: str | Path) -> None:
        rows = _captioned_files(Path(folder))
        self.files = [path for path, _ in rows]
        self.captions = [text for _, text in rows]
        self._pixels = [_read(path) for path in self.files]
        self.sizes = [(int(array.shape[0]), int(array.shape[1])) for array in self._pixels]
        self.sources: dict[int, int] = {}

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        batch = np.stack([self._pixels[index] for index in indices])
        return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return None

    def letters(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return None


def _captioned_files(folder: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise UserError(f"picture folder {folder} does not exist", fix="data.train=FOLDER data.held_out=FOLDER")
    rows = _of_table(folder) if (folder / "metadata.jsonl").exists() else _of_texts(folder)
    if not rows:
        raise UserError(f"no pictures in {folder}", fix="put PNG files and a metadata.jsonl (file_name, text) there")
    for path, text in rows:
        if not path.is_file():
            raise UserError(f"the caption of {path.name} has no picture", found=f"{path} does not exist")
        if not text.strip():
            raise UserError(f"the caption of {path} is empty", fix="describe the picture")
    return rows


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _of_table(folder: Path) -> list[tuple[Path, str]]:
    table = folder / "metadata.jsonl"
    rows = []
    for number, row in enumerate(read_jsonl(table), start=1):
        if not isinstance(row.get("file_name"), str) or not isinstance(row.get("text"), str):
            raise UserError(f"{table}, line {number}: needs file_name and text", found=row)
        rows.append((folder / row["file_name"], row["text"]))
    forgotten = sorted(set(_pictures_in(folder)) - {path for path, _ in rows})
    if forgotten:
        raise UserError(f"picture {forgotten[0]} has no caption", fix=f"add it to {table.name}, or take it away")
    return rows


def _of_texts(folder: Path) -> list[tuple[Path, str]]:
    pictures = _pictures_in(folder)
    alone = sorted(set(folder.glob("*.txt")) - {path.with_suffix(".txt") for path in pictures})
    if alone:
        raise UserError(f"the caption {alone[0]} has no picture", fix="add the picture, or take the caption away")
    return [(path, _caption_beside(path)) for path in pictures]


def _caption_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    try:
        return text.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise UserError(f"picture {path} has no caption", fix=f"write {text.name}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{text} is not UTF-8 text", found=str(error)) from error


def _read(path: Path) -> np.ndarray:
    picture = read_picture(path)
    height, width = picture.height // 32 * 32, picture.width // 32 * 32
    if height == 0 or width == 0:
        raise UserError(f"picture {path} is too small", found=f"{picture.width}x{picture.height}", fix="at least 32x32")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(
            f"picture {path} is more than {MAX_ASPECT} times as long as wide",
            found=f"{picture.width}x{picture.height}",
            fix="crop it",
        )
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return np.asarray(picture.crop((left, top, left + width, top + height)))


class PosterPictures:
    """Posters of `glmkit.posters`: text masks drawn once on the CPU, coloured on the device that asks for them."""

    def __init__(
        self, count: int, height: int, width: int, seed: int, workers: int, split: Literal["train", "held-out"]
    ) -> None:
        from glmkit.posters import grammar, masks

        workers = workers or runs.cores()
        scenes, drawn = masks.mask_pool(count, seed, height=height, width=width, workers=workers, split=split)
        captions = [grammar.caption(scene, random.Random(f"{seed}-{index}")) for index, scene in enumerate(scenes)]
        self._keep(scenes, drawn, captions, {}, workers)

    def _keep(
        self, scenes: list[Scene], drawn: np.ndarray, captions: list[str], sources: dict[int, int], workers: int
    ) -> None:
        from glmkit.posters import masks, render

        self.captions, self.sources = captions, sources
        self.sizes = [(scene.height, scene.width) for scene in scenes]
        self._masks = torch.from_numpy(drawn)
        self._letters = torch.from_numpy(masks.letter_pool(scenes, workers))
        self._params = render.batch_params(scenes)
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Keep the masks on `device`: count * H * W bytes."""
        self._masks, self._params, self._device = self._masks.to(device), self._params.to(device), device

    def _rows(self, indices: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        if self._device != device:
            self.to(device)
        rows = torch.as_tensor(np.asarray(indices), device=device)
        return rows, self._masks[rows]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        from glmkit.posters import render

        rows, masks = self._rows(indices, device)
        chosen = render.SceneBatch(**{name: value[rows] for name, value in vars(self._params).items()})
        return render.compose(chosen, masks)

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self._rows(indices, device)[1].unsqueeze(1).float() / 255

    def letters(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self._letters[torch.as_tensor(np.asarray(indices))].to(device)


class EditPictures(PosterPictures):
    """Posters in pairs: number 2k is described by its caption, 2k + 1 is what its instruction makes of 2k.

    So half of the pictures are edits; the sources keep text-to-image in practice.
    """

    def __init__(
        self, count: int, height: int, width: int, seed: int, workers: int, split: Literal["train", "held-out"]
    ) -> None:
        from glmkit.posters import grammar, masks

        workers = workers or runs.cores()
        edits, drawn = masks.edit_pool(count, seed, height=height, width=width, workers=workers, split=split)
        scenes, captions = [], []
        for index, edit in enumerate(edits):
            scenes += [edit.source, edit.target]
            captions += [grammar.caption(edit.source, random.Random(f"{seed}-{index}")), edit.instruction]
        self._keep(
            scenes, drawn.reshape(-1, height, width), captions, {2 * k + 1: 2 * k for k in range(count)}, workers
        )


class Joined:
    """The pictures of several sets, one set after the other."""

    def __init__(self, sets: Sequence[Pictures]) -> None:
        self._sets = sets
        self._starts = np.cumsum([0] + [len(pictures.captions) for pictures in sets])
        self.captions = [caption for pictures in sets for caption in pictures.captions]
        self.sizes = [size for pictures in sets for size in pictures.sizes]
        self.sources = {
            start + edit: start + source
            for start, pictures in zip(self._starts.tolist(), sets, strict=False)
            for edit, source in pictures.sources.items()
        }

    def _ask(self, ask: Callable[[Pictures, list[int]], Tensor | None], indices: Sequence[int]) -> Tensor | None:
        """What `ask` gets from the set of each picture, in the order of `indices`; None where a set does not know."""
        numbers = np.asarray(indices)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        parts, places = [], []
        for owner in np.unique(owners):
            (own,) = np.nonzero(owners == owner)
            part = ask(self._sets[owner], (numbers[own] - self._starts[owner]).tolist())
            if part is None:
                return None
            parts.append(part)
            places.append(own)
        return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(places))).to(parts[0].device)]

    def pixels(self, indices: Sequence[int], device: torch.device) -> Tensor:
        pixels = self._ask(lambda pictures, own: pictures.pixels(own, device), indices)
        assert pixels is not None
        return pixels

    def text_mask(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self._ask(lambda pictures, own: pictures.text_mask(own, device), indices)

    def letters(self, indices: Sequence[int], device: torch.device) -> Tensor | None:
        return self._ask(lambda pictures, own: pictures.letters(own, device), indices)


def buckets(pictures: Pictures) -> list[tuple[int, int, bool]]:
    """What the pictures of one batch have in common: height, width, and whether they are edits."""
    return [(*size, index in pictures.sources) for index, size in enumerate(pictures.sizes)]


def by_size(sizes: Sequence[Bucket]) -> dict[Bucket, list[int]]:
    """The indices of the pictures of every size, in order of size; of every size and kind for `buckets`."""
    members: dict[Bucket, list[int]] = {size: [] for size in sorted(set(sizes))}
    for index, size in enumerate(sizes):
        members[size].append(index)
    return members


def groups(sizes: Sequence[Bucket], most: int, limit: int) -> list[list[int]]:
    """The first `limit` pictures in lists of at most `most` pictures of one size."""
    chosen = by_size(sizes[:limit]).values()
    return [members[start : start + most] for members in chosen for start in range(0, len(members), most)]


def load(data: config.Data) -> tuple[Pictures, Pictures]:
    """The training and the held-out pictures of a recipe. Held-out posters use words that training never sees."""
    if data.train is not None:
        assert data.held_out is not None
        return FolderPictures(data.train), FolderPictures(data.held_out)
    # Edits first: held-out losses look at the first pictures, and these are edits and descriptions in turn.
    kinds = ((EditPictures, data.edits), (PosterPictures, data.posters))
    drawn = [_drawn(kind, posters) for kind, posters in kinds if posters is not None]
    if len(drawn) == 1:
        return drawn[0]
    train, held_out = zip(*drawn, strict=True)
    return Joined(train), Joined(held_out)


def _drawn(kind: type[PosterPictures], posters: config.Posters) -> tuple[Pictures, Pictures]:
    height, width = config.parse_size(posters.size)
    grids(height, width)  # refuses a size that the model cannot draw
    train = kind(posters.count, height, width, posters.seed, posters.workers, "train")
    return train, kind(posters.held_out, height, width, posters.seed + 1, posters.workers, "held-out")


class Batches:
    """Which pictures make up which step: a pure function of seed and step, so that a resumed run sees the same order.

    Pictures of one size share a batch. An epoch shows every picture once, in an order drawn from (seed, epoch);
    the last batch of a size is filled up from the start of its own shuffled list.
    """

    def __init__(self, sizes: Sequence[Bucket], batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.buckets = [np.array(members) for members in by_size(sizes).values()]
        self.per_epoch = sum(-(-len(bucket) // batch_size) for bucket in self.buckets)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def __getitem__(self, step: int) -> list[int]:
        """Indices of the pictures of `step` (0, 1, ...)."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[list[int]] = []
        for bucket in self.buckets:
            order = rng.permutation(bucket)
            count = -(-len(order) // self.batch_size)
            batches += np.resize(order, (count, self.batch_size)).tolist()
        return [batches[index] for index in rng.permutation(len(batches))]
