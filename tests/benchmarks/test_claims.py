"""The claims: every side is a valid pair at equal compute, runs end to end, and what is measured reaches the page."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_checkpoint
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.files import read_json, write_json
from glmkit.models import checkpoint
from glmkit.models.decoder.model import DiffusionDecoder
from glmkit.posters.render import render
from glmkit.posters.simple import simple_prompts, simple_scenes

CLAIMS = Path(__file__).parents[2] / "benchmarks" / "claims"
MODULES = ("definitions", "run", "sources", "page")


@pytest.fixture(scope="module")
def claims() -> Iterator[dict[str, ModuleType]]:
    """The scripts, as they see one another when they run."""
    sys.path.insert(0, str(CLAIMS))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(CLAIMS))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.build(tmp_path_factory.mktemp("tiny"))


def test_every_side_is_a_recipe_at_equal_compute(claims: dict[str, ModuleType]) -> None:
    """Within 3 %, by the expected GPU seconds; sides that train nothing stand beside the others."""
    definitions = claims["definitions"]
    assert {"semantic_codes", "glyphs", "preview_first", "progressive", "block_causal"} == set(definitions.names())
    for name in definitions.names():
        claim = definitions.load(name)
        assert set(claim.measures) <= set(claims["page"].MEANING), name
        costs = []
        for side in claim.sides:
            *_, resolved = definitions.resolve(name, side)
            costs += [definitions.expected_seconds(resolved)] if resolved.steps else []
        assert not costs or max(costs) < 1.03 * min(costs) < 480, f"{name}: {costs}"


def test_sides_differ_in_what_they_claim_alone(claims: dict[str, ModuleType]) -> None:
    def flat(step: str) -> dict[str, Any]:
        recipe = claims["definitions"].recipe(step, "model", "output", 3)
        (stage,) = recipe.stages.values()
        assert (recipe.model, recipe.save, recipe.output, recipe.seed) == ("model", "model", "output", 3)
        return {**stage.model_dump(), **recipe.data.model_dump()["posters"]}

    for name, changed in (("semantic_codes", "caption_weight"), ("glyphs", "glyphs")):
        a, b, *_ = claims["definitions"].load(name).sides.values()
        found = set()
        for one, other in zip(a.steps, b.steps, strict=True):
            pair = flat(one), flat(other)
            found |= {key for key in pair[0] if pair[0][key] != pair[1][key]}
        assert found == {changed}


def test_mistakes_in_a_claim_are_explained(claims: dict[str, ModuleType]) -> None:
    definitions = claims["definitions"]
    with pytest.raises(UserError, match="claim 'glyph'"):
        definitions.load("glyph")
    with pytest.raises(UserError, match="side of glyphs"):
        definitions.resolve("glyphs", "of")
    with pytest.raises(UserError, match="recipe of base.yaml"):
        definitions.recipe("decoder_64", "model", "output", 0)
    with pytest.raises(UserError, match="unknown key"):
        definitions.recipe("decoder_128 decoder.step=3", "model", "output", 0)


def arguments(work: Path, model: Path, **changes: Any) -> Any:
    values = {"seed": 0, "tiny": True, "work": work, "results": work, "model": str(model), "device": "cpu"}
    return type("Arguments", (), {**values, "no_score": True, **changes})()


SIDES = [
    ("semantic_codes", "semantic"),
    ("semantic_codes", "reconstruction"),
    ("glyphs", "on"),
    ("glyphs", "off"),
    ("glyphs", "shipped"),
    ("glyphs", "shipped-withheld"),
    ("preview_first", "weighted"),
    ("preview_first", "unweighted"),
    ("preview_first", "raster"),
    ("progressive", "direct"),
]


def test_every_side_is_tried(claims: dict[str, ModuleType]) -> None:
    definitions = claims["definitions"]
    loaded = [definitions.load(name) for name in definitions.names()]
    assert set(SIDES) == {definitions.resolve(claim.name, side)[:2] for claim in loaded for side in claim.sides}


@pytest.mark.parametrize(("claim", "side"), SIDES)
def test_a_side_trains_and_draws(
    claim: str, side: str, claims: dict[str, ModuleType], tiny: Path, tmp_path: Path
) -> None:
    """Kept parts stay as they are, the others do not; the same command again has nothing left to do."""
    claims["run"].run(claim, side, arguments(tmp_path, tiny))
    folder, definition = tmp_path / f"{claim}-{side}-0", claims["definitions"].load(claim).sides[side]
    trained = {step.split()[0].split("_")[0] for step in definition.steps}  # semantic, autoregressive, decoder
    for part in checkpoint.COMPONENTS:
        kept = _same(_weights(folder / "model", part), _weights(tiny, part))
        assert kept == (part in definition.keep)
        assert not kept or part.split("_")[0] not in trained
    images = sorted((folder / "images").glob("*.png"))
    assert len(images) == 2 and Image.open(images[0]).size == (64, 64)
    shutil.rmtree(folder / "model")
    claims["run"].run(claim, side, arguments(tmp_path, tiny))
    assert not (folder / "model").exists()


def test_a_row_says_what_is_read_and_seen(
    claims: dict[str, ModuleType], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the OCR engine itself: true posters in the place of drawn ones are without a fault, an empty one is not."""
    claims["run"].run("glyphs", "shipped", arguments(tmp_path, tiny))
    first, second = sorted((tmp_path / "glyphs-shipped-0" / "images").glob("*.png"))
    for path in (first, second):
        render(simple_scenes()[path.stem]).save(path)
    claims["run"].run("glyphs", "shipped", arguments(tmp_path, tiny, no_score=False))
    row = read_json(tmp_path / "glyphs-shipped-0.json")
    assert (row["claim"], row["side"], row["seed"], row["prompts"]) == ("glyphs", "shipped", 0, 2)
    assert all(
        row["measures"][name] == 1 for name in ("word_accuracy", "ned", "attribute_accuracy", "shape", "background")
    )
    assert set(row["kept"]) == set(checkpoint.COMPONENTS) and row["environment"]["device"] == "cpu"
    assert Image.open(tmp_path / "glyphs-shipped-0.png").size == (2 * 112, 112)
    shutil.rmtree(tmp_path / "glyphs-shipped-0" / "scores")
    Image.new("RGB", (256, 256), "pink").save(second)
    claims["run"].run("glyphs", "shipped", arguments(tmp_path, tiny, no_score=False))
    found = read_json(tmp_path / "glyphs-shipped-0.json")["measures"]
    assert 0 < found["word_accuracy"] < 1 and 0 < found["attribute_accuracy"] < 1 and found["cer"] > 0
    assert "word_accuracy 1," in capsys.readouterr().out


