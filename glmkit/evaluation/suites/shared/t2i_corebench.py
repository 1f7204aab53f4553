"""T2I-CoReBench (Li et al. 2025, arXiv 2509.03516): 90 prompts in each of 12 dimensions, 4 images each.

Prompts and 13,536 questions: `data/<dimension>.json` of the repository KlingTeam/T2I-CoReBench (Apache-2.0). Images:
`<model>/<dimension>/<id>-<n>.png`. The benchmark has two ways to ask and to read: that of Gemini 2.5 Flash, with which
its paper measures, and that of Qwen models; thinking ones agree much better with people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.metrics.t2i_corebench import DIMENSIONS, metric, says_yes
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import GridTile, ImageFiles
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import read_json
from glmkit.records import Prompt, Question
from glmkit.shapes import check_shape

FIX = "git clone https://github.com/KlingTeam/T2I-CoReBench, then --data T2I-CoReBench/data with C-MI.json"
# Our wording of what the benchmark demands.
SYSTEM = (
    "You check an image against its prompt. Answer a question about the image by what can be seen in it. The prompt "
    "helps you to understand the question, but shows nothing: it must not fill in what the image leaves open. Say yes "
    "only when the image shows it without any doubt. Say no in every other case: when it is missing, hidden, partly "
    "shown, ambiguous or only hinted at. A question with a condition is yes only when the condition and the rest are "
    "both true in the image. Answer with one word, yes or no, in small letters, and with nothing else."
)
TEMPLATE = 'Prompt: "{prompt}"\nQuestion: "{question}"'  # the benchmark's own
THINKING_TOKENS = 8192  # that the benchmark gives a thinking judge in the end


class ChecklistItem(TypedDict):
    """One question of a prompt."""

    question: str


class CoreBenchPrompt(TypedDict):
    """One prompt of a file."""

    Prompt: str
    Checklist: list[ChecklistItem]


class T2ICoreBench(QuestionSuite):
    """Share the questions that are answered with yes; `of_qwen`: asked and read as Qwen models are, not as Gemini."""

    def __init__(self, *, of_qwen: bool) -> None:
        self.of_qwen = of_qwen
        self.asking = "t2i-corebench-qwen-1" if of_qwen else "t2i-corebench-1"
        case = "in small letters" if of_qwen else "in any case"
        share = (
            f"the word yes anywhere in an answer counts, {case}; answers with neither yes nor no have no score; share "
            "of yes of an image, mean over all images of a dimension"
        )
        self.metrics = {
            "t2i_corebench": {
                "direction": "higher",
                "definition": f"T2I-CoReBench: {share}, then over the twelve dimensions, which must all be there.",
            },
            **{
                metric(name): {"direction": "higher", "definition": f"T2I-CoReBench, {about}: {share}."}
                for name, about in DIMENSIONS.items()
            },
        }
        judge = "a Qwen model on vLLM" if of_qwen else "Gemini 2.5 Flash"
        self.official = OfficialProtocol("T2I-CoReBench", f"{judge}, in the benchmark's words", {}, 1080, 4)

    def files(self, data: Path | None) -> list[Path]:
        """Give the file of each dimension."""
        names = [f"{name}.json" for name in DIMENSIONS]
        return files_in("t2i-corebench", data, lambda folder: [folder / name for name in names], FIX)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with their questions; the dimension is the split."""
        prompts = []
        for path in files:
            entries = read_json(path)
            check_shape(entries, Mapping[str, CoreBenchPrompt], str(path), fix="take the file as it is")
            for name, entry in entries.items():
                asked = [item["question"] for item in entry["Checklist"]]
                if not asked:
                    raise UserError(f"{path}: {name} has no questions", fix="take the file as it is")
                questions = tuple(Question(str(index), text, path.stem) for index, text in enumerate(asked, start=1))
                prompts.append(Prompt(name, entry["Prompt"], (), path.stem, questions=questions))
        return prompts

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask each question alone, with the prompt."""
        messages = []
        for one in prompt.questions:
            text = TEMPLATE.format(prompt=prompt.prompt, question=one.text)
            system, text = (SYSTEM, text) if self.of_qwen else ("", f"{SYSTEM}\n{text}")
            messages.append(Message(one.id, text, (one.text,), system=system, max_tokens=THINKING_TOKENS))
        return tuple(messages)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Read each answer; UnreadableAnswerError when none has a score."""
        read = {one.id: self._says_yes(answers[one.id]) for one in prompt.questions}
        said = {name: float(yes) for name, yes in read.items() if yes is not None}
        if not said:
            raise UnreadableAnswerError(f"no answer says yes or no, such as {answers[prompt.questions[0].id][:120]!r}")
        return {
            **{f"{prompt.split}/{name}": (value, 1) for name, value in said.items()},
            NO: (len(said) - sum(said.values()), len(said)),
        }

    def _says_yes(self, answer: str) -> bool | None:
        return says_yes(answer if self.of_qwen else answer.strip().lower())

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find images in the folders of the dimensions, or named after prompt ids."""
        files: dict[tuple[str, int], Path | GridTile] = layouts.by_name(folder, prompts)
        for place in (folder, *(folder / name for name in DIMENSIONS)):
            for key, path in layouts.by_name(place, prompts, separator="-").items():
                if files.get(key) != path:
                    layouts.add(files, key, layouts.file_of(path))
        return files

    def image_names(self, prompt: Prompt) -> str:
        """Say how images should be called."""
        return f"{prompt.split}/{prompt.id}-0.png or {prompt.id}_0.png"

    def note(self, answers: Sequence[str]) -> str:
        """Say how many answers have no score."""
        none = [answer for answer in answers if self._says_yes(answer) is None]
        if not none:
            return ""
        return (
            f"{len(none)} of {len(answers)} answers say neither yes nor no, such as {none[0][:40]!r}; like the "
            "benchmark's own code, this leaves them out"
        )
