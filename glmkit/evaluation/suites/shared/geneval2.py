"""GenEval 2 (Kamath et al. 2025, arXiv 2512.16853): 800 prompts of 3 to 10 atoms, one image each, 6,012 questions.

Prompts: `geneval2_data.jsonl` of the repository facebookresearch/GenEval2 (CC BY-NC 4.0). Images: `<line>.png`, counted
from 0, or anywhere, in `image_paths.json` that maps prompts to paths. The benchmark's judge is Qwen3-VL-8B-Instruct.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.geneval2 import COUNTING, GREEDY, SKILLS, forms
from glmkit.evaluation.metrics.questions import UnreadableAnswerError, no_answers
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import read_json, read_jsonl
from glmkit.records import Answer, Prompt, Question
from glmkit.shapes import check_shape

FILE, PATHS = "geneval2_data.jsonl", "image_paths.json"
TEMPLATE = "{} Answer in one word."  # the benchmark's own
FIX = f"git clone https://github.com/facebookresearch/GenEval2, then --data GenEval2 with {FILE}"
DEFINITION = {
    "gm": "geometric mean over the questions of an image, mean over the images of a prompt, then over prompts",
    "am": "mean over the questions of an image, then over the images of a prompt, then over prompts",
}


class GenEval2Line(TypedDict):
    """One line of the file."""

    prompt: str
    atom_count: int
    vqa_list: list[tuple[str, str]]
    skills: list[str]


class GenEval2(QuestionSuite):
    """Average the probabilities of right answers."""

    asking = "geneval2-1"
    judges = ("golden", "openai", "transformers")
    official = OfficialProtocol("GenEval 2", "Qwen3-VL-8B-Instruct, greedy", {}, prompts=800, images_per_prompt=1)

    def __init__(self) -> None:
        about = "GenEval 2, 0 to 100: probability that the first word is a form of the right answer"
        self.metrics = {
            **{
                f"geneval2_{name}": {"direction": "higher", "definition": f"{about} (Soft-TIFA); {how}."}
                for name, how in DEFINITION.items()
            },
            "geneval2_tifa": {
                "direction": "higher",
                "definition": f"GenEval 2, 0 to 100: the most likely first word, in lower case, is a right one (TIFA); "
                f"{DEFINITION['am']}.",
            },
            **{
                f"geneval2_{skill}": {
                    "direction": "higher",
                    "definition": f"{about}; mean over all questions for skill {skill}.",
                }
                for skill in SKILLS
            },
        }

    def files(self, data: Path | None) -> list[Path]:
        """Give the file."""
        return files_in("geneval2", data, lambda folder: [folder / FILE], FIX)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with questions; the number of atoms is the split, the right answer a question's condition."""
        (path,) = files
        prompts = []
        for number, line in enumerate(read_jsonl(path)):
            where, fix = f"{path}, line {number + 1}", "take the file as it is"
            check_shape(line, GenEval2Line, where, fix=fix)
            if len(line["skills"]) != len(line["vqa_list"]) or not set(line["skills"]) <= set(SKILLS):
                raise UserError(f"{where}: a question has no skill that is known", found=line["skills"], fix=fix)
            questions = tuple(
                Question(str(index), question, skill, answer=answer)
                for index, ((question, answer), skill) in enumerate(
                    zip(line["vqa_list"], line["skills"], strict=True), start=1
                )
            )
            prompts.append(Prompt(str(number), line["prompt"], (), f"{line['atom_count']}-atoms", questions=questions))
        return prompts

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask each question alone, for one word."""
        return tuple(
            Message(
                one.id,
                TEMPLATE.format(one.text),
                (one.text,),
                max_tokens=1,
                words=forms(one.text, one.answer),
            )
            for one in prompt.questions
        )

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Compare the most likely word with the right ones; questions for a number are answered by no no."""
        return {
            **{
                f"{GREEDY}{one.group}/{one.id}": (answers[one.id].lower() in forms(one.text, one.answer), 1)
                for one in prompt.questions
            },
            NO: no_answers(answers[one.id] for one in prompt.questions if not one.text.startswith(COUNTING)),
        }

    def measured(self, prompt: Prompt, answers: Mapping[str, Answer]) -> Counts:
        """Add up the probabilities of the right words, those that an endpoint does not list being 0."""
        counts: Counts = {}
        for one in prompt.questions:
            if not (positions := answers[one.id].probabilities):
                raise UnreadableAnswerError(f"the answer to question {one.id} came without probabilities")
            right = sum(positions[0].get(word, 0.0) for word in forms(one.text, one.answer))
            counts[f"{one.group}/{one.id}"] = (right, 1)
        return counts

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find images by the number of their line, or by the paths that a file gives for prompts."""
        if not (folder / PATHS).is_file():
            return layouts.by_name(folder, prompts)
        paths = read_json(folder / PATHS)
        check_shape(paths, Mapping[str, str], str(folder / PATHS), fix='{"a prompt": "its image.png"}')
        return {(one.id, 0): folder / paths[one.prompt] for one in prompts if one.prompt in paths}
