"""The parts of OneIG-Bench (Chang et al. 2025, arXiv 2506.07977) that need no judge: diversity, style and reasoning.

Prompts: `OneIG-Bench.csv` and `OneIG-Bench-ZH.csv` of the repository OneIG-Bench/OneIG-Benchmark. Images:
`<class>/<model>/<id>.webp`, four in a grid of 2 x 2 of which missing ones are black; cut and saved as JPEG first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Never

import numpy as np

from glmkit.errors import UserError
from glmkit.evaluation.suites.shared import layouts
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.evaluation.suites.shared.measured import Features, MeasuredSuite
from glmkit.evaluation.suites.shared.oneig_alignment import TABLES, ZH_CLASSES
from glmkit.inputs.records import read_csv
from glmkit.records import Generation, Prompt

if TYPE_CHECKING:
    from glmkit.evaluation.features.extractors import Extractor

CLASSES = {**ZH_CLASSES, "text": "Text_Rendering", "reasoning": "Knowledge_Reasoning"}
STYLE = Path("scripts") / "style"
FETCH = "git clone https://github.com/OneIG-Bench/OneIG-Benchmark, then --data OneIG-Benchmark with {}"


class OneigPart(MeasuredSuite):
    """Hold prompts and images of some classes; `language` is en or zh."""

    part: str
    needs: str

    def __init__(self, language: str, classes: Sequence[str], definition: str, prompts: int) -> None:
        self.language, self.classes = language, tuple(classes)
        self.table, self.column, _, _ = TABLES[language]
        name = f"OneIG-Bench {self.part} ({language})"
        self.metrics = {f"oneig_{self.part}": {"direction": "higher", "definition": f"{name}: {definition}."}}
        self.official = OfficialProtocol(name, self.needs, {}, prompts, images_per_prompt=4, grids=True)

    def files(self, data: Path | None) -> list[Path]:
        """Give the table of prompts, and what the part compares with."""
        return files_in(
            f"oneig-{self.part}-{self.language}",
            data,
            lambda folder: [folder / self.table, *(folder / name for name in self.more)],
            FETCH.format(self.table),
        )

    @property
    def more(self) -> tuple[Path, ...]:
        """Return the files beside the table of prompts."""
        return ()

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts of the classes; the class is the split."""
        wanted, names = ("category", "id", self.column), {CLASSES[name]: name for name in self.classes}
        lines = read_csv(files[0])
        if not lines or any(not line.get(name) for line in lines for name in wanted):
            raise UserError(
                f"{files[0]} needs lines with the columns {', '.join(wanted)}", fix="take the file as it is"
            )
        return [
            Prompt(f"{name}-{line['id']}", line[self.column], (), name, self.language)
            for line in lines
            if (name := names.get(line["category"]))
        ]

    def images_in(self, folder: Path, prompts: Sequence[Prompt]) -> ImageFiles:
        """Find grids in the benchmark's folders, those of one model, or images named after prompt ids."""
        return layouts.grids_by_class(folder, prompts, self.classes)

    def image_names(self, prompt: Prompt) -> str:
        """Say how the images of a prompt should be called."""
        return f"{prompt.split}/{prompt.id.partition('-')[2]}.webp (a 2 x 2 grid) or {prompt.id}_0.png"

    @abstractmethod
    def extractors(self, data: Path | None, device: str) -> Sequence[Extractor]:
        """Load the models; UserError says what they need."""

    def root(self, data: Path | None) -> Path:
        """Find the folder of the benchmark."""
        return self.files(data)[0].parent


