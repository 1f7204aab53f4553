"""Folders of safetensors files: one `STEM.safetensors`, or shards with `STEM.safetensors.index.json`.

Headers are read without torch, so counting and checking a checkpoint costs nothing; tensors are mapped from the file
and converted one by one, so weights are never held twice.
Format: https://github.com/huggingface/safetensors#format (8 bytes header length, JSON header, data).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.files import MAX_TEXT_BYTES, atomic_path, write_json
from glmkit.models.checkpoint.configs import read_config

if TYPE_CHECKING:
    import torch

MAPPED = os.name != "nt"
LARGEST_HEADER = 100_000_000
TEXTS = (".json", ".jinja", ".txt")
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Describe one tensor as its file's header does. `dtype` is the safetensors name, for example BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def numel(self) -> int:
        """Return how many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def stored_tensors(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """Return every tensor of a weight folder, by its published name.

    A single file wins over an index, as in the public libraries. UserError when there are no weights, when a shard is
    missing, cut short or broken, or when the index names a tensor that its shard does not hold.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return read_header(single)
    if not index.exists():
        raise UserError(f"no weights in {folder}", fix=f"a folder with {single.name} or {index.name}")
    weight_map = read_config(index, {"weight_map": {}}, ["weight_map"])["weight_map"]
    for name in weight_map.values():
        # A link is fine, as in the hub's cache; a path could lead to any file of this machine.
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\0]{1,200}\.safetensors", name):
            fix = "download or copy it again"
            raise UserError(f"{index} names weights that are no file beside it", found=repr(name)[:80], fix=fix)
    stored: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing", fix=f"{index.name} names it: download or copy it again")
        stored.update(read_header(folder / name))
    lost = sorted(set(weight_map) - set(stored))
    if lost:
        raise UserError(f"{folder / weight_map[lost[0]]} does not hold {lost[0]}", fix="download or copy it again")
    return {name: stored[name] for name in weight_map}


def check_sizes(folder: Path) -> None:
    """Raise UserError for a file of a model folder whose size cannot be right, before hours are spent on hashing it."""
    for path in sorted(folder.glob("*/*")):
        if not path.is_file():
            continue
        if path.suffix == ".safetensors":
            read_header(path)
        elif path.suffix in TEXTS and (size := path.stat().st_size) > MAX_TEXT_BYTES:
            raise UserError(f"{path} is too large", found=f"{size:,} bytes", fix="download or copy this file again")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file, after checking that the header describes the whole file."""
    return _header(path)[0]


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the texts that a safetensors file holds beside its tensors."""
    return _header(path)[1]


def _header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is not a file of weights", fix="a safetensors file")
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _broken(path, f"{size:,} bytes, which is not a complete safetensors header")
        try:
            header = json.loads(handle.read(length))
            metadata = dict(header.pop("__metadata__", None) or {})
            tensors = {str(name): _stored(path, entry) for name, entry in header.items()}
            spans = sorted(entry["data_offsets"] for entry in header.values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _broken(path, "a header that is not safetensors") from error
    end = 0
    for begin, after in spans:
        if begin != end:
            raise _broken(path, f"tensors that overlap or leave a gap at byte {min(begin, end):,}")
        end = after
    if size != 8 + length + end:
        raise _broken(path, f"{size:,} bytes, expected {8 + length + end:,}")
    return tensors, metadata


def _stored(path: Path, entry: Mapping[str, Any]) -> StoredTensor:
    """Describe a tensor of a header; ValueError when it says what no tensor is."""
    shape, dtype, (begin, end) = tuple(entry["shape"]), entry["dtype"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"shape {shape}, bytes {begin} to {end}")
    stored = StoredTensor(path, shape, dtype, end - begin)
    if stored.bytes * 8 != stored.numel * BITS[dtype]:
        raise ValueError(f"{stored.bytes} bytes for {stored.numel} numbers of type {dtype}")
    return stored


def _broken(path: Path, found: str) -> UserError:
    return UserError(f"{path} is truncated or broken", found=found, fix="download or copy this file again")


def read(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) file by file. Tensors are private maps of the file: pages are read when touched.

    On Windows they are copies: a file that is mapped there can be neither replaced nor removed.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted({entry.file for entry in stored.values()}):
        try:
            with safe_open(path, framework="pt") as handle:
                for name in sorted(name for name, entry in stored.items() if entry.file == path):
                    yield name, handle.get_tensor(name) if MAPPED else handle.get_tensor(name).clone()
        except SafetensorError as error:
            raise _broken(path, str(error)) from error


def write(
    folder: Path,
    stem: str,
    tensors: Mapping[str, torch.Tensor],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` as the weights of `folder`, replacing what was there; every file carries `metadata`.

    Every file is written completely under another name before the first one gets its own: a kill while writing leaves
    the old weights. Names are those of the public libraries (`STEM.safetensors`, `STEM-00001-of-00002.safetensors`).
    """
    from safetensors.torch import save_file

    shards = _shards(tensors, max_shard_bytes)
    count = len(shards)
    names = (
        [f"{stem}.safetensors"]
        if count == 1
        else [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    )
    index = folder / f"{stem}.safetensors.index.json"
    old = set(folder.glob(f"{stem}*.safetensors"))
    staged: list[tuple[Path, Path]] = []
    try:
        for name, shard in zip(names, shards, strict=True):
            unfinished = folder / f".{name}.new"
            staged.append((unfinished, folder / name))
            with atomic_path(unfinished) as temporary:
                values = {key: tensors[key].detach().cpu().contiguous() for key in shard}
                save_file(values, temporary, {**(metadata or {}), "format": "pt"})
                temporary.chmod(folder.stat().st_mode & 0o666)  # safetensors lets only the owner read its files
        for unfinished, path in staged:
            unfinished.replace(path)
    finally:
        for unfinished, _ in staged:
            unfinished.unlink(missing_ok=True)
    if count > 1:
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        write_json(index, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    else:
        index.unlink(missing_ok=True)
    for path in old - {folder / name for name in names}:
        path.unlink()


def _shards(tensors: Mapping[str, torch.Tensor], max_shard_bytes: int) -> list[list[str]]:
    """Group names in order so that no group exceeds the limit, unless one tensor alone does."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def listed(names: Iterable[str], limit: int = 3) -> str:
    """Return the first few names and how many more there are, for error messages."""
    in_order = sorted(names)
    more = f" and {len(in_order) - limit} more" if len(in_order) > limit else ""
    return ", ".join(in_order[:limit]) + more
