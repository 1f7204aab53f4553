"""One image by several processes: halves of guidance, parts of its tokens; one sentence when one of them fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import fork

from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.models.decoder.denoiser import Denoiser
from glmkit.models.decoder.token_share import TokenShare

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
    codes, said = fork(lambda _: main(argv), tmp_path)
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
    assert fork(lambda _: main(argv), tmp_path)[0] == [0, 0]
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def levels_apart(folder: Path, other: Path) -> int:
    """The largest difference of two folders of images, in levels of 256."""
    assert images(folder).keys() == images(other).keys()
    pairs = [
        [np.asarray(Image.open(one / name)).astype(int) for one in (folder, other)] for name in sorted(images(folder))
    ]
    return max(int(np.abs(ours - theirs).max()) for ours, theirs in pairs)


@pytest.mark.parametrize(
    ("mode", "count"),
    [("sequence", 2), ("guidance+sequence", 4), pytest.param("sequence", 4, marks=pytest.mark.thorough)],
)
def test_processes_share_the_tokens_of_an_image(
    mode: str, count: int, command: list[str], one: Path, tmp_path: Path
) -> None:
    """Sums are others, so pixels may differ by one level; what fails, and what has no guidance, is as in one."""
    argv = [*command, "--parallel", mode, "--out", str(tmp_path / "several")]
    codes, said = fork(lambda _: main(argv), tmp_path, count=count)
    assert codes == [1] + [0] * (count - 1), said
    assert "".join(said[1:]) == ""
    assert levels_apart(tmp_path / "several", one) <= 1
    errors = [[row["error"] for row in read_jsonl(out / "images.jsonl")] for out in (one, tmp_path / "several")]
    assert errors[0] == errors[1]


def test_each_process_computes_its_part(tiny_model: Path, tmp_path: Path) -> None:
    """Behind the blocks it has half of the image tokens, which the images could not tell from all of them."""
    argv = ["generate", "an 'A'", "--model", str(tiny_model), *QUICK, "--parallel", "sequence"]
    argv += ["--out", str(tmp_path / "a.png")]
    gather = TokenShare.gather

    def run(rank: int) -> int:
        def gathering(share: TokenShare, own: torch.Tensor, dim: int) -> torch.Tensor:
            every = gather(share, own, dim)
            (tmp_path / f"share{rank}").write_text(f"{own.shape[dim]} of {every.shape[dim]}, {dim}")
            return every

        TokenShare.gather = gathering  # type: ignore[assignment, method-assign]  # in a forked process
        return main(argv)

    codes, said = fork(run, tmp_path)
    assert codes == [0, 0], said
    assert [(tmp_path / f"share{rank}").read_text() for rank in range(2)] == ["8 of 16, 1"] * 2


def test_an_edit_whose_tokens_are_shared(tiny_model: Path, tmp_path: Path) -> None:
    Image.effect_noise((96, 64), 90).convert("RGB").save(tmp_path / "noise.png")
    command = ["edit", str(tmp_path / "noise.png"), "make it 'RED'", "--model", str(tiny_model), *QUICK]
    command += ["--guided", "0.5"]
    one, two = (tmp_path / name / "a.png" for name in ("one", "two"))
    one.parent.mkdir()
    two.parent.mkdir()
    assert main([*command, "--out", str(one)]) == 0
    codes, said = fork(lambda _: main([*command, "--parallel", "sequence", "--out", str(two)]), tmp_path)
    assert codes == [0, 0], said
    assert levels_apart(one.parent, two.parent) <= 1


def test_an_error_in_the_middle_of_shared_tokens_ends_both(tiny_model: Path, tmp_path: Path) -> None:
    """The other one waits for tokens that do not come, so nothing is tried again."""
    argv = ["generate", "an 'A'", "--model", str(tiny_model), *QUICK, "--parallel", "sequence"]
    argv += ["--out", str(tmp_path / "a.png")]

    def run(rank: int) -> int:
        fail_at(ValueError("a mistake"), 3, rank, 0)
        return main(argv)

    codes, said = fork(run, tmp_path)
    assert codes == [2, 2], said
    assert "".join(said).count("error: ") == 1
    assert "what several processes share has failed in one of them" in said[0]
    assert "step 4: a mistake" in said[0]
    assert not images(tmp_path)


@pytest.mark.parametrize(("mode", "least"), [("sequence", 2), ("guidance+sequence", 4)])
def test_too_few_processes(
    mode: str, least: int, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "a", "--model", str(tiny_model), "--out", str(tmp_path / "a.png"), *QUICK]
    assert main([*command, "--parallel", mode]) == 2
    assert f"--parallel {mode} needs {least} processes" in (shown := capsys.readouterr().err)
    assert f"torchrun --nproc-per-node {least} -m glmkit ... --parallel {mode}" in shown


def test_a_batch_that_fails_in_the_first_process_is_tried_again(command: list[str], one: Path, tmp_path: Path) -> None:
    argv = [*command, *PARALLEL, "--out", str(tmp_path / "two")]

    def run(rank: int) -> int:
        fail_at(ValueError("a mistake"), 3, rank, 0)
        return main(argv)

    codes, said = fork(run, tmp_path)
    assert codes == [1, 0], said
    assert levels_apart(tmp_path / "two", one) <= 1  # one by one, which rounds otherwise


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

    codes, said = fork(run, tmp_path)
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
    codes, said = fork(lambda _: main([*command, *QUICK, "--guidance", "1"]), tmp_path)
    assert codes == [2, 2]
    assert "without guidance there are no two halves to share" in said[0]
    assert "".join(said).count("error: ") == 1
