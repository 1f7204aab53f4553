"""Features of every training image, computed once before training: token ids, latents, text masks.

Features of images from files are kept on disk for later runs, by the content of the image, the weights of the encoder,
and all else that decides their values. Images that are rendered are encoded anew: no key could name the code that
renders them. Prompts' ids are not kept either, which a tokenizer makes faster than a disk finds small files. Processes
that train together each compute a share of the files, and all of the rest.

N images, h w rows and columns of a token grid, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.generation.sequence import grids
from glmkit.models.checkpoint import identity
from glmkit.models.devices import autocast
from glmkit.models.hybrid import HybridModel
from glmkit.models.semantic_vq.model import SemanticTokenizer
from glmkit.progress import progress_bars
from glmkit.training.data import ImageDataset, by_size, kinds_with_caption
from glmkit.training.feature_files import FeatureFiles, FeatureStore, are_intact

CHUNK_PIXELS = 2**21  # that go through an encoder together, beside the component in training: 2 images of 1024x1024
VERSION = "1"  # of what is computed here; with another one nothing on disk is used
NOTES = Console(stderr=True)
Size = tuple[int, int]
Encode = Callable[[list[int]], Tensor]
Chunks = Iterator[tuple[slice, Tensor]]


class CachedFeatures:
    """One tensor per item: `features[indices]` are those of items of one size, on `device`.

    The items of one size are a stack: on the device, in the CPU's memory, or in files.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._positions: dict[int, tuple[Tensor | FeatureFiles, int]] = {}

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        stack = self._positions[int(indices[0])][0]
        positions = torch.as_tensor([self._positions[int(index)][1] for index in indices])
        if isinstance(stack, Tensor) and stack.device == self.device:
            return stack[positions.to(self.device)]
        values = stack[positions]
        pin = self.device.type == "cuda" and values.device.type == "cpu"
        return (values.pin_memory() if pin else values).to(self.device, non_blocking=True)

    def fill(self, members: Sequence[int], stack: Tensor | FeatureFiles) -> None:
        """Take the items `members` from `stack`, in this order."""
        self._positions.update({index: (stack, position) for position, index in enumerate(members)})

    def share(self, same: Mapping[int, int]) -> None:
        """Give each of these items the features of another one."""
        self._positions.update(
            {index: self._positions[first] for index, first in same.items() if first in self._positions}
        )


