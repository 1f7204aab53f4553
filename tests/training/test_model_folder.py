"""Full training writes into a folder that its run, or a pretraining, has made; into no other, least of all a base."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmkit import config
from glmkit.errors import UserError
from glmkit.files import write_json
from glmkit.hashing import fingerprint
from glmkit.models import checkpoint
from glmkit.runs import open_run
from glmkit.training import model_folder
from glmkit.training.finetune import finetune
from glmkit.training.loop import Loop

CPU = torch.device("cpu")


def manifest(folder: Path, started: str = "today") -> Path:
    run = open_run(folder, "finetune", {"seed": 0})
    write_json(folder / "manifest.json", {**run.manifest, "started": started})
    return folder


def test_a_run_goes_on_in_its_own_copy(tiny_model: Path, tmp_path: Path) -> None:
    run, target = manifest(tmp_path / "run"), tmp_path / "model"
    assert model_folder.writable_copy(tiny_model, target, run) == target
    assert model_folder.writable_copy(tiny_model, target, run) == target
    assert fingerprint(target) == fingerprint(tiny_model), "who made a folder is no content of it"
    with pytest.raises(UserError, match="not made by this run"):
        model_folder.writable_copy(tiny_model, target, manifest(tmp_path / "other", "tomorrow"))


def test_what_pretraining_made_is_open_to_all(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    model_folder.writable_copy(tiny_model, target, manifest(tmp_path / "a"), model_folder.PRETRAINING)
    assert model_folder.writable_copy(tiny_model, target, manifest(tmp_path / "b", "tomorrow")) == target
    copied = tmp_path / "copy"
    checkpoint.copy(target, copied)
    with pytest.raises(UserError, match="not made by this run"):
        model_folder.check_ours(copied, tmp_path / "a")


def test_who_made_a_model_must_be_told(tiny_model: Path, tmp_path: Path) -> None:
    target, run = tmp_path / "model", manifest(tmp_path / "run")
    model_folder.writable_copy(tiny_model, target, run)
    (target / "made_by.json").write_text("[]")
    with pytest.raises(UserError, match="must be an object"):
        model_folder.check_ours(target, run)


def test_a_model_of_others_stays_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    """Neither the base nor a model that lies where the weights should go."""
    theirs, run = tmp_path / "theirs", manifest(tmp_path / "run")
    shutil.copytree(tiny_model, theirs)
    before = fingerprint(theirs)
    for base in (tiny_model, theirs):
        with pytest.raises(UserError, match="nothing is written into it"):
            model_folder.writable_copy(base, theirs, run)
    assert fingerprint(theirs) == before
    assert not (theirs / "made_by.json").exists()


def test_full_training_looks_at_its_folder_when_it_writes(
    tiny_model: Path, posters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a model came there while it trained."""
    stage: dict[str, Any] = {"steps": 1, "global_batch_size": 1, "learning_rate": 0.01}
    data = {"train": str(posters / "train"), "validation": str(posters / "validation")}
    output = tmp_path / "run"
    recipe = config.from_dict({"model": str(tiny_model), "output": str(output), "data": data, "autoregressive": stage})
    take = Loop.take_step

    def taking(loop: Loop) -> Any:
        shutil.rmtree(output / "model")
        shutil.copytree(tiny_model, output / "model")
        return take(loop)

    monkeypatch.setattr(Loop, "take_step", taking)
    with pytest.raises(UserError, match="nothing is written into it"):
        finetune(recipe, CPU)
    assert fingerprint(output / "model") == fingerprint(tiny_model)


def test_an_empty_folder_is_no_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes the copy, also on Windows, where nothing is renamed onto what exists."""
    target, rename = tmp_path / "model", os.rename

    def strict(source: Path, name: Path) -> None:
        assert not Path(name).exists()
        rename(source, name)

    monkeypatch.setattr(os, "rename", strict)
    target.mkdir()
    model_folder.writable_copy(tiny_model, target, manifest(tmp_path / "run"))
    assert fingerprint(target) == fingerprint(tiny_model)


def loop_inside(model: Path) -> None:
    (model / "vae" / "loop").symlink_to(".")


def loop_outside(model: Path) -> None:
    (model / "all").symlink_to(model.parent)


def loop_of_two(model: Path) -> None:
    (model / "vae" / "other").symlink_to(model / "tokenizer")
    (model / "tokenizer" / "other").symlink_to(model / "vae")


@pytest.mark.parametrize("damage", [loop_inside, loop_outside, loop_of_two])
def test_a_model_folder_without_end_is_not_copied(
    tiny_copy: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(tiny_copy)
    with pytest.raises(UserError, match="leads to a folder that it is in"):
        checkpoint.copy(tiny_copy, tmp_path / "out")


def test_pipes_and_devices_in_a_model_folder_are_not_copied(tiny_copy: Path, tmp_path: Path) -> None:
    (tiny_copy / "zeros.bin").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"zeros.bin.*cannot be read"):
        checkpoint.copy(tiny_copy, tmp_path / "out")
    (tiny_copy / "zeros.bin").unlink()
    os.mkfifo(tiny_copy / "vae" / "pipe")
    with pytest.raises(UserError, match=r"pipe.*cannot be read"):
        checkpoint.copy(tiny_copy, tmp_path / "other")
    (tiny_copy / "vae" / "pipe").unlink()
    (tiny_copy / "processor" / "itself").symlink_to("itself")
    with pytest.raises(UserError, match="itself"):
        checkpoint.copy(tiny_copy, tmp_path / "third")


def test_a_model_folder_of_links_is_copied_by_content(tiny_model: Path, tmp_path: Path) -> None:
    """As the hub's cache is: every file a link to a blob, here folders, too."""
    (tmp_path / "links").mkdir()
    for item in tiny_model.iterdir():
        (tmp_path / "links" / item.name).symlink_to(item)
    checkpoint.copy(tmp_path / "links", tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out" / "vae" / "config.json").read_bytes() == (tiny_model / "vae" / "config.json").read_bytes()
