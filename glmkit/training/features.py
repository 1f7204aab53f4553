"""What a stage needs of every image, computed once before training: semantic ids, latents, text masks, signs.

What comes from files is kept on disk for later runs, by the content of the image, the weights of the part that
computed it, and all else that decides its values. Posters are drawn and encoded anew: no key could name the code that
draws them. Nor are prompts' ids kept, which a tokenizer makes faster than a disk finds small files. Of processes that
train together each computes a share of the files, and all of the rest.

N images, h w rows and columns of a token grid, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from glmkit.generation.sequence import grids
from glmkit.models.checkpoint import adapters as adapter
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq.model import SemanticTokenizer
from glmkit.training.data import Images, asked_for, by_size
from glmkit.training.distributed import ALONE, Team
from glmkit.training.feature_files import Files, Store, sound

CHUNK_PIXELS = 2**21  # that go through an encoder together, beside the part that is trained: 2 images of 1024x1024
VERSION = "1"  # of what is computed here; with another one nothing on disk is used
NOTES = Console(stderr=True)
Size = tuple[int, int]
Encode = Callable[[list[int]], Tensor]
Parts = Iterator[tuple[slice, Tensor]]


class Kept:
    """One tensor an item: `kept[indices]` are those of items of one size, on `device`.

    The items of one size are a stack: on the device, in the CPU's memory, or in files.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._places: dict[int, tuple[Tensor | Files, int]] = {}

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        stack = self._places[int(indices[0])][0]
        rows = torch.as_tensor([self._places[int(index)][1] for index in indices])
        if isinstance(stack, Tensor) and stack.device == self.device:
            return stack[rows.to(self.device)]
        values = stack[rows]
        pin = self.device.type == "cuda" and values.device.type == "cpu"
        return (values.pin_memory() if pin else values).to(self.device, non_blocking=True)

    def fill(self, members: Sequence[int], stack: Tensor | Files) -> None:
        """The items `members` are the rows of `stack`."""
        self._places.update({index: (stack, row) for row, index in enumerate(members)})


class Keeper:
    """Decides where what is computed once is kept: on the training `device` as long as it takes at most `resident`
    bytes in all; then in the CPU's memory or, if it is in files, there, to be read for each batch. `folder` is where
    the files are, the same for all of the `team`; None: nothing is written.
    """

    def __init__(
        self, device: torch.device, folder: Path | None = None, resident: float = 2**30, team: Team = ALONE
    ) -> None:
        self.device, self.folder, self._left, self._team = device, folder, resident, team

    def keep(
        self,
        name: str,
        sizes: Sequence[Size | None],
        encode: Encode,
        *,
        together: Callable[[Size], int],
        keys: Sequence[str] | None = None,
        about: Callable[[], Mapping[str, str]] = dict,
    ) -> Kept:
        """`encode` of every item with a size, `together(size)` items at once, whose values have one shape.

        With `keys`, items that are in files are not encoded again: `about` names all that decides a value beside them.
        """
        kept, groups = Kept(self.device), by_size(sizes)
        count, made, files = sum(map(len, groups.values())), 0, dict[Size, Files]()
        store = Store(self.folder, name, {"version": VERSION, **about()}) if keys is not None and self.folder else None
        with Progress(console=NOTES, transient=True, disable=not NOTES.is_terminal) as bar:
            task = bar.add_task(name, total=count)
            for size, members in groups.items():
                encoded = partial(self._encoded, encode, together(size), partial(bar.advance, task))
                if store is None or keys is None:
                    kept.fill(members, self._in_memory(members, encoded(members)))
                    made += len(members)
                else:
                    files[size] = Files(store.paths([keys[index] for index in members]))
                    written = _write(store, members, files[size].paths, encoded, self._team)
                    made += written
                    bar.advance(task, len(members) - written)
        if store:
            made = self._team.total(made)  # and every file is there
        for size, own in files.items():
            kept.fill(groups[size], self._stacked(own))
        if count:
            occupied = sum(own.bytes for own in files.values()) / 2**20
            found = f", {count - made} found; {occupied:,.1f} MiB in {store.folder}" if store else ""
            NOTES.print(f"{name}: {made} computed{found}", soft_wrap=True)
        return kept

    def _encoded(self, encode: Encode, together: int, done: Callable[[int], None], members: list[int]) -> Parts:
        """Which of the members, and their values, `together` at a time."""
        for start in range(0, len(members), together):
            part = slice(start, start + together)
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                values = encode(members[part])
            done(len(values))
            yield part, values

    def _takes(self, size: int) -> bool:
        """Whether `size` bytes more may be on the device; if so, they count from now on."""
        fits = size <= self._left
        self._left -= size * fits
        return fits

    def _stacked(self, files: Files) -> Tensor | Files:
        """All items on the device, or the files when that is too much."""
        return files[torch.arange(len(files.paths))].to(self.device) if self._takes(files.bytes) else files

    def _in_memory(self, members: Sequence[int], parts: Parts) -> Tensor:
        part, values = next(parts)
        where = self.device if self._takes(len(members) * values[0].nbytes) else "cpu"
        stack = torch.empty(len(members), *values.shape[1:], dtype=values.dtype, device=where)
        stack[part] = values
        for part, values in parts:
            stack[part] = values
        return stack


