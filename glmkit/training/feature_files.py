"""Tensors on disk, one file an item, whose names say everything that their values depend on."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from glmkit import runs
from glmkit.errors import UserError
from glmkit.files import atomic_path, write_json

CHECK_BYTES = 4


class Store:
    """Items of one kind in `folder`, whose name holds a digest of `about`: what they depend on beside their keys."""

    def __init__(self, folder: Path, name: str, about: Mapping[str, str]) -> None:
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder / f"{name.replace(' ', '-')}-{digest}"
        self._about = dict(about)

    def paths(self, keys: Sequence[str]) -> list[Path]:
        """Where the items with these keys are, or will be."""
        return [self.folder / key[:2] / key for key in keys]

    def write(self, paths: Sequence[Path], values: Tensor) -> None:
        """One item of `values` into each path; UserError when the disk is full."""
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", self._about)
        values = values.cpu()
        with ThreadPoolExecutor(runs.cores()) as pool:
            list(pool.map(_write, paths, values))


def _write(path: Path, value: Tensor) -> None:
    content = save({"value": value.clone(memory_format=torch.contiguous_format)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(zlib.crc32(content).to_bytes(CHECK_BYTES, "big") + content)


def read(path: Path) -> Tensor | None:
    """The item of a file, on the CPU; None where there is no such file, or one that was cut or changed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    check, content = content[:CHECK_BYTES], content[CHECK_BYTES:]
    if zlib.crc32(content).to_bytes(CHECK_BYTES, "big") != check:
        return None
    try:
        return load(content)["value"]
    except (SafetensorError, KeyError):
        return None


def sound(paths: Sequence[Path]) -> list[bool]:
    """Which of the files can be read to their end and hold what was written."""
    with ThreadPoolExecutor(runs.cores()) as pool:
        return list(pool.map(lambda path: read(path) is not None, paths))


class Files:
    """Items that are read each time they are asked for: `files[rows]` stacks some of them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    @property
    def bytes(self) -> int:
        """Of all items, each as often as it is there."""
        return sum(path.stat().st_size for path in self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        values = []
        for row in rows.tolist():
            value = read(self.paths[row])
            if value is None:
                raise UserError(f"{self.paths[row]} is gone or broken", fix="repeat the command: it is made again")
            values.append(value)
        return torch.stack(values)
