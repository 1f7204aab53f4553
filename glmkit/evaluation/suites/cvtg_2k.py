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
from glmkit.evaluation.metrics import text
from glmkit.evaluation.metrics.cvtg import cvtg_scores
from glmkit.evaluation.ocr.engines import cvtg_paddleocr
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, Suite, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
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
    "word_precision": text.WORD_PRECISION,
}


class Cvtg2k(Suite):
    """Score the words between single quotes, by subset and number of texts."""

    metrics = METRICS
    official = OfficialProtocol(
        "CVTG-2K", cvtg_paddleocr.NAME, cvtg_paddleocr.WEIGHTS, prompts=2000, images_per_prompt=1
    )

    def files(self, data: Path | None) -> list[Path]:
        """Give the eight files, or the four of the only subset that is there."""
        fetch = "hf download dnkdnk/CVTG-2K CVTG-2K.zip --repo-type dataset --local-dir . && unzip CVTG-2K.zip"
        fix = f"{fetch}, then --data DIR with CVTG/2.json to CVTG-Style/5.json"
        return files_in("cvtg-2k", data, _prompt_files, fix)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts of every subset and number of texts."""
        spelled = {subset.lower(): subset for subset in SUBSETS}
        return [
            _prompt(path, spelled[path.parent.name.lower()], int(path.stem), entry)
            for path in files
            for entry in _entries(path)
        ]

    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Count hits and similarity of the words of the prompt."""
        scores = cvtg_scores(prompt.prompt, list(texts_of(lines)))
        return {
            "word_accuracy": (sum(score.hit for score in scores), len(scores)),
            "ned": (sum(score.similarity for score in scores), len(scores)),
            "word_precision": text.word_precision(prompt.texts, texts_of(lines), prompt.language),
        }

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find images in the benchmark's folders, or named after prompt ids as `glmkit eval` names them."""
        files = layouts.by_name(folder, prompts)
        for subset, inside in _subsets(folder):
            for area in AREAS:
                for key, path in layouts.by_name(inside / str(area), prompts, f"{subset}-{area}-").items():
                    layouts.add(files, key, layouts.file_of(path))
        return files

    def image_names(self, _prompt: Prompt) -> str:
        """Say how images should be called."""
        return "CVTG/2/0.png"


def _prompt_files(data: Path) -> list[Path]:
    subsets = _subsets(data) or [(subset, data / subset) for subset in SUBSETS]
    return [folder / f"{area}.json" for _, folder in subsets for area in AREAS]


def _subsets(folder: Path) -> list[tuple[str, Path]]:
    """Find the folders of the subsets in a folder, or the folder itself when it is that of one.

    The published archive writes CVTG-style, the published script CVTG-Style.
    """
    folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    found = [(subset, folders[subset.lower()]) for subset in SUBSETS if subset.lower() in folders]
    return found or [(subset, folder) for subset in SUBSETS if subset.lower() == folder.name.lower()]


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
