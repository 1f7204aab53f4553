"""The committed prompts are those that the module writes, of texts that nothing is judged by; what they name is so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from glmkit.files import read_jsonl
from glmkit.inputs.quotes import quoted_texts
from glmkit.posters.everyday.check import Named, check_attributes, check_places
from glmkit.posters.prompt_set import COUNTS, sample_sets, scenes, write_prompts

ROOT = Path(__file__).parents[2]


def test_prompts(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    texts: dict[str, set[str]] = {}
    for name, count in COUNTS.items():
        committed = ROOT / "data" / "prompts" / f"{name}.jsonl"
        assert committed.read_bytes() == (tmp_path / committed.name).read_bytes()
        records = read_jsonl(committed)
        assert len(records) == count
        assert all(sorted(one["texts"]) == sorted(quoted_texts(one["prompt"])) for one in records)
        texts[name] = {text.lower() for one in records for text in one["texts"]}
    judged = read_jsonl(ROOT / "benchmarks" / "text_render" / "prompts.jsonl")
    texts["judged"] = {text.lower() for one in judged for text in one["texts"]}
    assert all(len(some) > 30 for some in texts.values())
    assert not texts["train"] & texts["validation"]
    assert not (texts["train"] | texts["validation"]) & texts["judged"]


def test_more_prompts_begin_with_the_same() -> None:
    few, more = (sample_sets({"train": count, "validation": 4}, 64) for count in (3, 6))
    assert [one.caption for one in more["train"][:3]] == [one.caption for one in few["train"]]
    assert [one.caption for one in more["validation"]] == [one.caption for one in few["validation"]]


def test_texts_that_are_asked_for_are_in_no_scene() -> None:
    free = [one.texts for one in scenes(6, 0, 64, ())]
    taken = {free[2][0].lower()}
    kept = [one.texts for one in scenes(5, 0, 64, taken)]
    assert kept == [texts for texts in free if taken.isdisjoint(map(str.lower, texts))][:5]


def test_what_captions_name_is_in_their_posters() -> None:
    """Checks that judge what is learnt find nearly all of what captions name in the posters themselves."""
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for one in scenes(160, 0, 256, ()):
        if one.named:
            named = Named.from_dict(one.named)
            boxes = [block.box for block in one.render.args[0].blocks]  # type: ignore[attr-defined]
            checks = check_attributes(np.asarray(one.render().convert("RGB")), named, boxes)
            checks += [("place", good) for good in check_places(named, boxes, (256, 256))]
            found.update(kind for kind, _ in checks)
            right.update(kind for kind, good in checks if good)
    assert all(found[kind] >= 5 for kind in ("background", "text_colour", "shape", "frame", "place"))
    assert right.total() >= 0.98 * found.total()
