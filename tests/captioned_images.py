"""Small images with captions in files, and what `read_captioned_images` finds of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from glmkit.config import Columns
from glmkit.inputs.datasets import Found, read_captioned_images


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(path, "PNG")
    return path


def with_text(path: Path, text: str | None = None) -> None:
    image(path).with_suffix(".txt").write_text(path.stem if text is None else text, encoding="utf-8")


def parquet(path: Path, *captions: Any, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"image": [b"png"] * len(captions), "text": list(captions), **more}
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def captions(found: Found) -> list[str]:
    assert not [one.error for one in found.images if one.error]
    return [caption for one in found.images for caption in one.captions]


def read(where: Path | str, role: str = "train", **columns: str) -> Found:
    return read_captioned_images(str(where), Columns(**columns), role)
