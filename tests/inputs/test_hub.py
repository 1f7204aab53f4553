"""Data sets of the hub: which files are downloaded, and what happens out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.inputs import hub


@pytest.mark.parametrize("revision", [None, hub.CONVERTED])
def test_files_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None) -> None:
    """One split of one configuration is downloaded, from the files that the hub converted if there are no others."""
    files = ["README.md", "default/train/0000.parquet", "default/test/0000.parquet", "other/train/0000.parquet"]
    asked: list[Any] = []

    class Api:
        def list_repo_files(self, _name: str, repo_type: str, revision: str | None) -> list[str]:
            assert repo_type == "dataset"
            return files if revision == wanted else ["README.md"]

    def snapshot_download(name: str, repo_type: str, allow_patterns: list[str], revision: str | None = None) -> str:
        asked.append((name, repo_type, revision, allow_patterns))
        return str(tmp_path)

    wanted = revision
    (tmp_path / "README.md").write_text("no configurations")
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found, notes = hub.fetch("owner/name:train", "train")
    assert found == [tmp_path / "default/train/0000.parquet"]
    assert asked[-1] == ("owner/name", "dataset", revision, ["default/train/0000.parquet"])
    assert notes == ["owner/name: default/train is taken; not taken: default/test, other/train"]
    assert hub.fetch("owner/name/other:train", "train")[0] == [tmp_path / "other/train/0000.parquet"]


def test_the_card_of_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is the split of files whose names do not."""
    files = "[{split: train, path: one.parquet}, {split: test, path: two.parquet}]"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- data_files: {files}\n---\n")
    asked: list[list[str]] = []

    class Api:
        def list_repo_files(self, *_: object, **__: object) -> list[str]:
            return ["README.md", "one.parquet", "two.parquet"]

    def snapshot_download(*_: object, allow_patterns: list[str], **__: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert hub.fetch("owner/name:test", "train")[0] == [tmp_path / "two.parquet"]
    assert asked == [["README.md"], ["two.parquet"]]


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Unreachable(Exception):
        pass

    class Api:
        def list_repo_files(self, *_: object, **__: object) -> list[str]:
            raise Unreachable("connection refused")

    def snapshot_download(*_: object, local_files_only: bool = False, **__: object) -> str:
        assert local_files_only
        if not is_cached:
            raise FileNotFoundError("nothing of it here")
        return str(tmp_path)

    is_cached = False
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"cannot get dataset owner/name[\s\S]*connection refused"):
        hub.fetch("owner/name:train", "train")
    is_cached = True
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").touch()
    assert hub._listed("owner/name") == (None, ["data/train-00000-of-00001.parquet"])
