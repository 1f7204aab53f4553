"""DPG-Bench (ELLA, Hu et al. 2024, arXiv 2403.05135): 1,065 long prompts, 4 images each, 10 to 15 questions per image.

Prompts and questions: `dpg_bench.csv` of the repository TencentQQGYLab/ELLA (Apache-2.0), folder dpg_bench. Images:
`<id>.png`, four in a grid of 2 x 2, or `<id>_<seed>.png`. The benchmark's judge is mPLUG-large, which is asked each
question alone and without a template; its environment of 2023 does not install beside a current torch.

The benchmark's code passes over the first line of the table, so the prompt that owns it has no score (1,064 count).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics import dpg
from glmkit.evaluation.metrics.questions import UnreadableAnswerError, cascaded, first_word
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.evaluation.suites.shared.questions import QuestionSuite, exact_note
from glmkit.inputs.records import read_csv
from glmkit.records import Prompt, Question

FILE = "dpg_bench.csv"
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
RULE = (
    "a question counts as no when a question that it depends on counts as no and stands before it in the table; share "
    "of yes of an image; mean over the images of a prompt, then over prompts, times 100"
)
SCOPE = {
    "": "of all images, after the rule of dpg",
    "_last_image": "as the benchmark counts it: by the answers about the last image of each prompt, without the rule",
}


class Dpg(QuestionSuite):
    """Count yes answers. `is_exact`: exactly `yes`, as the benchmark does, otherwise by the first word."""

    def __init__(self, *, is_exact: bool) -> None:
        self.is_exact = is_exact
        parse = "exactly `yes` counts, any other answer is no" if is_exact else "the first word of an answer counts"
        self.asking = "dpg-exact-1" if is_exact else "dpg-first-word-1"
        self.metrics = {
            "dpg": {"direction": "higher", "definition": f"DPG-Bench, 0 to 100: {parse}; {RULE}."},
            **{
                f"dpg_{name}{suffix}": {
                    "direction": "higher",
                    "definition": f"DPG-Bench, share of yes among the questions of category {name}, 0 to 100, {scope}.",
                }
                for suffix, scope in SCOPE.items()
                for name in dpg.CATEGORIES
            },
        }
        self.official = OfficialProtocol("DPG-Bench", "mPLUG-large VQA", {}, prompts=1065, images_per_prompt=4)

    def files(self, data: Path | None) -> list[Path]:
        """Give the table."""
        fix = f"git clone https://github.com/TencentQQGYLab/ELLA, then --data ELLA/dpg_bench with {FILE}"
        return files_in("dpg", data, lambda folder: [folder / FILE], fix)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with their questions, without the first line."""
        (path,) = files
        texts: dict[str, str] = {}
        questions: dict[str, list[Question]] = {}
        for line in read_csv(path)[1:]:
            if not all(line.get(name) for name in COLUMNS):
                what = f"{path} needs lines with the columns {', '.join(COLUMNS)}"
                raise UserError(what, found=line, fix="take the file as it is")
            parents = (parent.strip() for parent in line["dependency"].split(","))
            question = Question(
                line["proposition_id"].strip(),
                line["question_natural_language"],
                dpg.category(line["tuple"]),
                parents=tuple(parent for parent in parents if parent != "0"),
            )
            texts[line["item_id"]] = line["text"]
            questions.setdefault(line["item_id"], []).append(question)
        if not texts:
            raise UserError(f"{path} holds no questions", fix="take the file as it is")
        return [Prompt(name, text, questions=tuple(questions[name])) for name, text in texts.items()]

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask each question alone: bare, as the benchmark does, or with what a language model must know."""
        more = "" if self.is_exact else " Answer with yes or no."
        return tuple(Message(one.id, one.text + more, (one.text,)) for one in prompt.questions)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Apply the rule; UnreadableAnswerError for a question whose parent the table lacks."""
        read = {one.id: float(self._is_yes(answers[one.id])) for one in prompt.questions}
        try:
            after = cascaded(read, {one.id: one.parents for one in prompt.questions})
        except KeyError as error:
            raise UnreadableAnswerError(
                f"a question depends on question {error.args[0]}, which is not there"
            ) from error
        group = {one.id: one.group for one in prompt.questions}
        return {
            **{f"{group[name]}/{name}": (value, 1) for name, value in after.items()},
            **{f"{dpg.ANSWERED}{group[name]}/{name}": (value, 1) for name, value in read.items()},
            NO: (len(read) - sum(read.values()), len(read)),
        }

    def _is_yes(self, answer: str) -> bool:
        return answer == "yes" if self.is_exact else first_word(answer)

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find grids of four named after the prompt, and single images whose names hold a seed."""
        return layouts.grids_by_name(folder, prompts, jpeg=False)

    def image_names(self, prompt: Prompt) -> str:
        """Say how the images of a prompt should be called."""
        return f"{prompt.id}.png (a 2 x 2 grid) or {prompt.id}_0.png"

    def note(self, answers: Sequence[str]) -> str:
        """Warn of a judge that answers in other forms."""
        return exact_note(answers, "yes", "no", " (--suite dpg-first-word reads them)") if self.is_exact else ""