def _write(
    store: Store, members: Sequence[int], paths: Sequence[Path], encoded: Callable[[list[int]], Parts], team: Team
) -> int:
    """Write this process's share of the members' files that are not there and whole; how many these were."""
    rows = {path: row for row, path in enumerate(paths)}  # equal items share a file
    own = dict(list(rows.items())[team.index :: team.count])
    missing = [row for row, is_sound in zip(own.values(), sound(list(own)), strict=True) if not is_sound]
    for part, values in encoded([members[row] for row in missing]):
        store.write([paths[row] for row in missing[part]], values)
    return len(missing)


def compute(
    images: Images,
    encode: Encode,
    keeper: Keeper,
    name: str,
    *,
    only: Sequence[bool] | None = None,
    keys: Sequence[str] | None = None,
    about: Callable[[], Mapping[str, str]] = dict,
) -> Kept:
    """`encode(indices)` of every image, or of those where `only` is True."""
    wanted = [True] * len(images.sizes) if only is None else only
    sizes = [size if is_wanted else None for size, is_wanted in zip(images.sizes, wanted, strict=True)]

    def together(size: Size) -> int:
        return max(1, CHUNK_PIXELS // (size[0] * size[1]))

    return keeper.keep(name, sizes, encode, together=together, keys=keys, about=about)


def origin(hybrid: HybridModel, part: str) -> Mapping[str, str]:
    """What decides the values that a part gives: its weights and settings, and how it computes."""
    computes = f"{hybrid.device.type} {hybrid.dtype}"
    return {"part": part, "weights": adapter.fingerprint(hybrid.folder, part), "computes": computes}


def halve(pixels: Tensor, height: int, width: int) -> Tensor:
    """B 3 H W in [-1, 1] resized to height x width as the published image processor resizes 8-bit images: bicubic
    with anti-aliasing, first along the rows, and on whole levels after each of the two passes."""
    levels = (pixels.float() + 1) * 127.5
    for size in ((pixels.shape[-2], width), (height, width)):
        levels = F.interpolate(levels, size, mode="bicubic", antialias=True, align_corners=False)
        levels = levels.round().clamp(0, 255)
    return levels / 127.5 - 1


def large_ids(tokenizer: SemanticTokenizer, pixels: Tensor) -> Tensor:
    """B h w: the ids of the large grid (32 px a token): the image halved, then 16-px patches."""
    large = grids(*pixels.shape[-2:]).large
    return tokenizer.encode(halve(pixels, large[0] * 16, large[1] * 16))


def preview_ids(tokenizer: SemanticTokenizer, pixels: Tensor) -> Tensor:
    """B h w: the ids of the preview grid: the whole image resized to about 256 tokens."""
    preview = grids(*pixels.shape[-2:]).preview
    return tokenizer.encode(halve(pixels, preview[0] * 16, preview[1] * 16))


def large_cache(hybrid: HybridModel, images: Images, keeper: Keeper) -> Kept:
    """N h w int16: the ids of every image's large grid."""
    return compute(
        images,
        lambda indices: large_ids(hybrid.semantic_vq, images.pixels(indices, keeper.device)).short(),
        keeper,
        "large tokens",
        keys=images.keys,
        about=lambda: origin(hybrid, "semantic_vq"),
    )


def _made_from_text(images: Images) -> list[bool]:
    """Which images are to be made from a text, and from no other image."""
    return [kind is not None and not kind[2] for kind in asked_for(images)]


def stretched(pixels: Tensor, factors: Sequence[float]) -> Tensor:
    """B 3 H W, every image `factors` times as wide about its middle, cut or its edges drawn out to the same size."""
    turned = torch.eye(2, 3, device=pixels.device).repeat(len(pixels), 1, 1)
    turned[:, 0, 0] = 1 / torch.tensor(factors, device=pixels.device)
    places = F.affine_grid(turned, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels.float(), places, mode="bilinear", padding_mode="border", align_corners=False)


def stretched_cache(hybrid: HybridModel, images: Images, keeper: Keeper, most: float) -> Kept:
    """As `large_cache`, N h w int16, of every image that is to be made from a text, each stretched by a factor of its
    own from 1 - `most` to 1 + `most`."""
    from_text = _made_from_text(images)
    factors = 1 + most * (2 * torch.rand(len(from_text), generator=torch.Generator().manual_seed(0)) - 1)

    def encode(indices: list[int]) -> Tensor:
        pixels = stretched(images.pixels(indices, keeper.device), factors[indices].tolist())
        return large_ids(hybrid.semantic_vq, pixels).short()

    return compute(images, encode, keeper, "stretched tokens", only=from_text)


def preview_cache(hybrid: HybridModel, images: Images, keeper: Keeper) -> Kept:
    """N h w int16: the ids of the preview grid of every image that is to be made from a text."""
    from_text = _made_from_text(images)
    return compute(
        images,
        lambda indices: preview_ids(hybrid.semantic_vq, images.pixels(indices, keeper.device)).short(),
        keeper,
        "preview tokens",
        only=from_text,
        keys=images.keys,
        about=lambda: origin(hybrid, "semantic_vq"),
    )


def latent_cache(hybrid: HybridModel, images: Images, keeper: Keeper) -> Kept:
    """N 2C H/8 W/8: means of the normalised latents, then their standard deviations; float16 on a GPU."""
    kept = torch.float16 if keeper.device.type == "cuda" else torch.float32

    def encode(indices: list[int]) -> Tensor:
        return torch.cat(hybrid.vae.encode_distribution(images.pixels(indices, keeper.device)), dim=1).to(kept)

    return compute(
        images,
        encode,
        keeper,
        "latents",
        keys=images.keys,
        about=lambda: origin(hybrid, "vae"),
    )


def text_cache(images: Images, keeper: Keeper) -> Kept | None:
    """Share of each latent position that is text, N 1 H/8 W/8 uint8 (255 = all); None where nobody knows."""
    if images.text_mask([0], keeper.device) is None:
        return None

    def encode(indices: list[int]) -> Tensor:
        mask = images.text_mask(indices, keeper.device)
        assert mask is not None
        return (F.avg_pool2d(mask, 8) * 255).round().to(torch.uint8)

    return compute(images, encode, keeper, "text masks", keys=images.text_keys)


def sign_cache(images: Images, keeper: Keeper) -> Kept | None:
    """The sign at each latent position, N H/8 W/8, as `Images.signs` gives it; None where nobody knows."""
    if images.signs([0], keeper.device) is None:
        return None

    def encode(indices: list[int]) -> Tensor:
        signs = images.signs(indices, keeper.device)
        assert signs is not None
        return signs

    return compute(images, encode, keeper, "signs")
