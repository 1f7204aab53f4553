"""Layouts of public image sets of other models: what to read in the files that users have downloaded.

| preset | data set | licence |
|---|---|---|
| rapidata | hub: Rapidata/700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3, parquet | CDLA-Permissive-2.0 |
| openai-dalle3 | GitHub: openai/dalle3-eval-samples: coco/3/<line>_0.png, prompts/8k_coco.txt | MIT |
| open-image-preferences | hub: data-is-better-together/open-image-preferences-v1, parquet | Apache-2.0 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glmkit.errors import UserError, unknown
from glmkit.evaluation.reference_sets.sources import FolderSource, ImageColumn, ParquetSource, read_prompts, simplify


@dataclass(frozen=True)
class PublicSet:
    """Describe a public set.

    `fetch` is the command that downloads it into SET, `files` is where SET then holds what the option `takes` names;
    `models` maps what users type to what the files say.
    """

    fetch: str
    takes: str
    files: str
    models: Mapping[str, str]
    build: Callable[[Sequence[Path], str], FolderSource | ParquetSource]


def build(name: str, model: str | None, paths: Mapping[str, Sequence[Path]]) -> FolderSource | ParquetSource:
    """Make the source of a preset; `paths` maps `images` and `parquet` to what the user named for them."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    preset = PRESETS[name]
    chosen = model or next(iter(preset.models))
    known = {simplify(key): value for key, value in preset.models.items()}
    if simplify(chosen) not in known:
        raise unknown(f"model of {name}", chosen, preset.models)
    if not paths.get(preset.takes):
        raise UserError(f"preset {name} reads --{preset.takes}", fix=f"--preset {name} --{preset.takes} PATH")
    return preset.build(paths[preset.takes], known[simplify(chosen)])


def _rapidata(files: Sequence[Path], model: str) -> ParquetSource:
    sides = ((f"image{side}", f"model{side}") for side in (1, 2))
    return ParquetSource(tuple(files), tuple(ImageColumn(image, "prompt", (column, model)) for image, column in sides))


def _openai_dalle3(roots: Sequence[Path], folder: str) -> FolderSource:
    root, prompts = roots[0] / folder, roots[0] / "prompts" / "8k_coco.txt"
    if not root.is_dir():
        raise UserError(f"{roots[0]} is not a clone of openai/dalle3-eval-samples", found=f"no folder {folder}")
    return FolderSource(root, read_prompts(prompts))


def _open_image_preferences(files: Sequence[Path], ending: str) -> ParquetSource:
    kinds = ("quality", "simplified")
    return ParquetSource(tuple(files), tuple(ImageColumn(f"image_{kind}_{ending}", f"{kind}_prompt") for kind in kinds))


PRESETS: Mapping[str, PublicSet] = {
    "rapidata": PublicSet(
        "hf download Rapidata/700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3 --repo-type dataset --local-dir SET",
        "parquet",
        "SET/data/*.parquet",
        {"dalle3": "dalle3", "sd3": "sd3", "flux": "flux", "midjourney": "midjourney"},
        _rapidata,
    ),
    "openai-dalle3": PublicSet(
        "git clone https://github.com/openai/dalle3-eval-samples SET",
        "images",
        "SET",
        {"dalle3": "coco/3"},
        _openai_dalle3,
    ),
    "open-image-preferences": PublicSet(
        "hf download data-is-better-together/open-image-preferences-v1 --repo-type dataset --local-dir SET",
        "parquet",
        "SET/data/cleaned-*.parquet",
        {"sd3.5-large": "sd", "flux.1-dev": "dev"},
        _open_image_preferences,
    ),
}
