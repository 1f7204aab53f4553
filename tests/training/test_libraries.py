"""Libraries that a recipe needs, and that are not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from glmkit import config
from glmkit.errors import UserError
from glmkit.training import libraries


@pytest.mark.parametrize(
    ("optimizer", "wandb", "said"),
    [
        ("adamw8bit", None, "decoder.optimizer: adamw8bit needs the package bitsandbytes"),
        ("prodigy", None, r'pip install "glmkit\[train\]"'),
        ("adamw", "posters", 'pip install "wandb"'),
    ],
)
def test_what_is_not_installed(optimizer: str, wandb: str | None, said: str, uninstall: Callable[..., None]) -> None:
    stage: dict[str, Any] = {"lora": {"targets": ["to_q"]}, "optimizer": optimizer}
    stage |= {"steps": 1, "global_batch_size": 1, "learning_rate": 1}
    recipe = config.from_dict(
        {"output": "x", "data": {"train": "a", "validation": "b"}, "decoder": stage, "wandb": wandb}
    )
    uninstall("bitsandbytes", "prodigyopt", "wandb")
    with pytest.raises(UserError, match=said):
        libraries.check(recipe)