class OneigDiversity(OneigPart):
    """Average the distances of the images of a prompt to each other."""

    part = "diversity"
    needs = "DreamSim, ensemble"

    def __init__(self, language: str) -> None:
        classes = [name for name in CLASSES if name != "multilingualism" or language == "zh"]
        definition = (
            "DreamSim distance, mean over the pairs of images of a prompt, then over prompts. A model whose images "
            "fall apart scores high"
        )
        super().__init__(language, classes, definition, {"en": 1120, "zh": 1320}[language])

    def extractors(self, data: Path | None, device: str) -> Sequence[Extractor]:
        """Load DreamSim with the weights in the folder `models` of the benchmark, as its README says."""
        from glmkit.evaluation.features.oneig import DreamSim

        return (DreamSim(self.root(data) / "models", device),)

    def measures(
        self,
        _prompts: Mapping[str, Prompt],
        images: Sequence[Generation],
        features: Sequence[Features],
        _data: Path | None,
    ) -> Mapping[str, Counts]:
        """Count each pair at its second image; an image that is alone counts nothing."""
        unit = {name: vector / np.linalg.norm(vector) for name, vector in features[0].items()}
        before: dict[str, list[Generation]] = {}
        counts: dict[str, Counts] = {}
        for image in images:
            others = before.setdefault(image.prompt_id, [])
            counts[image.id] = {
                f"diversity/{other.seed}": (1 - float(unit[other.id] @ unit[image.id]), 1) for other in others
            }
            others.append(image)
        return counts


class OneigStyle(OneigPart):
    """Compare images with references of the style that their prompt asks for."""

    part = "style"
    needs = "CSD and the style encoder of OneIG-Bench"

    def __init__(self, language: str) -> None:
        definition = (
            "of an image, the mean of two cosines to the nearest reference of its style, by CSD and by the benchmark's "
            "encoder, each at least 0; mean over the images of a prompt, then over prompts"
        )
        super().__init__(language, ["anime"], definition, prompts=114)

    @property
    def more(self) -> tuple[Path, ...]:
        """Return the styles of prompts, and the references of both encoders."""
        return tuple(STYLE / name for name in ("style.csv", "CSD_embed.pt", "SE_embed.pt"))

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read the prompts that ask for a style."""
        styles = {line.get("id"): line.get("class", "").strip() for line in read_csv(files[1])}
        return [prompt for prompt in super().read(files) if styles.get(prompt.id.partition("-")[2])]

    def extractors(self, data: Path | None, device: str) -> Sequence[Extractor]:
        """Load both encoders: CSD from scripts/style/models, as the benchmark's README says, the other from the hub."""
        from glmkit.evaluation.features.oneig import ENCODER, CsdStyle, StyleEncoder

        return CsdStyle(self.root(data) / STYLE / "models" / "checkpoint.pth", device), StyleEncoder(ENCODER, device)

    def measures(
        self,
        _prompts: Mapping[str, Prompt],
        images: Sequence[Generation],
        features: Sequence[Features],
        data: Path | None,
    ) -> Mapping[str, Counts]:
        """Count the mean of both cosines of each image."""
        from glmkit.evaluation.features.oneig import style_references

        _, table, *paths = self.files(data)
        styles = {line["id"]: line["class"].strip().lower().replace(" ", "_") for line in read_csv(table)}
        references = [style_references(path) for path in paths]
        counts: dict[str, Counts] = {}
        for image in images:
            style = styles[image.prompt_id.partition("-")[2]]
            if unknown := next((path for path, of in zip(paths, references, strict=True) if style not in of), None):
                raise UserError(f"{unknown} has no references of style {style}", fix="take the files as they are")
            nearest = [
                max(0.0, float((of[style] @ vectors[image.id]).max()))
                for of, vectors in zip(references, features, strict=True)
            ]
            counts[image.id] = {"style": (sum(nearest) / len(nearest), 1)}
        return counts


class OneigReasoning(OneigPart):
    """Say what the reasoning part needs, which glmkit does not run."""

    part = "reasoning"
    needs = "LLM2CLIP"

    def __init__(self, language: str) -> None:
        definition = (
            "cosine of an image and the reference answer by LLM2CLIP; mean over the images of a prompt, then over "
            "prompts"
        )
        super().__init__(language, ["reasoning"], definition, prompts=225)

    def extractors(self, _data: Path | None, _device: str) -> Never:
        """Raise UserError: the models come with code of their own."""
        raise UserError(
            "OneIG-Bench measures reasoning by microsoft/LLM2CLIP-Openai-L-14-336 and "
            "microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned (17 GB), which bring code that glmkit does not run",
            fix="run_reasoning.sh of OneIG-Benchmark; --suite oneig-overall-en reads results/reasoning_score_*.csv",
        )

    def measures(
        self,
        _prompts: Mapping[str, Prompt],
        _images: Sequence[Generation],
        _features: Sequence[Features],
        _data: Path | None,
    ) -> Mapping[str, Counts]:
        """Count nothing: there are no features."""
        return {}
