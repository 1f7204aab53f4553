"""The run folder: settings are fixed by the first command, the environment is recorded each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmkit.errors import UserError
from glmkit.files import read_json, write_json
from glmkit.hashing import fingerprint
from glmkit.reporting.provenance import device_text
from glmkit.runs import environment, open_run, read_manifest


def test_the_same_settings_continue(tmp_path: Path) -> None:
    settings = {"suite": "text-render", "limit": 3, "adapters": [{"path": "a"}]}
    first = open_run(tmp_path / "run", "eval", settings, "cuda")
    again = open_run(tmp_path / "run", "eval", settings, "cpu")
    assert (first.resumed, again.resumed) == (False, True)
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert manifest["settings"] == settings
    assert manifest["environment"]["device"] == "cuda"
    assert [entry["environment"]["device"] for entry in manifest["resumed"]] == ["cpu"]


@pytest.mark.parametrize("change", [{"limit": 4}, {"limit": None}, {"seeds": 2}])
def test_other_settings_are_named_and_change_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    open_run(tmp_path, "eval", {"limit": 3})
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=rf"{next(iter(change))} was .*, now"):
        open_run(tmp_path, "eval", {"limit": 3, **change})
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_other_kinds_of_folders_are_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "finetune", {})
    with pytest.raises(UserError, match="another kind of run"):
        open_run(tmp_path / "run", "eval", {})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(UserError, match="is not a run folder"):
        open_run(tmp_path / "photos", "eval", {})
    (tmp_path / "run" / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="not the manifest"):
        open_run(tmp_path / "run", "eval", {})


@pytest.mark.parametrize(
    "name",
    [
        *("train.log", "nohup.out", "slurm-123.out", "job.err", "output.txt", "log", "typescript"),
        *(".DS_Store", "._train.log", "Thumbs.db", "desktop.ini", ".gitignore", ".ipynb_checkpoints/a.txt"),
    ],
)
def test_a_folder_with_what_systems_and_shells_put_there_is_new(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("line\n")
    assert not open_run(tmp_path, "finetune", {}).resumed
    assert open_run(tmp_path, "finetune", {}).resumed
    assert (tmp_path / name).read_text() == "line\n"


@pytest.mark.parametrize("name", ["cat.png", "recipe.yaml", "log/a.txt", "images.jsonl", "notes.txt/a"])
def test_a_folder_with_anything_else_is_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="is not a run folder"):
        open_run(tmp_path, "finetune", {})
    assert not (tmp_path / "manifest.json").exists()


def test_a_run_killed_before_its_manifest_is_started_again(tmp_path: Path) -> None:
    (tmp_path / ".manifest.123.tmp.json").write_text('{"kind": "ev')
    assert not open_run(tmp_path, "eval", {}).resumed
    assert open_run(tmp_path, "eval", {}).resumed


def test_the_environment_names_versions_and_revision() -> None:
    found = environment("cpu")
    assert found["versions"]["numpy"]
    assert found["python"]
    assert found["glmkit"]
    assert found["git"] is None or len(found["git"]["revision"]) == 40


def test_the_environment_names_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_run(tmp_path, "eval", {}, "cuda")  # as runs that were written before: without its name
    assert "gpu" not in read_manifest(tmp_path)["environment"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 at {device}")
    assert open_run(tmp_path, "eval", {}, "cuda:1").resumed
    manifest = read_manifest(tmp_path)
    assert manifest["resumed"][0]["environment"]["gpu"] == "NVIDIA H200 at cuda:1"
    assert device_text(manifest["environment"]) == "cuda"
    assert device_text(manifest["resumed"][0]["environment"]) == "cuda:1, NVIDIA H200 at cuda:1"
    assert device_text(environment()) == "–"
    assert "gpu" not in environment("cpu")
    write_json(tmp_path / "manifest.json", {**manifest, "environment": {**manifest["environment"], "gpu": 4}})
    with pytest.raises(UserError, match=r"environment\.gpu must be text"):
        read_manifest(tmp_path)


def test_fingerprint_sees_content_names_and_both_ends(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    content = bytearray(300_000)
    seen = set()
    for name, position in (("w", None), ("w", 0), ("w", 299_999), ("v", 299_999)):
        if position is not None:
            content[position] = 1
        (folder / name).write_bytes(content)
        seen.add(fingerprint(folder))
    assert len(seen) == 4
    assert fingerprint(folder) == fingerprint(folder)
    before = fingerprint(folder)
    (folder / "README.md").write_text("only people read this")
    (folder / "samples.png").write_bytes(b"only people look at this")
    assert fingerprint(folder) == before
    image = fingerprint(folder / "samples.png")
    (folder / "samples.png").write_bytes(b"another image")
    assert fingerprint(folder / "samples.png") != image
