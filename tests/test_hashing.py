"""Hashes of weights: right, remembered, and never out of date."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from glmkit import hashing
from glmkit.hashing import large_file_sha256


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, link = tmp_path / "weights", tmp_path / "link"
    weights.write_bytes(b"one")
    link.symlink_to(weights)
    read: list[Path] = []
    real = hashing.file_sha256

    def record(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(hashing, "file_sha256", record)
    assert large_file_sha256(weights) == large_file_sha256(link) == hashlib.sha256(b"one").hexdigest()
    assert len(read) == 1
    before = weights.stat().st_mtime_ns
    weights.write_bytes(b"two")
    os.utime(weights, ns=(before + 1, before + 1))
    assert large_file_sha256(weights) == hashlib.sha256(b"two").hexdigest()
    assert len(read) == 2


def test_a_folder_has_one_fingerprint_on_all_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths sort without regard to case on Windows."""
    for name in ("B.json", "a.json", "c/D.json", "c/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    before = hashing.fingerprint(tmp_path)
    monkeypatch.setattr(type(tmp_path), "__lt__", lambda one, other: str(one).lower() < str(other).lower())
    assert sorted(tmp_path.iterdir())[0].name == "a.json"
    assert hashing.fingerprint(tmp_path) == before
