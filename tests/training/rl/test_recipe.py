"""What a recipe with rewards cannot ask for, and prompts that cannot be learnt from: a sentence each, no run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glmkit import config
from glmkit.cli import main
from glmkit.errors import UserError
from glmkit.training import checks, rl

RECIPES = Path(__file__).parents[3] / "recipes" / "nano"
AR, DECODER = RECIPES / "rl_ar.yaml", RECIPES / "rl_decoder.yaml"


@pytest.mark.parametrize(
    ("recipe", "assignments", "said"),
    [
        (AR, ["autoregressive.rl.group_size=5"], "32 is not a multiple of rl.group_size 5"),
        (AR, ["autoregressive.rl.updates=3", "autoregressive.save_every=0"], "steps 100 is not a multiple of rl.upd"),
        (AR, ["autoregressive.lora.dropout=0.1"], "rl needs lora.dropout: 0"),
        (AR, ["autoregressive.lora=null"], "rl needs a lora section"),
        (AR, ["autoregressive.caption_dropout=0.1"], "caption_dropout does nothing under rl"),
        (AR, ["autoregressive.compile=true"], "compile does nothing under rl"),
        (AR, ["autoregressive.regularization_weight=0.1"], "kl_weight does"),
        (AR, ["autoregressive.rl.top_k=1"], "nothing to learn from"),
        (AR, ["autoregressive.rl.rewards.weights={}"], "rewards.weights"),
        (AR, ["autoregressive.rl.limits.brightness=[2,1]"], "must be [lowest, highest]"),
        (AR, ["autoregressive.rl.limits.brightnes=[1,2]"], "did you mean 'brightness'"),
        (AR, ["autoregressive.rl=null"], "autoregressive learns from images: data.train in place of data.prompts"),
        (AR, ["data.prompts=null", "data.train=data/posters/train"], "learns from prompts: data.prompts=FILE"),
        (AR, ["data.train=data/posters/train"], "either data.train, images, or data.prompts"),
        (DECODER, ["decoder.text_weight=1"], "text_weight does nothing under rl"),
        (DECODER, ["decoder.rl.old_decay=1"], "decoder.rl.old_decay"),
        (DECODER, ["decoder.rl.temperature=1"], "decoder.rl.temperature: unknown key"),
    ],
)
def test_contradictions(recipe: Path, assignments: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(recipe, assignments)
    assert said in str(error.value)


def test_an_unknown_reward_is_named() -> None:
    recipe = config.load(AR, ["autoregressive.rl.rewards.weights={texts: 1}"])
    with pytest.raises(UserError, match="texts") as error:
        checks.settings(recipe, torch.device("cpu"))
    assert "text" in str(error.value.fix)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": ""}, "record 2: the prompt is empty"),
        ({"prompt": "a poster", "size": "100x100"}, "record 2: width and height must be multiples of 32"),
        ({"prompt": "red", "condition_images": ["x.png"]}, "record 2: x.png does not exist"),
        ({"prompt": "a <|image|> poster"}, "a caption must not contain <|image|>"),
        ({"prmpt": "a poster"}, "unknown key"),
    ],
)
def test_prompts_that_cannot_be_learnt_from(
    tmp_path: Path, record: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ({"prompt": "a poster"}, record)))
    command = ["finetune", str(AR), f"data.prompts={file}", "data.validation=null", f"output={tmp_path / 'run'}"]
    assert main([*command, "autoregressive.rl.rewards.weights={content: 1}", "--device", "cpu"]) == 2
    assert said in " ".join(capsys.readouterr().err.replace(f"{tmp_path}/", "").split())
    assert not (tmp_path / "run").exists()


def test_a_share_of_the_prompts_is_kept_back(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"poster {number}"}) + "\n" for number in range(20)))
    changes = [f"data.prompts={file}", "data.validation=0.25"]
    train, kept = rl.load_data(config.load(AR, changes))
    assert (len(train.captions), len(kept.captions)) == (15, 5)
    assert not set(train.captions) & set(kept.captions)
    assert train.sizes == [(256, 256)] * 15


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["bench", "train", "--recipe", str(AR)], "only stages that learn from images are measured"),
        (["validate", str(AR), "--preview", "page.html"], "there are no images to preview"),
    ],
)
def test_what_is_only_for_images(command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err
