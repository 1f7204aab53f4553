"""Features on disk, one file per item, whose names say everything that their values depend on."""

from __future__ import annotations

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
from glmkit.files import atomic_path, check_regular, write_json
from glmkit.hashing import json_sha256

CHECKSUM_BYTES = 4


class FeatureStore:
    """Items of one kind in `folder`, whose name holds a digest of `depends_on`: what decides them beside their keys."""

    def __init__(self, folder: Path, name: str, depends_on: Mapping[str, str]) -> None:
        digest = json_sha256(depends_on)[:16]
        self.folder = folder / f"{name.replace(' ', '-')}-{digest}"
        self._depends_on = dict(depends_on)

    def paths(self, keys: Sequence[str]) -> list[Path]:
        """Return where the items with these keys are, or will be."""
        return [self.folder / key[:2] / key for key in keys]

    def write(self, paths: Sequence[Path], values: Tensor) -> None:
        """Write one item of `values` into each path; UserError when the disk is full."""
        if not (self.folder / "about.json").exists():
            write_json(self.folder / "about.json", self._depends_on)
        values = values.cpu()
        with ThreadPoolExecutor(runs.cores()) as pool:
            list(pool.map(_write, paths, values))


def _write(path: Path, value: Tensor) -> None:
    content = save({"value": value.clone(memory_format=torch.contiguous_format)})
    with atomic_path(path, flush=False) as temporary:  # `read` finds what a power cut leaves
        temporary.write_bytes(zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big") + content)


def read(path: Path) -> Tensor | None:
    """Read the item of a file onto the CPU; None where there is no such file, or one that was cut or changed."""
    try:
        check_regular(path, str(path))
        content = path.read_bytes()
    except (OSError, UserError):
        return None
    checksum, content = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    if zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big") != checksum:
        return None
    try:
        return load(content)["value"]
    except (SafetensorError, KeyError):
        return None


def are_intact(paths: Sequence[Path]) -> list[bool]:
    """Tell which of the files can be read to their end and hold what was written."""
    with ThreadPoolExecutor(runs.cores()) as pool:
        return list(pool.map(lambda path: read(path) is not None, paths))


class FeatureFiles:
    """Items that are read each time they are indexed: `files[positions]` stacks some of them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    @property
    def nbytes(self) -> int:
        """Count the bytes of all items, each as often as it is there."""
        return sum(path.stat().st_size for path in self.paths)

    def __getitem__(self, positions: Tensor) -> Tensor:
        values = []
        for position in positions.tolist():
            value = read(self.paths[position])
            if value is None:
                raise UserError(f"{self.paths[position]} is gone or broken", fix="repeat the command: it is made again")
            values.append(value)
        return torch.stack(values)
