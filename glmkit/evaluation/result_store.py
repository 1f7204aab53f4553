"""What an engine found in images, stored twice: in the run folder, if there is one, and in a cache that all share.

A result is known by the content of the image, a detail that decides it, and the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from glmkit.errors import UserError
from glmkit.files import append_jsonl, cache_folder, read_json, read_jsonl, write_json

V = TypeVar("V")
Key = tuple[str, int | str]  # sha256 of an image, detail


@dataclass(frozen=True)
class ResultStore(Generic[V]):
    """Keep results in the file `journal` of a run, where there is one, and in the folder `name` of the cache.

    A line of the journal holds "sha256", "engine" (16 digits that name it), and the fields `detail` and `value`.
    `encode` turns a result into a JSON value, `decode` back, with a UserError for one that is damaged.
    """

    journal: Path | None
    name: str
    engine: str
    detail: str
    value: str
    encode: Callable[[V], Any]
    decode: Callable[[Any], V]

    def find(self, keys: Iterable[Key]) -> dict[Key, V]:
        """Return what is known of these keys; what only the cache knows is added to the journal."""
        journal = self._read_journal()
        found = {}
        cached = {}
        for key in dict.fromkeys(keys):
            if key in journal:
                found[key] = journal[key]
            else:
                with suppress(UserError):  # a file that is missing or damaged is made again
                    found[key] = cached[key] = self.decode(read_json(self._file(key)))
        self._append(cached)
        return found

    def add(self, key: Key, result: V) -> None:
        """Keep a new result; a killed run loses at most this one."""
        self._append({key: result})
        write_json(self._file(key), self.encode(result))

    def _read_journal(self) -> dict[Key, V]:
        results: dict[Key, V] = {}
        for line in read_jsonl(self.journal, partial=True) if self.journal and self.journal.exists() else []:
            with suppress(UserError, KeyError, TypeError):  # a line that is damaged is made again
                if line["engine"] == self.engine:
                    results[line["sha256"], line[self.detail]] = self.decode(line[self.value])
        return results

    def _append(self, results: Mapping[Key, V]) -> None:
        if results and self.journal is not None:
            lines = (
                {"sha256": sha256, self.detail: detail, "engine": self.engine, self.value: self.encode(result)}
                for (sha256, detail), result in results.items()
            )
            append_jsonl(self.journal, *lines)

    def _file(self, key: Key) -> Path:
        sha256, detail = key
        return cache_folder() / self.name / self.engine / sha256[:2] / f"{sha256}-{detail}.json"
