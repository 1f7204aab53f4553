"""The alignment of OneIG-Bench (Chang et al. 2025, arXiv 2506.07977): 695 English, 895 Chinese prompts, 4 images each.

Prompts: `OneIG-Bench.csv` and `OneIG-Bench-ZH.csv`, questions: `scripts/alignment/Q_D/<class>[_zh].json` of the
repository OneIG-Bench/OneIG-Benchmark. Images: `<class>/<model>/<id>.webp`, four in a grid of 2 x 2 of which missing
ones are black; the grid is cut and saved as JPEG before it is judged. The benchmark's judge is Qwen2.5-VL-7B-Instruct
with the sampling of its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.questions import without_parent
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.evaluation.suites.shared.questions import QuestionSuite, exact_note
from glmkit.files import read_json
from glmkit.inputs.records import read_csv
from glmkit.records import Prompt, Question
from glmkit.shapes import check_shape
from glmkit.text import parse_json

CLASSES = {"anime": "Anime_Stylization", "human": "Portrait", "object": "General_Object"}
ZH_CLASSES = {**CLASSES, "multilingualism": "Multilingualism"}
TABLES = {
    "en": ("OneIG-Bench.csv", "prompt_en", CLASSES, ""),
    "zh": ("OneIG-Bench-ZH.csv", "prompt_cn", ZH_CLASSES, "_zh"),
}
TEMPLATE = "{}. Please answer 'Yes' or 'No' only."  # the benchmark's own, English in both languages
FIX = "take the file as it is"


class OneigAlignment(QuestionSuite):
    """Count the answers `Yes`: `language` is en or zh."""

    asking = "oneig-1"

    def __init__(self, language: str) -> None:
        self.language = language
        self.table, self.column, self.classes, self.suffix = TABLES[language]
        self.metrics = {
            "oneig_alignment": {
                "direction": "higher",
                "definition": f"OneIG-Bench alignment ({language}): exactly `Yes` counts, any other answer is no; a "
                "question counts as no when a question that it depends on was answered with no, whatever that one "
                "depends on; share of yes of an image, mean over the images of a prompt, then over prompts.",
            }
        }
        prompts = {"en": 695, "zh": 895}[language]
        judge = "Qwen2.5-VL-7B-Instruct with the sampling of its folder"
        name = f"OneIG-Bench alignment ({language})"
        self.official = OfficialProtocol(name, judge, {}, prompts, images_per_prompt=4, grids=True)

    def files(self, data: Path | None) -> list[Path]:
        """Give the table of prompts and the questions of each class."""
        questions = [f"scripts/alignment/Q_D/{name}{self.suffix}.json" for name in self.classes]
        fetch = "git clone https://github.com/OneIG-Bench/OneIG-Benchmark"
        fix = f"{fetch}, then --data OneIG-Benchmark with {self.table} and {questions[0]}"
        wanted = (self.table, *questions)
        return files_in(
            f"oneig-alignment-{self.language}", data, lambda folder: [folder / name for name in wanted], fix
        )

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts that have questions; the class is the split."""
        table, *question_files = files
        lines = read_csv(table)
        wanted = ("category", "id", self.column)
        if not lines or any(not line.get(name) for line in lines for name in wanted):
            raise UserError(f"{table} needs lines with the columns {', '.join(wanted)}", fix=FIX)
        texts = {(line["category"], line["id"]): line[self.column] for line in lines}
        prompts = []
        for path, (name, category) in zip(question_files, self.classes.items(), strict=True):
            entries = read_json(path)
            check_shape(entries, Mapping[str, Mapping[str, Any]], str(path), fix=FIX)
            for number, entry in entries.items():
                if (category, number) not in texts:
                    raise UserError(f"{path}: {table.name} has no prompt {number} of {category}", fix=FIX)
                questions = _questions(entry, f"{path}, {number}")
                prompt = texts[category, number]
                prompts.append(Prompt(f"{name}-{number}", prompt, (), name, self.language, questions=questions))
        return prompts

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask each question alone."""
        return tuple(
            Message(one.id, TEMPLATE.format(one.text), (one.text,), options=("Yes", "No")) for one in prompt.questions
        )

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Apply the rule of parents."""
        values = {one.id: float(answers[one.id] == "Yes") for one in prompt.questions}
        after = without_parent(values, {one.id: one.parents for one in prompt.questions})
        return {
            **{f"alignment/{name}": (value, 1) for name, value in after.items()},
            NO: (len(values) - sum(values.values()), len(values)),
        }

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find grids in the benchmark's folders, those of one model, or images named after prompt ids."""
        return layouts.grids_by_class(folder, prompts, self.classes)

    def image_names(self, prompt: Prompt) -> str:
        """Say how the images of a prompt should be called."""
        return f"{prompt.split}/{prompt.id.partition('-')[2]}.webp (a 2 x 2 grid) or {prompt.id}_0.png"

    def note(self, answers: Sequence[str]) -> str:
        """Warn of a judge that answers in other forms."""
        return exact_note(answers, "Yes", "No")


def _questions(entry: Mapping[str, Any], where: str) -> tuple[Question, ...]:
    """Read the questions of a prompt and what they depend on; both are JSON, or JSON written as text."""
    given = (entry.get(name) for name in ("question", "dependency"))
    asked, needs = (parse_json(value, where) if isinstance(value, str) else value for value in given)
    check_shape(asked, Mapping[str, str], where, "question", fix=FIX)
    check_shape(needs, Mapping[str, list[int]], where, "dependency", fix=FIX)
    if not asked:
        raise UserError(f"{where}: there is no question", fix=FIX)
    parents: Mapping[str, list[int]] = needs or {}
    return tuple(
        Question(name, text, "alignment", parents=tuple(str(parent) for parent in parents.get(name, ()) if parent))
        for name, text in asked.items()
    )
