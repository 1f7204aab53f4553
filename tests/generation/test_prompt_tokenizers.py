"""Tokenizers and chat templates of others: their code is not run, and what they cannot do is one sentence."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from glmkit.errors import UserError
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import PromptTokenizer
from glmkit.shipped import ROOT

LOOP = "{% for _ in range(9999) %}"


@pytest.fixture
def processor(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "data" / "nano" / "processor", tmp_path / "processor"))


@pytest.mark.parametrize(
    "template",
    [
        LOOP * 3 + "{% endfor %}" * 3,
        "{{ 'a' * 2000000000 }}",
        "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{{ messages[5].content }}",
        "no prompt and no image",
    ],
)
def test_a_chat_template_that_is_no_use(template: str, processor: Path) -> None:
    (processor / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="chat_template"):
        PromptTokenizer(processor)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": 5}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "{}"),
        ("tokenizer_config.json", '{"tokenizer_class": "Nothing"}'),
        ("tokenizer_config.json", '{"bos_token": 5}'),
    ],
)
def test_a_tokenizer_that_is_broken(file: str, content: str, processor: Path) -> None:
    (processor / file).write_text(content)
    with pytest.raises(UserError, match="tokenizer"):
        PromptTokenizer(processor)


def test_code_in_a_folder_is_not_run(
    processor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does anybody ask on the terminal whether to run it."""
    mark = processor / "ran"
    (processor / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (processor / "tokenizer_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UserError, match="tokenizer"):
        PromptTokenizer(processor)
    assert not mark.exists()
    assert "[y/N]" not in capsys.readouterr().out


def test_a_relative_folder_is_that_of_the_current_directory(
    processor: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model").symlink_to(tiny_model)
    (tmp_path / "model").mkdir()
    processor.rename(tmp_path / "model" / "processor")
    sizes = set()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(folder)
        sizes.add(len(prompt_tokenizer(Path("model")).tokenizer))
    assert len(sizes) == 2
