"""GEdit-Bench (Liu et al. 2025, arXiv 2504.17761): 606 edits that people asked for, in English and in Chinese.

Instructions and images: the parquet files of stepfun-ai/GEdit-Bench on the hub. Edited images:
`<model>/fullset/<task>/<en|cn>/<key>.png`; they are resized to the image before the edit. The benchmark's judge is
gpt-4.1, in two requests: with both images and the instruction, then with the edited one alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.gedit import COMMON, PARTS, TASKS, item_scores
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import GridTile, ImageFiles
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.inputs.images import read_image
from glmkit.inputs.tables import TableImage, parquet_columns, parquet_rows
from glmkit.records import Prompt
from glmkit.shapes import check_shape

if TYPE_CHECKING:
    from PIL.Image import Image

LANGUAGES = {"en": "en", "cn": "zh"}  # the benchmark's code -> ours
IMAGE = "input_image"
FIX = "hf download stepfun-ai/GEdit-Bench --repo-type dataset --local-dir GEdit-Bench, then --data GEdit-Bench"
TOKENS = 1400
# Our wording of what VIEScore demands.
FORM = """Answer with one JSON object and nothing else, with short reasons:

{"score": [FIRST, SECOND], "reasoning": "..."}"""
FOLLOWED = """You judge an edited image as a professional artist would. The first image is the one before the edit, \
the second the one after it. Both may be made by a program, and so may be the people in them.

The instruction was: <instruction>

Give two scores, each from 0 to 10. FIRST: how well the edit follows the instruction; 0 is not at all, 10 is \
perfectly. SECOND: whether only that was changed; 0 is another scene altogether, 10 is the least change that does it.

"""
NATURAL = """You judge an image as a professional artist would. It may be made by a program, and so may be the people \
in it.

Give two scores, each from 0 to 10. FIRST: how natural it is, in light, shadow and distances; 0 is not at all, 10 \
looks real. SECOND: how free it is of artefacts such as distortions, watermarks, scratches, blurred faces, strange \
limbs and things that do not fit; 0 is full of them, 10 has none.

"""


class GEditRow(TypedDict):
    """One row of the tables, the images aside."""

    key: str
    task_type: str
    instruction: str
    instruction_language: str
    Intersection_exist: bool


class GEdit(QuestionSuite):
    """Grade edits: `language` is en or cn, as the benchmark calls them."""

    asking = "gedit-1"

    def __init__(self, language: str) -> None:
        self.language = language
        about = {
            "o": "root of SC times PQ of each image",
            "sc": "SC, the lower of two grades: instruction followed, nothing else changed",
            "pq": "PQ, the lower of two grades: natural, without artefacts",
        }
        name = f"GEdit-Bench ({language})"
        means = "mean over the images of a task, then over the eleven tasks, which must all be there"
        self.metrics = {
            **{
                f"gedit{end}{more}": {
                    "direction": "higher",
                    "definition": f"{name}, 0 to 10: {about[part]}; {means}{only}.",
                }
                for more, only in (("", ""), ("_intersection", "; only items for which all closed models gave images"))
                for part, end in PARTS.items()
            },
            **{
                f"gedit_{task.replace('-', '_')}": {
                    "direction": "higher",
                    "definition": f"{name}, 0 to 10: {about['o']}; mean over the images of task {task}.",
                }
                for task in TASKS
            },
        }
        self.official = OfficialProtocol(name, "gpt-4.1, in the benchmark's words", {}, 606, images_per_prompt=1)

    def files(self, data: Path | None) -> list[Path]:
        """Give the parquet files."""

        def tables(folder: Path) -> list[Path]:
            return sorted(folder.glob("*.parquet")) or [folder / "data" / "train-00000-of-00001.parquet"]

        return files_in(f"gedit-{self.language}", data, tables, FIX)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the instructions of the language; the task is the split, and `named` says where the image is."""
        prompts = []
        for path in files:
            columns = (*GEditRow.__annotations__, IMAGE)
            if missing := set(columns) - set(parquet_columns(path)):
                raise UserError(f"{path} has no column {sorted(missing)[0]}", fix=FIX)
            for number, row in parquet_rows(path, tuple(GEditRow.__annotations__)):
                check_shape(row, GEditRow, f"{path}, row {number + 1}", fix=FIX)
                if row["task_type"] not in TASKS:
                    raise UserError(f"{path}, row {number + 1}: unknown task", found=row["task_type"], fix=FIX)
                if row["instruction_language"] == self.language:
                    named = {"table": str(path), "row": number, "common": row["Intersection_exist"]}
                    language = LANGUAGES[self.language]
                    prompts.append(Prompt(row["key"], row["instruction"], (), row["task_type"], language, named=named))
        return prompts

    def references(self, prompt: Prompt) -> Mapping[str, Image]:
        """Give the image to edit."""
        path = Path(prompt.named["table"])
        image = TableImage(path, path.stat().st_mtime_ns, prompt.named["row"], IMAGE)
        return {"condition_image": read_image(image.read(), f"{path}, row {image.row + 1}")}

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask about both images, then about the edited one alone."""
        asked = (prompt.prompt,)
        followed = FOLLOWED.replace("<instruction>", prompt.prompt) + FORM
        return (
            Message("sc", followed, asked, image_first=False, max_tokens=TOKENS, shows_both=True, resized=True),
            Message("pq", NATURAL + FORM, asked, image_first=False, max_tokens=TOKENS, resized=True),
        )

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Grade one edit; UnreadableAnswerError for answers without scores that can be used."""
        scores = item_scores(answers["sc"], answers["pq"])
        prefixes = ("", COMMON) if prompt.named["common"] else ("",)
        return {f"{prefix}{part} {prompt.split}": (score, 1) for prefix in prefixes for part, score in scores.items()}

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find images in the benchmark's folders of one model, or named after keys."""
        files: dict[tuple[str, int], Path | GridTile] = layouts.by_name(folder, prompts)
        for task in TASKS:
            for key, path in layouts.by_name(folder / task / self.language, prompts).items():
                layouts.add(files, key, layouts.file_of(path))
        return files

    def image_names(self, prompt: Prompt) -> str:
        """Say how images should be called."""
        return f"{prompt.split}/{self.language}/{prompt.id}.png or {prompt.id}.png"
