"""Recipes: what is refused, and by which name; overrides; the resolved recipe reads back as itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from glmkit import config
from glmkit.config import recipe as recipe_keys
from glmkit.config import values
from glmkit.errors import UserError
from glmkit.sizes import parse_size

RECIPE = """\
model: nano
output: reports/x
data:
  train: a
  validation: b
decoder:
  lora: {rank: 4, targets: [to_q]}
  steps: 10
  global_batch_size: 4
  learning_rate: 1e-4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        config.load(path, overrides)
    return str(caught.value)


def test_numbers_are_numbers(recipe: Path) -> None:
    """YAML 1.1 reads 1e-4 as text."""
    assert config.load(recipe).decoder.learning_rate == 1e-4  # type: ignore[union-attr]
    for text, value in (("1e-4", 1e-4), ("2E3", 2000.0), (".5e-1", 0.05), ("3.0", 3.0)):
        assert config.load(recipe, [f"decoder.learning_rate={text}"]).decoder.learning_rate == value  # type: ignore[union-attr]
    texts = values.override({}, ["a=1e-4x", "b=e5", "c=1e", "d=2026-01-02x"])
    assert texts == {"a": "1e-4x", "b": "e5", "c": "1e", "d": "2026-01-02x"}


@pytest.mark.parametrize(
    ("assignment", "path", "guess"),
    [
        ("modell=nano", "modell", "'model'"),
        ("decoder.step=3", "decoder.step", "'steps'"),
        ("decoder.lora.target=[to_q]", "decoder.lora.target", "'targets'"),
        ("data.columns.captoin=a", "data.columns.captoin", "'caption'"),
        ("samples.prompt=[a]", "samples.prompt", "'prompts'"),
        ("autoregresive.steps=3", "autoregresive", "'autoregressive'"),
        ("steps=3", "steps", "'decoder.steps'?"),
        ("decoder.rank=3", "decoder.rank", "'decoder.lora.rank'?"),
        ("lr=1e-4", "lr", "'decoder.learning_rate'?"),
        ("decoder.lr=1e-4", "decoder.lr", "'decoder.learning_rate'?"),
        (
            "decoder.gradient_accumulation_steps=4",
            "decoder.gradient_accumulation_steps",
            "'decoder.global_batch_size'?",
        ),
        ("network_dim=8", "network_dim", "'decoder.lora.rank'?"),
        ("output_dir=a", "output_dir", "'output'?"),
    ],
)
def test_unknown_keys_name_their_path_and_the_nearest(recipe: Path, assignment: str, path: str, guess: str) -> None:
    shown = message(recipe, assignment)
    assert f"{path}: unknown key; did you mean {guess}" in shown
    assert str(recipe) in shown


def test_every_problem_is_listed(recipe: Path) -> None:
    shown = message(recipe, "decoder.steps=0", "decoder.global_batch_size=many", "seed=x", "output= ")
    for path in ("decoder.steps: ", "decoder.global_batch_size: ", "seed: ", "output: "):
        assert f"  {path}" in shown
    assert "found 'many'" in shown


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["data.train=null"], "data.train is missing"),
        (["data.validation=1.5"], "a share between 0 and 1 such as 0.1, not 1.5"),
        (["data.validation=0"], "a share between 0 and 1"),
        (["seed=-1"], "seed: "),
        ([f"seed={2**64}"], "seed: "),
        (["samples.size=abc"], "samples.size: a size is WIDTHxHEIGHT in pixels, such as 256x256 (found 'abc')"),
        (["samples.size=128"], "samples.size: a size is WIDTHxHEIGHT in pixels, such as 128x128 (found 128)"),
        (
            ["data.size=[1024, 768]"],
            "data.size: a size is WIDTHxHEIGHT in pixels, such as 1024x768 (found [1024, 768])",
        ),
        (["data.size=512*512"], "data.size: a size is WIDTHxHEIGHT in pixels, such as 512x512"),
        (["data.size=0.5"], "data.size: a size is WIDTHxHEIGHT in pixels, such as 256x256"),
        (["data.size=true"], "data.size: a size is WIDTHxHEIGHT in pixels, such as 256x256"),
        (["data.size={a: 64}"], "data.size: a size is WIDTHxHEIGHT in pixels, such as 256x256"),
        (["samples.size=²56x256"], "samples.size: a size is WIDTHxHEIGHT"),
        (["samples.size=9999999x256"], "samples.size: a size is WIDTHxHEIGHT"),
        (["samples.size=16x256"], "at least 32x32"),
        (["output=2026"], "output: must be text; what YAML reads as something else needs quotes (found 2026)"),
        (["decoder.micro_batch_size=3"], "not a multiple of micro_batch_size 3"),
        (["decoder=null"], "at least one stage"),
        (["decoder.train_glyph=true"], "without lora"),
        (["decoder.lora.targets=[]"], "decoder.lora.targets: "),
        (["decoder.lora.targets=to_q"], "decoder.lora.targets: must be a list, such as [to_q]"),
        (
            ['samples.prompts=a sign "到", red'],
            'samples.prompts: must be a list, such as ["a sign \\"到\\", red"]',
        ),
    ],
)
def test_contradictions(recipe: Path, assignments: list[str], said: str) -> None:
    assert said in message(recipe, *assignments)


