"""Images that a model generates: each request once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.generated_images import generate_images
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings
from glmkit.evaluation.suites.text_render import SUITE
from glmkit.files import read_jsonl
from glmkit.generation import hybrid_generator
from glmkit.generation.batch import Result
from glmkit.generation.hybrid_generator import HybridGenerator
from glmkit.generation.pipeline import generate_batch
from glmkit.models.hybrid import HybridModel
from glmkit.records import Prompt, Request

PROMPTS = [Prompt(id=name, prompt=f"a sign '{name}'", texts=(name,)) for name in ("fox", "owl", "hare")]


@pytest.fixture
def settings(tiny_model: Path) -> GenerationSettings:
    return GenerationSettings(
        model=str(tiny_model), adapters=(), count=2, height=64, width=96, steps=2, guidance=1.5, dtype="float32"
    )


def requested(monkeypatch: pytest.MonkeyPatch, fail_at: dict[str, BaseException]) -> list[str]:
    """Let generation fail at some requests; returns the ids of all requests that were tried."""
    tried: list[str] = []
    real = HybridGenerator.generate_missing

    def generate_missing(
        self: HybridGenerator, requests: Any, is_missing: Any, report: Callable[[Result], None], *args: Any
    ) -> None:
        def failing(result: Result) -> None:
            tried.append(result.request.id)
            error = fail_at.get(result.request.id)
            if isinstance(error, Exception):
                result = replace(result, image=None, error=error)
            elif error is not None:
                raise error
            report(result)

        real(self, requests, is_missing, failing, *args)

    monkeypatch.setattr(HybridGenerator, "generate_missing", generate_missing)
    return tried


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_images_are_the_pipelines_own(settings: GenerationSettings, tmp_path: Path) -> None:
    rows = generate_images(tmp_path, PROMPTS[:1], settings, "cpu", {})
    assert [row.id for row in rows] == ["fox_0", "fox_1"]
    hybrid = HybridModel.load(settings.model)
    requests = [Request("x", PROMPTS[0].prompt, seed, 64, 96, steps=2, guidance=1.5) for seed in (0, 1)]
    for row, expected in zip(rows, generate_batch(hybrid, requests), strict=True):
        with Image.open(tmp_path / str(row.file)) as image:
            assert image.tobytes() == expected.tobytes()
            assert image.text["prompt"] == row.prompt  # type: ignore[attr-defined]


def test_seeds_that_are_named(settings: GenerationSettings) -> None:
    prompt = replace(PROMPTS[0], seed=3)
    assert list(settings.seeds_of(prompt)) == [3, 4]
    named = replace(settings, seeds=(5, 9))
    assert list(named.seeds_of(prompt)) == [5, 9]
    assert (named.to_dict()["seeds"], "seeds" in settings.to_dict()) == ([5, 9], False)
    with pytest.raises(UserError, match="beside --seeds"):
        EvaluationPlan("text-render", generation=named, seeds=(5, 9)).check_prompts(SUITE, [prompt])


SIZED = [
    *(Prompt(id=f"small{i}", prompt=f"a sign '{i}'", texts=(str(i),)) for i in range(3)),
    *(Prompt(id=f"high{i}", prompt=f"a sign '{i}'", texts=(str(i),), size="64x96") for i in range(3)),
]


def test_a_prompt_is_drawn_at_its_own_size_unless_another_is_given(settings: GenerationSettings) -> None:
    assert [settings.size(prompt) for prompt in SIZED[2:4]] == [(64, 96), (96, 64)]
    fixed = replace(settings, prompt_sizes=False).request(SIZED[3], seed=0)
    assert (fixed.height, fixed.width) == (64, 96)


def test_batches_hold_one_size_and_a_lost_image_comes_back(
    settings: GenerationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts of each size in batches of two: the second batch must not mix sizes."""
    monkeypatch.setattr(hybrid_generator, "IMAGES_BATCH", 2)
    settings = replace(settings, count=1)
    rows = generate_images(tmp_path, SIZED, settings, "cpu", {})
    for row in rows:
        with Image.open(tmp_path / str(row.file)) as image:
            assert image.size == ((64, 96) if row.prompt_id.startswith("high") else (96, 64))
    whole = content(tmp_path)
    (tmp_path / "images" / "high0_0.png").unlink()
    (tmp_path / "images" / "high1_0.png").write_bytes(b"")  # what a power cut leaves
    (tmp_path / "images" / "small0_0.png").write_bytes(whole["small0_0.png"][:-30])
    tried = requested(monkeypatch, {})
    generate_images(tmp_path, SIZED, settings, "cpu", {})
    assert sorted(tried) == ["high0_0", "high1_0", "small0_0"]
    assert content(tmp_path) == whole


