"""glmkit recipe: the recipes that come with glmkit, by name and as copies to edit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from glmkit import config, shipped
from glmkit.cli import main
from glmkit.training import rl


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that holds nothing of ours."""
    monkeypatch.chdir(tmp_path)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped.recipes())
    assert lines[0].startswith("ar_lora            Teach the autoregressive model what")


@pytest.mark.parametrize("name", shipped.recipes())
def test_a_name_is_a_recipe_whose_data_are_there(name: str) -> None:
    recipe = config.load(name)
    assert recipe == config.load(shipped.recipes()[name])
    train, validation = rl.load_data(recipe.model_copy(update={"model": "nano"}))
    least = (16, 4) if train.rejected else (48, 16)  # eight and two pairs are an example
    assert len(train.captions) >= least[0]
    assert len(validation.captions) >= least[1]


def test_a_path_of_the_repository_works_anywhere() -> None:
    assert config.load("recipes/nano/poster_lora.yaml") == config.load("nano/poster_lora")


def test_files_of_the_user_come_first() -> None:
    Path("poster_lora").write_text("output: mine")
    assert shipped.recipe("poster_lora") == Path("poster_lora")
    Path("data/posters").mkdir(parents=True)
    assert shipped.find("data/posters") == "data/posters"
    assert shipped.find("data/edits") == str(shipped.ROOT / "data" / "edits")
    assert shipped.find("data/mine") == "data/mine"


@pytest.mark.parametrize(("name", "folders"), [("edit_lora", ["edits"]), ("nano/ar_lora", ["layouts"])])
def test_copy(name: str, folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "copy", name, "mine"]) == 0
    file = f"mine/{Path(name).name}.yaml"
    assert f"glmkit finetune {file}" in capsys.readouterr().out
    copy, original_recipe = config.load(file), config.load(name)
    assert copy == original_recipe.model_copy(update={"data": copy.data})
    for folder in folders:
        for original in (shipped.ROOT / "data" / folder).glob("*/*"):
            copied = Path("mine") / original.relative_to(shipped.ROOT)
            assert copied.read_bytes() == original.read_bytes()
    assert main(["recipe", "copy", name, "mine"]) == 2
    assert f"{file} is there already" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["mine", 'my 100%: #1 "海报"', "here/and there"])
@pytest.mark.parametrize("name", ["nano/ar_lora", "nano/rl_ar"])
def test_a_copy_reads_its_own_data(name: str, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A data set that was edited must be read, not the shipped one whose path is the same."""
    assert main(["recipe", "copy", name, folder]) == 0
    *_, typed = shlex.split(capsys.readouterr().out)
    data = config.load(typed).data
    named = [*(source.path for source in data.train), data.prompts, data.validation]
    assert {str(path) for path in named if path} == {
        str(path.parent if path.name == "metadata.jsonl" else path) for path in Path(folder).rglob("*.jsonl")
    }
    assert shlex.split(Path(typed).read_text(encoding="utf-8").splitlines()[1]) == ["#", "glmkit", "finetune", typed]


@pytest.mark.parametrize("command", ["finetune poster_laro", "recipe copy poster_laro"])
def test_a_name_that_is_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    assert "poster_lora" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [(["", "mine"], "NAME is empty"), (["nano/ar_lora", ""], "a path is empty")],
    ids=["name", "folder"],
)
def test_an_empty_word_names_nothing(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "copy", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().iterdir())
