"""Shipped files by their names in the repository: found from any folder, said, and never in place of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit import shipped


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped._say_shipped.cache_clear()


def test_shipped_data_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert shipped.find("data/posters/train") == str(shipped.ROOT / "data/posters/train")
    said = capsys.readouterr().err
    assert (
        said == f"data/posters/train is not in this folder: that of glmkit is read, {shipped.ROOT}/data/posters/train\n"
    )


def test_ones_own_are_taken_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "posters" / "train").mkdir(parents=True)
    assert shipped.find("data/posters/train") == "data/posters/train"
    assert shipped.find("recipes/README.md") == str(shipped.ROOT / "recipes/README.md")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", ["tests", "glmkit", "", ".", "data/../tests", "data/no_such_set", "my/data/posters"])
def test_nothing_else_of_the_repository_is_taken(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that someone meant is missing, which must not be an error of another folder."""
    assert shipped.find(path) == path
    assert capsys.readouterr().err == ""
