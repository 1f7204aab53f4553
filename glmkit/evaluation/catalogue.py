"""Everything that an evaluation can name, and what is missing to run it, found out without a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from glmkit.errors import UserError
from glmkit.evaluation import baselines, suites
from glmkit.evaluation.baselines.diffusers import PRESETS
from glmkit.evaluation.features.extractors import clip, efficientnet_lite0, inception
from glmkit.evaluation.hub import on_this_machine
from glmkit.evaluation.metrics.clip import DEFAULT, OURS
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.reference_sets import presets, sets
from glmkit.models import checkpoint
from glmkit.models.checkpoint import published
from glmkit.records import Record


@dataclass(frozen=True)
class Entry(Record):
    """`kind` is suite, metric, engine, reference or model; `missing` is empty when it can run; `fix`: what to type."""

    kind: str
    name: str
    about: str
    missing: str = ""
    fix: str = ""


def catalogue() -> list[Entry]:
    """Suites, metrics, OCR engines, reference sets and models, in this order."""
    return [*_suites(), *_metrics(), *_engines(), *_references(), *_models()]


def _checked(entry: Entry, check: Callable[[], object]) -> Entry:
    """The entry with what the UserError of `check` says."""
    try:
        check()
    except UserError as error:
        return replace(entry, missing=error.what, fix=error.fix or "")
    return entry


def _suites() -> Iterator[Entry]:
    for name in suites.names():
        suite = suites.load(name)
        official = f"; official with {suite.official.engine}" if suite.official is not None else ""
        yield _checked(Entry("suite", name, ", ".join(suite.metrics) + official), partial(suite.files, None))


def _metrics() -> Iterator[Entry]:
    found: dict[str, list[str]] = {}
    for suite in suites.names():
        for metric in suites.load(suite).metrics:
            found.setdefault(metric, []).append(suite)
    for metric, where in found.items():
        yield Entry("metric", metric, f"of {', '.join(where)}")
    about = "cosine of image and prompt: --clip"
    yield _checked(Entry("metric", "clip_cosine", f"{about} {DEFAULT}"), partial(clip.check, DEFAULT))
    yield _checked(Entry("metric", "clip_glmkit_cosine", f"{about} {OURS}"), partial(clip.check, OURS))
    features = (
        (inception.Inception.distances, "inception", inception.check),
        ({"rbf": "cmmd"}, f"clip:{clip.CMMD}", partial(clip.check, clip.CMMD)),
        (efficientnet_lite0.EfficientNetLite0.distances, "efficientnet-lite0", efficientnet_lite0.check),
    )
    for distances, spec, check in features:
        for distance in distances.values():
            yield _checked(Entry("metric", distance, f"distance to a reference set with --features {spec}"), check)


def _engines() -> Iterator[Entry]:
    for name in engines.names():
        module, _ = engines.find(engines.resolve(name))
        yield _checked(Entry("engine", name, module.NAME), module.check)


def _references() -> Iterator[Entry]:
    for name in sets.names():
        reference = sets.get(name)
        entry = Entry("reference", name, f"{len(reference.complete)} kinds of features in {reference.folder}")
        unfinished = {"missing": "not finished", "fix": "repeat the glmkit reference add command that made it"}
        yield entry if reference.complete else replace(entry, **unfinished)
    for name, preset in presets.PRESETS.items():
        for model in preset.models:
            add = f"glmkit reference add {model} --preset {name} --model {model} --{preset.takes} {preset.files}"
            yield Entry(
                "reference",
                f"preset {name} {model}",
                f"read from --{preset.takes}",
                "your own download",
                f"{preset.fetch} && {add}",
            )


def _models() -> Iterator[Entry]:
    yield _checked(Entry("model", "nano", "ours, comes with glmkit"), partial(checkpoint.resolve, "nano"))
    yield _checked(Entry("model", "glm-image", published.HUB_ID), partial(on_this_machine, published.HUB_ID))
    for name, preset in PRESETS.items():
        about = f"{preset.hub_id}, {preset.steps} steps, guidance {preset.guidance}"
        entry = Entry("model", f"diffusers:{name}", about)
        yield _checked(entry, partial(on_this_machine, preset.hub_id))
    entry = Entry("model", "openai:MODEL", "an OpenAI-style images endpoint, OPENAI_BASE_URL")
    yield _checked(entry, partial(baselines.find, "openai:MODEL"))