def test_an_interrupted_run_continues_to_the_same_pixels(
    settings: GenerationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid_generator, "IMAGES_BATCH", 2)
    whole = generate_images(tmp_path / "whole", PROMPTS, settings, "cpu", {})
    with monkeypatch.context() as patch:
        requested(patch, {"owl_1": KeyboardInterrupt()})
        with pytest.raises(KeyboardInterrupt):
            generate_images(tmp_path / "cut", PROMPTS, settings, "cpu", {})
    with (tmp_path / "cut" / "images.jsonl").open("a") as journal:
        journal.write('{"id": "cut o')
    tried = requested(monkeypatch, {})
    rows = generate_images(tmp_path / "cut", PROMPTS, settings, "cpu", {})
    assert tried == ["owl_1", "hare_0", "hare_1"]
    assert all((row.peak_memory_gib or 0) > 0.01 for row in (*rows, *whole))  # a process with torch
    free = {"seconds": None, "peak_memory_gib": None}
    assert [replace(row, **free) for row in rows] == [replace(row, **free) for row in whole]  # type: ignore[arg-type]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert [row["id"] for row in read_jsonl(tmp_path / "cut" / "images.jsonl")] == [row.id for row in whole]


def test_the_memory_of_prior_tokens_counts_after_a_kill(
    settings: GenerationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that only makes images of prior tokens that are there records what those took."""
    with monkeypatch.context() as patch:
        patch.setattr(hybrid_generator, "peak_memory_gib", lambda _: 5.12345)
        requested(patch, {"fox_0": KeyboardInterrupt()})
        with pytest.raises(KeyboardInterrupt):
            generate_images(tmp_path, PROMPTS, settings, "cpu", {})
    monkeypatch.setattr(hybrid_generator, "peak_memory_gib", lambda _: 2.0)
    rows = generate_images(tmp_path, PROMPTS, settings, "cpu", {})
    assert {row.peak_memory_gib for row in rows} == {5.123}


def test_a_failed_image_is_a_row_and_is_tried_again(
    settings: GenerationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        requested(patch, {"owl_0": RuntimeError("out of memory")})
        rows = generate_images(tmp_path, PROMPTS[:2], settings, "cpu", {})
    assert [(row.id, row.error) for row in rows if row.error] == [("owl_0", "generation: out of memory")]
    assert all(row.error is None for row in generate_images(tmp_path, PROMPTS[:2], settings, "cpu", {}))
    tried = requested(monkeypatch, {})
    assert len(generate_images(tmp_path, PROMPTS[:2], settings, "cpu", {})) == 4
    assert tried == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 100}, "multiple of 32|multiples of 32"),
        ({"steps": 0}, "number of steps"),
        ({"seeds": (2**63,)}, "a seed must be"),
        ({"adapters": ("nowhere",)}, "adapter nowhere does not exist"),
        ({"model": "nanoo"}, "did you mean 'nano'"),
    ],
)
def test_what_cannot_be_drawn_leaves_no_folder(
    settings: GenerationSettings, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = EvaluationPlan("text-render", "fake_ocr", limit=1, generation=replace(settings, **change))
    with pytest.raises(UserError, match=message):
        evaluate(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("ocr_log")
def test_weights_that_changed_are_refused(
    settings: GenerationSettings, tiny_copy: Path, tmp_path: Path, suite: str
) -> None:
    plan = EvaluationPlan(suite, "fake_ocr", split="zh", generation=replace(settings, model=str(tiny_copy), count=1))
    run = tmp_path / "run"
    assert evaluate(plan, run).n_total == 1
    weights = next((tiny_copy / "vae").glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(UserError, match="model_fingerprint was"):
        evaluate(plan, run)
    assert len(suites.prompts(suites.load(suite))) == 3


@pytest.mark.usefixtures("ocr_log")
def test_a_truncated_checkpoint_stops_the_run(
    settings: GenerationSettings, tiny_copy: Path, tmp_path: Path, suite: str
) -> None:
    weights = next((tiny_copy / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    plan = EvaluationPlan(suite, "fake_ocr", generation=replace(settings, model=str(tiny_copy)))
    with pytest.raises(UserError, match=weights.name):
        evaluate(plan, tmp_path / "run")
    assert not (tmp_path / "run" / "scores.jsonl").exists()
