"""TIIF-Bench (Wei et al. 2025, arXiv 2506.02161): prompts of 39 types in a short and a long wording, one image each.

Prompts: `<testmini|test>_prompts/<type>_prompts.jsonl`, questions: `..._eval_prompts/<type>_eval_prompts.jsonl` of the
repository A113N-W3I/TIIF-Bench, folder data. Images: `<type>/<model>/<short|long>_description/<line>.png`. Published
answers: `<type>/<short|long>/<line>.json` in the folder of a model, folder eval-results. The benchmark asks gpt-4o at
temperature 1, all questions of an image at once, with one of three wordings chosen at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import MAX_TOKENS, Message
from glmkit.evaluation.metrics.questions import lines_of_answers
from glmkit.evaluation.metrics.tiif import DIMENSIONS, LENGTHS, TYPES, gned, read_words, text_recall
from glmkit.evaluation.ocr.lines import RecognizedLine, texts_of
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.evaluation.suites.shared.questions import PublishedAnswers, QuestionSuite
from glmkit.files import read_json, read_jsonl
from glmkit.records import Prompt, Question
from glmkit.shapes import check_shape

TEXT = re.compile(r"Is the text '(.*)' in the image\?", re.DOTALL)
SYSTEM = "You are a professional image critic."  # the benchmark's own
# Our wording, for the benchmark's has no licence.
TEMPLATE = (
    "Look closely at the image, then answer these questions about it:\n\n{questions}\n\nWrite {count} lines, one for "
    "each question, in the same order. Begin each line with yes or no, then give the reason in a few words on the same "
    "line. Write nothing else."
)
TOKENS_PER_ANSWER = 64
ALL = "all"  # id of the only message about an image
TESTMINI_NUMBERED_AS_TEST = ("real_world", "style")  # types whose published answers bear the line of the whole set
FIX = "git clone https://github.com/A113N-W3I/TIIF-Bench, then --data TIIF-Bench/data with {}"


class PromptLine(TypedDict):
    """One line of a prompt file."""

    type: str
    short_description: str
    long_description: str


class QuestionLine(TypedDict):
    """One line of a question file."""

    yn_question_list: list[str]
    yn_answer_list: list[str]


class PublishedAnswer(TypedDict):
    """A file of published answers about one image."""

    questions: list[str]
    model_output: str


class Tiif(QuestionSuite):
    """Compare answers with expected ones, by type and length: `subset` is testmini (277 prompts) or test (2,538)."""

    asking = "tiif-1"
    reads_text = True

    def __init__(self, subset: str) -> None:
        self.subset = subset
        prompts = {"testmini": 277, "test": 2538}[subset]
        per_type = f"TIIF-Bench {subset}: share of questions with the expected answer, per type and length (4 decimals)"
        self.metrics = {
            **{
                f"tiif_{length}": {
                    "direction": "higher",
                    "definition": f"{per_type}, of {length} prompts; mean over the types of each of nine dimensions, "
                    "then over dimensions (4 decimals); dimensions without images are passed over.",
                }
                for length in LENGTHS
            },
            **{
                f"tiif_{name}": {
                    "direction": "higher",
                    "definition": f"{per_type}; mean over {', '.join(kinds)}, both lengths.",
                }
                for name, kinds in DIMENSIONS.items()
            },
            "gned": {
                "direction": "lower",
                "definition": "TIIF-Bench GNED, a distance, 0 to 1: least sum of edits / longer length over pairs of "
                "expected and read words, plus 1 for each word without a partner, / words of the longer list; mean "
                "over the images of type text. Extra words cost as much as missing ones.",
            },
            "text_recall": {
                "direction": "higher",
                "definition": "TIIF-Bench recall: share of the expected words for which a read word is left at a "
                "distance of at most 0.3; mean over the images of type text.",
            },
        }
        judge = "gpt-4o at temperature 1, asked in one of three wordings at random"
        self.official = OfficialProtocol(f"TIIF-Bench {subset}", judge, {}, prompts=2 * prompts, images_per_prompt=1)

    def files(self, data: Path | None) -> list[Path]:
        """Give the two files of each type that is there; other types have no images and no score."""
        first = self._prompt_file(Path(), TYPES[0])
        fix = FIX.format(f"{first} and the other types")

        def paths(folder: Path) -> list[Path]:
            kinds = [kind for kind in TYPES if self._prompt_file(folder, kind).is_file()] or TYPES[:1]
            files = (self._prompt_file, self._question_file)
            return [file(folder, kind) for kind in kinds for file in files]

        return files_in(f"tiif ({self.subset})", data, paths, fix)

    def _prompt_file(self, folder: Path, kind: str) -> Path:
        return folder / f"{self.subset}_prompts" / f"{kind}_prompts.jsonl"

    def _question_file(self, folder: Path, kind: str) -> Path:
        return folder / f"{self.subset}_eval_prompts" / f"{kind}_eval_prompts.jsonl"

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read short and long prompts; first the first line of each type, so that a few prompts are of many types."""
        numbered = [
            (line, prompt)
            for prompt_file, question_file in zip(files[::2], files[1::2], strict=True)
            for line, prompt in _prompts(prompt_file, question_file)
        ]
        return [prompt for _, prompt in sorted(numbered, key=lambda pair: pair[0])]

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask all questions in one request."""
        questions = tuple(question.text.strip() for question in prompt.questions)
        text = TEMPLATE.format(questions="\n".join(questions), count=len(questions))
        most = max(MAX_TOKENS, TOKENS_PER_ANSWER * len(questions))
        return (Message(ALL, text, questions, system=SYSTEM, image_first=False, max_tokens=most),)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Compare each answer; UnreadableAnswerError when there are more or fewer than questions."""
        said = lines_of_answers(answers[ALL], len(prompt.questions))
        pairs = list(zip(prompt.questions, said, strict=True))
        return {
            **{f"{prompt.split} {one.group}/{one.id}": (float(answer == one.expected), 1) for one, answer in pairs},
            NO: (said.count(False), len(said)),
        }

    def counts(self, prompt: Prompt, lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Compare the words of an image of type text."""
        if not prompt.texts:
            return {}
        expected, read = [text.lower() for text in prompt.texts], read_words(texts_of(lines))
        return {"gned": (gned(expected, read), 1), "text_recall": (text_recall(expected, read), 1)}

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find images in the benchmark's folders, those of one model, or named after prompt ids."""
        files = layouts.by_name(folder, prompts)
        for kind in TYPES:
            for length in LENGTHS:
                inside = f"{length}_description"
                found = [path.parent for path in (folder / kind).glob(f"**/{inside}") if path.is_dir()]
                if found:
                    images = layouts.only(sorted(found), "images of the type") / inside
                    for key, path in layouts.by_name(images, prompts, _id(kind, length, "")).items():
                        layouts.add(files, key, layouts.file_of(path))
        return files

    def image_names(self, prompt: Prompt) -> str:
        """Say how images should be called."""
        return f"{TYPES[0]}/<model>/short_description/0.png or {prompt.id}.png"

    def published_answers(self, folder: Path, prompts: Sequence[Prompt], files: Sequence[Path]) -> PublishedAnswers:
        """Read `<type>/<length>/<line>.json` of one model; answers to other questions are left out."""
        whole = {kind: self._lines_of_test(files, kind) for kind in TESTMINI_NUMBERED_AS_TEST}
        answers: dict[str, dict[str, str]] = {}
        for prompt in prompts:
            kind, line = prompt.questions[0].group, prompt.id.rpartition("-")[2]
            number = whole.get(kind, {}).get(prompt.prompt, line)
            path = folder / kind / prompt.split / f"{number}.json"
            if path.is_file():
                published = read_json(path)
                check_shape(published, PublishedAnswer, str(path), fix="take the file as it is")
                if published["questions"] == [question.text for question in prompt.questions]:
                    answers[prompt.id] = {ALL: published["model_output"]}
        if not answers:
            raise UserError(
                f"{folder} holds no published answers to these questions",
                fix="--answers TIIF-Bench/eval-results/.../testmini_subset_eval_results_GPT-4o/MODEL",
            )
        return answers

    def _lines_of_test(self, files: Sequence[Path], kind: str) -> dict[str, int]:
        """Map the prompts of a type to their lines in the whole set; UserError when testmini lies there alone."""
        path = files[0].parent.parent / "test_prompts" / f"{kind}_prompts.jsonl"
        if self.subset == "test" or not any(file.name == path.name for file in files):
            return {}
        if not path.is_file():
            what = f"published answers of type {kind} are numbered by {path}, which does not exist"
            raise UserError(what, fix=FIX.format(f"test_prompts/{path.name}"))
        return {
            line.get(f"{length}_description", ""): number
            for number, line in enumerate(read_jsonl(path))
            for length in LENGTHS
        }


def _id(kind: str, length: str, line: int | str) -> str:
    return f"{kind.replace('+', '-')}-{length}-{line}"


def _prompts(prompt_file: Path, question_file: Path) -> Iterator[tuple[int, Prompt]]:
    """Yield (line, prompt) of one type, short and long; UserError when the two files do not fit."""
    lines, asked = read_jsonl(prompt_file), read_jsonl(question_file)
    if len(lines) != len(asked):
        found = f"{len(lines)} and {len(asked)} lines"
        raise UserError(f"{prompt_file} and {question_file} do not fit", found=found, fix="take the files as they are")
    for number, (line, questions) in enumerate(zip(lines, asked, strict=True)):
        fix = "take the file as it is"
        check_shape(line, PromptLine, f"{prompt_file}, line {number + 1}", fix=fix)
        where = f"{question_file}, line {number + 1}"
        check_shape(questions, QuestionLine, where, fix=fix)
        kind, expected = line["type"], [answer.strip().lower() for answer in questions["yn_answer_list"]]
        if kind not in TYPES or len(expected) != len(questions["yn_question_list"]) or set(expected) - {"yes", "no"}:
            raise UserError(f"{where}: a type or an answer is unknown, or missing", found=kind, fix=fix)
        own = tuple(
            Question(str(index), text, kind, answer == "yes")
            for index, (text, answer) in enumerate(zip(questions["yn_question_list"], expected, strict=True), start=1)
        )
        matches = (TEXT.fullmatch(question.text.strip()) for question in own if kind == "text")
        texts = tuple(match[1] for match in matches if match)
        for length in LENGTHS:
            name, prompt = _id(kind, length, number), line[f"{length}_description"]
            yield number, Prompt(name, prompt, texts, split=length, questions=own)
