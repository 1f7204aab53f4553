"""What errors tell people to type keeps the paths of their files whole, spaces and all."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_adapter import make_adapter

from glmkit import config
from glmkit.cli import main
from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.evaluation.reference_sets import sets
from glmkit.evaluation.sweep import SweptAdapter
from glmkit.generation.options import check_png
from glmkit.inputs.captions import column
from glmkit.inputs.datasets import read_captioned_images
from glmkit.inputs.splits import choose
from glmkit.models.checkpoint import adapter_files
from glmkit.models.checkpoint.adapters import Adapter
from glmkit.reporting.build import check_page, check_replaceable, check_replaceable_folder
from glmkit.training import checks


def checkpoints(run: Path) -> str:
    for component in ("autoregressive", "decoder"):
        (run / "adapter" / component).mkdir(parents=True)
        (run / "checkpoints" / component / "000002").mkdir(parents=True)
    return str(run / "adapter")


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def uncaptioned(folder: Path) -> None:
    (one,) = read_captioned_images(str(folder), Columns()).images
    assert one.error is not None
    raise one.error


# What fails in a folder with a space, and the words of the command that the error suggests, where FOLDER stands for it.
FAILING: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "weight of an adapter": (lambda folder: Adapter.parse(f"{folder}:x"), ["--adapter", "FOLDER:0.8"]),
    "adapter files": (
        lambda folder: adapter_files.read(touched(folder, "a.safetensors", "b.safetensors")),
        ["--adapter", "FOLDER/a.safetensors"],
    ),
    "swept weight": (lambda folder: SweptAdapter.find(f"{folder}:0.5"), ["--adapter", "FOLDER"]),
    "swept components": (
        lambda folder: SweptAdapter.find(checkpoints(folder)),
        ["--adapter", "FOLDER/adapter/autoregressive", "--with", "FOLDER/adapter/decoder"],
    ),
    "name of a page": (lambda folder: check_page(folder / "page.txt"), ["--out", "FOLDER/page.html"]),
    "name of an image": (lambda folder: check_png(folder / "image.jpg"), ["--out", "FOLDER/image.png"]),
    "another's page": (
        lambda folder: check_replaceable([touched(folder, "page.html") / "page.html"]),
        ["--out", "FOLDER/page-report.html,"],
    ),
    "another's folder": (check_replaceable_folder, ["--out", "FOLDER-report.html,"]),
    "reference set": (lambda _: sets.get("my set"), ["glmkit", "reference", "add", "my set"]),
    "column": (
        lambda _: column("my words", "text", [], ["my words"] * 2, "it", "text"),
        ["data.columns.text=my words"],
    ),
    "split": (
        lambda folder: read_captioned_images(f"{touched(folder, 'a.png')}:test", Columns()),
        ["data.train=FOLDER,"],
    ),
    "splits": (
        lambda folder: choose({("", "a"): [], ("", "b"): []}, None, None, "train", str(folder), []),
        ["data.train=FOLDER:SPLIT,"],
    ),
    "captions": (
        lambda folder: uncaptioned(touched(folder, "a.png", "words.csv")),
        ["data.train=FOLDER/words.csv,"],
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_suggested_commands_can_be_typed(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "$my things"
    folder.mkdir()
    fail, words = FAILING[name]
    with pytest.raises(UserError) as error:
        fail(folder)
    assert error.value.fix is not None
    assert shlex.split(error.value.fix)[: len(words)] == [word.replace("FOLDER", str(folder)) for word in words]


def test_a_server_suggests_its_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--adapter", str(tmp_path / "my things")]) == 2
    assert shlex.split(capsys.readouterr().err)[-2:] == ["--adapter", f"poster={tmp_path / 'my things'}"]


def test_a_start_suggests_its_adapter(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my things"
    make_adapter(tiny_model, folder, "decoder")

    def fix(start: str) -> list[str]:
        stage = {"steps": 1, "global_batch_size": 1, "learning_rate": 1}
        values = {"model": str(tiny_model), "output": str(tmp_path / "run"), "data": {"train": "data/posters/train"}}
        with pytest.raises(UserError) as error:
            checks.start(config.from_dict({**values, "start_from": start, "decoder": stage}))
        return shlex.split(error.value.fix or "")

    assert fix(f"{folder}:0.5") == [f"start_from={folder}"]
    assert fix(str(folder))[:5] == ["glmkit", "merge", str(tiny_model.resolve()), "--adapter", str(folder / "decoder")]
