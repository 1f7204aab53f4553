"""ImgEdit-Bench, basic suite (Ye et al. 2025, arXiv 2505.20275): 737 edits of nine types, one image each.

Edits and rubrics: `Benchmark/Basic/basic_edit.json` and `prompts.json` of the repository PKU-YuanGroup/ImgEdit; images:
`Benchmark.tar` of sysuyy/ImgEdit on the hub, unpacked. Edited images: `<key>.png`. The benchmark's code asks gpt-4o,
without naming a temperature; its table says GPT-4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.imgedit import TYPES, read_grades
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import read_json
from glmkit.inputs.images import read_image
from glmkit.records import Prompt
from glmkit.shapes import check_shape

if TYPE_CHECKING:
    from PIL.Image import Image

EDITS, RUBRICS = "basic_edit.json", "prompts.json"
SHA256 = {
    EDITS: "5ee9b7d61e918692416f79896300f738598c83adff8de737b25be4aaff72dc69",
    RUBRICS: "f9468dc848776ee0a6c2e2c31e678c7224e9cb61b013747c8c52d4a05627b5a0",
}
PLACEHOLDER = "<edit_prompt>"
FIX = (
    "git clone https://github.com/PKU-YuanGroup/ImgEdit, unpack Benchmark.tar (hf download sysuyy/ImgEdit --repo-type "
    "dataset) in its Benchmark/Basic, then --data ImgEdit/Benchmark/Basic"
)
ONLY = "grades"  # id of the only message about an image
TOKENS = 512
GRADES = 3  # that each rubric asks for


class ImgEditEntry(TypedDict):
    """One edit: the path of its image, the instruction, its type."""

    id: str
    prompt: str
    edit_type: str


class ImgEdit(QuestionSuite):
    """Average three grades of each edit, by the rubric of its type, which is read from the user's file."""

    asking = "imgedit-1"

    def __init__(self) -> None:
        grades = (
            "ImgEdit-Bench, 1 to 5: mean of the grades that were found in the answer, 2 decimals; mean over the images "
            "of a type, 2 decimals"
        )
        self.metrics = {
            "imgedit": {
                "direction": "higher",
                "definition": f"{grades}; mean over the nine types, which must all be there.",
            },
            **{f"imgedit_{kind}": {"direction": "higher", "definition": f"{grades}; type {kind}."} for kind in TYPES},
        }
        self.official = OfficialProtocol(
            "ImgEdit-Bench (basic)",
            "gpt-4o at https://api.openai.com/v1/",  # with neither temperature nor seed
            {},
            prompts=737,
            images_per_prompt=1,
            files=SHA256,
        )

    def files(self, data: Path | None) -> list[Path]:
        """Give the edits, the rubrics, and the images to edit."""
        edits, rubrics = files_in("imgedit", data, lambda folder: [folder / EDITS, folder / RUBRICS], FIX)
        entries = read_json(edits)
        check_shape(entries, Mapping[str, ImgEditEntry], str(edits), fix="take the file as it is")
        sources = [entry["id"] for entry in entries.values()]
        for folders in layouts.nested(data or edits.parent) if sources else ():
            for folder in folders:
                if (folder / sources[0]).is_file():
                    paths = [folder / source for source in dict.fromkeys(sources)]
                    if missing := next((path for path in paths if not path.is_file()), None):
                        raise UserError(f"{missing} does not exist", fix=FIX)
                    return [edits, rubrics, *paths]
        raise UserError(f"{edits.parent} holds no images to edit", found=f"no {sources[:1] or 'edit'}", fix=FIX)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the edits; the type is the split, its rubric the ground truth."""
        edits, rubrics, *sources = files
        given = read_json(rubrics)
        check_shape(given, Mapping[str, str], str(rubrics), fix="take the file as it is")
        prompts, entries = [], read_json(edits)
        first = Path(next(iter(entries.values()))["id"])
        root = sources[0].parents[len(first.parts) - 1]
        for key, entry in entries.items():
            kind = entry["edit_type"]
            if kind not in TYPES or PLACEHOLDER not in given.get(kind, ""):
                what = f"{edits}, {key}: {rubrics.name} has no rubric for its type"
                raise UserError(what, found=kind, fix="take the files as they are")
            images = (str(root / entry["id"]),)
            prompts.append(Prompt(key, entry["prompt"], (), kind, ground_truth=given[kind], condition_images=images))
        return prompts

    def references(self, prompt: Prompt) -> Mapping[str, Image]:
        """Give the image to edit."""
        return {"condition_image": read_image(prompt.condition_images[0])}

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Send the rubric with the instruction in it, then both images."""
        text = prompt.ground_truth.replace(PLACEHOLDER, prompt.prompt)
        return (Message(ONLY, text, (prompt.prompt,), image_first=False, max_tokens=TOKENS, shows_both=True),)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Read the grades; UnreadableAnswerError without any."""
        grades = read_grades(answers[ONLY])
        return {f"{prompt.split}/{number}": (grade, 1) for number, grade in enumerate(grades, start=1)}

    def note(self, answers: Sequence[str]) -> str:
        """Say how many answers have another number of grades than the three that a rubric asks for."""
        counts = []
        for answer in answers:
            with suppress(UnreadableAnswerError):
                counts.append(len(read_grades(answer)))
        other = [count for count in counts if count != GRADES]
        if not other:
            return ""
        return (
            f"{len(other)} of {len(counts)} answers have not {GRADES} grades, but {other[0]}, for instance; like the "
            "benchmark's own code, this averages those that are there"
        )
