"""The command line: help for everything, errors that say what to type, never a traceback."""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from glmkit import __version__, commands
from glmkit.cli import build_parser, main
from glmkit.errors import nearest

COMMANDS = [info.name for info in pkgutil.iter_modules(commands.__path__)]


def run(argv: list[str]) -> int:
    """The exit code of one command line, whether main returns or argparse exits."""
    try:
        return main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command of one file, dropped into the folder of commands; `--fail NAME` raises that error."""
    name = f"test_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from glmkit.errors import UserError\n"
        "HELP = 'Fail as told, 100%% of the time.'\n"
        "def add_arguments(parser):\n"
        "    parser.add_argument('words', nargs='*')\n"
        "    parser.add_argument('--fail', choices=('user', 'stop', 'pipe', 'bug'))\n"
        "def run(arguments):\n"
        "    if arguments.fail == 'user':\n"
        "        raise UserError('no such suite', found='sute', fix='--suite text-render')\n"
        "    if arguments.fail:\n"
        "        raise {'stop': KeyboardInterrupt, 'pipe': BrokenPipeError, 'bug': ZeroDivisionError}[arguments.fail]\n"
        "    print('done', *arguments.words)\n"
        "    return 0\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    return name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module(f"glmkit.commands.{name}").HELP
    assert run([name, "--help"]) == 0
    assert f"glmkit {name}" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"glmkit {__version__}\n"


def test_a_file_in_the_folder_is_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "a", "b"]) == 0
    assert capsys.readouterr().out == "done a b\n"


def test_a_user_error_has_three_lines_and_code_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--fail", "user"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no such suite",
        "  found: sute",
        "  try:   --suite text-render",
    ]


def test_an_interrupt_says_how_to_go_on(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--fail", "stop"]) == 130
    assert "same command again" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(command: str) -> None:
    assert run([command, "--fail", "pipe"]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("buffering", ["", "1"])
def test_output_that_cannot_be_written_has_code_2(buffering: str) -> None:
    """Not 1, which says that a run is worse than another (gate) or that nothing could be scored (eval)."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "glmkit", "recipe", "list"]
        variables = {**os.environ, "PYTHONUNBUFFERED": buffering}
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=variables, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: no space left while writing what the command prints",
        "  try:   free some space and run the same command again",
    ]


@pytest.mark.skipif(os.name == "nt", reason="pipes of another kind")
def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "glmkit", "recipe", "list"]
    variables = {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=variables, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("name", "guess"), [("Prompt", "prompt"), ("ID", "id"), ("TEXT", "texts"), ("ocr", "OCR")])
def test_the_nearest_name_may_have_other_capitals(name: str, guess: str) -> None:
    assert nearest(name, ["id", "prompt", "texts", "OCR"]) == guess


def test_a_bug_of_ours_is_not_hidden(command: str) -> None:
    with pytest.raises(ZeroDivisionError):
        run([command, "--fail", "bug"])


def test_an_unknown_option_names_the_nearest_one_of_its_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--fial", "user"]) == 2
    error = capsys.readouterr().err
    assert "did you mean --fail?" in error
    assert f"glmkit {command} --help" in error


def test_an_unknown_command_names_the_nearest_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command + "s"]) == 2
    error = capsys.readouterr().err
    assert f"did you mean {command}?" in error
    assert "Traceback" not in error


def test_no_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    examples = re.findall(r"^  glmkit (.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        build_parser().parse_args(shlex.split(example))


def test_changes_of_a_recipe_may_follow_options() -> None:
    arguments = build_parser().parse_args(["finetune", "a.yaml", "b=1", "--device", "cpu", "c=2", "--json", "d=3"])
    assert arguments.overrides == ["b=1", "c=2", "d=3"]
    assert arguments.device == "cpu"
    assert arguments.json


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_no_encoding_of_the_output_ends_a_command(encoding: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is written as JSON does, so a line of JSON stays one."""
    buffer = io.BytesIO()
    output = io.TextIOWrapper(buffer, encoding=encoding)
    monkeypatch.setattr("sys.stdout", output)
    assert main([command, '"海报 😀"']) == 0
    output.flush()
    printed = buffer.getvalue().decode(encoding).strip()
    assert json.loads(printed.removeprefix("done ")) == "海报 😀"


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "a", "--out", f"TMP/{LONG}.png"],
        ["generate", "a", "--out", f"TMP/{LONG}/a.png"],
        ["generate", "a", "--out", "TMP/a.png", "--model", LONG],
        ["generate", "a", "--out", "TMP/a.png", "--adapter", LONG],
        ["generate", "--prompts", f"{LONG}.jsonl", "--out", "TMP/out"],
        ["edit", f"TMP/{LONG}.png", "a", "--out", "TMP/a.png"],
        ["validate", LONG],
        ["finetune", "TMP/recipe.yaml", f"output=TMP/{LONG}"],
        ["finetune", "TMP/recipe.yaml", "output=/proc/glmkit/run"],
        ["eval", "--suite", "text-render", "--images", f"TMP/{LONG}", "--run", "TMP/run"],
        ["eval", "--suite", "text-render", "--images", "TMP/images", "--run", f"TMP/{LONG}"],
        ["report", f"TMP/{LONG}", "--out", "TMP/a.html"],
        ["merge", "nano", "--adapter", LONG, "--out", "TMP/out"],
        ["merge", "nano", "--adapter", "TMP", "--out", f"TMP/{LONG}"],
        ["export", LONG, "--style", "diffusers", "--out", "TMP/a.safetensors"],
        ["reference", "add", LONG, "--images", "TMP/images"],
        ["info", LONG],
        ["recipe", "copy", "decoder_lora", f"TMP/{LONG}"],
    ],
    ids=lambda command: " ".join(command)[:60].replace(LONG[:9], "x"),
)
def test_a_path_that_the_system_refuses(
    command: list[str], tmp_path: Path, posters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and what to do, and nothing is written."""
    work = tmp_path / "work"
    (work / "images").mkdir(parents=True)
    data = f"data: {{train: {posters / 'train'}, validation: {posters / 'validation'}}}"
    lora = "decoder: {steps: 1, global_batch_size: 1, learning_rate: 0.1, lora: {rank: 2, targets: [to_q]}}"
    (work / "recipe.yaml").write_text(f"model: nano\n{data}\n{lora}\n")
    before = sorted(work.rglob("*"))
    try:
        code = main([argument.replace("TMP", str(work)) for argument in command])
    except SystemExit as error:  # of argparse
        code = int(error.code or 0)
    assert code == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "a", "--out", "TMP/a.png", "--adapter", LONG],
        ["info", LONG],
        ["finetune", LONG],
        ["finetune", "nano/poster_lora", f"data.train=TMP/{LONG}", "output=TMP/run"],
        ["eval", "--suite", "text-render", "--images", f"TMP/{LONG}", "--run", "TMP/run"],
        ["report", f"TMP/{LONG}", "--out", "TMP/a.html"],
        ["reference", "add", "posters", "--images", f"TMP/{LONG}"],
    ],
    ids=lambda command: command[0],
)
def test_what_the_system_does_not_tell_is_not_called_missing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.replace("TMP", str(tmp_path)) for argument in command]) == 2
    assert "File name too long" in capsys.readouterr().err


def test_a_second_adapter_without_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "a", "--adapter", "one", "two", "--out", "a.png"])
    assert "--adapter goes before each adapter" in capsys.readouterr().err


def test_a_prompt_without_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "A", "cat", "--out", "a.png"])
    assert "unrecognized arguments: cat; put several words in quotes" in capsys.readouterr().err
