"""What one evaluation measures, and the settings that decide its images and scores."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.evaluation import baselines, suites
from glmkit.evaluation.baselines import Baseline
from glmkit.evaluation.judges import engines as judges
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.ocr.lines import MIN_CONFIDENCE, EngineIdentity
from glmkit.evaluation.rewriting.rewriters import Rewriter, rewriter_of
from glmkit.evaluation.suites.shared.base import Suite
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import exists
from glmkit.hashing import file_sha256, fingerprint, json_sha256
from glmkit.records import SAMPLING, Prompt, Request
from glmkit.shipped import did_you_mean
from glmkit.shortcuts import EXACT, shortcuts
from glmkit.sizes import parse_size

if TYPE_CHECKING:
    from glmkit.models.hybrid import HybridModel

DEFAULT_ENGINE = "glmkit.evaluation.ocr.engines.paddleocr"


@dataclass(frozen=True)
class GenerationSettings:
    """Say how a model of ours or a baseline (`baselines.find`) generates. `dtype` is float32 or bfloat16.

    `height` and `width` are pixels; with `prompt_sizes` a prompt that names its size gets an image of that size.
    `count` is the number of images per prompt: of the prompt's seed and those after it, or of `seeds`. `steps` and
    `guidance` are None, and `dtype` is empty, where a baseline has no such thing. `reuse`, `guided`, `vae_tiling` and
    `sampling` are values of a `Request`; what `sampling` leaves out, it has. `precision` is one of `PRECISIONS`.
    """

    model: str
    adapters: tuple[str, ...]
    count: int
    height: int
    width: int
    steps: int | None
    guidance: float | None
    dtype: str
    prompt_sizes: bool = True
    reuse: int = Request.reuse
    guided: float = Request.guided
    vae_tiling: bool = Request.vae_tiling
    precision: str = EXACT["precision"]
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seeds: tuple[int, ...] = ()

    @classmethod
    def with_defaults(
        cls,
        model: str | HybridModel,
        device: str,
        *,
        baseline: Baseline | None = None,
        adapters: Sequence[str] = (),
        count: int = 1,
        seeds: Sequence[int] = (),
        size: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        reuse: int = Request.reuse,
        guided: float = Request.guided,
        vae_tiling: bool = Request.vae_tiling,
        precision: str = EXACT["precision"],
    ) -> GenerationSettings:
        """Take the model's own size, steps and guidance where None is given, and the dtype that `device` calculates in.

        `model` is the name of a model of ours or of a baseline, or a model that is loaded already: its adapters, dtype
        and precision count then. `baseline` is what `baselines.find` gives for the name. `size` is WIDTHxHEIGHT in
        pixels.
        """
        name = model if isinstance(model, str) else model.name
        if baseline is None and isinstance(model, str):
            baseline = baselines.find(model)
        defaults = _defaults(model) if baseline is None else baseline.defaults
        height, width = parse_size(size) if size else (defaults.height, defaults.width)
        return cls(
            model=name,
            adapters=tuple(adapters) if isinstance(model, str) else model.adapters,
            count=len(seeds) or count,
            height=height,
            width=width,
            steps=defaults.steps if steps is None else steps,
            guidance=defaults.guidance if guidance is None else guidance,
            dtype=_dtype(model, device) if baseline is None or baseline.is_local else "",
            prompt_sizes=size is None and baseline is None,  # prompts name sizes that our models know
            reuse=reuse,
            guided=guided,
            vae_tiling=vae_tiling,
            precision=_precision(model, precision) if baseline is None else precision,
            sampling=defaults.sampling,
            seeds=tuple(seeds),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values: seeds, shortcuts and unusual sampling only where there are any."""
        values = asdict(self)
        sampling = {name: value for name, value in values.pop("sampling").items() if value != SAMPLING[name]}
        seeds = {"seeds": list(named)} if (named := values.pop("seeds")) else {}
        exact = {name: value for name, value in values.items() if name not in EXACT}
        return exact | shortcuts(values) | sampling | seeds

    def seeds_of(self, prompt: Prompt) -> Sequence[int]:
        """Give the seeds of the images of a prompt."""
        return self.seeds or range(prompt.seed, prompt.seed + self.count)

    def size(self, prompt: Prompt) -> tuple[int, int]:
        """Give (height, width) of the images of a prompt."""
        return parse_size(prompt.size) if self.prompt_sizes and prompt.size else (self.height, self.width)

    def request(self, prompt: Prompt, seed: int, condition_images: tuple[str, ...] = ()) -> Request:
        """Ask for the image of a prompt and seed."""
        height, width = self.size(prompt)
        decoder: dict[str, Any] = {
            key: common if common is None or own is None else own
            for key, common, own in (
                ("steps", self.steps, prompt.steps),
                ("guidance", self.guidance, prompt.guidance),
            )
        }
        return Request(
            id=f"{prompt.id}_{seed}",
            prompt=prompt.prompt,
            seed=seed,
            height=height,
            width=width,
            condition_images=condition_images,
            texts=prompt.glyph_texts,
            reuse=self.reuse,
            guided=self.guided,
            vae_tiling=self.vae_tiling,
            **self.sampling,
            **{key: value for key, value in decoder.items() if value is not None},
        )


