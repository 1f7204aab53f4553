"""A reward for tests, beside those of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkit.training.rl import rewards


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a reward that is easily gamed."""
    monkeypatch.setattr(rewards, "__path__", [*rewards.__path__, str(Path(__file__).with_name("planted"))])
    return "brightness"
