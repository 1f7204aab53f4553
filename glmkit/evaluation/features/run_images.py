"""Features of the images of a run, shared by all evaluations of the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glmkit.evaluation.features.extractors import Extractor, slug
from glmkit.evaluation.features.store import EncodedImage, Position, StoredFeatures, extract_features
from glmkit.files import cache_folder
from glmkit.hashing import file_sha256
from glmkit.records import Generation


@dataclass(frozen=True)
class RunImages:
    """List the images of a run in its order, as an `ImageSource`; records without an image are passed over."""

    folder: Path
    records: Sequence[Generation]

    def images(self, after: Position | None) -> Iterator[EncodedImage]:
        """Read every image after that position."""
        for number, record in enumerate(self.records):
            if record.file is not None and (after is None or number > after.record):
                data = (self.folder / record.file).read_bytes()
                yield EncodedImage(Position(0, number), record.id, data, record.prompt)

    def cache(self, extractor: Extractor) -> Path:
        """Name the cache folder for the features of these very images."""
        digest = hashlib.sha256()
        for record in self.records:
            if record.file is not None:
                digest.update(f"{record.id}\0{file_sha256(self.folder / record.file)}\0".encode())
        return cache_folder() / "features" / slug(extractor) / digest.hexdigest()[:16]


def run_features(folder: Path, records: Sequence[Generation], extractor: Extractor) -> StoredFeatures:
    """Extract the features of the images of a run, or take those of the cache."""
    images = RunImages(folder, records)
    return extract_features(images, extractor, images.cache(extractor), unique=False, title=extractor.label)


def features_by_image(
    folder: Path, records: Sequence[Generation], extractor: Extractor
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map the ids of images to their features D, float64, and the others to what is wrong with them."""
    stored = run_features(folder, records, extractor)
    indices = {record["key"]: record["index"] for record in stored.records() if "index" in record}
    errors = {record["key"]: record["error"] for record in stored.records() if "error" in record}
    features = stored.take(np.array(list(indices.values()), dtype=np.int64)).astype(np.float64)
    return dict(zip(indices, features, strict=True)), errors
