"""Features of a stream of images: killed, continued, repeated; nothing counted twice, nothing lost."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.features import store as module
from glmkit.evaluation.features.store import FEATURES, IMAGES, EncodedImage, Position, extract_features, load


def png(value: int, mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    Image.new(mode, (2, 2), value if mode == "L" else (value,) * len(mode)).save(data, "PNG")
    return data.getvalue()


class Given:
    """A source of these images; counts how many were read."""

    def __init__(self, *data: bytes) -> None:
        self.data, self.read = data, 0

    def images(self, after: Position | None) -> Iterator[EncodedImage]:
        for row, data in enumerate(self.data):
            if after is None or row > after.record:
                self.read += 1
                yield EncodedImage(Position(0, row), f"{row}.png", data, f"prompt {row}")


class Sums:
    """An extractor whose features depend on the batch, as floating-point sums do; dies at the batch `dies_at`."""

    spec, label, width = "sums", "sums", 2
    conventions: Mapping[str, Any] = {"network": "sum"}
    distances: Mapping[str, str] = {}

    def __init__(self, dies_at: int | None = None) -> None:
        self.left = dies_at

    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        levels = [float(image.getpixel((0, 0))[0]) for image in images]  # type: ignore[index]
        return np.array([[level, sum(levels)] for level in levels], dtype=np.float32)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 4)


IMAGE_SET = [png(5), b"broken", *(png(value) for value in range(10, 21)), png(5), b"", png(12), png(30)]


def everything(folder: Path) -> tuple[bytes, bytes]:
    return (folder / FEATURES).read_bytes(), (folder / IMAGES).read_bytes()


def test_rows_features_repeats_and_errors(tmp_path: Path) -> None:
    found = extract_features(Given(*IMAGE_SET), Sums(), tmp_path, unique=True, title="test")
    rows = list(found.records())
    assert (found.count, found.repeats, found.errors) == (13, 2, 2)
    assert [row["key"] for row in rows] == [f"{number}.png" for number in range(len(IMAGE_SET))]
    assert [row["index"] for row in rows if "index" in row] == list(range(13))
    assert rows[1]["error"] == "not an image"
    assert rows[13]["repeats"]
    assert rows[0]["prompt"] == "prompt 0"
    assert found.formats == {"PNG": 13}
    assert rows[0]["format"] == "PNG"
    assert found.take(np.array([12, 0]))[:, 0].tolist() == [30, 5]
    again = extract_features(Given(), Sums(dies_at=0), tmp_path, unique=True, title="test")
    assert again == found == load(tmp_path)


def test_in_a_run_every_image_counts(tmp_path: Path) -> None:
    found = extract_features(Given(*IMAGE_SET), Sums(), tmp_path, unique=False, title="test")
    assert (found.count, found.repeats, found.errors) == (15, 0, 2)


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_a_killed_pass_continues_to_the_same_bytes(tmp_path: Path, batches: int) -> None:
    extract_features(Given(*IMAGE_SET), Sums(), tmp_path / "whole", unique=True, title="test")
    with pytest.raises(KeyboardInterrupt):
        extract_features(Given(*IMAGE_SET), Sums(dies_at=batches), tmp_path / "cut", unique=True, title="test")
    source = Given(*IMAGE_SET)
    extract_features(source, Sums(), tmp_path / "cut", unique=True, title="test")
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert source.read == len(IMAGE_SET) - [0, 5, 9, 13][batches]


@pytest.mark.parametrize("lost", [1, 40, 700])
def test_a_kill_between_the_two_files_or_within_a_line(tmp_path: Path, lost: int) -> None:
    """The journal may lack lines that the features have, and its last line may be cut."""
    extract_features(Given(*IMAGE_SET), Sums(), tmp_path / "whole", unique=True, title="test")
    with pytest.raises(KeyboardInterrupt):
        extract_features(Given(*IMAGE_SET), Sums(dies_at=3), tmp_path / "cut", unique=True, title="test")
    journal = tmp_path / "cut" / IMAGES
    journal.write_bytes(journal.read_bytes()[:-lost])
    extract_features(Given(*IMAGE_SET), Sums(), tmp_path / "cut", unique=True, title="test")
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


@pytest.mark.parametrize("dies_at", [None, 1])
def test_a_limit_counts_images_that_count(tmp_path: Path, dies_at: int | None) -> None:
    if dies_at is not None:
        with pytest.raises(KeyboardInterrupt):
            extract_features(Given(*IMAGE_SET), Sums(dies_at), tmp_path, unique=True, title="test", limit=6)
    found = extract_features(Given(*IMAGE_SET), Sums(), tmp_path, unique=True, title="test", limit=6)
    assert (found.count, found.errors) == (6, 1)


@pytest.mark.parametrize("data", [[], [b"broken"]])
def test_nothing_to_count_is_an_error_and_leaves_nothing_complete(tmp_path: Path, data: list[bytes]) -> None:
    with pytest.raises(UserError, match="no image could be read"):
        extract_features(Given(*data), Sums(), tmp_path, unique=True, title="test")
    assert not (tmp_path / "complete.json").exists()


def test_two_processes_never_write_the_same_features(tmp_path: Path) -> None:
    """The second waits for the first, and finds its work done."""
    entered, waiting = threading.Event(), threading.Event()

    class Slow(Sums):
        def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
            entered.set()
            assert not waiting.wait(0.2)
            return super().extract(images)

    def second() -> None:
        entered.wait()
        extract_features(Given(*IMAGE_SET), Sums(dies_at=0), tmp_path, unique=True, title="test")
        waiting.set()

    other = threading.Thread(target=second)
    other.start()
    extract_features(Given(*IMAGE_SET), Slow(), tmp_path, unique=True, title="test")
    other.join()
    assert waiting.is_set()


def read_all(folder: Path) -> None:
    stored = load(folder)
    stored.take(np.array([0]))
    list(stored.records())


@pytest.mark.parametrize("file", [FEATURES, IMAGES, "complete.json"])
@pytest.mark.parametrize(
    "content", ["?", "null", "[1]", "{}", '{"position": [0, 0], "width": "x"}', "\0\0\xc0\x7f" * 2]
)
def test_damaged_features_are_an_error_that_says_what_to_delete(tmp_path: Path, file: str, content: str) -> None:
    """The last content is NaN twice: torchmetrics dies of it without a word."""
    extract_features(Given(png(1)), Sums(), tmp_path, unique=True, title="x")
    (tmp_path / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=rf"(?s)damaged.*try:   delete {tmp_path}"):
        read_all(tmp_path)
