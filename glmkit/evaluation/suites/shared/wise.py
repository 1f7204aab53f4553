"""WISE, the verified version of 2026 (Niu et al. 2025, arXiv 2503.07265): 1,000 prompts that need knowledge, one image.

Prompts: `data_verified/*_verified.json` of the repository PKU-YuanGroup/WISE. Images: `<prompt_id>.png`. The judge of
the benchmark is Qwen3.5-35B-A3B, without thinking; it sees prompt and explanation. The version of 2025 had other
prompts, three scores per image and another judge: its values cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.wise import CATEGORIES, category, read_score
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import read_json
from glmkit.records import Prompt
from glmkit.shapes import check_shape

FILES = tuple(
    f"{name}_verified.json" for name in ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")
)
FIX = f"git clone https://github.com/PKU-YuanGroup/WISE, then --data WISE/data_verified with {FILES[0]}"
ONLY = "score"  # id of the only message about an image
# Our wording, for the benchmark's has no licence.
SYSTEM = "You check images of text-to-image models against their prompts, strictly and by what can be seen alone."
TEMPLATE = """A model got this prompt, which takes knowledge to draw:

PROMPT: "{prompt}"

What a right image shows, and why:

EXPLANATION: "{explanation}"

Score the image with 1 when it shows clearly what the explanation demands: the right objects, and their right state, \
place, time or behaviour. It need not be beautiful. Score it with 0 when something of that is missing or wrong, when \
it follows the words of the prompt but not their meaning, when you are in doubt, or when it is too broken to tell.

Answer with one line and nothing else: `Score: 1` or `Score: 0`."""


class WisePrompt(TypedDict):
    """One prompt of a file."""

    Prompt: str
    Explanation: str
    prompt_id: int


class Wise(QuestionSuite):
    """Share the images that the judge accepts, weighted by category."""

    asking = "wise-verified-1"
    official = OfficialProtocol(
        "WISE (verified)",
        "Qwen3.5-35B-A3B without thinking, in the benchmark's words",
        {},
        prompts=1000,
        images_per_prompt=1,
    )

    def __init__(self) -> None:
        weights = ", ".join(f"{weight:g} {name}" for name, (_, weight) in CATEGORIES.items())
        share = "share of images that the judge accepts, by prompt and explanation"
        self.metrics = {
            "wise": {
                "direction": "higher",
                "definition": f"WISE, verified: {share}; weighted sum of categories ({weights}), which must all be "
                "there.",
            },
            **{
                f"wise_{name}": {"direction": "higher", "definition": f"WISE, verified: {share}, category {name}."}
                for name in CATEGORIES
            },
        }

    def files(self, data: Path | None) -> list[Path]:
        """Give the three files."""
        return files_in("wise", data, lambda folder: [folder / name for name in FILES], FIX)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with what a right image shows; the category is the split."""
        prompts = []
        for path in files:
            entries = read_json(path)
            check_shape(entries, list[WisePrompt], str(path), fix="take the file as it is")
            for entry in entries:
                number = entry["prompt_id"]
                if not 1 <= number <= 1000:
                    raise UserError(f"{path}: prompt ids are 1 to 1,000", found=number, fix="take the file as it is")
                prompts.append(
                    Prompt(str(number), entry["Prompt"], (), category(number), ground_truth=entry["Explanation"])
                )
        return prompts

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask for one score."""
        text = TEMPLATE.format(prompt=prompt.prompt, explanation=prompt.ground_truth)
        return (Message(ONLY, text, (prompt.ground_truth,), ("1", "0"), SYSTEM, image_first=False, max_tokens=500),)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Read the score; UnreadableAnswerError without one."""
        score = read_score(answers[ONLY])
        return {prompt.split: (score, 1), NO: (1 - score, 1)}
