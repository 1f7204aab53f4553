"""Edit pairs in files through the adapters of all three stages, from a recipe to a changed glyph encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_adapter import apply_adapter

from glmkit import config
from glmkit.errors import UserError
from glmkit.files import read_json
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import finetune as training

CPU = torch.device("cpu")
LORA = {"steps": 2, "global_batch_size": 2, "learning_rate": 1e-2}


def pairs(folder: Path, side: int) -> str:
    folder.mkdir()
    rows: list[dict[str, str]] = []
    for number in range(2):
        for name in (f"{number}.png", f"{number}-source.png"):
            levels = np.random.default_rng(len(rows)).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(levels).save(folder / name)
        rows.append(
            {"file_name": f"{number}.png", "condition_image": f"{number}-source.png", "text": f'Write "word {number}"'}
        )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def recipe(model: Path, folder: Path, side: int) -> config.Recipe:
    return config.from_dict(
        {
            "model": str(model),
            "output": str(folder / "run"),
            "data": {"train": pairs(folder / "train", side), "validation": pairs(folder / "validation", side)},
            "autoregressive": {**LORA, "lora": {"rank": 2, "targets": ["q_proj"]}},
            "decoder": {**LORA, "lora": {"rank": 2, "targets": ["to_q"]}},
            "glyph": {**LORA, "caption_dropout": 0.0, "lora": {"rank": 2, "targets": ["q", "v"]}},
        }
    )


def test_all_adapters_learn_from_pairs(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = training.finetune(recipe(tiny_model, tmp_path, 128), CPU)
    assert list(results) == ["autoregressive", "decoder", "glyph"]
    assert "train: 2 images, 2 of them edits; 128x128 edits: 2" in capsys.readouterr().err
    written = read_json(tmp_path / "run" / "data.json")
    assert written["validation"]["buckets"] == {"128x128 edits": 2}
    assert written["train"]["dropped"] == []
    changed, plain = HybridModel(tiny_model), checkpoint.load_component(tiny_model, "glyph")
    apply_adapter(changed, tmp_path / "run" / "adapter")
    with torch.no_grad():
        before, after = (glyph(['"word"'])[0] for glyph in (plain, changed.glyph))
    assert (before - after).abs().max() > 1e-4
    assert results["glyph"]["before"]["loss"] != results["glyph"]["after"]["loss"]


def test_sources_that_the_model_would_scale_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="read as 128x128"):
        training.finetune(recipe(tiny_model, tmp_path, 64), CPU)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_images_only(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ones would be another order, whose beginning nobody has seen."""

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_stage", stopped)
    one = recipe(tiny_model, tmp_path, 128)
    table = tmp_path / "train" / "metadata.jsonl"
    began = table.read_text()
    for found, expected in ((began, KeyboardInterrupt), (began.replace("word 1", "ward 1"), UserError)) * 2:
        table.write_text(found)
        with pytest.raises(expected, match="data.train.*have changed" if expected is UserError else None):
            training.finetune(one, CPU)
