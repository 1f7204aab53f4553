"""The whole model: components load when they are used, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmkit.errors import UserError
from glmkit.files import read_json, write_json
from glmkit.models import checkpoint
from glmkit.models.hybrid import ConditionImageSettings, HybridModel


def test_parts_load_at_first_use(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load_component = [], checkpoint.load_component

    def noted(folder: Path, component: str, *more: object) -> torch.nn.Module:
        loaded.append(component)
        return load_component(folder, component, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "load_component", noted)
    hybrid = HybridModel.load(tiny_model, dtype=torch.bfloat16, components=["vae"])
    assert loaded == ["vae"]
    assert hybrid.decoder is hybrid.decoder
    assert loaded == ["vae", "decoder"]
    parameters = list(hybrid.decoder.parameters())
    assert not hybrid.decoder.training
    assert not any(parameter.requires_grad for parameter in parameters)
    assert {parameter.dtype for parameter in parameters} == {torch.bfloat16}
    replaced = checkpoint.new_component(tiny_model, "glyph")
    hybrid.glyph = replaced  # type: ignore[assignment]
    assert hybrid.glyph is replaced
    assert loaded == ["vae", "decoder"]


def test_source_settings_in_every_published_form(tiny_copy: Path) -> None:
    expected = ConditionImageSettings(128 * 128, 512 * 512, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert HybridModel(tiny_copy).condition_image_settings == expected
    path = tiny_copy / "processor" / "preprocessor_config.json"
    settings = read_json(path)
    size = settings.pop("size")
    write_json(path, {**settings, "min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]})
    assert HybridModel(tiny_copy).condition_image_settings == expected
    path.unlink()  # what save_pretrained alone leaves
    assert HybridModel(tiny_copy).condition_image_settings == expected
    write_json(path, {"size": size})
    with pytest.raises(UserError, match="image_mean"):
        _ = HybridModel(tiny_copy).condition_image_settings
