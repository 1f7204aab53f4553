"""Prompts -> images -> recognized lines, answers -> scores -> summary. Every step writes its file and resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.distributed.work_queue import exclusive
from glmkit.errors import UserError
from glmkit.evaluation import preference, stats, suites
from glmkit.evaluation.generated_images import generate_images
from glmkit.evaluation.given_images import copy_images
from glmkit.evaluation.judges.ask import Answers, ask
from glmkit.evaluation.judges.messages import JudgeError
from glmkit.evaluation.judges.read import judged_counts, judging, published_images
from glmkit.evaluation.ocr.cache import recognize
from glmkit.evaluation.ocr.limits import limits
from glmkit.evaluation.ocr.lines import EngineIdentity, OcrError, OcrResult, confident, texts_of
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.evaluation.rewriting.rewrite import Rewrites, counted, rewrite_prompts
from glmkit.evaluation.scorers import load_scorers
from glmkit.evaluation.suites.shared.base import Counts, Suite, family, why_not_official
from glmkit.evaluation.suites.shared.layouts import ImageFiles
from glmkit.evaluation.suites.shared.measured import MeasuredSuite, add_measures, identity_of
from glmkit.evaluation.suites.shared.questions import PublishedAnswers, QuestionSuite
from glmkit.files import atomic_path, cache_folder, make_folder, write_json, write_jsonl
from glmkit.generation.images import image_shortcuts
from glmkit.generation.options import InferenceOptions
from glmkit.progress import progress_bars
from glmkit.records import Generation, Prompt, Score, Summary
from glmkit.runs import open_run
from glmkit.worker_processes import WorkerProcesses, worth_it

if TYPE_CHECKING:
    from glmkit.evaluation.features.extractors import Extractor
    from glmkit.evaluation.features.extractors.clip import OpenClip
    from glmkit.evaluation.reference_sets.compare import LoadedSet
    from glmkit.evaluation.scorers import Scorer
    from glmkit.models.hybrid import HybridModel


def evaluate(
    plan: EvaluationPlan,
    folder: Path,
    device: str = "cpu",
    options: InferenceOptions | None = None,
    model: HybridModel | None = None,
) -> Summary:
    """Run the plan in `folder`, or continue it there; UserError with the difference when it holds another plan.

    Images are generated, and their features extracted, on `device`; OCR runs on the CPU. `model` is the model of
    `plan.generation` when it is loaded already. Writes manifest.json, references/ (where the suite has some),
    rewrites.jsonl (where prompts are rewritten), images.jsonl, images/, recognized_lines.jsonl (raw OCR), answers.jsonl
    (what a judge said), scores.jsonl and summary.json.
    """
    # 1. Load what the plan names, so that whatever is missing shows before an image is generated.
    make_folder(cache_folder())
    suite = suites.load(plan.suite)
    plan.check_judge(suite)
    prompts = suites.prompts(suite, plan.split, plan.limit, plan.data)
    settings = plan.settings(model)
    scorers = _load_scorers(plan, suite, device)
    if scorers.identity is not None:
        settings["measured_by"] = str(scorers.identity)
    files = suite.find(plan.image_folder, prompts) if plan.images is not None else None
    published = _published_answers(plan, suite, prompts)
    prompts = plan.check_prompts(suite, prompts)

    # 2. Generate the images, or copy the given ones; published answers come without images.
    open_run(folder, "eval", settings, device if plan.generation is not None else None)
    prompts, condition_images = write_references(folder, suite, prompts)
    rewrites = _rewrite(plan, folder, prompts)
    answers: dict[str, Answers] = {}
    if published is not None:
        images, answers = published_images(folder, prompts, published)
    elif plan.generation is not None:
        images = generate_images(
            folder, prompts, plan.generation, device, condition_images, options, plan.baseline, model, rewrites
        )
    else:
        images = copy_images(folder, files or {}, prompts, plan.count, plan.seeds)

    with exclusive(folder):  # what another process recognizes and measures at this moment must not be done twice
        # 3. Recognize the text in the images, and ask the judge; nothing is done again.
        lines = _recognize(plan, suite, folder, prompts, images)
        answers = answers or _ask(plan, suite, folder, prompts, images, lines, condition_images)

        # 4. Score each image; one that failed is a record with its error.
        prompt_of = {prompt.id: prompt for prompt in prompts}
        scores = _score_all(plan, suite, folder, prompt_of, images, lines, answers)
        scores = scorers.add_scores(folder, prompt_of, images, scores)
        write_jsonl(folder / "scores.jsonl", (record.to_dict() for record in scores))

        # 5. Pool the scores, with intervals over prompts, and set the images against reference sets.
        summary = summarize(plan, suite, scores, files, answers, _shortcuts(suite, folder, images), scorers.identity)
        if plan.rewriter is not None:
            summary = replace(summary, rewriting=counted(rewrites, plan.rewriter))
        summary = scorers.summarize(summary, folder, images, scores, device)
        if files is not None and (unmatched := _unmatched(plan, suite, files, prompts)):
            summary = replace(summary, notes=(*summary.notes, unmatched))
        write_json(folder / "summary.json", summary.to_dict())
    return summary


@dataclass(frozen=True)
class Scorers:
    """Hold the models that score images beside OCR and judge: those of a suite, and those that a plan asks for.

    `extractors` are those of a suite that measures, `clip` measures alignment, `learned` preference, and
    `reference_sets` give distances.
    """

    plan: EvaluationPlan
    suite: Suite
    extractors: Sequence[Extractor]
    clip: OpenClip | None
    learned: Sequence[Scorer]
    reference_sets: Sequence[LoadedSet]

    @property
    def identity(self) -> EngineIdentity | None:
        """Name the models of the suite with their weights; None where it has none."""
        return identity_of(self.extractors) if self.extractors else None

    def add_scores(
        self, folder: Path, prompts: Mapping[str, Prompt], images: Sequence[Generation], scores: list[Score]
    ) -> list[Score]:
        """Add to the scores of each image what the suite measures, alignment and learned scores, where there are any.

        `prompts` are those of the images by their ids.
        """
        if isinstance(self.suite, MeasuredSuite):
            scores = add_measures(self.suite, self.extractors, folder, prompts, images, scores, self.plan.data)
        if self.clip is not None:
            from glmkit.evaluation import alignment

            scores = alignment.add_cosines(self.clip, folder, images, scores)
        return preference.add_scores(self.learned, folder, images, scores)

    def summarize(
        self, summary: Summary, folder: Path, images: Sequence[Generation], scores: Sequence[Score], device: str
    ) -> Summary:
        """Return the summary with alignment, learned scores and distances, where they were asked for."""
        if self.clip is not None:
            from glmkit.evaluation import alignment

            summary = alignment.summarize(summary, self.clip, images, scores)
        summary = preference.summarize(summary, self.learned, images, scores)
        if self.reference_sets:
            from glmkit.evaluation.reference_sets.compare import distances

            measured = distances(folder, images, self.reference_sets, device)
            summary = replace(summary, distances=tuple(distance.to_dict() for distance in measured))
        return summary


def _load_scorers(plan: EvaluationPlan, suite: Suite, device: str) -> Scorers:
    """Load what a suite and its plan score images with; UserError for what is missing."""
    extractors = suite.extractors(plan.data, device) if isinstance(suite, MeasuredSuite) else ()
    clip, reference_sets = _load_features(plan, device)
    return Scorers(plan, suite, extractors, clip, load_scorers(plan.scorers, device), reference_sets)


def _load_features(plan: EvaluationPlan, device: str) -> tuple[OpenClip | None, Sequence[LoadedSet]]:
    """Load CLIP and reference sets; UserError for what is missing. torch is imported for nothing else."""
    if plan.clip is None and not plan.references:
        return None, ()
    from glmkit.evaluation.features.extractors.clip import OpenClip
    from glmkit.evaluation.reference_sets import compare

    reference_sets = compare.load_sets(plan.references, device)
    return OpenClip(plan.clip, device) if plan.clip else None, reference_sets


def _published_answers(plan: EvaluationPlan, suite: Suite, prompts: Sequence[Prompt]) -> PublishedAnswers | None:
    """Read the answers that a benchmark publishes about a model, where the plan names their folder."""
    if plan.answers is None or not isinstance(suite, QuestionSuite):
        return None
    return suite.published_answers(plan.answers, prompts, suite.files(plan.data))


def _unmatched(plan: EvaluationPlan, suite: Suite, files: ImageFiles, prompts: Sequence[Prompt]) -> str:
    """Say which of the given images belong to no prompt of the suite; "" when all of them do."""
    is_part = plan.split is not None or plan.limit is not None
    return suite.unmatched(
        plan.image_folder, files, prompts, suites.prompts(suite, data=plan.data) if is_part else prompts
    )


def write_references(
    folder: Path, suite: Suite, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], dict[str, tuple[str, ...]]]:
    """Write `references/<prompt id>/<name>.png` for what the suite gives.

    Returns the prompts, those whose images cannot be read with their error, and the images that they edit.
    """
    checked: list[Prompt] = []
    condition_images: dict[str, tuple[str, ...]] = {}
    for prompt in prompts:
        try:
            references = suite.references(prompt) if prompt.error is None else {}
            checked.append(prompt)
        except UserError as error:
            references = {}
            checked.append(replace(prompt, error=str(error)))
        for name, image in references.items():
            path = folder / "references" / prompt.id / f"{name}.png"
            with atomic_path(path) as temporary:
                image.save(temporary, format="PNG")
            if name.startswith("condition_image"):
                condition_images[prompt.id] = (*condition_images.get(prompt.id, ()), str(path))
    return checked, condition_images


def _rewrite(plan: EvaluationPlan, folder: Path, prompts: Sequence[Prompt]) -> Rewrites:
    """Rewrite the prompts, if the plan says so; maps their ids to the results."""
    if plan.rewriter is None:
        return {}
    texts = {prompt.id: (prompt.prompt, prompt.texts or None) for prompt in prompts if prompt.error is None}
    return rewrite_prompts(folder, texts, plan.rewriter, lock=folder)


def _recognize(
    plan: EvaluationPlan, suite: Suite, folder: Path, prompts: Sequence[Prompt], images: Sequence[Generation]
) -> dict[str, OcrResult]:
    """Recognize the text in all images, or, where a judge does not need it, in those of prompts with texts."""
    if not plan.reads_text:
        return {}
    every = plan.judge is None or plan.judge_reads_text
    max_tokens = {prompt.id: suite.max_answer_tokens(prompt) for prompt in prompts if every or prompt.texts}
    wanted = [image for image in images if image.prompt_id in max_tokens]
    return recognize(folder, wanted, plan.engine, plan.engine_identity, max_tokens)


def _ask(
    plan: EvaluationPlan,
    suite: Suite,
    folder: Path,
    prompts: Sequence[Prompt],
    images: Sequence[Generation],
    lines: Mapping[str, OcrResult],
    condition_images: Mapping[str, Sequence[str]],
) -> dict[str, Answers]:
    """Ask the judge of the plan, if it has one."""
    if plan.judge is None or plan.judge_identity is None or not isinstance(suite, QuestionSuite):
        return {}
    messages = {prompt.id: suite.messages(prompt) for prompt in prompts}
    read = lines if plan.judge_reads_text else {}
    return ask(folder, images, messages, plan.judge, plan.judge_identity, read, condition_images)


def score(
    suite: Suite,
    prompt: Prompt,
    image: Generation,
    lines: Mapping[str, OcrResult],
    folder: Path,
    answers: Answers | None = None,
) -> Score:
    """Score one image of a run by its lines and by the answers of a judge; where they failed, the record says why."""
    empty = Score(image.id, prompt.id, image.seed, prompt.split, prompt.language, prompt.texts)
    if image.error is not None:
        return replace(empty, error=image.error)
    counts: Counts = {}
    if isinstance(suite, QuestionSuite):
        try:
            counts = judged_counts(suite, prompt, answers or {})
        except JudgeError as error:
            return replace(empty, error=f"judge: {error}")
    result = lines.get(image.id)
    if result is None:
        return replace(empty, counts=counts)
    if isinstance(result, OcrError):
        return replace(empty, error=f"OCR: {result}")
    read = confident(result)
    counts |= suite.counts(prompt, read, folder / str(image.file))
    return replace(empty, recognized_lines=texts_of(read), counts=counts)


def scorer(name: str) -> Callable[[tuple[Any, ...]], Score]:
    """Return what scores an image of a suite by the other arguments of `score`: the function of a process."""
    suite = suites.load(name)
    return lambda given: score(suite, *given)


def _score_all(
    plan: EvaluationPlan,
    suite: Suite,
    folder: Path,
    prompts: Mapping[str, Prompt],
    images: Sequence[Generation],
    lines: Mapping[str, OcrResult],
    answers: Mapping[str, Answers],
) -> list[Score]:
    """Score images in their order; many of a slow suite in processes of their own. `prompts` have their ids."""

    def given(one: Generation) -> tuple[Any, ...]:
        read = {one.id: lines[one.id]} if one.id in lines else {}
        return prompts[one.prompt_id], one, read, folder, answers.get(one.id)

    if not (suite.is_slow and worth_it(len(images))):
        return [score(suite, *given(one)) for one in images]
    make = f"{__name__}:{scorer.__name__}"
    with WorkerProcesses(make, plan.suite, inputs=len(images)) as processes, progress_bars() as progress:
        waiting = [processes.submit(given(one)) for one in images]
        results = (one.result() for one in waiting)
        return list(progress.track(results, len(waiting), description="scoring images"))


def _shortcuts(suite: Suite, folder: Path, images: Sequence[Generation]) -> tuple[str, ...]:
    """List the shortcuts that the images of a run were made with, wherever they come from; only official names ask."""
    if suite.official is None:
        return ()
    paths = [folder / image.file for image in images if image.file is not None]
    found = {f"{name} {value}" for path in paths for name, value in image_shortcuts(path).items()}
    return tuple(sorted(found))


def summarize(
    plan: EvaluationPlan,
    suite: Suite,
    scores: Sequence[Score],
    files: ImageFiles | None,
    answers: Mapping[str, Answers],
    shortcuts: Sequence[str] = (),
    measured_by: EngineIdentity | None = None,
) -> Summary:
    """Pool the scores of all images and of each split, with intervals over prompts, and say what they may be called.

    `files` are the given image files, None when a model generated the images; `answers` are those of a judge.
    `shortcuts` are those of the images, `measured_by` the models of a suite that has its own.
    """
    splits = dict.fromkeys(score.split for score in scores)
    # A metric of what no prompt of these names, such as the places of texts, is left out.
    values = {name: score["value"] for name, score in _pool(suite.metrics, scores)["scores"].items()}
    metrics = {name: about for name, about in suite.metrics.items() if values[name] is not None} or suite.metrics
    identity, verb = measured_by or plan.judge_identity, "measured" if measured_by else "judged"
    if identity is None:
        identity, verb = plan.engine_identity, "read"
    why_not: tuple[str, ...] = ()
    if suite.official is not None:
        digests = plan.prompt_files()
        why_not = why_not_official(suite.official, identity, digests, scores, files, shortcuts, verb)
    expected = {score.prompt_id: score.expected for score in scores if score.expected}
    about_judge = judging(suite, plan.judge_identity, answers)
    partial = stats.partial_means(scores, (name for name in metrics if values[name] is not None))
    return Summary(
        suite=plan.suite,
        model=plan.model,
        adapters=plan.generation.adapters if plan.generation is not None else (),
        **_pool(metrics, scores),
        splits={split: _pool(metrics, [score for score in scores if score.split == split]) for split in splits},
        metrics=metrics,
        ocr=plan.ocr,
        bootstrap={"unit": "prompt", "resamples": stats.RESAMPLES, "level": stats.LEVEL, "seed": stats.SEED},
        family=family(suite, identity, why_not, verb),
        why_not_official=why_not,
        name=plan.name,
        ocr_limits=limits(plan.engine, expected) if plan.reads_text and expected else (),
        **{**about_judge, "notes": (*about_judge.get("notes", ()), *partial)},
    )


def _pool(metrics: Iterable[str], scores: Sequence[Score]) -> dict[str, Any]:
    scored = [score for score in scores if score.error is None]
    estimates = {metric: stats.estimate(scored, metric) for metric in metrics}
    no_share = stats.estimate(scored, stats.NO).value
    return {
        "n_scored": len(scored),
        "n_total": len(scores),
        "n_prompts": len({score.prompt_id for score in scored}),
        "scores": {metric: {"value": e.value, "low": e.low, "high": e.high} for metric, e in estimates.items()},
        **({} if no_share is None else {"no_share": no_share}),
    }
