"""Sizes of components are those of the published model, and those of the reference classes."""

from __future__ import annotations

from pathlib import Path

import tiny_checkpoint

from glmkit.models import checkpoint


def test_published_counts() -> None:
    counts = {row.component: row.parameters for row in checkpoint.describe("glm-image")}
    assert counts["language_model"] == 8_847_155_200
    assert counts["lm_head"] == 67_633_152
    assert counts["vision"] == 1_159_607_808
    assert counts["vq"] == 39_849_472
    assert counts["decoder"] == 6_926_882_880


def test_describe_counts_what_reference_counts(tiny_model: Path) -> None:
    pipeline = tiny_checkpoint.diffusers_pipeline(tiny_model)
    reference = (pipeline.vision_language_encoder, pipeline.transformer, pipeline.text_encoder, pipeline.vae)
    rows = checkpoint.describe(tiny_model)
    assert sum(row.parameters for row in rows) == sum(p.numel() for module in reference for p in module.parameters())
    assert sum(row.bytes for row in rows) == 4 * sum(row.parameters for row in rows)
