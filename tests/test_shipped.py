"""Shipped files by their names in the repository: found from any folder, said, and never in place of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit import shipped
from glmkit.config import Columns
from glmkit.errors import UserError, note_once
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.suites.shared.base import files_in
from glmkit.inputs.datasets import read_captioned_images


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    note_once.cache_clear()


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


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("data/postres/train", "data/posters/train"),
        ("data/posters/traim", "data/posters/train"),
        ("my_photos/traim", "my_photos/train"),
        ("TMP/my_photo/train", "TMP/my_photos/train"),
        ("my_photos/pairs.cvs/x", None),
        ("my_photos/pars.csv", "my_photos/pairs.csv"),
        ("my_photos/train", None),
        ("elsewhere/train", None),
        ("a\0b", None),
        ("x" * 300, None),
        ("", None),
    ],
)
def test_a_typo_in_a_path_names_the_nearest(path: str, near: str | None, tmp_path: Path) -> None:
    (tmp_path / "my_photos" / "train").mkdir(parents=True)
    (tmp_path / "my_photos" / "pairs.csv").touch()
    said = shipped.did_you_mean(path.replace("TMP", str(tmp_path)), "a folder")
    meant = (near or "").replace("TMP", str(tmp_path))
    assert said == (f"did you mean {meant}? Otherwise a folder" if near else "a folder")


def test_folders_of_images_and_of_prompts_are_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    plan = EvaluationPlan("text-render", images=tmp_path / "phtos")
    for use in (
        lambda: read_captioned_images("phtos", Columns()),
        lambda: plan.image_folder,
        lambda: files_in("cvtg-2k", Path("phtos"), lambda data: [data / "prompts.json"], "download them"),
    ):
        with pytest.raises(UserError, match="does not exist") as caught:
            use()
        assert str(caught.value.fix).startswith("did you mean ")