class FeatureCache:
    """Computes features once, and decides where they are kept.

    They are on the training `device` as long as they take at most `gpu_bytes` in all; then in the CPU's memory or, if
    they are in files, there, to be read for each batch. `folder` is where the files are, the same for all processes of
    the `group`; None: nothing is written.
    """

    def __init__(
        self,
        device: torch.device,
        folder: Path | None = None,
        gpu_bytes: float = 2**30,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.device, self.folder, self._left, self._group = device, folder, gpu_bytes, group

    def precompute(
        self,
        name: str,
        sizes: Sequence[Size | None],
        encode: Encode,
        *,
        batch_size: Callable[[Size], int],
        keys: Sequence[str] | None = None,
        depends_on: Callable[[], Mapping[str, str]] = dict,
    ) -> CachedFeatures:
        """Run `encode` on every item with a size, `batch_size(size)` items at once, whose values have one shape.

        With `keys`, items that are in files are not encoded again: `depends_on` names all that decides a value beside
        its key.
        """
        features, groups = CachedFeatures(self.device), by_size(sizes)
        count, computed, files = sum(map(len, groups.values())), 0, dict[Size, FeatureFiles]()
        chunks_of: dict[Size, Callable[[list[int]], Chunks]] = {}
        store = None
        if keys is not None and self.folder is not None:
            store = FeatureStore(self.folder, name, {"version": VERSION, **depends_on()})
        with progress_bars(console=NOTES, transient=True, disable=not NOTES.is_terminal) as bar:
            task = bar.add_task(name, total=count)
            for size, members in groups.items():
                chunks = chunks_of[size] = partial(self._chunks, encode, batch_size(size), partial(bar.advance, task))
                if store is None or keys is None:
                    features.fill(members, self._stacked_in_memory(members, chunks(members)))
                    computed += len(members)
                else:
                    files[size] = FeatureFiles(store.paths([keys[index] for index in members]))
                    written = _write_missing(store, members, files[size].paths, chunks, self._group)
                    computed += written
                    bar.advance(task, len(members) - written)
        if store:
            computed = self._group.reduce_sum(computed)  # and every file is there, in a cache that all share
        for size, of_size in files.items():
            if store and self._group.world_size > 1:
                _write_absent(store, groups[size], of_size.paths, chunks_of[size])
            features.fill(groups[size], self._loaded_or_files(of_size))
        if count:
            mib = sum(of_size.nbytes for of_size in files.values()) / 2**20
            found = f", {count - computed} found; {mib:,.1f} MiB in {store.folder}" if store else ""
            NOTES.print(f"{name}: {computed} computed{found}", soft_wrap=True)
        return features

    def _chunks(self, encode: Encode, batch_size: int, advance: Callable[[int], None], members: list[int]) -> Chunks:
        """Yield which of the members were encoded, and their values, `batch_size` at a time."""
        for start in range(0, len(members), batch_size):
            chunk = slice(start, start + batch_size)
            with torch.no_grad(), autocast(self.device):
                values = encode(members[chunk])
            advance(len(values))
            yield chunk, values

    def _reserve(self, nbytes: int) -> bool:
        """Tell whether so many bytes more may be on the device; if so, they count from now on."""
        fits = nbytes <= self._left
        self._left -= nbytes * fits
        return fits

    def _loaded_or_files(self, files: FeatureFiles) -> Tensor | FeatureFiles:
        """Return all items on the device, or the files when that is too much."""
        return files[torch.arange(len(files.paths))].to(self.device) if self._reserve(files.nbytes) else files

    def _stacked_in_memory(self, members: Sequence[int], chunks: Chunks) -> Tensor:
        chunk, values = next(chunks)
        device = self.device if self._reserve(len(members) * values[0].nbytes) else "cpu"
        stack = torch.empty(len(members), *values.shape[1:], dtype=values.dtype, device=device)
        stack[chunk] = values
        for chunk, values in chunks:
            stack[chunk] = values
        return stack


def _write_missing(
    store: FeatureStore,
    members: Sequence[int],
    paths: Sequence[Path],
    chunks: Callable[[list[int]], Chunks],
    group: ProcessGroup,
) -> int:
    """Write this process's share of the members' files that are not there and intact; returns how many these were."""
    positions = {path: position for position, path in enumerate(paths)}  # equal items share a file
    share = dict(list(positions.items())[group.rank :: group.world_size])
    missing = [position for position, intact in zip(share.values(), are_intact(list(share)), strict=True) if not intact]
    for chunk, values in chunks([members[position] for position in missing]):
        store.write([paths[position] for position in missing[chunk]], values)
    return len(missing)


def _write_absent(
    store: FeatureStore, members: Sequence[int], paths: Sequence[Path], chunks: Callable[[list[int]], Chunks]
) -> None:
    """Write the files that processes of other machines have put into caches of their own."""
    absent = list({path: position for position, path in enumerate(paths) if not path.exists()}.values())
    for chunk, values in chunks([members[position] for position in absent]):
        store.write([paths[position] for position in absent[chunk]], values)


def precompute(
    images: ImageDataset,
    encode: Encode,
    cache: FeatureCache,
    name: str,
    *,
    only: Sequence[bool] | None = None,
    keys: Sequence[str] | None = None,
    depends_on: Callable[[], Mapping[str, str]] = dict,
) -> CachedFeatures:
    """Run `encode(indices)` on every image, or on those where `only` is True; once for all captions of an image."""
    chosen = [True] * len(images.sizes) if only is None else only
    sizes = [
        size if is_chosen and index not in images.same_image else None
        for index, (size, is_chosen) in enumerate(zip(images.sizes, chosen, strict=True))
    ]

    def batch_size(size: Size) -> int:
        return max(1, CHUNK_PIXELS // (size[0] * size[1]))

    computed = cache.precompute(name, sizes, encode, batch_size=batch_size, keys=keys, depends_on=depends_on)
    computed.share(images.same_image)
    return computed


def computed_by(hybrid: HybridModel, component: str) -> Mapping[str, str]:
    """Return what decides the values that a component gives: its weights and settings, and how it computes."""
    computes = f"{hybrid.device.type} {hybrid.dtype}"
    return {"part": component, "weights": identity.fingerprint(hybrid.folder, component), "computes": computes}


def resize_as_processor(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize pixels B 3 H W in [-1, 1] to height x width as the published image processor resizes 8-bit images.

    That is bicubic with anti-aliasing, first along the rows, and on whole levels after each of the two passes.
    """
    levels = (pixels.float() + 1) * 127.5
    for size in ((pixels.shape[-2], width), (height, width)):
        levels = F.interpolate(levels, size, mode="bicubic", antialias=True, align_corners=False)
        levels = levels.round().clamp(0, 255)
    return levels / 127.5 - 1


def large_token_ids(tokenizer: SemanticTokenizer, pixels: Tensor) -> Tensor:
    """Encode pixels B 3 H W as the token ids B h w of the large grid (32 px per token): halved, then 16-px patches."""
    large = grids(*pixels.shape[-2:]).large
    return tokenizer.encode(resize_as_processor(pixels, large[0] * 16, large[1] * 16))


def preview_token_ids(tokenizer: SemanticTokenizer, pixels: Tensor) -> Tensor:
    """Encode pixels B 3 H W as the token ids B h w of the preview grid: the whole image in about 256 tokens."""
    preview = grids(*pixels.shape[-2:]).preview
    return tokenizer.encode(resize_as_processor(pixels, preview[0] * 16, preview[1] * 16))


def precompute_large_tokens(hybrid: HybridModel, images: ImageDataset, cache: FeatureCache) -> CachedFeatures:
    """Compute N h w int16: the token ids of every image's large grid."""
    return precompute(
        images,
        lambda indices: large_token_ids(hybrid.semantic_vq, images.pixels(indices, cache.device)).short(),
        cache,
        "large tokens",
        keys=images.keys,
        depends_on=lambda: computed_by(hybrid, "semantic_vq"),
    )


def made_from_text(images: ImageDataset) -> list[bool]:
    """Tell which images are to be made from a text, and from no other image."""
    return [kind is not None and not kind[2] for kind in kinds_with_caption(images)]


def precompute_preview_tokens(hybrid: HybridModel, images: ImageDataset, cache: FeatureCache) -> CachedFeatures:
    """Compute N h w int16: the token ids of the preview grid of every image that is to be made from a text."""
    return precompute(
        images,
        lambda indices: preview_token_ids(hybrid.semantic_vq, images.pixels(indices, cache.device)).short(),
        cache,
        "preview tokens",
        only=made_from_text(images),
        keys=images.keys,
        depends_on=lambda: computed_by(hybrid, "semantic_vq"),
    )


def precompute_latents(hybrid: HybridModel, images: ImageDataset, cache: FeatureCache) -> CachedFeatures:
    """Compute N 2C H/8 W/8: means of the normalised latents, then their standard deviations; float16 on a GPU."""
    dtype = torch.float16 if cache.device.type == "cuda" else torch.float32

    def encode(indices: list[int]) -> Tensor:
        return torch.cat(hybrid.vae.encode_distribution(images.pixels(indices, cache.device)), dim=1).to(dtype)

    return precompute(
        images,
        encode,
        cache,
        "latents",
        keys=images.keys,
        depends_on=lambda: computed_by(hybrid, "vae"),
    )


def precompute_text_masks(images: ImageDataset, cache: FeatureCache) -> CachedFeatures | None:
    """Compute how much of each latent position is text, N 1 H/8 W/8 uint8 (255 = all); None where it is unknown."""
    if images.text_mask([0], cache.device) is None:
        return None

    def encode(indices: list[int]) -> Tensor:
        mask = images.text_mask(indices, cache.device)
        assert mask is not None
        return (F.avg_pool2d(mask, 8) * 255).round().to(torch.uint8)

    return precompute(images, encode, cache, "text masks", keys=images.text_keys)
