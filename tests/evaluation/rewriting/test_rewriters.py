"""Prompts rewritten by an endpoint or a file: tries, refusals, what is kept, and nothing that is asked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chat_endpoint
import images_endpoint
import pytest

from glmkit.errors import UserError
from glmkit.evaluation import endpoints
from glmkit.evaluation.rewriting.rewrite import Rewrites, rewrite_prompts
from glmkit.evaluation.rewriting.rewriters import INSTRUCTION, Rewrite, language_of, rewriter_of
from glmkit.files import read_jsonl, write_jsonl


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[images_endpoint.Endpoint]:
    with chat_endpoint.running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


def rewritten(folder: Path, *prompts: str, by: str = "endpoint:m", instruction: Path | None = None) -> Rewrites:
    rewriter = rewriter_of(by, instruction)
    assert rewriter is not None
    named = {f"p{number}": (prompt, None) for number, prompt in enumerate(prompts)}
    return rewrite_prompts(folder, named, rewriter, folder / ".work")


def test_an_endpoint_gets_prompt_and_texts_and_its_answer_is_what_the_model_gets(
    endpoint: images_endpoint.Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = rewritten(tmp_path, "a sign 'Red Fox'", "possessive", by="endpoint:m,temperature=1,seed=none")
    assert results["p0"] == Rewrite(
        "a sign 'Red Fox'", "In soft light, a sign 'Red Fox'.", "", 1, "m-2026-11-29", 300, 20
    )
    assert isinstance(results["p1"], Rewrite)
    assert results["p1"].rewritten.endswith("the shop’s door and the owner’s hat.")
    first = next(body for body in endpoint.asked if "Red Fox" in str(body))
    assert first == {
        "model": "m",
        "messages": [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": "Prompt: a sign 'Red Fox'\nTexts:\n\"Red Fox\""},
        ],
        "temperature": 1.0,
    }
    assert "2 of 2 rewritten by m at http://127.0.0.1" in capsys.readouterr().err


def test_lost_texts_are_asked_for_again_and_then_the_prompt_stays(
    endpoint: images_endpoint.Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = rewritten(tmp_path, "a forgetful sign 'Red Fox'", "a stubborn sign 'Owl'")
    assert results["p0"] == Rewrite(
        "a forgetful sign 'Red Fox'", "In soft light, a forgetful sign 'Red Fox'.", "", 2, "m-2026-11-29", 600, 40
    )
    why = "not in quotation marks, letter by letter: Owl"
    assert results["p1"] == Rewrite("a stubborn sign 'Owl'", "a stubborn sign 'Owl'", why, 3, "m-2026-11-29", 900, 60)
    complaints = [body["messages"][3]["content"] for body in endpoint.asked if len(body["messages"]) == 4]
    assert all(said.startswith("This cannot be used. Not in quotation marks") for said in complaints)
    err = capsys.readouterr().err
    assert "1 of 2 rewritten" in err
    assert f"1 stay as they are, as rewrites.jsonl says; p1: {why}" in err


def test_a_prompt_that_ends_in_the_middle_is_asked_for_again(
    endpoint: images_endpoint.Endpoint, tmp_path: Path
) -> None:
    (result,) = rewritten(tmp_path, "a long sign 'Owl'").values()
    assert isinstance(result, Rewrite)
    assert (result.rewritten, result.tries) == ("In soft light, a long sign 'Owl'.", 2)
    assert "It ends in the middle" in endpoint.asked[1]["messages"][3]["content"]


def test_nothing_is_asked_twice_but_what_failed(
    endpoint: images_endpoint.Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ("a fox", "stubborn 'Owl'", "refused", "silent", "page", "cut")
    before = rewritten(tmp_path / "one", *prompts)
    errors = [str(result) for result in before.values() if isinstance(result, RuntimeError)]
    assert len(errors) == 4
    assert "rewriting: " in errors[0]
    assert "safety system" in errors[0]
    assert "4 failed and are tried again by the same command; p2" in capsys.readouterr().err
    endpoint.asked.clear()
    again = rewritten(tmp_path / "two", *prompts)  # another run takes what the first one knows
    assert len(endpoint.asked) == 4
    assert {name: again[name] for name in ("p0", "p1")} == {name: before[name] for name in ("p0", "p1")}
    endpoint.asked.clear()
    rewritten(tmp_path / "one", "a fox", by="endpoint:m,seed=1")
    assert len(endpoint.asked) == 1
    assert len(read_jsonl(tmp_path / "one" / "rewrites.jsonl")) == 3


def test_a_busy_endpoint_is_asked_again_and_the_key_is_never_shown(
    endpoint: images_endpoint.Endpoint, tmp_path: Path
) -> None:
    results = rewritten(tmp_path, "busy", "echo")
    assert isinstance(results["p0"], Rewrite)
    assert "Bearer ***" in str(results["p1"])
    assert "secret" not in str(results["p1"])
    assert sum("busy" in str(body) for body in endpoint.asked) == 3


VENDOR = '''import os
os.remove("never")
system_prompt_zh = """  用中文写  """
system_prompt_en = """  Write English  """
def f(): pass
'''


def test_instructions_of_a_python_file_are_read_by_language_and_not_run(
    endpoint: images_endpoint.Endpoint, tmp_path: Path
) -> None:
    file = tmp_path / "prompt_utils.py"
    file.write_text(VENDOR, encoding="utf-8")
    results = rewritten(tmp_path / "run", "a sign 'Owl'", "一块写着“狐狸”的牌子", instruction=file)
    assert [body["messages"] for body in sorted(endpoint.asked, key=lambda body: str(body["messages"][1]))] == [
        [{"role": "system", "content": "  Write English  "}, {"role": "user", "content": "User input: a sign 'Owl'"}],
        [{"role": "system", "content": "  用中文写  "}, {"role": "user", "content": "用户输入：一块写着“狐狸”的牌子"}],
    ]
    assert isinstance(results["p1"], Rewrite)
    assert results["p1"].rewritten == "In soft light, 一块写着“狐狸”的牌子."
    (tmp_path / "own.txt").write_text("Make it short.")
    rewritten(tmp_path / "run", "a sign 'Owl'", instruction=tmp_path / "own.txt")
    assert endpoint.asked[-1]["messages"][0]["content"] == "Make it short."


@pytest.mark.parametrize(("prompt", "language"), [("ab 字", "zh"), ("a b 字", "en"), ("", "zh"), ("fox", "en")])
def test_a_prompt_is_chinese_by_characters_against_words(prompt: str, language: str) -> None:
    assert language_of(prompt) == language


def test_a_file_of_rewritten_prompts_is_held_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "better.jsonl"
    write_jsonl(file, [{"prompt": "a 'A'", "rewritten": 'a red "A"'}, {"prompt": "b 'B'", "rewritten": "b B"}])
    results = rewritten(tmp_path / "run", "a 'A'", "b 'B'", "c", by=str(file))
    assert [(result.rewritten, result.kept) for result in results.values() if isinstance(result, Rewrite)] == [
        ('a red "A"', ""),
        ("b 'B'", "not in quotation marks, letter by letter: B"),
        ("c", "the file does not rewrite it"),
    ]
    again = rewritten(tmp_path / "other", "a 'A'", by=str(tmp_path / "run" / "rewrites.jsonl"))
    assert again["p0"] == results["p0"]
    assert "rewritten by better.jsonl weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("by", "instruction", "environment", "said"),
    [
        ("endpoint:", None, {}, "rewriting endpoint names no model"),
        ("endpoint:m,heat=1", None, {}, "unknown option"),
        ("endpoint:m", None, {"OPENAI_API_KEY": ""}, "no key for the rewriting endpoint"),
        ("endpoint:m", None, {"OPENAI_API_KEY": "wrong"}, "rewriting endpoint refuses the key"),
        ("endpoint:none", None, {}, "no model none"),
        ("nowhere.jsonl", None, {}, "nowhere.jsonl does not exist"),
        ("nowhere.jsonl", "x.txt", {}, "for the model of an endpoint"),
        ("endpoint:m", "x.txt", {}, "x.txt is empty"),
        ("endpoint:m", "x.py", {}, "no texts whose names end in _en or _zh"),
        ("endpoint:m", "broken.py", {}, "is not Python"),
        ("twice.jsonl", None, {}, "rewrites a prompt a second time"),
        ("shape.jsonl", None, {}, "record 1"),
    ],
)
@pytest.mark.usefixtures("endpoint")
def test_what_concerns_all_prompts_is_said_at_once(
    by: str,
    instruction: str | None,
    environment: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoints, "RETRIES", 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name, content in {"x.txt": " ", "x.py": "A = 'b'", "broken.py": "def ("}.items():
        Path(name).write_text(content)
    write_jsonl(Path("twice.jsonl"), [{"prompt": "a", "rewritten": text} for text in "bc"])
    write_jsonl(Path("shape.jsonl"), [{"prompt": "a", "rewritten": 5}])
    with pytest.raises(UserError, match=said):
        rewritten(tmp_path / "run", "a", by=by, instruction=None if instruction is None else Path(instruction))
