"""The model card from a run folder alone: what users wrote breaks neither YAML nor Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from glmkit.evaluation.stats import as_text
from glmkit.files import read_json, write_json
from glmkit.records import Prompt
from glmkit.reporting.model_card import BaseModel, is_edited, write_model_card

NASTY = [
    "a | \"b\" | 'c' `d` ``` e",
    "---\nlicense: mit\n---\n# heading",
    "<script>alert(1)</script> <!-- & </details> ![x](y) [z](w)",
    "key: value # no comment, {a: b}, *c, &d, !e, %f, @g, $h$, \\i, ~~j~~",
    "\u202ereversed\u202c \t tab \x1b[31m",
    "字 “é” 🙂 '''\"\"\" \\",
]
LORA: dict[str, Any] = {
    "lora": {"rank": 2, "alpha": 6, "targets": ["q_proj"]},
    "steps": 4,
    "global_batch_size": 1,
    "learning_rate": 0.1,
}
SIDE = 600  # pixels, more than a card shows
NANO, PUBLIC = BaseModel(None, 256, 256, 20, 2.5), BaseModel("zai-org/GLM-Image", 1024, 1024, 30, 1.5)


def finetune_run(folder: Path, edits: int = 0, **changes: Any) -> Path:
    """A run of the AR model and the decoder; samples become brighter."""
    values: dict[str, Any] = {
        "model": "nano",
        "output": str(folder),
        "data": {"train": "/home/me/train", "validation": "data/validation"},
        "autoregressive": LORA,
        "decoder": {**LORA, "lora": {**LORA["lora"], "targets": ["to_q"]}},
        "samples": {"prompts": NASTY},
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "adapter").mkdir()
    (folder / "samples").mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    write_json(folder / "data.json", {name: {"images": 4, "edits": edits} for name in ("train", "validation")})
    for index, stage in enumerate(("autoregressive", "decoder")):
        write_json(folder / f"{stage}.json", {"steps": 4, "before": {"loss": 3.0}, "after": {"loss": 1.25}})
        for step in (0, 4):
            grid = np.zeros((SIDE, SIDE * len(NASTY), 3), np.uint8)
            for number in range(len(NASTY)):
                grid[:, number * SIDE : (number + 1) * SIDE] = (100 * index + step, number, 0)
            Image.fromarray(grid).save(folder / "samples" / f"{stage}_{step:06d}.png")
    return folder


def card_of(run: Path, base: BaseModel = NANO) -> ModelCard:
    assert write_model_card(run, base)
    return ModelCard.load(run / "adapter" / "README.md")


def plain(text: str) -> str:
    """A text as a reader of the page sees it: on one line, controls named."""
    controls = re.compile("[\u202a-\u202e\x00-\x1f]")
    return controls.sub(lambda match: f"[U+{ord(match[0]):04X}]", " ".join(text.split()))


def test_nasty_prompts_come_back_from_the_front_matter(tmp_path: Path) -> None:
    card = card_of(finetune_run(tmp_path / "my <run> | --- : x"))
    assert [entry["text"] for entry in card.data.widget] == NASTY
    assert card.data.license is None
    again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n{card.text}")
    assert again.data.to_dict() == card.data.to_dict()


def test_nasty_prompts_are_text_on_the_page(tmp_path: Path) -> None:
    """Rendered as the hub renders: one table row per prompt, whose text is the prompt, and no element of theirs."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable(["table"])
    card = card_of(finetune_run(tmp_path / "my <run> | --- : x"))
    tokens = markdown.parse(card.text)
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert html[:2] == ["<details>\n<summary>recipe.yaml</summary>", "</details>"]
    assert len(html) == 3, "details, its end, and the last line"
    children = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in children} <= {"text", "code_inline", "image", "softbreak", "text_special"}
    cells = ["".join(c.content for c in token.children or ()) for token in tokens if token.type == "inline"]
    assert all(plain(prompt) in cells for prompt in NASTY)
    assert cells[0] == "my <run> | --- : x"
    titles = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert titles[1:] == ["Samples", "How to use it", "glmkit", "diffusers and PEFT", "ComfyUI", "Recipe"]
    recipe = next(token.content for token in tokens if token.type == "fence" and token.info == "yaml")
    assert yaml.safe_load(recipe)["samples"]["prompts"] == NASTY
    for block in (token.content for token in tokens if token.type == "fence" and token.info == "python"):
        compile(block, "card", "exec")
        assert repr(NASTY[0]) in block


