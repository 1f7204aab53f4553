"""What a step of each recipe takes on nano: it must not grow unnoticed, and the plan must know it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmkit import config
from glmkit.models import checkpoint
from glmkit.models.hybrid import HybridModel
from glmkit.training import cache, data, plan
from glmkit.training.ledger import work_of
from glmkit.training.parts import objective_of

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
# MiB of the tensors of one picture of 256x256, forwards and back; weights, gradients and moments not counted. A change
# that needs more says so here.
MOST = {
    ("ar_lora", 0): 34.7,
    ("ar_lora", 1): 11.0,
    ("decoder_lora", 0): 52.3,
    ("decoder_lora", 1): 11.4,
    ("glyph_lora", 0): 35.9,
}


@pytest.mark.parametrize(("name", "every"), list(MOST))
def test_a_step_takes_no_more_memory(name: str, every: int) -> None:
    folder = ROOT / "data" / "posters" / "held_out"
    recipe = config.load(
        ROOT / "recipes" / f"{name}.yaml", [f"data.train={folder}", f"data.held_out={folder}", "model=nano"]
    )
    ((stage_name, stage),) = recipe.stages.items()
    stage = stage.model_copy(update={"recompute_every": every, "batch_size": 1, "accumulate": 1})
    pictures = data.FilePictures(folder)
    torch.manual_seed(0)
    objective, _ = objective_of(
        stage_name, stage, HybridModel(checkpoint.NANO), (pictures, pictures), cache.Keeper(CPU)
    )
    objective.trained.train()
    held = list(objective.trained.parameters())
    if stage_name == "glyph":
        held += objective.decoder.parameters()  # type: ignore[attr-defined]
    found = work_of(lambda: objective.loss([0], torch.Generator().manual_seed(1))[0], held).peak / 2**20
    assert 0.9 * MOST[name, every] < found < 1.1 * MOST[name, every]
    alone = recipe.model_copy(update={stage_name: stage})
    (told,) = plan.plan(alone, pictures, CPU)
    assert told.activations is not None
    assert told.activations / 2**20 == pytest.approx(found, rel=0.25)
