"""What is computed once an image outlives its run, and the parts that computed it leave the memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from glmkit.cli import main
from glmkit.files import read_json
from glmkit.models import checkpoint
from glmkit.training.objectives.autoregressive import AutoregressiveObjective
from glmkit.training.objectives.decoder import DecoderObjective

LORA: dict[str, Any] = {"steps": 2, "global_batch_size": 2, "learning_rate": 0.01}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Weak references to every part that is loaded, by its name."""
    seen: dict[str, list[Any]] = {}
    load = checkpoint.load_component

    def noting(folder: Path, part: str, *rest: Any) -> nn.Module:
        module = load(folder, part, *rest)
        seen.setdefault(part, []).append(weakref.ref(module))
        return module

    monkeypatch.setattr(checkpoint, "load_component", noting)
    return seen


def recipe(model: Path, posters: Path, folder: Path) -> list[str]:
    values = {
        "model": str(model),
        "output": str(folder / "run"),
        "data": {"train": str(posters / "train"), "validation": str(posters / "validation")},
        "autoregressive": {**LORA, "lora": {"rank": 2, "targets": ["q_proj"]}},
        "decoder": {**LORA, "lora": {"rank": 2, "targets": ["to_q"]}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return ["finetune", "--device", "cpu", str(folder / "recipe.yaml")]


def alive(seen: dict[str, list[Any]]) -> set[str]:
    gc.collect()
    return {part for part, modules in seen.items() if any(module() is not None for module in modules)}


def test_a_second_run_encodes_nothing(
    tiny_model: Path, posters: Path, tmp_path: Path, loaded: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not even load the parts that would; what it learns is what the first one learnt."""
    command = recipe(tiny_model, posters, tmp_path)
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "latents: 6 computed, 0 found" in told
    assert "glyph embeddings:" in told
    assert str(tmp_path / "cache") in told
    assert {"semantic_vq", "vae", "glyph"} <= loaded.keys()
    loaded.clear()
    assert main([*command, f"output={tmp_path / 'again'}"]) == 0
    assert loaded.keys() == {"autoregressive", "decoder"}
    assert "latents: 0 computed, 6 found" in capsys.readouterr().err
    for stage in ("autoregressive", "decoder"):
        results = [read_json(tmp_path / run / f"{stage}.json") for run in ("run", "again")]
        assert results[0]["after"] == results[1]["after"]
        files = [tmp_path / run / "adapter" / stage / "adapter_model.safetensors" for run in ("run", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("samples", [False, True])
def test_only_the_trained_part_is_resident(
    tiny_model: Path,
    posters: Path,
    tmp_path: Path,
    loaded: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    samples: bool,
) -> None:
    """In every step of each stage, whether its encoders were just at work, or samples were drawn."""
    resident = []
    for objective in (AutoregressiveObjective, DecoderObjective):

        def watched(self: Any, *given: Any, loss: Any = objective.loss) -> Any:
            resident.append(alive(loaded))
            return loss(self, *given)

        monkeypatch.setattr(objective, "loss", watched)
    drawn = ["samples={prompts: [a], every: 1, size: 64x64, steps: 1}"] * samples
    assert main([*recipe(tiny_model, posters, tmp_path), *drawn]) == 0
    assert resident == [{"autoregressive"}] * 2 + [{"decoder"}] * 2
    assert len(list((tmp_path / "run").glob("samples/*.png"))) == 6 * samples
