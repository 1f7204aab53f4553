"""The committed prompts are those that the module writes; they share no text, and none with a benchmark."""

from __future__ import annotations

from pathlib import Path

from glmkit.files import read_jsonl
from glmkit.inputs.quotes import quoted_texts
from glmkit.posters.prompt_set import COUNTS, write_prompts

ROOT = Path(__file__).parents[2]


def test_prompts(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    texts: list[str] = []
    for name, count in COUNTS.items():
        committed = ROOT / "data" / "prompts" / f"{name}.jsonl"
        assert committed.read_bytes() == (tmp_path / committed.name).read_bytes()
        records = read_jsonl(committed)
        assert len(records) == count
        for record in records:
            assert sorted(record["texts"]) == sorted(quoted_texts(record["prompt"]))
            texts += {text.lower() for text in record["texts"]}
    assert len(set(texts)) == len(texts)
    judged = read_jsonl(ROOT / "benchmarks" / "text_render" / "prompts.jsonl")
    of_nano = {text.lower() for record in judged if record["split"].startswith("simple") for text in record["texts"]}
    assert len(of_nano) > 100
    assert not of_nano & set(texts)
