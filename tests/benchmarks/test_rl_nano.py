"""The script that sets rewards beside other ways to spend the same minutes runs whole, in little."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pixel_ocr
import pytest
from scripts import load_script

from glmkit import config
from glmkit.errors import UserError
from glmkit.evaluation.ocr import engines
from glmkit.files import read_json, write_json
from glmkit.records import Score

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
rl_nano = load_script("rl_nano")
rl_nano_parts = sys.modules["rl_nano_parts"]
rl_page = load_script("rl_page")

LITTLE = "--device cpu --steps 1 --group 4 --batch 4 --micro-batch 4 --at-once 32 --prompts 8 --limit 3 --seeds 2"


@pytest.fixture
def model(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of quick images, which OCR reads quickly."""
    monkeypatch.setattr(engines, "resolve", lambda _: "pixel_ocr")
    monkeypatch.setattr(pixel_ocr, "check", lambda: None, raising=False)
    paths = [str(Path(pixel_ocr.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setattr(rl_nano, "GRID", {"guidance": (1.0, 2.0), "temperature": (0.9,)})
    write_json(tiny_copy / "glmkit.json", {"defaults": {"size": "64x64", "steps": 1, "guidance": 1}})
    return tiny_copy


FEW = ("base", "best-of-seeds")


@pytest.mark.parametrize(
    "arms", [FEW, pytest.param(("base", "rl-decoder", "rl-both", "dpo", "best-setting"), marks=pytest.mark.thorough)]
)
def test_arms(arms: tuple[str, ...], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every arm leaves its scores and differences at once, and is not done again; other settings are refused."""
    out, options = tmp_path / "out", [*LITTLE.split(), "--model", str(model), "--splits", "simple"]
    few = ["rl.denoising_steps=1", "rl.rewards.weights.text=0.5"]
    options += ["--set", *(f"{stage}.{one}" for stage in rl_nano.HALVES for one in few)]
    assert rl_nano.main([str(out), "--arms", *arms, *options]) == 0
    for name in arms:
        result = read_json(out / f"{name}.json")
        assert list(result["splits"]) == ["all", "simple"]
        assert result["splits"]["simple"]["word_accuracy"]["difference"]["n"] == 3
    assert read_json(out / "base.json")["splits"]["all"]["cer"]["difference"]["value"] == 0
    if arms != FEW:
        assert read_json(out / "rl-decoder.json")["training"]["decoder.seconds"]["seconds"] > 0
        assert read_json(out / "best-setting.json")["chosen"]["guidance"] in (1.0, 2.0)
    shown = (out / "table.md").read_text()
    assert shown.splitlines()[0].count("|") == len(arms) + 2
    assert capsys.readouterr().out.endswith(shown + "\n")
    assert rl_page.main([str(out), str(tmp_path / "rl.html"), "--prompts", "2"]) == 0
    html = (tmp_path / "rl.html").read_text()
    assert html.count("<section") == 2
    assert html.count("<img src=") == 2 * len([name for name in arms if name != "best-of-seeds"])
    assert html.count("round by round") == sum(name.startswith("rl-") and name != "rl-both" for name in arms)
    done = (out / "base.json").stat().st_mtime_ns
    assert rl_nano.main([str(out), "--arms", "base", *options]) == 0
    assert (out / "base.json").stat().st_mtime_ns == done
    with pytest.raises(SystemExit, match=r"begun with other settings\n.*'limit': \(3, 2\)"):
        rl_nano.main([str(out), "--arms", "base", *options, "--limit", "2"])


def test_an_arm_that_is_stopped_has_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit ends a training, not the arm, and is not run into again; without a saved step it is the arm's error."""
    recipe = config.load("recipes/nano/rl_decoder.yaml", [f"output={tmp_path / 'arm/decoder'}"])
    e = type("E", (), {"out": tmp_path, "minutes": 1, "device": None, "free": lambda _: None})()
    began = []

    def stop(*_: object) -> None:
        began.append(1)
        raise UserError("the reward is gamed")

    monkeypatch.setattr(rl_nano, "finetune", stop)
    with pytest.raises(UserError, match="ended before it was saved once") as error:
        rl_nano.learn(e, "arm", "decoder", recipe)
    assert error.value.found == "the reward is gamed"
    (tmp_path / "arm/decoder/adapter/decoder").mkdir(parents=True)
    assert rl_nano.learn(e, "arm", "decoder", recipe).endswith("arm/decoder/adapter/decoder")
    assert len(began) == 1


def test_minutes_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training has taken before it was cut counts when it goes on."""
    monkeypatch.setattr(rl_nano_parts, "TICK", 0.02)
    record, began = tmp_path / "seconds.json", time.monotonic()

    def cut() -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rl_nano_parts.run_for(0.5, record, cut)
    assert 0.15 < read_json(record)["seconds"] < 0.5
    assert rl_nano_parts.run_for(0.5, record, lambda: time.sleep(60)) >= 0.5
    assert time.monotonic() - began < 30
    assert rl_nano_parts.run_for(0.5, record, lambda: pytest.fail("there is no time left")) >= 0.5


def test_the_best_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each prompt the image of the highest reward stands for all; a prompt of failed images stays as it is."""

    def score(prompt: str, seed: int, hits: int, edits: int) -> Score:
        counts = {"word_accuracy": (hits, 2), "cer": (edits, 10)}
        return Score(f"{prompt}_{seed}", prompt, seed, "simple", "en", ("red fox",), counts=counts)

    failed = Score("b_0", "b", 0, "simple", "en", ("owl",), error="OCR")
    base = [score("a", 0, 1, 0), score("a", 1, 2, 6), score("a", 2, 2, 4), failed]
    assert [rl_nano.text.of_counts(one.counts) for one in base[:3]] == pytest.approx([0.75, 0.7, 0.8])
    seen: list[list[Score]] = []
    monkeypatch.setattr(rl_nano, "base_scores", lambda _: base)
    monkeypatch.setattr(rl_nano, "result", lambda _, chosen, *_others: seen.append(chosen))
    rl_nano.best_of_seeds(type("E", (), {"seeds": 3})(), "best-of-seeds")
    assert [(one.seed, one.counts.get("cer")) for one in seen[0]] == [
        (0, (4, 10)),
        (1, (4, 10)),
        (2, (4, 10)),
        (0, None),
    ]
