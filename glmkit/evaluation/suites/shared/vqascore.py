"""VQAScore (Lin et al. 2024, arXiv 2404.01291), each version and kind of judge a suite of its own.

Prompts: `genai_image.json` of GenAI-Bench (hub, BaiqiL/GenAI-Bench-1600, Apache-2.0), which `genai_skills.json` sorts
into basic and advanced ones, or your own in `prompts.jsonl` or `prompts.txt`. Images: `<prompt id>.jpeg`, of one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics import vqascore as metric
from glmkit.evaluation.metrics.questions import no_answers
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import read_json
from glmkit.inputs.prompts import read_prompts
from glmkit.records import Answer, Prompt
from glmkit.shapes import check_shape

BENCHMARK, SKILLS, OWN = "genai_image.json", "genai_skills.json", ("prompts.jsonl", "prompts.txt")
FIX = (
    "hf download BaiqiL/GenAI-Bench-1600 --repo-type dataset --local-dir GenAI-Bench, then --data GenAI-Bench; or your "
    "own prompts in prompts.jsonl"
)
WHOLE = "answer"  # id of the only message about an image


class BenchmarkPrompt(TypedDict):
    """One prompt of GenAI-Bench."""

    prompt: str


@dataclass(frozen=True)
class Version:
    """Say how a version asks and counts; `template` is its own, `judge` a judge of its code.

    `words` are those whose probabilities a local judge must give; `judges` are those of glmkit that can answer.
    """

    name: str
    judge: str
    template: str
    words: tuple[str, ...]
    rule: metric.Rule
    counts: str
    judges: tuple[str, ...] = ("golden",)
    image_first: bool = True


FIGURE = 'Does this figure show "{}"? Please answer '
LISTED = "of the words that the endpoint lists for the first token"
VERSIONS: Mapping[str, Version] = {
    "t5": Version(
        "1.2 and 3.0",
        "CLIP-FlanT5-XXL",
        f"{FIGURE}yes or no.",
        (metric.YES, metric.END),
        metric.whole_answer,
        "geometric mean of the probabilities of `Yes` and of the end behind it",
    ),
    "qwen-3-0": Version(
        "3.0",
        "Qwen2.5-VL",
        'Does this image show "{}"?',
        (metric.YES,),
        metric.first_position,
        "probability of `Yes` as the first token, the only one that is generated",
        ("golden", "transformers"),
    ),
    "qwen-3-1": Version(
        "3.1",
        "Qwen3-VL",
        f"{FIGURE}Yes or No.",
        (metric.YES,),
        metric.last_position,
        "probability of `Yes` as the last token before the end, of the only one that is generated",
        ("golden", "transformers"),
    ),
    "gpt-1-2": Version(
        "1.2",
        "gpt-4o",
        f"{FIGURE}yes or no.",
        (metric.YES,),
        metric.listed_exactly,
        f"probability of exactly `Yes` {LISTED}, else 0",
        ("golden", "openai"),
        image_first=False,
    ),
    "gpt-3-0": Version(
        "3.0",
        "gpt-4o",
        f"{FIGURE}yes or no.",
        (metric.YES, "yes", metric.NO, "no"),
        metric.listed_first,
        f"{LISTED}, the first that is Yes or yes (its probability), No or no (1 - its probability), else 0",
        ("golden", "openai"),
        image_first=False,
    ),
    "gpt-3-1": Version(
        "3.1",
        "gpt-4o",
        f"{FIGURE}Yes or No.",
        (metric.YES, "yes", metric.NO, "no"),
        metric.listed_last,
        f"{LISTED}, the last that is yes in any case (its probability), else no (1 - its probability), else 0",
        ("golden", "openai"),
        image_first=False,
    ),
}


class VqaScore(QuestionSuite):
    """Average how likely the judge answers yes; `version` is a key of `VERSIONS`."""

    def __init__(self, version: str) -> None:
        self.key, self.version = version, VERSIONS[version]
        self.metric = f"vqascore_{version.replace('-', '_')}"
        self.asking = f"vqascore-{version}-1"
        self.judges = self.version.judges
        about = f"VQAScore as version {self.version.name} counts it with {self.version.judge}: {self.version.counts}"
        raw = "the same before what the judge's folder does to repeated words (its repetition penalty)"
        self.metrics = {
            self.metric: {"direction": "higher", "definition": f"{about}; mean over images."},
            **(
                {f"{self.metric}_raw": {"direction": "higher", "definition": f"{about}; {raw}; mean over images."}}
                if version.startswith("qwen")
                else {}
            ),
        }
        name = f"VQAScore {self.version.name} on GenAI-Bench"
        self.official = OfficialProtocol(name, self.version.judge, {}, prompts=1600, images_per_prompt=1)

    def files(self, data: Path | None) -> list[Path]:
        """Give the benchmark's files, or the file of your own prompts."""

        def paths(folder: Path) -> list[Path]:
            own = [folder / name for name in OWN if (folder / name).is_file()]
            skills = [folder / SKILLS] if (folder / SKILLS).is_file() else []
            return own[:1] if own and not (folder / BENCHMARK).is_file() else [folder / BENCHMARK, *skills]

        return files_in(f"vqascore-{self.key}", data, paths, FIX)

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts; those of the benchmark are basic or advanced where its skills say so."""
        path, *skills = files
        if path.name in OWN:
            if broken := next((one for one in read_prompts(path) if one.error is not None), None):
                raise UserError(f"{path}: prompt {broken.id} cannot be used", found=broken.prompt, fix=FIX)
            return [Prompt(one.id, one.prompt, (), one.split, one.language) for one in read_prompts(path)]
        entries, tags = read_json(path), read_json(skills[0]) if skills else {}
        check_shape(entries, Mapping[str, BenchmarkPrompt], str(path), fix="take the file as it is")
        check_shape(tags, Mapping[str, list[int]], str(skills[0]) if skills else "", fix="take the file as it is")
        split = {f"{number:05d}": tag for tag in ("basic", "advanced") for number in tags.get(tag, ())}
        return [Prompt(name, entry["prompt"], (), split.get(name, "all")) for name, entry in entries.items()]

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask one question about the whole prompt; as in the benchmark's code, its quotes stay as they are."""
        text, version = self.version.template.format(prompt.prompt), self.version
        return (Message(WHOLE, text, (text,), image_first=version.image_first, max_tokens=1, words=version.words),)

    def judged(self, _prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Count whether the answer is no; scores are probabilities."""
        return {NO: no_answers(answers.values())}

    def measured(self, _prompt: Prompt, answers: Mapping[str, Answer]) -> Counts:
        """Count the probability; UnreadableAnswerError when the answer comes without."""
        answer = answers[WHOLE]
        counts: Counts = {self.metric: (self.version.rule(answer.probabilities, answer.is_ended), 1)}
        if f"{self.metric}_raw" in self.metrics and answer.raw_probabilities:
            counts[f"{self.metric}_raw"] = (self.version.rule(answer.raw_probabilities, answer.is_ended), 1)
        return counts
