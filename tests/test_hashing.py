"""Hashes of weights: right, remembered, and never out of date."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from glmkit import hashing
from glmkit.errors import UserError
from glmkit.hashing import large_file_sha256


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, link = tmp_path / "weights", tmp_path / "link"
    weights.write_bytes(b"one")
    link.symlink_to(weights)
    read: list[Path] = []
    real = hashing.file_sha256

    def record(path: Path, limit: int | None) -> str:
        read.append(path)
        return real(path, limit)

    monkeypatch.setattr(hashing, "file_sha256", record)
    monkeypatch.setattr(hashing, "STABLE_NS", -(10**12))
    assert large_file_sha256(weights) == large_file_sha256(link) == hashlib.sha256(b"one").hexdigest()
    assert len(read) == 1
    before = weights.stat().st_mtime_ns
    weights.write_bytes(b"two")
    os.utime(weights, ns=(before + 1, before + 1))
    assert large_file_sha256(weights) == hashlib.sha256(b"two").hexdigest()
    assert len(read) == 2


def test_a_change_in_the_same_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    """Same size, same time: only the content tells, as long as the file may still be changing."""
    weights = tmp_path / "weights"
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        os.utime(weights, ns=(10**18, 10**18))
        assert large_file_sha256(weights) == hashlib.sha256(content).hexdigest()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(b"one")
    (tmp_path / "cache").write_bytes(b"")
    monkeypatch.setattr(hashing, "STABLE_NS", -(10**12))
    assert large_file_sha256(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"sha256"'])
def test_a_broken_record_is_made_again(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(b"one")
    monkeypatch.setattr(hashing, "STABLE_NS", -(10**12))
    digest = large_file_sha256(tmp_path / "weights")
    (record,) = (tmp_path / "cache" / "hashes").iterdir()
    record.write_text(content)
    assert large_file_sha256(tmp_path / "weights") == digest


@pytest.mark.parametrize("part", ["file", "folder", "folder of links"])
def test_a_fingerprint_sees_every_byte_behind_links(part: str, tmp_path: Path) -> None:
    """A hub's cache links to files, people link whole components; training changes numbers anywhere in a file."""
    content = bytearray(300_000)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "weights").write_bytes(content)
    seen = {"file": tmp_path / "real" / "weights", "folder": tmp_path / "real", "folder of links": tmp_path / "links"}
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "component").symlink_to(tmp_path / "real")
    (tmp_path / "links" / "loop").symlink_to(tmp_path)
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "links")
    before = hashing.fingerprint(seen[part])
    assert hashing.fingerprint(seen[part]) == before
    content[150_000] = 1
    (tmp_path / "real" / "weights").write_bytes(content)
    assert hashing.fingerprint(seen[part]) != before


def test_a_folder_has_one_fingerprint_on_all_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths sort without regard to case on Windows."""
    for name in ("B.json", "a.json", "c/D.json", "c/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    before = hashing.fingerprint(tmp_path)
    monkeypatch.setattr(type(tmp_path), "__lt__", lambda one, other: str(one).lower() < str(other).lower())
    assert sorted(tmp_path.iterdir())[0].name == "a.json"
    assert hashing.fingerprint(tmp_path) == before


@pytest.mark.parametrize("picture", ["README.md", "sample.png", "sample.jpg", "prompts.webp", "curves.svg"])
def test_pictures_beside_a_readme_are_no_content(tmp_path: Path, picture: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    before = hashing.fingerprint(tmp_path)
    (tmp_path / picture).write_bytes(b"shown to people")
    assert hashing.fingerprint(tmp_path) == before


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for digest in (hashing.file_sha256, large_file_sha256):
        with pytest.raises(UserError, match="pipe"):
            digest(tmp_path / "pipe")


def test_what_no_reader_takes_is_not_hashed(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes hours; weights may have any size."""
    path = tmp_path / "prompts.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="too large"):
        hashing.file_sha256(path)
    for place in (path, tmp_path):
        with pytest.raises(UserError, match="too large"):
            hashing.fingerprint(place)
    path.write_bytes(b"four")
    assert hashing.file_sha256(path, limit=4) == hashing.file_sha256(path, limit=None)
    with pytest.raises(UserError, match="too large"):
        hashing.file_sha256(path, limit=3)
