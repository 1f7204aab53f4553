"""What was compared, and with what: the tables at the top and at the end of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.reporting import words
from glmkit.reporting.load import EvalRun

Table = list[tuple[str, list[str]]]  # label, one text a run


def setup(runs: Sequence[EvalRun]) -> Table:
    """The facts that a reader needs first: one row a fact, one column a run."""
    return [
        ("Model", [run.summary.model for run in runs]),
        ("Adapters", ["\n".join(run.summary.adapters) or "none" for run in runs]),
        ("Prompts", [str(len(run.prompts)) for run in runs]),
        ("Seeds", [", ".join(map(str, run.seeds)) for run in runs]),
        ("Images scored", [f"{run.summary.n_scored} of {run.summary.n_total}" for run in runs]),
        ("Read by", [run.summary.ocr for run in runs]),
        ("Scores", [run.summary.family or "–" for run in runs]),
        *clip_rows(runs),
        ("Drawn with", [drawn_with(run.manifest["settings"]) for run in runs]),
        ("Device", [run.manifest["environment"]["device"] or "–" for run in runs]),
        ("Started", [run.manifest["started"].replace("T", " ").replace("+00:00", " UTC") for run in runs]),
    ]


def clip_rows(runs: Sequence[EvalRun]) -> Table:
    """Which CLIP measured the alignment, when one did."""
    if not any(run.summary.alignment for run in runs):
        return []
    return [("CLIP", [clip_text(run.summary.alignment) for run in runs])]


def clip_text(alignment: Mapping[str, Any]) -> str:
    """The model, its published scale where there is one, and how many prompts it did not see whole."""
    if not alignment:
        return "–"
    lines = [f"{alignment['model']}, weights {alignment['weights_sha256'][:12]}"]
    if score := alignment["clipscore"]:
        interval = "" if score["low"] is None else f" ({words.number(score['low'])} to {words.number(score['high'])})"
        lines.append(f"CLIPScore {words.number(score['value'])}{interval}")
    else:
        lines.append("not comparable with published CLIPScores")
    lines.append(f"{alignment['truncated_prompts']} of {words.count(alignment['prompts'], 'prompt')} truncated")
    return "\n".join(lines)


def drawn_with(settings: dict[str, Any]) -> str:
    """Size, steps and guidance; endpoints have only a size, and images that were made elsewhere nothing."""
    if "steps" not in settings:
        return "–"
    size = f"{settings['width']}x{settings['height']} pixels"
    if settings.get("own_sizes"):
        size += " unless the prompt names a size"
    steps, guidance = settings["steps"], settings["guidance"]
    parts = [size, "" if steps is None else f"{steps} steps", "" if guidance is None else f"guidance {guidance}"]
    return ", ".join(filter(None, parts))


def provenance(runs: Sequence[EvalRun]) -> Table:
    """Everything that the manifests recorded; a row for each name that any of them has."""
    facts = [collect(run) for run in runs]
    names = dict.fromkeys(name for fact in facts for name in fact)
    return [(name, [fact.get(name, "–") for fact in facts]) for name in names]


def collect(run: EvalRun) -> dict[str, str]:
    settings, environment = run.manifest["settings"], run.manifest["environment"]
    git = environment["git"]
    return {
        "Run folder": Path(run.folder).resolve().name,
        **{words.label(name): text(value) for name, value in settings.items()},
        "glmkit": environment["glmkit"],
        "Revision": "–" if git is None else git["revision"][:12] + (" with local changes" if git["dirty"] else ""),
        "Python": environment["python"],
        "Platform": environment["platform"],
        "Libraries": "\n".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "Continued": "\n".join(resumed["at"] for resumed in run.manifest["resumed"]) or "never",
        "Intervals": ", ".join(f"{name} {value}" for name, value in run.summary.bootstrap.items()),
    }


def text(value: Any) -> str:
    """A JSON value as people write it."""
    if value in (None, [], ""):
        return "none"
    if isinstance(value, list):
        return "\n".join(text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {text(item)}" for name, item in value.items())
    return str(value)