def _same(saved: list[torch.Tensor], source: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other.bfloat16().float()) for one, other in zip(saved, source, strict=True))


def _weights(folder: Path, part: str) -> list[torch.Tensor]:
    return list(checkpoint.load_component(folder, part).state_dict().values())


def test_texts_are_withheld_from_the_decoder_alone(
    claims: dict[str, ModuleType], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = claims["run"], []
    hybrid = run.HybridModel(tiny)
    requests = run.requests_of(tiny, 0, tiny=True)
    decode = run.pipeline.decode_prior

    def watch(hybrid: Any, requests: Any, priors: Any) -> Any:
        told.append(([request.prompt for request in requests], priors))
        return decode(hybrid, requests, priors)

    monkeypatch.setattr(run.pipeline, "decode_prior", watch)
    for glyphs in (True, False):
        run.draw(tmp_path / str(glyphs), hybrid, run.Side(glyphs=glyphs), requests)
    (prompts, priors), (none, same_priors) = told
    assert prompts == [request.prompt for request in requests] and none == ["", ""]
    assert all(torch.equal(one, other) for one, other in zip(priors, same_priors, strict=True))


def test_images_reach_the_page(claims: dict[str, ModuleType], tmp_path: Path) -> None:
    """A strip a side, in the order of the prompts, and nothing of a side that left none."""
    run, page = claims["run"], claims["page"]
    colours = ("red", "blue")
    for colour in colours:
        Image.new("RGB", (256, 256), colour).save(tmp_path / f"{colour}.png")
    strip = run.samples([tmp_path / f"{colour}.png" for colour in colours])
    assert strip.size == (2 * run.SAMPLE_HEIGHT, run.SAMPLE_HEIGHT)
    assert [strip.convert("RGB").getpixel((x, 50)) for x in (50, 160)] == [(255, 0, 0), (0, 0, 255)]
    (tmp_path / "results").mkdir()
    strip.save(tmp_path / "results" / "glyphs-on-4.png")
    found = {side: [{"claim": "glyphs", "side": side, "seed": 4}] for side in ("on", "off")}
    (shown,) = page.strips(claims["definitions"].load("glyphs"), tmp_path / "results", found, tmp_path)
    assert "on:" in shown and "](results/glyphs-on-4.png)" in shown


def test_rendered_posters_are_as_described(claims: dict[str, ModuleType], tmp_path: Path) -> None:
    for name, scene, _ in simple_prompts("simple")[:6]:
        render(scene).save(tmp_path / f"{name}.png")
    right = claims["run"].described(tmp_path)
    assert right["attribute_accuracy"] == right["background"] == right["shape"] == 1
    for path in tmp_path.glob("*.png"):
        Image.new("RGB", (256, 256), "black").save(path)
    assert claims["run"].described(tmp_path)["attribute_accuracy"] < 0.3


def test_entropy(claims: dict[str, ModuleType]) -> None:
    entropy = claims["run"].entropy
    assert entropy(torch.tensor([[5, 5], [5, 5]])) == pytest.approx(0, abs=1e-9)
    assert entropy(torch.arange(8).repeat(3)) == pytest.approx(torch.tensor(8.0).log().item())


def test_full_attention_without_sources_is_the_decoder(claims: dict[str, ModuleType], tiny: Path) -> None:
    """With sources it is another function, of the same shape, that each source changes."""
    sources = claims["sources"]
    decoder = checkpoint.load_component(tiny, "decoder")
    assert isinstance(decoder, DiffusionDecoder)
    torch.manual_seed(0)
    results = {}
    with torch.no_grad():
        for count in (0, 2):
            given = sources.Inputs.random(decoder, 64, 96, count)
            for name, way in sources.WAYS.items():
                once, step = way(decoder, given)
                results[count, name] = step(once())
        torch.testing.assert_close(results[0, "full"], results[0, "block-causal"])
        before = results[2, "full"]
        given.latents[2].add_(1)
        assert before.shape == (1, 4, 8, 12) and not torch.allclose(step(None), before)


def test_peak_counts_what_is_alive(claims: dict[str, ModuleType]) -> None:
    given, parameter = torch.ones(1000), torch.ones(500, requires_grad=True)
    with claims["sources"].Peak() as peak:
        first = given + 1
        second = (first * 2).view(10, 100)
        del first
        second.add_(given.view(10, 100))
        third = second + 1
        assert peak.alive == 8000
    assert peak.most == 8000
    with claims["sources"].Peak() as training:
        parameter.exp().exp().exp().sum().backward()
    with torch.no_grad(), claims["sources"].Peak() as drawing:
        parameter.exp().exp().exp().sum()
    assert training.most >= 6000 > drawing.most >= 4000, "the backward pass keeps all three"
    assert third.shape == (10, 100)


def row(claim: str, side: str, seed: int, accuracy: float) -> dict[str, Any]:
    losses = [[0, {"loss": 2.0}], [1000, {"loss": 0.5}], [2000, {"loss": 0.3}]]
    step = {"recipe": "decoder_256", "overrides": [], "posters": 2000, "seconds": 10.0, "validation": losses}
    measures = {"word_accuracy": accuracy, "loss": 0.3}
    identity = {"claim": claim, "side": side, "seed": seed, "prompts": 128}
    return {**identity, "steps": [step], "measures": measures, "kept": {"vae": "v"}, "environment": {"device": "cuda"}}


def test_the_page_says_what_was_measured_and_nothing_else(claims: dict[str, ModuleType], tmp_path: Path) -> None:
    results, page = tmp_path / "results", claims["page"]
    for seed, (on, off) in enumerate([(0.75, 0.5), (0.5, 0.125)]):
        write_json(results / f"glyphs-on-{seed}.json", row("glyphs", "on", seed, on))
        write_json(results / f"glyphs-off-{seed}.json", row("glyphs", "off", seed, off))
    page.write(results, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| measure | on (n 2) | off (n 2) |" in text
    assert "| words read by OCR | 0.625 (0.500 to 0.750) | 0.312 (0.125 to 0.500) |" in text
    assert "on - off, words read by OCR: 0.312 (0.250 to 0.375); the same sign in every seed" in text
    assert "shape" not in text.split("**Result.**")[1].split("**What")[0], "nobody measured it"
    assert text.count("\n## ") == 1, "the progressive side alone, and claims without rows, are left out"
    assert Image.open(tmp_path / "curves" / "glyphs.png").width > 200
    write_json(results / "progressive-direct-0.json", row("progressive", "direct", 0, 0.75))
    page.write(results, tmp_path)
    assert "| words read by OCR | 0.625 (0.500 to 0.750) | 0.750 |" in (tmp_path / "README.md").read_text()


def test_sources_are_measured_with_and_without_training(
    claims: dict[str, ModuleType], tiny: Path, tmp_path: Path
) -> None:
    sources, decoder = claims["sources"], checkpoint.load_component(tiny, "decoder")
    for training in (True, False):
        rows = sources.measure(decoder, 64, 64, 1, training)
        assert [row["sources"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert all(len(row["step"]) == 1 and row["peak_bytes"] > 0 and ("train" in row) == training for row in rows)
        facts = {"decoder": "nano", "size": "64x64", "where": "CPU", "dtype": "float32"}
        write_json(tmp_path / "results" / f"block_causal-{training}.json", {**facts, "rows": rows})
    claims["page"].write(tmp_path / "results", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("| sources | once, ms |") == 2 and text.count("full: MiB to train |") == 1


def test_rows_that_keep_different_weights_are_not_averaged(claims: dict[str, ModuleType], tmp_path: Path) -> None:
    """What only one of them keeps does not matter."""
    claim, rows_of = claims["definitions"].load("glyphs"), claims["page"].rows_of
    more = {"vae": "v", "decoder": "d"}
    write_json(tmp_path / "glyphs-on-0.json", row("glyphs", "on", 0, 0.5))
    write_json(tmp_path / "glyphs-on-1.json", row("glyphs", "on", 1, 0.5) | {"kept": more})
    assert len(rows_of(tmp_path, claim)["on"]) == 2
    write_json(tmp_path / "glyphs-off-0.json", row("glyphs", "off", 0, 0.5) | {"kept": more | {"vae": "w"}})
    with pytest.raises(UserError, match="different weights of vae"):
        rows_of(tmp_path, claim)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([0.1, 0.2], "the same sign in every seed"),
        ([-0.1, -0.2], "the same sign in every seed"),
        ([0.1, -0.2], "not resolved"),
        ([0.1, 0.0], "not resolved"),
        ([0.0, 0.0], "equal"),
    ],
)
def test_a_sign_is_that_of_every_seed(claims: dict[str, ModuleType], pairs: list[float], said: str) -> None:
    assert claims["page"].verdict(pairs) == said


def test_the_page_of_the_repository_is_that_of_its_rows(claims: dict[str, ModuleType], tmp_path: Path) -> None:
    shutil.copytree(CLAIMS / "results", tmp_path / "results")
    claims["page"].write(tmp_path / "results", tmp_path)
    assert (tmp_path / "README.md").read_text() == (CLAIMS / "README.md").read_text(), "run benchmarks/claims/page.py"
    names = {path.name for path in (tmp_path / "curves").iterdir()}
    assert names == {path.name for path in (CLAIMS / "curves").iterdir()}
    assert all(read_json(path) for path in (CLAIMS / "results").glob("*.json"))