def _defaults(model: str | HybridModel) -> Any:
    from glmkit.models import checkpoint
    from glmkit.models.checkpoint import defaults

    return defaults.load(checkpoint.resolve(model) if isinstance(model, str) else model.folder)


def _dtype(model: str | HybridModel, device: str) -> str:
    import torch

    from glmkit.models.devices import dtype_for

    dtype = dtype_for(torch.device(device)) if isinstance(model, str) else model.dtype
    return str(dtype).removeprefix("torch.")


def _precision(model: str | HybridModel, precision: str) -> str:
    """Return the precision in which a model of ours is used."""
    if not isinstance(model, str):
        return model.precision
    from glmkit.generation.loading import precision_of
    from glmkit.models import checkpoint

    return precision_of(checkpoint.resolve(model), precision)


@dataclass(frozen=True)
class EvaluationPlan:
    """Say what one evaluation measures: images that a model generates, or those in the folder `images`.

    `engine` is the module of the OCR engine, MODULE or MODULE:LOCATION (`ocr.engines`). `data` is the folder with the
    prompt files of a public benchmark. `count` is the number of images per prompt in `images`, None takes what is
    there; `seeds` are those of every prompt, where they are named. `clip` names the CLIP that measures alignment,
    `scorers` the modules of learned scorers, MODULE:LOCATION, `references` the sets to which distances are measured.
    `name` is what reports call the run; "" for its model and adapters. `judge` is the module of the judge of a suite
    with questions, MODULE or MODULE:LOCATION (`judges.engines`); `answers` is a folder with answers that the benchmark
    publishes about a model, in place of judge and images. `rewrite` names who rewrites the prompts before images are
    generated (`rewriting.rewriters`), `rewrite_instruction` the file that says how; scores stay those of the prompts as
    they were.
    """

    suite: str
    engine: str = DEFAULT_ENGINE
    data: Path | None = None
    split: str | None = None
    limit: int | None = None
    generation: GenerationSettings | None = None
    images: Path | None = None
    count: int | None = None
    seeds: tuple[int, ...] = ()
    clip: str | None = None
    scorers: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    name: str = ""
    judge: str | None = None
    answers: Path | None = None
    rewrite: str | None = None
    rewrite_instruction: Path | None = None

    @property
    def model(self) -> str:
        """Return the model, or the name of the folder of images or answers."""
        if self.answers is not None:
            return self.answers.resolve().name
        return self.generation.model if self.generation is not None else self.image_folder.name

    @property
    def image_folder(self) -> Path:
        """Return the absolute path of `images`; UserError when there is no such folder."""
        if self.images is None or not (exists(self.images) and self.images.is_dir()):
            fix = "--images FOLDER with <prompt id>.png files"
            fix = fix if self.images is None else did_you_mean(self.images, fix)
            raise UserError(f"image folder {self.images} does not exist", fix=fix)
        return self.images.resolve()

    @cached_property
    def engine_identity(self) -> EngineIdentity:
        """Return the OCR engine with its weights and versions; finding out may start the engine or hash its weights."""
        module, location = engines.find(self.engine)
        identity: EngineIdentity = module.identity(location)
        return identity

    @cached_property
    def judge_identity(self) -> EngineIdentity | None:
        """Return the judge with all that decides its answers, None where a suite has none; may hash its weights."""
        if self.answers is not None:
            return EngineIdentity(f"published answers, {self.answers.resolve().parent.name}")
        if self.judge is None:
            return None
        module, location = judges.find(self.judge)
        identity: EngineIdentity = module.identity(location)
        return (
            replace(identity, versions=f"{identity.versions} {self.engine_identity}") if module.READS_TEXT else identity
        )

    @property
    def judge_reads_text(self) -> bool:
        """Tell whether the judge needs the lines that OCR recognizes in every image."""
        return self.judge is not None and bool(judges.find(self.judge)[0].READS_TEXT)

    @property
    def reads_text(self) -> bool:
        """Tell whether an OCR engine is needed at all."""
        return self.answers is None and (suites.load(self.suite).reads_text or self.judge_reads_text)

    @property
    def ocr(self) -> str:
        """Name the engine and the confidence from which its lines count, for people and for `settings`; "" for none."""
        return f"{self.engine_identity} confidence>={MIN_CONFIDENCE}" if self.reads_text else ""

    @cached_property
    def rewriter(self) -> Rewriter | None:
        """Say who rewrites the prompts, None where they stay; UserError for what it lacks here."""
        return rewriter_of(self.rewrite, self.rewrite_instruction)

    @cached_property
    def baseline(self) -> Baseline | None:
        """Return the model that generates when it is none of ours; finding out may download it."""
        return baselines.find(self.generation.model) if self.generation is not None else None

    def prompt_files(self) -> dict[str, str]:
        """Map the prompt files of the suite, by their path in the folder of all of them, to their sha256."""
        files = suites.load(self.suite).files(self.data)
        files = [path.absolute() for path in files]
        root = Path(os.path.commonpath([path.parent for path in files]))
        return {path.relative_to(root).as_posix(): file_sha256(path) for path in files}

    def settings(self, model: HybridModel | None = None) -> dict[str, Any]:
        """Collect what decides images and recognized text, as JSON values; prompts and weights by fingerprint.

        `model` is the loaded model, if there is one. CLIP and reference sets may be added to a run later; the summary
        says which they were.
        """
        shared = {
            "suite": self.suite,
            "suite_fingerprint": json_sha256(self.prompt_files())[:16],
            "split": self.split,
            "limit": self.limit,
            "ocr": self.ocr,
        }
        suite = suites.load(self.suite)
        if isinstance(suite, QuestionSuite):
            shared["judge"] = f"{self.judge_identity} {suite.asking}"
        if self.rewriter is not None:
            shared["rewrite"] = str(self.rewriter.identity)
        if self.answers is not None:
            folder = self.answers.resolve()
            return {**shared, "answers": str(folder), "answers_fingerprint": fingerprint(folder)}
        if self.generation is None:
            seeds = {"seeds": list(self.seeds)} if self.seeds else {}
            return {**shared, "images": str(self.image_folder), "count": self.count, **seeds}
        if self.baseline is not None:
            return {**shared, **self.generation.to_dict(), "adapters": [], **self.baseline.identity()}
        return {**shared, **self.generation.to_dict(), **_fingerprints(self.generation, model)}

    def check_prompts(self, suite: Suite, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return the prompts, those that the model cannot follow with their error.

        UserError when that is every one, when the fault is in the settings, and for prompts that cannot be rewritten.
        """
        if self.rewriter is not None:
            what = "images and answers that are there already" if self.generation is None else ""
            if any("condition_image" in suite.references(prompt) for prompt in prompts if prompt.error is None):
                what = "prompts that edit an image"
            if what:
                raise UserError(f"{what} are taken as they are", found=f"--rewrite {self.rewrite}", fix="leave it out")
        if self.seeds and (named := next((prompt for prompt in prompts if prompt.seed), None)):
            found = f"seed {named.seed} of {named.id}"
            raise UserError("the prompts give seeds, too, beside --seeds", found=found, fix="leave out one of them")
        if self.generation is None:
            return list(prompts)
        if self.baseline is None:
            if (wrong := _error(self.generation, Prompt("a", "a"))) is not None:
                raise wrong
            errors = {prompt.id: error for prompt in prompts if (error := _error(self.generation, prompt))}
            if errors and all(prompt.error or prompt.id in errors for prompt in prompts):
                raise next(iter(errors.values()))
            # Without its size, which may be the fault.
            return [
                replace(prompt, error=str(errors[prompt.id]), size="") if prompt.id in errors else prompt
                for prompt in prompts
            ]
        if any("condition_image" in suite.references(prompt) for prompt in prompts if prompt.error is None):
            model = self.generation.model
            raise UserError(f"{self.suite} asks for edits", found=model, fix="a model of ours, or --images DIR")
        return list(prompts)

    def check_judge(self, suite: Suite) -> None:
        """Raise UserError for a judge that is missing, or that has nothing to do."""
        if not isinstance(suite, QuestionSuite):
            if self.judge is not None or self.answers is not None:
                found = f"--answers {self.answers}" if self.judge is None else "--judge"
                raise UserError(f"{self.suite} asks no questions", found=found, fix="leave it out")
        elif self.answers is not None:
            if self.judge or self.generation or self.images or self.clip or self.scorers or self.references:
                fix = "leave out --judge, --images, --model, --clip, --scorer and --reference"
                raise UserError("published answers come without images, and have their judge", fix=fix)
            if not self.answers.is_dir():
                fix = "--answers DIR with the published answers about one model"
                raise UserError(f"folder {self.answers} does not exist", fix=fix)
        elif self.judge is None:
            fix = "--judge openai:MODEL, transformers:FOLDER, golden:FILE or posters (glmkit list)"
            raise UserError(f"{self.suite} asks questions about images, which need a judge", fix=fix)
        elif suite.judges and (judge := self.judge.partition(":")[0].rpartition(".")[2]) not in suite.judges:
            what = f"the judge {judge} does not give what {self.suite} needs: probabilities as its rule reads them"
            raise UserError(what, fix=f"--judge {' or '.join(f'{name}:...' for name in suite.judges)}")

    def default_folder(self) -> Path:
        """Name the run folder when none was chosen: the same settings always continue in the same folder."""
        return folder_of(self.suite, self.model, self.settings())


def folder_of(what: str, model: str, settings: Mapping[str, Any]) -> Path:
    """Name a folder in `reports` by what is evaluated, the model, and a hash of all settings."""
    name = re.sub(r"[^\w.-]", "-", Path(model).name)
    return Path("reports") / f"{what}-{name}-{json_sha256(settings)[:8]}"


def _error(generation: GenerationSettings, prompt: Prompt) -> UserError | None:
    """Say why the model cannot follow a prompt, None when it can, or when something else is wrong with the prompt."""
    from glmkit.generation.requests import check_request

    try:
        seeds = generation.seeds_of(prompt)
        for seed in (min(seeds), max(seeds)) if prompt.error is None else ():
            check_request(generation.request(prompt, seed))
    except UserError as error:
        return error
    return None


def _fingerprints(generation: GenerationSettings, model: HybridModel | None) -> dict[str, Any]:
    """Fingerprint the weights of a model of ours; UserError for adapters that do not fit."""
    from glmkit.models.checkpoint import resolve
    from glmkit.models.checkpoint.adapters import Adapter, check_adapter

    folder = resolve(generation.model) if model is None else model.folder
    for adapter in generation.adapters:
        check_adapter(folder, Adapter.parse(adapter).folder)
    adapters = [{"path": path, "fingerprint": fingerprint(Adapter.parse(path).folder)} for path in generation.adapters]
    return {"model_fingerprint": fingerprint(folder), "adapters": adapters}
