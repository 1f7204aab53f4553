"""Temporary files of other processes stay while they are written, and go when their process was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmkit.files import remove_leftovers, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WRITING = """
import sys, time
from pathlib import Path
from glmkit.files import {context}
with {context}(Path(sys.argv[1])) as temporary:
    {write}
    print("half", flush=True)
    sys.stdin.read()
    {end}
"""


@pytest.mark.parametrize(
    ("context", "write", "end"),
    [
        ("atomic_path", "temporary.write_text('A' * 10)", "temporary.open('a').write(' end')"),
        ("atomic_folder", "(temporary / 'a').write_text('A' * 10)", "(temporary / 'a').open('a').write(' end')"),
    ],
)
def test_two_processes_with_one_id_write_one_path(tmp_path: Path, context: str, write: str, end: str) -> None:
    """Two containers on one disk have the same process ids: each writes its own file, and none removes the other's."""
    target = tmp_path / "a"
    code = "import os; os.getpid = lambda: 7\n" + WRITING.format(context=context, write=write, end=end)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    killed, slow = (subprocess.Popen([sys.executable, "-c", code, str(target)], text=True, **pipes) for _ in range(2))
    assert [process.stdout.readline() for process in (killed, slow)] == ["half\n", "half\n"]  # type: ignore[union-attr]
    killed.kill()
    killed.communicate()
    assert len(names(tmp_path)) == 2
    other = subprocess.run(
        [sys.executable, "-c", code, str(target)], input="", capture_output=True, text=True, check=True
    )
    assert other.stdout == "half\n"
    assert len(names(tmp_path)) == 2  # the target, and what the slow one is writing
    if context == "atomic_path":
        assert slow.communicate()[1] == ""
        assert target.read_text() == "A" * 10 + " end"
    else:
        assert "UserError" in slow.communicate()[1]
        assert (target / "a").read_text() == "A" * 10 + " end"
    assert names(tmp_path) == ["a"]


def test_links_with_temporary_names_stay(tmp_path: Path) -> None:
    """Whatever a link leads to is not ours, also if somebody gives it a name like ours."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").touch()
    link = tmp_path / "run" / ".x.1234567890123456.tmp"
    link.parent.mkdir()
    link.symlink_to(victim)
    write_json(tmp_path / "run" / "a.json", 1)
    assert link.is_symlink()
    remove_leftovers(tmp_path / "run")
    assert names(tmp_path / "run") == ["a.json"]
    assert names(victim) == ["mine"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".result.12.tmp.json", ".adapter.7.tmp", ".note.tmp.txt", "mine.12.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".decoder.123.tmp").mkdir()
    (tmp_path / ".decoder.123.tmp" / "half").touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert names(tmp_path) == [".note.tmp.txt", "mine.12.tmp"]


def test_leftovers_anywhere_in_a_run_folder_are_removed(tmp_path: Path) -> None:
    for name in ("samples/.decoder_000002.12.tmp.png", "eval/before/images/.a.3.tmp.png", "model/vae/.tmpPIuIn5"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "adapter" / ".decoder.1234567890123456.tmp").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert not any((tmp_path / "adapter").iterdir())