def test_samples_are_before_and_after_and_small(tmp_path: Path) -> None:
    """Before: the base model, so the first stage at step 0; after: the last stage at its end."""
    run = finetune_run(tmp_path / "run")
    card_of(run)
    for number in range(len(NASTY)):
        for when, level in (("before", 0), ("after", 104)):
            with Image.open(run / "adapter" / "samples" / f"{number}_{when}.png") as image:
                assert image.size == (512, 512)
                assert image.getpixel((256, 256)) == (level, number, 0)


def test_what_the_hub_is_told(tmp_path: Path) -> None:
    card = card_of(finetune_run(tmp_path / "nano"))
    # Its files hold bfloat16, which transformers would keep and diffusers would not.
    assert "from_pretrained(NANO, dtype=torch.float32)" in card.text
    nano = card.data.to_dict()
    assert nano["pipeline_tag"] == "text-to-image"
    assert nano["tags"] == ["text-to-image", "lora", "template:diffusion-lora", "glm-image", "nano"]
    assert not {"base_model", "base_model_relation", "model-index", "license"} & set(nano)
    run = finetune_run(tmp_path / "edits", edits=4, model="glm-image", license="mit", samples={})
    edits = card_of(run, PUBLIC)
    told = edits.data.to_dict()
    assert told["base_model"] == "zai-org/GLM-Image"
    assert told["base_model_relation"] == "adapter"
    assert told["license"] == "mit"
    assert told["pipeline_tag"] == "image-to-image"
    assert "widget" not in told
    assert 'model.edit("photo.png", "Make the background red.")' in edits.text
    assert "/home/me" not in edits.content
    mixed = card_of(finetune_run(tmp_path / "mixed", edits=2)).data
    assert mixed.pipeline_tag == "text-to-image"
    assert "image-to-image" in mixed.tags


def test_metrics_appear_with_the_evaluation(tmp_path: Path, make_run: Any, prompts: list[Prompt]) -> None:
    run = finetune_run(tmp_path / "run", samples={})
    assert card_of(run).data.eval_results is None
    make_run("run/eval/before", [(prompt, ["nothing"]) for prompt in prompts])
    make_run("run/eval/after", [(prompt, prompt.texts) for prompt in prompts])
    card = card_of(run)
    before, after = (read_json(run / "eval" / when / "summary.json") for when in ("before", "after"))
    results = {result.metric_type: result for result in card.data.eval_results}
    assert set(results) == set(after["scores"])
    for metric, score in after["scores"].items():
        assert results[metric].metric_value == round(score["value"], 4)
        assert f"| {as_text(before['scores'][metric])} | {as_text(score)} |" in card.text
    assert results["word_accuracy"].dataset_type == after["suite"]
    assert f"the same {after['n_prompts']} prompts" in card.text
    assert "torch" in card.text
    assert len(card.data.widget) == after["n_total"], "without samples of the training, images of the evaluation"


def test_adapters_that_comfyui_has_no_keys_for(tmp_path: Path) -> None:
    dora = {**LORA, "lora": {**LORA["lora"], "dora": True}}
    arms: dict[str, dict[str, Any]] = {"dora": {"decoder": dora}, "ar": {"decoder": None}}
    for name, changes in arms.items():
        card = card_of(finetune_run(tmp_path / name, **changes))
        assert "glmkit merge nano --adapter adapter --out merged" in card.text
        assert "glmkit export" not in card.text


def test_an_edited_card_stays(tmp_path: Path) -> None:
    run = finetune_run(tmp_path / "run")
    card = run / "adapter" / "README.md"
    assert not is_edited(card), "there is none"
    first = card_of(run).content
    assert card_of(run).content == first
    card.write_text(first.replace("LoRA", "My"), encoding="utf-8")
    assert not write_model_card(run, NANO)
    assert "My" in card.read_text(encoding="utf-8")