@pytest.mark.parametrize(
    ("old", "new", "key", "line"),
    [
        ("output: reports/x", "output: reports/x\nmodel: other", "model", 3),
        ("  validation: b", "  validation: b\n  train: c", "train", 6),
        ("rank: 4,", "rank: 4, rank: 8,", "rank", 7),
    ],
)
def test_duplicate_keys(recipe: Path, old: str, new: str, key: str, line: int) -> None:
    recipe.write_text(RECIPE.replace(old, new))
    shown = message(recipe)
    assert f"{recipe}: key {key!r} is given twice" in shown
    assert f"line {line}" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: " + "[" * 400, "not valid YAML"),
        ("a: &a [*a]\n", "deep in one another"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 9}]\n" for n in range(9)),
            "100,000 values",
        ),
        ("seed: " + "9" * 6000, "6000 digits"),
        ("seed: 0x" + "f" * 6000, "6002 digits"),
        ("#" * 2**21, "too large"),
    ],
    ids=["deep", "endless alias", "aliases of aliases", "long number", "long hexadecimal number", "large file"],
)
def test_yaml_without_measure(recipe: Path, text: str, said: str) -> None:
    recipe.write_text(text)
    assert said in message(recipe)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_recipes_from_windows(recipe: Path, encoding: str) -> None:
    recipe.write_bytes(RECIPE.replace("\n", "\r\n").encode(encoding))
    assert config.load(recipe).model == "nano"


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "a: [1", "a: !!python/object:os.system x", "[a]: b"])
def test_broken_yaml(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert str(recipe) in message(recipe)


def test_not_a_text_file(recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    assert f"{recipe} is not UTF-16 text" in message(recipe)
    assert "cannot be read" in message(recipe.parent)


def test_a_missing_recipe_names_the_nearest(recipe: Path) -> None:
    shown = message(recipe.with_name("recipes.yaml"))
    assert "does not exist" in shown
    assert f"did you mean {recipe}" in shown
    assert "does not exist" in message(Path("no/where.yaml"))


def test_overrides(recipe: Path) -> None:
    loaded = config.load(
        recipe,
        [
            "decoder.lora.targets=[to_k, ff.net.2]",
            "samples.prompts=['a = b', c]",
            "decoder.learning_rate=2e-3",
            "seed=7",
        ],
    )
    assert loaded.decoder is not None
    assert loaded.decoder.lora is not None
    assert loaded.decoder.lora.targets == ("to_k", "ff.net.2")
    assert loaded.decoder.lora.rank == 4
    assert loaded.samples.prompts == ("a = b", "c")
    assert loaded.seed == 7
    assert loaded.decoder.learning_rate == 2e-3
    plain: dict[str, Any] = {"a": {"b": 1}}
    assert values.override(plain, ["a.b=2"]) == {"a": {"b": 2}}
    assert plain == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "bad", ["seed", "=3", "model.x=1", "decoder.steps.x=1", "seed=[1", "samples={every: 1, every: 2}"]
)
def test_bad_overrides(recipe: Path, bad: str) -> None:
    assert bad.split("=")[0] in message(recipe, bad)


def test_the_resolved_recipe_reads_back_as_itself(recipe: Path) -> None:
    first = config.load(recipe, ["samples.prompts=['say \"12:30\", NO, é']", "decoder.learning_rate=1e-05"])
    recipe.write_text(config.to_yaml(first), encoding="utf-8")
    assert config.load(recipe) == first
    with pytest.raises(ValidationError):
        first.seed = 3


def test_stages_run_in_the_order_of_the_data_flow(recipe: Path) -> None:
    stage = "{steps: 1, global_batch_size: 1, learning_rate: 1}"
    loaded = config.load(recipe, [f"autoregressive={stage}"])
    assert list(loaded.stages) == ["autoregressive", "decoder"]


def test_sizes() -> None:
    assert parse_size("320x256") == (256, 320)
    assert parse_size("64X32") == (32, 64)
    for bad in ("256", "x256", "256x", "a x b", "-32x32", "3.5x4", ""):
        with pytest.raises(UserError, match="WIDTHxHEIGHT"):
            parse_size(bad)


def test_recipes_are_read_without_torch(recipe: Path) -> None:
    code = f"import sys; from glmkit import config; config.load({str(recipe)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names_of_other_trainers_stand_for_keys_that_exist() -> None:
    keys = {path.rsplit(".", 1)[-1] for path in recipe_keys._paths(config.Recipe)}
    assert set(recipe_keys.OTHER_NAMES.values()) <= keys
    assert not set(recipe_keys.OTHER_NAMES) & keys
