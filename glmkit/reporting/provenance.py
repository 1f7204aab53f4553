"""What was compared, and with what: the tables of facts at the end of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.files import shareable_path
from glmkit.reporting import wording
from glmkit.reporting.load import EvalRun
from glmkit.shortcuts import shortcuts

Facts = list[tuple[str, list[str]]]  # label, one text per run
ABSENT = "–"


def setup_facts(runs: Sequence[EvalRun]) -> Facts:
    """Collect the facts that a reader needs first."""
    return [
        ("Model", [shareable_path(run.summary.model) for run in runs]),
        ("Adapters", ["\n".join(map(shareable_path, run.summary.adapters)) or "none" for run in runs]),
        ("Prompts", [str(len(run.prompts)) for run in runs]),
        ("Seeds", [", ".join(map(str, run.seeds)) for run in runs]),
        ("Images scored", [f"{run.summary.n_scored} of {run.summary.n_total}" for run in runs]),
        ("OCR engine", [run.summary.ocr or ABSENT for run in runs]),
        *([("Judge", [run.summary.judge or ABSENT for run in runs])] if any(run.summary.judge for run in runs) else []),
        ("Scores", [run.summary.family or ABSENT for run in runs]),
        *clip_facts(runs),
        ("Generated with", [generation_settings(run.manifest["settings"]) for run in runs]),
        ("Device", [device_text(run.manifest["environment"]) for run in runs]),
        ("Started", [run.manifest["started"].replace("T", " ").replace("+00:00", " UTC") for run in runs]),
    ]


def device_text(environment: Mapping[str, Any]) -> str:
    """Describe a device, with the model of a GPU where the run recorded it."""
    return ", ".join(filter(None, (environment["device"], environment.get("gpu")))) or ABSENT


def clip_facts(runs: Sequence[EvalRun]) -> Facts:
    """Name the CLIP that measured the alignment, when one did."""
    if not any(run.summary.alignment for run in runs):
        return []
    return [("CLIP", [clip_text(run.summary.alignment) for run in runs])]


def clip_text(alignment: Mapping[str, Any]) -> str:
    """Describe the model, its CLIPScore where it is one, and how many prompts were truncated."""
    if not alignment:
        return ABSENT
    lines = [f"{alignment['model']}, weights {alignment['weights_sha256'][:12]}"]
    if score := alignment["clipscore"]:
        low, high = score["low"], score["high"]
        interval = "" if low is None else f" ({wording.number(low)} to {wording.number(high)})"
        lines.append(f"CLIPScore {wording.number(score['value'])}{interval}")
    else:
        lines.append("not comparable with published CLIPScores")
    lines.append(f"{alignment['truncated_prompts']} of {wording.count(alignment['prompts'], 'prompt')} truncated")
    return "\n".join(lines)


def generation_settings(settings: Mapping[str, Any]) -> str:
    """Describe size, steps, guidance, shortcuts, and who rewrote the prompts.

    Endpoints have only a size, and images that were made elsewhere nothing.
    """
    if "steps" not in settings:
        return ABSENT
    size = f"{settings['width']}x{settings['height']} pixels"
    if settings.get("prompt_sizes"):
        size += " unless the prompt names a size"
    steps, guidance = settings["steps"], settings["guidance"]
    texts = [size, "" if steps is None else f"{steps} steps", "" if guidance is None else f"guidance {guidance}"]
    texts += [f"{name} {value}" for name, value in shortcuts(settings).items()]
    texts.append(f"prompts rewritten by {settings['rewrite']}" if settings.get("rewrite") else "")
    return ", ".join(filter(None, texts))


def recorded_facts(runs: Sequence[EvalRun]) -> Facts:
    """Collect everything that the manifests recorded, with a dash where a run lacks what another has."""
    by_run = [manifest_facts(run) for run in runs]
    labels = dict.fromkeys(label for facts in by_run for label in facts)
    return [(label, [facts.get(label, ABSENT) for facts in by_run]) for label in labels]


def manifest_facts(run: EvalRun) -> dict[str, str]:
    """Describe the settings and the environment of one run."""
    settings, environment = run.manifest["settings"], run.manifest["environment"]
    git = environment["git"]
    return {
        "Run folder": Path(run.folder).resolve().name,
        **{wording.label(name): value_text(value) for name, value in settings.items()},
        "glmkit": environment["glmkit"],
        "Revision": ABSENT if git is None else git["revision"][:12] + (" with local changes" if git["dirty"] else ""),
        "Python": environment["python"],
        "Platform": environment["platform"],
        "Libraries": "\n".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "Continued": "\n".join(resumed["at"] for resumed in run.manifest["resumed"]) or "never",
        "Intervals": ", ".join(f"{name} {value}" for name, value in run.summary.bootstrap.items()),
    }


def value_text(value: Any) -> str:
    """Return a JSON value as people write it."""
    if value in (None, [], ""):
        return "none"
    if isinstance(value, list):
        return "\n".join(value_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(item)}" for name, item in value.items())
    return str(value)
