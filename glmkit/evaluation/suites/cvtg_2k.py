"""cvtg-2k: CVTG-2K (Du et al. 2025, arXiv 2503.23461), 2,000 English prompts with two to five texts each.

Prompts: `<CVTG|CVTG-Style>/<2..5>.json`, from CVTG-2K.zip of the hub's data set dnkdnk/CVTG-2K. Images:
`<CVTG|CVTG-Style>/<2..5>/<index>.png`, one per prompt. The words are those between single quotes in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.metrics.cvtg import cvtg_scores
from glmkit.evaluation.ocr.engines import cvtg_paddleocr
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, Suite, files_in
from glmkit.evaluation.suites.shared.layouts import GridTile, ImageFiles
from glmkit.files import read_json
from glmkit.records import Prompt

SUBSETS = ("CVTG", "CVTG-Style")
AREAS = (2, 3, 4, 5)
METRICS = {
    "word_accuracy": {
        "direction": "higher",
        "definition": "CVTG-2K word accuracy: words of the prompt's single quotes that were read literally, in lower "
        "case, / words. Words are split at white space and keep their punctuation; one read word serves all its "
        "repeats. Text that was not asked for is free.",
    },
    "ned": {
        "direction": "higher",
        "definition": "CVTG-2K NED, a similarity: mean over the words of 1 - Levenshtein / (longer length + 0.00001) "
        "against the read word that difflib.get_close_matches ranks first; nothing read counts as one empty word.",
    },
}


class Cvtg2k(Suite):
    """Score the words between single quotes, by subset and number of texts."""

    metrics = METRICS
    official = OfficialProtocol(
        "CVTG-2K", cvtg_paddleocr.NAME, cvtg_paddleocr.WEIGHTS, prompts=2000, images_per_prompt=1
    )

    def files(self, data: Path | None) -> list[Path]:
        """Give the eight files."""
        fetch = "hf download dnkdnk/CVTG-2K CVTG-2K.zip --repo-type dataset --local-dir . && unzip CVTG-2K.zip"
        fix = f"{fetch}, then --data DIR with CVTG/2.json to CVTG-Style/5.json"
        return files_in("cvtg-2k", data, _prompt_files, fix)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts of every subset and number of texts."""
        kinds = [(subset, area) for subset in SUBSETS for area in AREAS]
        return [
            _prompt(path, subset, area, entry)
            for path, (subset, area) in zip(files, kinds, strict=True)
            for entry in _entries(path)
        ]

    def counts(self, prompt: Prompt, lines: Sequence[str], _image: Path) -> Counts:
        """Count hits and similarity of the words of the prompt."""
        scores = cvtg_scores(prompt.prompt, list(lines))
        return {
            "word_accuracy": (sum(score.hit for score in scores), len(scores)),
            "ned": (sum(score.similarity for score in scores), len(scores)),
        }

    def find(self, images: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find images in the benchmark's folders, or named after prompt ids as `glmkit eval` names them."""
        if not any(_subset_folder(images, subset).is_dir() for subset in SUBSETS):
            return super().find(images, prompts)
        files: dict[tuple[str, int], Path | GridTile] = {}
        ids = {prompt.id for prompt in prompts}
        for subset in SUBSETS:
            for area in AREAS:
                for path in sorted((_subset_folder(images, subset) / str(area)).glob("*")):
                    name = _name(subset, area, path.stem)
                    if name in ids and path.suffix.lower() in (".png", ".jpg", ".jpeg"):
                        layouts.add(files, (name, 0), path)
        if not files:
            raise layouts.no_image(images, "CVTG/2/0.png")
        return files


def _prompt_files(data: Path) -> list[Path]:
    return [_subset_folder(data, subset) / f"{area}.json" for subset in SUBSETS for area in AREAS]


def _subset_folder(folder: Path, subset: str) -> Path:
    """Find the folder of a subset; the published archive writes CVTG-style, the published script CVTG-Style."""
    spellings = (folder / subset, folder / subset.replace("S", "s"))
    return next((path for path in spellings if path.is_dir()), folder / subset)


def _entries(path: Path) -> list[Any]:
    content = read_json(path)
    entries = content.get("data_list") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is not a prompt file of CVTG-2K", found="no data_list", fix="take it from CVTG-2K.zip")
    return entries


def _prompt(path: Path, subset: str, area: int, entry: Any) -> Prompt:
    if not isinstance(entry, dict) or "index" not in entry or not isinstance(entry.get("prompt"), str):
        raise UserError(f"{path}: an entry needs index and prompt", found=entry, fix="take the file from CVTG-2K.zip")
    texts = tuple(text for text in re.findall("'(.*?)'", entry["prompt"]) if text.strip())
    return Prompt(_name(subset, area, entry["index"]), entry["prompt"], texts, split=f"{subset}-{area}")


def _name(subset: str, area: int, index: object) -> str:
    return f"{subset}-{area}-{index}"


SUITE = Cvtg2k()
