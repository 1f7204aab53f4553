"""The ablations: every arm is a valid pair at equal compute, runs end to end, and what is measured reaches the page."""

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
from glmkit.posters.simple import simple_prompts

ABLATIONS = Path(__file__).parents[2] / "benchmarks" / "ablations"
MODULES = ("definitions", "run", "condition_attention", "page")


@pytest.fixture(scope="module")
def ablations() -> Iterator[dict[str, ModuleType]]:
    """The scripts, as they see one another when they run."""
    sys.path.insert(0, str(ABLATIONS))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(ABLATIONS))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.build(tmp_path_factory.mktemp("tiny"))


def test_every_arm_is_a_recipe_at_equal_compute(ablations: dict[str, ModuleType]) -> None:
    """Within 3 %, by the expected GPU seconds; arms that train nothing stand beside the others."""
    definitions = ablations["definitions"]
    known = {"semantic_tokens", "glyphs", "glyphs_everyday", "preview_first", "progressive", "block_causal"}
    assert known == set(definitions.names())
    for name in definitions.names():
        ablation = definitions.load(name)
        assert set(ablation.measures) <= set(ablations["page"].MEANING), name
        costs = []
        for arm in ablation.arms:
            *_, resolved = definitions.resolve(name, arm)
            costs += [definitions.expected_seconds(resolved)] if resolved.steps else []
        assert not costs or max(costs) < 1.03 * min(costs) < 480, f"{name}: {costs}"


def test_arms_differ_in_what_they_ablate_alone(ablations: dict[str, ModuleType]) -> None:
    def flat(step: str) -> dict[str, Any]:
        recipe = ablations["definitions"].recipe(step, "model", "output", 3)
        (stage,) = recipe.stages.values()
        assert (recipe.model, recipe.save, recipe.output, recipe.seed) == ("model", "model", "output", 3)
        return {**stage.model_dump(), **recipe.data.model_dump()["posters"]}

    for name, changed in (("semantic_tokens", "caption_weight"), ("glyphs", "glyphs"), ("glyphs_everyday", "glyphs")):
        a, b, *_ = ablations["definitions"].load(name).arms.values()
        found = set()
        for one, other in zip(a.steps, b.steps, strict=True):
            pair = flat(one), flat(other)
            found |= {key for key in pair[0] if pair[0][key] != pair[1][key]}
        assert found == {changed}


def test_mistakes_in_an_ablation_are_explained(ablations: dict[str, ModuleType]) -> None:
    definitions = ablations["definitions"]
    with pytest.raises(UserError, match="ablation 'glyph'"):
        definitions.load("glyph")
    with pytest.raises(UserError, match="arm of glyphs"):
        definitions.resolve("glyphs", "of")
    with pytest.raises(UserError, match=r"recipe of base\.yaml"):
        definitions.recipe("decoder_64", "model", "output", 0)
    with pytest.raises(UserError, match="unknown key"):
        definitions.recipe("decoder_128 decoder.step=3", "model", "output", 0)


def arguments(work: Path, model: Path, **changes: Any) -> Any:
    values = {"seed": 0, "tiny": True, "work": work, "results": work, "model": str(model), "device": "cpu"}
    return type("Arguments", (), {**values, "no_score": True, **changes})()


ARMS = [
    ("semantic_tokens", "semantic"),
    ("semantic_tokens", "reconstruction"),
    ("glyphs", "on"),
    ("glyphs", "off"),
    ("glyphs", "shipped"),
    ("glyphs", "shipped-withheld"),
    ("glyphs_everyday", "on"),
    ("glyphs_everyday", "off"),
    ("glyphs_everyday", "shipped"),
    ("glyphs_everyday", "shipped-withheld"),
    ("preview_first", "weighted"),
    ("preview_first", "unweighted"),
    ("preview_first", "raster"),
    ("progressive", "direct"),
]


def test_every_arm_is_tried(ablations: dict[str, ModuleType]) -> None:
    definitions = ablations["definitions"]
    loaded = [definitions.load(name) for name in definitions.names()]
    assert set(ARMS) == {definitions.resolve(ablation.name, arm)[:2] for ablation in loaded for arm in ablation.arms}


