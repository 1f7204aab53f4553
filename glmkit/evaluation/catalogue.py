"""Everything that an evaluation can name, and what is missing to run it, found out without a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from glmkit.errors import UserError
from glmkit.evaluation import baselines, scorers, suites
from glmkit.evaluation.baselines.diffusers import PRESETS
from glmkit.evaluation.features.extractors import clip, efficientnet_lite0, inception
from glmkit.evaluation.hub import cached_repository
from glmkit.evaluation.judges import engines as judges
from glmkit.evaluation.metrics.clip import DEFAULT, OURS
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.reference_sets import presets, sets
from glmkit.evaluation.suites.shared.measured import MeasuredSuite
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.models import checkpoint
from glmkit.models.checkpoint import published
from glmkit.records import Record


@dataclass(frozen=True)
class CatalogueEntry(Record):
    """Describe a name of this kind: suite, metric, engine, judge, scorer, reference or model.

    `missing` is empty when it can run; `fix` is what to type otherwise.
    """

    kind: str
    name: str
    about: str
    missing: str = ""
    fix: str = ""


def catalogue() -> list[CatalogueEntry]:
    """List suites, metrics, OCR engines, judges, learned scorers, reference sets and models, in this order."""
    return [*_suites(), *_metrics(), *_engines(), *_judges(), *_scorers(), *_references(), *_models()]


def _checked(entry: CatalogueEntry, check: Callable[[], object]) -> CatalogueEntry:
    """Add what the UserError of `check` says."""
    try:
        check()
    except UserError as error:
        return replace(entry, missing=error.what, fix=error.fix or "")
    return entry


def _suites() -> Iterator[CatalogueEntry]:
    for name in suites.names():
        suite = suites.load(name)
        about = ", ".join(suite.metrics)
        if isinstance(suite, QuestionSuite):
            about = f"{next(iter(suite.metrics))}, ...: questions, --judge"
        elif isinstance(suite, MeasuredSuite):
            about += f"; measured by {suite.official.engine}"
        elif suite.official is not None:
            about += f"; official with {suite.official.engine}"
        yield _checked(CatalogueEntry("suite", name, about), partial(suite.files, None))


def _metrics() -> Iterator[CatalogueEntry]:
    suites_of: dict[str, list[str]] = {}
    for suite in suites.names():
        for metric in suites.load(suite).metrics:
            suites_of.setdefault(metric, []).append(suite)
    for metric, of_suites in suites_of.items():
        yield CatalogueEntry("metric", metric, f"of {', '.join(of_suites)}")
    about = "cosine of image and prompt: --clip"
    yield _checked(CatalogueEntry("metric", "clip_cosine", f"{about} {DEFAULT}"), partial(clip.check, DEFAULT))
    yield _checked(CatalogueEntry("metric", "clip_glmkit_cosine", f"{about} {OURS}"), partial(clip.check, OURS))
    features = (
        (inception.Inception.distances, "inception", inception.check),
        ({"rbf": "cmmd"}, f"clip:{clip.CMMD}", partial(clip.check, clip.CMMD)),
        (efficientnet_lite0.EfficientNetLite0.distances, "efficientnet-lite0", efficientnet_lite0.check),
    )
    for distances, spec, check in features:
        for distance in distances.values():
            yield _checked(
                CatalogueEntry("metric", distance, f"distance to a reference set with --features {spec}"), check
            )


def _engines() -> Iterator[CatalogueEntry]:
    for name in engines.names():
        module, _ = engines.find(engines.resolve(name))
        yield _checked(CatalogueEntry("engine", name, module.NAME), module.check)


def _judges() -> Iterator[CatalogueEntry]:
    for name in judges.names():
        module, _ = judges.find(judges.resolve(name))
        yield _checked(CatalogueEntry("judge", name, module.ABOUT), module.check)


def _scorers() -> Iterator[CatalogueEntry]:
    for name in scorers.names():
        module, _ = scorers.find(scorers.resolve(name))
        fix = {"missing": "weights of your own", "fix": module.FIX}
        yield replace(CatalogueEntry("scorer", name, module.ABOUT), **fix)


def _references() -> Iterator[CatalogueEntry]:
    for name in sets.names():
        reference = sets.get(name)
        entry = CatalogueEntry("reference", name, f"{len(reference.complete)} kinds of features in {reference.folder}")
        unfinished = {"missing": "not finished", "fix": "repeat the glmkit reference add command that made it"}
        yield entry if reference.complete else replace(entry, **unfinished)
    for name, preset in presets.PRESETS.items():
        for model in preset.models:
            add = f"glmkit reference add {model} --preset {name} --model {model} --{preset.takes} {preset.files}"
            yield CatalogueEntry(
                "reference",
                f"preset {name} {model}",
                f"read from --{preset.takes}",
                "your own download",
                f"{preset.fetch} && {add}",
            )


def _models() -> Iterator[CatalogueEntry]:
    yield _checked(CatalogueEntry("model", "nano", "ours, comes with glmkit"), partial(checkpoint.resolve, "nano"))
    yield _checked(CatalogueEntry("model", "glm-image", published.HUB_ID), partial(cached_repository, published.HUB_ID))
    for name, preset in PRESETS.items():
        about = f"{preset.hub_id}, {preset.steps} steps, guidance {preset.guidance}"
        entry = CatalogueEntry("model", f"diffusers:{name}", about)
        yield _checked(entry, partial(cached_repository, preset.hub_id))
    entry = CatalogueEntry("model", "openai:MODEL", "an OpenAI-style images endpoint, OPENAI_BASE_URL")
    yield _checked(entry, partial(baselines.find, "openai:MODEL"))
