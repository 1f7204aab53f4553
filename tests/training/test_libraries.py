"""Libraries that a recipe needs, and that are not there."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from glmkit import config
from glmkit.errors import UserError
from glmkit.training import libraries


@pytest.mark.parametrize(
    ("optimizer", "wandb", "said"),
    [
        ("adamw8bit", None, "decoder.optimizer: adamw8bit needs bitsandbytes"),
        ("prodigy", None, "pip install prodigyopt"),
        ("adamw", "posters", "pip install wandb"),
    ],
)
def test_what_is_not_installed(optimizer: str, wandb: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage: dict[str, Any] = {"lora": {"targets": ["to_q"]}, "optimizer": optimizer}
    stage |= {"steps": 1, "global_batch_size": 1, "learning_rate": 1}
    recipe = config.from_dict(
        {"output": "x", "data": {"train": "a", "validation": "b"}, "decoder": stage, "wandb": wandb}
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    libraries.check(recipe)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=said):
        libraries.check(recipe)
