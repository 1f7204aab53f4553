"""The two halves of guidance on two processes: the files of one process, and one sentence when either fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import fork_two

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.models.decoder.denoiser import Denoiser

QUICK = ["--size", "64x64", "--steps", "6", "--guidance", "2.5", "--device", "cpu"]
PARALLEL = ["--parallel", "guidance"]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "a red poster with 'HELLO'"},
    {"id": "bad", "prompt": "the model's own <|image|>"},
    {"id": "b", "prompt": "no text", "seed": 3},
    {"id": "plain", "prompt": "no guidance 'A'", "guidance": 1},
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of equal order in all processes; the threads of a fork's parent are not in it, either."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def command(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Requests in a batch, one that fails before its image, one without guidance; steps without blocks."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_jsonl(path, ROWS)
    return ["generate", "--prompts", str(path), "--model", str(tiny_model), *QUICK, "--reuse", "2"]


@pytest.fixture(scope="module")
def one(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process generates."""
    folder = tmp_path_factory.mktemp("one")
    assert main([*command, "--out", str(folder)]) == 1
    return folder


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def fail_at(error: BaseException | int, n_calls: int, rank: int, own: int) -> None:
    """Let the denoiser of a rank fail at a call, by an error or by the end of its process."""
    real, calls = Denoiser.__call__, iter(range(1000))

    def call(self: Denoiser, *arguments: Any) -> Any:
        if next(calls) == n_calls and rank == own:
            if isinstance(error, int):
                os._exit(error)
            raise error
        return real(self, *arguments)

    Denoiser.__call__ = call  # type: ignore[assignment, method-assign]  # in a forked process


def test_two_processes_write_the_files_of_one(command: list[str], one: Path, tmp_path: Path) -> None:
    argv = [*command, *PARALLEL, "--out", str(tmp_path / "two")]
    codes, said = fork_two(lambda _: main(argv), tmp_path)
    assert codes == [1, 0], said
    assert said[1] == ""
    assert images(tmp_path / "two") == images(one)
    assert sorted(images(one)) == ["a.png", "b.png", "plain.png"]
    errors = [[row["error"] for row in read_jsonl(out / "images.jsonl")] for out in (one, tmp_path / "two")]
    assert errors[0] == errors[1]
    assert [error is None for error in errors[0]] == [True, False, True, True]


def test_an_edit_by_two_processes(tiny_model: Path, tmp_path: Path) -> None:
    Image.effect_noise((96, 64), 90).convert("RGB").save(tmp_path / "noise.png")
    command = ["edit", str(tmp_path / "noise.png"), "make it 'RED'", "--model", str(tiny_model), *QUICK]
    assert main([*command, "--guided", "0.5", "--out", str(tmp_path / "one.png")]) == 0
    argv = [*command, "--guided", "0.5", *PARALLEL, "--out", str(tmp_path / "two.png")]
    assert fork_two(lambda _: main(argv), tmp_path)[0] == [0, 0]
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_a_batch_that_fails_in_the_first_process_is_tried_again(command: list[str], one: Path, tmp_path: Path) -> None:
    argv = [*command, *PARALLEL, "--out", str(tmp_path / "two")]

    def run(rank: int) -> int:
        fail_at(ValueError("a mistake"), 3, rank, 0)
        return main(argv)

    codes, said = fork_two(run, tmp_path)
    assert codes == [1, 0], said
    for name in images(one):  # one by one, which rounds otherwise
        levels = [np.asarray(Image.open(folder / name)).astype(int) for folder in (one, tmp_path / "two")]
        assert np.abs(levels[0] - levels[1]).max() <= 1


@pytest.mark.parametrize(
    ("error", "message"), [(UserError("the disk is full"), "the disk is full"), (9, "another process of this command")]
)
def test_what_fails_in_the_second_process_ends_both(
    error: UserError | int, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    argv = ["generate", "an 'A'", "--model", str(tiny_model), *QUICK, *PARALLEL, "--out", str(tmp_path / "a.png")]

    def run(rank: int) -> int:
        fail_at(error, 3, rank, 1)
        return main(argv)

    codes, said = fork_two(run, tmp_path)
    assert codes == [2, error if isinstance(error, int) else 2], said
    assert "".join(said).count("error: ") == 1
    assert message in "".join(said)
    assert "Traceback" not in "".join(said)
    assert not images(tmp_path)


def test_what_has_nothing_to_share(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a", "--model", str(tiny_model), "--out", str(tmp_path / "a.png"), *PARALLEL]
    assert main([*command, *QUICK]) == 2
    shown = capsys.readouterr().err
    assert "needs two processes" in shown
    assert "torchrun --nproc-per-node 2" in shown
    codes, said = fork_two(lambda _: main([*command, *QUICK, "--guidance", "1"]), tmp_path)
    assert codes == [2, 2]
    assert "without guidance two processes have nothing to share" in said[0]
    assert "".join(said).count("error: ") == 1
