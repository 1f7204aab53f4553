"""Parameters and bytes of a model's components, counted without loading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glmkit.models.checkpoint.components import COMPONENTS, PUBLISHED, TIED, build_component, resolve, stored_tensors

# What `describe` counts apart: (name, component, prefix of the module's names).
COUNTED = (
    ("language_model", "autoregressive", "language_model."),
    ("lm_head", "autoregressive", "lm_head."),
    ("vision", "semantic_vq", "visual."),
    ("vq", "semantic_vq", "vqmodel."),
    ("decoder", "decoder", ""),
    ("glyph", "glyph", ""),
    ("vae", "vae", ""),
)


@dataclass(frozen=True)
class ComponentSize:
    """Count one line of `glmkit info`. `bytes` as stored; for the published sizes, as bfloat16."""

    component: str
    parameters: int
    bytes: int


def describe(model: str | Path) -> list[ComponentSize]:
    """Count parameters and bytes of every component; of "glm-image" by its published configs, without a download."""
    if str(model) == "glm-image":
        return _describe_published()
    folder = resolve(model)
    sizes = []
    for name, component, prefix in COUNTED:
        entries = [
            e
            for name, e in stored_tensors(folder, component).items()
            if str(COMPONENTS[component].module_name(name)).startswith(prefix)
        ]
        sizes.append(ComponentSize(name, sum(entry.numel for entry in entries), sum(entry.bytes for entry in entries)))
    return sizes


def _describe_published() -> list[ComponentSize]:
    import torch

    with torch.device("meta"):
        modules = {
            component: build_component(component, PUBLISHED[spec.folder]) for component, spec in COMPONENTS.items()
        }
    sizes = []
    for name, component, prefix in COUNTED:
        counts = [
            value.numel()
            for name, value in modules[component].state_dict().items()
            if name.startswith(prefix) and name not in TIED
        ]
        sizes.append(ComponentSize(name, sum(counts), 2 * sum(counts)))
    return sizes