@pytest.mark.parametrize(("ablation", "arm"), ARMS)
def test_an_arm_trains_and_generates(
    ablation: str, arm: str, ablations: dict[str, ModuleType], tiny: Path, tmp_path: Path
) -> None:
    """Pretrained components stay as they are, the others do not; the same command again has nothing left to do."""
    ablations["run"].run(ablation, arm, arguments(tmp_path, tiny))
    folder, definition = tmp_path / f"{ablation}-{arm}-0", ablations["definitions"].load(ablation).arms[arm]
    trained = {step.split()[0].split("_")[0].replace("everyday", "decoder") for step in definition.steps}
    for component in checkpoint.COMPONENTS:
        unchanged = _same(_weights(folder / "model", component), _weights(tiny, component))
        assert unchanged == (component in definition.pretrained)
        assert not unchanged or component.split("_")[0] not in trained
    images = sorted((folder / "images").glob("*.png"))
    assert len(images) == 2
    assert Image.open(images[0]).size == (64, 64)
    shutil.rmtree(folder / "model")
    ablations["run"].run(ablation, arm, arguments(tmp_path, tiny))
    assert not (folder / "model").exists()


def test_a_result_says_what_is_read_and_seen(
    ablations: dict[str, ModuleType], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the OCR engine itself: true posters in place of generated ones are faultless, an empty one is not."""
    ablations["run"].run("glyphs", "shipped", arguments(tmp_path, tiny))
    first, second = sorted((tmp_path / "glyphs-shipped-0" / "images").glob("*.png"))
    scenes = {name: scene for name, scene, _ in simple_prompts("simple")}
    for path in (first, second):
        render(scenes[path.stem]).save(path)
    ablations["run"].run("glyphs", "shipped", arguments(tmp_path, tiny, no_score=False))
    row = read_json(tmp_path / "glyphs-shipped-0.json")
    assert (row["ablation"], row["arm"], row["seed"], row["prompts"]) == ("glyphs", "shipped", 0, 2)
    assert all(
        row["measures"][name] == 1 for name in ("word_accuracy", "ned", "attribute_accuracy", "shape", "background")
    )
    assert set(row["pretrained"]) == set(checkpoint.COMPONENTS)
    assert row["environment"]["device"] == "cpu"
    assert Image.open(tmp_path / "glyphs-shipped-0.webp").size == (2 * 112, 112)
    shutil.rmtree(tmp_path / "glyphs-shipped-0" / "scores")
    Image.new("RGB", (256, 256), "pink").save(second)
    ablations["run"].run("glyphs", "shipped", arguments(tmp_path, tiny, no_score=False))
    found = read_json(tmp_path / "glyphs-shipped-0.json")["measures"]
    assert 0 < found["word_accuracy"] < 1
    assert 0 < found["attribute_accuracy"] < 1
    assert found["cer"] > 0
    assert "word_accuracy 1," in capsys.readouterr().out


def test_a_result_of_two_languages(ablations: dict[str, ModuleType], tiny: Path, tmp_path: Path) -> None:
    """Images are of both splits, and each has its own measures."""
    ablations["run"].run("glyphs_everyday", "shipped", arguments(tmp_path, tiny, no_score=False))
    names = [path.stem for path in sorted((tmp_path / "glyphs_everyday-shipped-0" / "images").glob("*.png"))]
    assert names == ["everyday-en-001", "everyday-zh-001"]
    measures = read_json(tmp_path / "glyphs_everyday-shipped-0.json")["measures"]
    assert set(ablations["definitions"].load("glyphs_everyday").measures) - {"loss"} <= set(measures)
    assert "word_accuracy" not in measures


def _same(saved: list[torch.Tensor], shipped: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other.bfloat16().float()) for one, other in zip(saved, shipped, strict=True))


def _weights(folder: Path, component: str) -> list[torch.Tensor]:
    return list(checkpoint.load_component(folder, component).state_dict().values())


def test_texts_are_withheld_from_the_decoder_alone(
    ablations: dict[str, ModuleType], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, decoded = ablations["run"], []
    hybrid = run.HybridModel(tiny)
    requests = run.requests_of(tiny, 0, tiny=True)
    decode = run.decode_prior_tokens

    def watch(hybrid: Any, requests: Any, priors: Any) -> Any:
        decoded.append(([request.prompt for request in requests], priors))
        return decode(hybrid, requests, priors)

    monkeypatch.setattr(run, "decode_prior_tokens", watch)
    for glyphs in (True, False):
        run.generate(tmp_path / str(glyphs), hybrid, run.Arm(glyphs=glyphs), requests)
    (prompts, priors), (none, same_priors) = decoded
    assert prompts == [request.prompt for request in requests]
    assert none == ["", ""]
    assert all(torch.equal(one, other) for one, other in zip(priors, same_priors, strict=True))


def test_images_reach_the_page(ablations: dict[str, ModuleType], tmp_path: Path) -> None:
    """A strip an arm, in the order of the prompts, and nothing of an arm that left none."""
    run, page = ablations["run"], ablations["page"]
    colours = ("red", "blue")
    for colour in colours:
        Image.new("RGB", (256, 256), colour).save(tmp_path / f"{colour}.png")
    strip = run.samples([tmp_path / f"{colour}.png" for colour in colours])
    assert strip.size == (2 * run.SAMPLE_HEIGHT, run.SAMPLE_HEIGHT)
    assert [strip.convert("RGB").getpixel((x, 50)) for x in (50, 160)] == [(255, 0, 0), (0, 0, 255)]
    (tmp_path / "results").mkdir()
    strip.save(tmp_path / "results" / "glyphs-on-4.webp")
    by_arm = {arm: [{"ablation": "glyphs", "arm": arm, "seed": 4}] for arm in ("on", "off")}
    (shown,) = page.strips(ablations["definitions"].load("glyphs"), tmp_path / "results", by_arm, tmp_path)
    assert "on:" in shown
    assert "](results/glyphs-on-4.webp)" in shown


def test_rendered_posters_are_as_described(ablations: dict[str, ModuleType], tmp_path: Path) -> None:
    for name, scene, _ in simple_prompts("simple")[:6]:
        render(scene).save(tmp_path / f"{name}.png")
    right = ablations["run"].attribute_accuracy(tmp_path)
    assert right["attribute_accuracy"] == right["background"] == right["shape"] == 1
    for path in tmp_path.glob("*.png"):
        Image.new("RGB", (256, 256), "black").save(path)
    assert ablations["run"].attribute_accuracy(tmp_path)["attribute_accuracy"] < 0.3


def test_entropy(ablations: dict[str, ModuleType]) -> None:
    entropy = ablations["run"].entropy
    assert entropy(torch.tensor([[5, 5], [5, 5]])) == pytest.approx(0, abs=1e-9)
    assert entropy(torch.arange(8).repeat(3)) == pytest.approx(torch.tensor(8.0).log().item())


def test_full_attention_without_condition_images_is_the_decoder(ablations: dict[str, ModuleType], tiny: Path) -> None:
    """With condition images it is another function, of the same shape, that each of them changes."""
    attention = ablations["condition_attention"]
    decoder = checkpoint.load_component(tiny, "decoder")
    assert isinstance(decoder, DiffusionDecoder)
    torch.manual_seed(0)
    results = {}
    with torch.no_grad():
        for count in (0, 2):
            inputs = attention.Inputs.random(decoder, 64, 96, count)
            for name, passes in attention.ATTENTIONS.items():
                fill_cache, step = passes(decoder, inputs)
                results[count, name] = step(fill_cache())
        torch.testing.assert_close(results[0, "full"], results[0, "block-causal"])
        before = results[2, "full"]
        inputs.latents[2].add_(1)
        assert before.shape == (1, 4, 8, 12)
        assert not torch.allclose(step(None), before)


def test_peak_counts_what_is_alive(ablations: dict[str, ModuleType]) -> None:
    values, parameter = torch.ones(1000), torch.ones(500, requires_grad=True)
    with ablations["condition_attention"].PeakMemory() as peak:
        first = values + 1
        second = (first * 2).view(10, 100)
        del first
        second.add_(values.view(10, 100))
        third = second + 1
        assert peak.alive == 8000
    assert peak.peak == 8000
    with ablations["condition_attention"].PeakMemory() as training:
        parameter.exp().exp().exp().sum().backward()
    with torch.no_grad(), ablations["condition_attention"].PeakMemory() as generation:
        parameter.exp().exp().exp().sum()
    assert training.peak >= 6000 > generation.peak >= 4000, "the backward pass keeps all three"
    assert third.shape == (10, 100)


def result_of(ablation: str, arm: str, seed: int, accuracy: float) -> dict[str, Any]:
    losses = [[0, {"loss": 2.0}], [1000, {"loss": 0.5}], [2000, {"loss": 0.3}]]
    step = {"recipe": "decoder_256", "overrides": [], "posters": 2000, "seconds": 10.0, "validation": losses}
    measures = {"word_accuracy": accuracy, "loss": 0.3}
    identity = {"ablation": ablation, "arm": arm, "seed": seed, "prompts": 128}
    return {
        **identity,
        "steps": [step],
        "measures": measures,
        "pretrained": {"vae": "v"},
        "environment": {"device": "cuda"},
    }


def test_the_page_says_what_was_measured_and_nothing_else(ablations: dict[str, ModuleType], tmp_path: Path) -> None:
    results, page = tmp_path / "results", ablations["page"]
    for seed, (on, off) in enumerate([(0.75, 0.5), (0.5, 0.125)]):
        write_json(results / f"glyphs-on-{seed}.json", result_of("glyphs", "on", seed, on))
        write_json(results / f"glyphs-off-{seed}.json", result_of("glyphs", "off", seed, off))
    page.write(results, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| measure | on (n 2) | off (n 2) |" in text
    assert "| words read by OCR | 0.625 (0.500 to 0.750) | 0.312 (0.125 to 0.500) |" in text
    assert "on - off, words read by OCR: 0.312 (0.250 to 0.375); the same sign in every seed" in text
    assert "shape" not in text.split("**Result.**")[1].split("**Limitations")[0], "it was not measured"
    assert text.count("\n## ") == 1, "the progressive arm alone, and ablations without results, are left out"
    assert Image.open(tmp_path / "curves" / "glyphs.png").width > 200
    write_json(results / "progressive-direct-0.json", result_of("progressive", "direct", 0, 0.75))
    page.write(results, tmp_path)
    assert "| words read by OCR | 0.625 (0.500 to 0.750) | 0.750 |" in (tmp_path / "README.md").read_text()


def test_attention_is_measured_with_and_without_training(
    ablations: dict[str, ModuleType], tiny: Path, tmp_path: Path
) -> None:
    attention, decoder = ablations["condition_attention"], checkpoint.load_component(tiny, "decoder")
    for training in (True, False):
        rows = attention.measure(decoder, 64, 64, 1, training)
        assert [row["condition_images"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert all(len(row["step_seconds"]) == 1 and row["peak_bytes"] > 0 for row in rows)
        assert all(("train_step_seconds" in row) == training for row in rows)
        facts = {"decoder": "nano", "size": "64x64", "hardware": "CPU", "dtype": "float32"}
        write_json(tmp_path / "results" / f"block_causal-{training}.json", {**facts, "rows": rows})
    ablations["page"].write(tmp_path / "results", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("| condition images | cache, ms |") == 2
    assert text.count("full: MiB to train |") == 1


def test_results_from_different_pretrained_weights_are_not_averaged(
    ablations: dict[str, ModuleType], tmp_path: Path
) -> None:
    """A component that only one of them takes over does not matter."""
    ablation, load_results = ablations["definitions"].load("glyphs"), ablations["page"].load_results
    more = {"vae": "v", "decoder": "d"}
    write_json(tmp_path / "glyphs-on-0.json", result_of("glyphs", "on", 0, 0.5))
    write_json(tmp_path / "glyphs-on-1.json", result_of("glyphs", "on", 1, 0.5) | {"pretrained": more})
    assert len(load_results(tmp_path, ablation)["on"]) == 2
    write_json(tmp_path / "glyphs-off-0.json", result_of("glyphs", "off", 0, 0.5) | {"pretrained": more | {"vae": "w"}})
    with pytest.raises(UserError, match="different weights of vae"):
        load_results(tmp_path, ablation)


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
def test_a_sign_is_that_of_every_seed(ablations: dict[str, ModuleType], pairs: list[float], said: str) -> None:
    assert ablations["page"].verdict(pairs) == said


def test_the_page_of_the_repository_is_that_of_its_results(ablations: dict[str, ModuleType], tmp_path: Path) -> None:
    shutil.copytree(ABLATIONS / "results", tmp_path / "results")
    ablations["page"].write(tmp_path / "results", tmp_path)
    assert (tmp_path / "README.md").read_text() == (ABLATIONS / "README.md").read_text(), (
        "run benchmarks/ablations/page.py"
    )
    names = {path.name for path in (tmp_path / "curves").iterdir()}
    assert names == {path.name for path in (ABLATIONS / "curves").iterdir()}
    assert all(read_json(path) for path in (ABLATIONS / "results").glob("*.json"))
