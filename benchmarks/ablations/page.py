"""Write curves (PNG) and the page `README.md` from `results/`: hypothesis, set-up, result with spread, limitations.

    python benchmarks/ablations/page.py

Whatever has no results is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import definitions
from definitions import HERE, Ablation, run_name
from PIL import Image

from glmkit.errors import UserError
from glmkit.files import atomic_path, read_json
from glmkit.reporting.figures import bare, log_scale

INK, MUTED = "#222222", "#888888"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # distinct for colour-blind readers, too
LOWER_IS_BETTER = {"loss", "preview", "large"}
MEANING = {
    "word_accuracy": "words read by OCR",
    "ned": "NED of what OCR reads",
    "attribute_accuracy": "attributes as the caption describes them",
    "word_accuracy everyday-en": "English: words read by OCR",
    "ned everyday-en": "English: NED of what OCR reads",
    "attribute_accuracy everyday-en": "English: attributes as the prompt names them",
    "character_accuracy everyday-zh": "Chinese: characters read by OCR",
    "ned everyday-zh": "Chinese: NED of what OCR reads",
    "attribute_accuracy everyday-zh": "Chinese: attributes as the prompt names them",
    "background": "background as described",
    "shape": "shape and its colour as described",
    "shape_position": "position of the shape as described",
    "text_position": "position of the text as described",
    "loss": "validation velocity error at 256x256",
    "preview": "validation loss of the preview, nats per token",
    "large": "validation loss of the large grid, nats per token",
    "preview_entropy": "entropy of preview tokens without context, nats",
    "large_entropy": "entropy of large-grid tokens without context, nats",
    "codebook_usage": "share of the codebook in use",
}
PANELS = (  # of a result of condition_attention.py: key of its measurements, label, factor
    ("step_seconds", "ms per step", 1e3),
    ("peak_bytes", "MiB to generate", 2**-20),
    ("train_step_seconds", "ms per training step", 1e3),
    ("train_peak_bytes", "MiB to train", 2**-20),
)
INTRODUCTION = """# The ablations, measured

Each ablation tests one statement of the system's description of its design, on the nano of 0.1 and its posters. Its
arms are recipes with equal compute and everything else equal. `python benchmarks/ablations/page.py` writes this page
from the files in `results/`. What has not been measured is not on it, and a result that contradicts its hypothesis
stays.

```bash
python benchmarks/ablations/run.py --help              # every arm and what a run costs
python benchmarks/ablations/run.py glyphs on --seed 0  # train, generate from 128 prompts, score; repeat to continue
python benchmarks/ablations/condition_attention.py  # time and memory of attention to condition images
python benchmarks/ablations/page.py
```

Spread is the lowest and the highest of the seeds. Differences are taken seed by seed. One seed says nothing about the
spread over seeds; its images are 128, so that a share near 0.5 is known to about 0.09 (95 %).
"""


Result = Mapping[str, Any]  # the file of one run, or of one measurement of attention
Results = Mapping[str, Sequence[Result]]  # by arm


def load_results(results: Path, ablation: Ablation) -> dict[str, list[dict[str, Any]]]:
    """Read the results of every measured arm, by seed.

    UserError when two of them start from different weights of a pretrained component.
    """
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for name in ablation.arms:
        owner, arm, _ = definitions.resolve(ablation.name, name)
        files = [read_json(path) for path in results.glob(f"{owner}-{arm}-*.json")]
        of_arm = [result for result in files if (result["ablation"], result["arm"]) == (owner, arm)]
        if of_arm:
            by_arm[name] = sorted(of_arm, key=lambda result: result["seed"])
    fingerprints: dict[str, str] = {}
    for result in chain.from_iterable(by_arm.values()):
        for component, fingerprint in result["pretrained"].items():
            first = fingerprints.setdefault(component, fingerprint)
            if first != fingerprint:
                raise UserError(
                    f"the results of {ablation.name} start from different weights of {component}",
                    found=f"{first}, {fingerprint}",
                )
    return by_arm


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and lowest to highest where there is more than one."""
    mean, *ends = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"


def measures_table(ablation: Ablation, by_arm: Results) -> Iterator[str]:
    """Yield one line per measure, one column per arm; measures that no arm has are left out."""
    yield "| measure | " + " | ".join(f"{name} (n {len(results)})" for name, results in by_arm.items()) + " |"
    yield "| --- |" + " --- |" * len(by_arm)
    for measure in ablation.measures:
        cells = []
        for results in by_arm.values():
            values = [result["measures"][measure] for result in results if measure in result["measures"]]
            cells.append(spread(values) if values else "")
        if any(cells):
            better = "lower is better" if measure in LOWER_IS_BETTER else ""
            label = ", ".join(filter(None, (MEANING[measure], better)))
            yield f"| {label} | " + " | ".join(cells) + " |"
    durations = (spread([_training_seconds(result) for result in results], 0) for results in by_arm.values())
    yield "| training, s | " + " | ".join(durations) + " |"


def differences(ablation: Ablation, by_arm: Results) -> Iterator[str]:
    """Yield the first arm minus each other, seed by seed, of every measure."""
    first, *others = by_arm
    for other in others:
        for measure in ablation.measures:
            pairs = [
                a["measures"][measure] - b["measures"][measure]
                for a in by_arm[first]
                for b in by_arm[other]
                if a["seed"] == b["seed"] and measure in a["measures"] and measure in b["measures"]
            ]
            if len(pairs) > 1:
                yield f"- {first} - {other}, {MEANING[measure]}: {spread(pairs)}; {verdict(pairs)}"


def verdict(pairs: Sequence[float]) -> str:
    """Say what differences of single seeds show together."""
    if not any(pairs):
        return "equal"
    return "the same sign in every seed" if min(pairs) > 0 or max(pairs) < 0 else "not resolved"


def strips(ablation: Ablation, results: Path, by_arm: Results, page: Path) -> Iterator[str]:
    """Yield a strip of images per arm, where its run left them; links are relative to the folder `page`."""
    for name, (result, *_) in by_arm.items():
        path = results / f"{run_name(result['ablation'], result['arm'], result['seed'])}.webp"
        if path.exists():
            yield f"{name}:\n\n![{ablation.title}: {name}]({os.path.relpath(path, page)})"


def _training_seconds(result: Result) -> float:
    return float(sum(step["seconds"] for step in result["steps"]))


def _validation_curves(results: Sequence[Result]) -> Iterator[tuple[tuple[str, str], list[tuple[float, float]]]]:
    """Yield (recipe, loss) with its points (million posters seen, validation loss), for every training step."""
    for result in results:
        for step in result["steps"]:
            for loss in ("preview", "large") if step["recipe"] == "autoregressive" else ("loss",):
                points = [(seen / 1e6, losses[loss]) for seen, losses in step["validation"] if loss in losses and seen]
                if points and step["recipe"] != "semantic_vq":
                    yield (step["recipe"], loss), points


def curves(by_arm: Results, path: Path) -> bool:
    """Plot the validation losses of every kind of step; False where there is none."""
    panels: dict[tuple[str, str], list[tuple[str, list[tuple[float, float]]]]] = {}
    for arm, results in by_arm.items():
        for panel, points in _validation_curves(results):
            panels.setdefault(panel, []).append((arm, points))
    if not panels:
        return False
    figure, axes = _figure(len(panels))
    colours = dict(zip(by_arm, COLOURS, strict=False))
    for axis, ((recipe, loss), lines) in zip(axes, panels.items(), strict=True):
        for arm, points in lines:
            axis.plot(*zip(*points, strict=True), color=colours[arm], label=arm, marker=".", linewidth=1.2)
        _label(axis, f"{recipe}: {loss}", "million posters", "validation")
        log_scale(axis)
    _save(figure, path)
    return True


def attention_curves(results: Sequence[Result], path: Path) -> None:
    """Plot seconds of a denoising and a training step, and memory, over the number of condition images."""
    panels = [(result, panel) for result in results for panel in PANELS if panel[0] in result["rows"][0]]
    figure, axes = _figure(len(panels), columns=4)
    for axis, (result, (key, label, factor)) in zip(axes, panels, strict=True):
        for attention, colour in zip(("block-causal", "full"), COLOURS, strict=False):
            rows = [row for row in result["rows"] if row["attention"] == attention]
            values = [[factor * value for value in _as_list(row[key])] for row in rows]
            medians = [statistics.median(repeats) for repeats in values]
            below = [median - min(repeats) for median, repeats in zip(medians, values, strict=True)]
            above = [max(repeats) - median for median, repeats in zip(medians, values, strict=True)]
            counts = [row["condition_images"] for row in rows]
            style = {"color": colour, "label": attention, "marker": ".", "capsize": 2, "linewidth": 1.2}
            axis.errorbar(counts, medians, [below, above], **style)
        hardware = result["hardware"].split(",")[0]
        _label(axis, f"{result['decoder']}, {result['size']}, {hardware}", "condition images", label)
        axis.set_xticks(range(len({row["condition_images"] for row in result["rows"]})))
        axis.set_ylim(bottom=0)
    _save(figure, path)


def _as_list(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def attention_table(result: Result, steps: int) -> Iterator[str]:
    """Yield one line per number of condition images, both kinds of attention side by side."""
    rows = {(row["condition_images"], row["attention"]): row for row in result["rows"]}
    training = "train_step_seconds" in result["rows"][0]
    yield (
        f"Decoder of {result['decoder']} size, {result['size']}, {result['hardware']}, {result['dtype']}, "
        f"{len(result['rows'][0]['step_seconds'])} repeats:\n"
    )
    head = ["condition images", "cache, ms", "ms per step", "full: ms per step", f"{steps} steps, full / block-causal"]
    head += ["MiB to generate", "full: MiB to generate"]
    head += ["ms per training step", "full: ms per training step", "MiB to train", "full: MiB to train"] * training
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for count in sorted({row["condition_images"] for row in result["rows"]}):
        both = cached, full = rows[count, "block-causal"], rows[count, "full"]
        cache = statistics.median(cached["cache_seconds"]) * (count > 0)
        step, full_step = statistics.median(cached["step_seconds"]), statistics.median(full["step_seconds"])
        cells = [_milliseconds(cached["cache_seconds"]) if count else "0", _milliseconds(cached["step_seconds"])]
        cells += [_milliseconds(full["step_seconds"]), f"{steps * full_step / (cache + steps * step):.2f}"]
        cells += [f"{row['peak_bytes'] / 2**20:.1f}" for row in both]
        if training:
            cells += [_milliseconds(row["train_step_seconds"]) for row in both]
            cells += [f"{row['train_peak_bytes'] / 2**20:.0f}" for row in both]
        yield f"| {count} | " + " | ".join(cells) + " |"


def _milliseconds(values: Sequence[float]) -> str:
    return f"{1000 * statistics.median(values):.0f} ({1000 * min(values):.0f} to {1000 * max(values):.0f})"


def _figure(panels: int, columns: int = 3) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(columns, panels)
    height = -(-panels // columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(3.4 * columns, 2.8 * height), squeeze=False)
    for unused in axes.flat[panels:]:
        unused.axis("off")
    return figure, list(axes.flat[:panels])


def _label(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=9, color=INK)
    axis.set_xlabel(x, fontsize=8, color=INK)
    axis.set_ylabel(y, fontsize=8, color=INK)
    axis.tick_params(labelsize=7, colors=MUTED)
    bare(axis)


def _save(figure: Any, path: Path) -> None:
    """Save the figure in 256 colours, a third of its size, with one legend for what any panel shows."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": None})
        with Image.open(temporary) as chart:
            chart.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)


def section(ablation: Ablation, results: Path, images: Path) -> list[str]:
    """Write the ablation's section of the page; empty while nothing is measured."""
    result = _arms_section(ablation, results, images) if ablation.arms else _attention_section(results, images)
    if not result:
        return []
    head = [f"## {ablation.title}\n", f"**Hypothesis.** {ablation.hypothesis}\n", f"**Set-up.** {ablation.setup}\n"]
    conclusion = [f"\n**Conclusion.** {ablation.conclusion}"] if ablation.conclusion else []
    return [*head, "**Result.**\n", *result, *conclusion, f"\n**Limitations.** {ablation.limitations}\n"]


def _arms_section(ablation: Ablation, results: Path, images: Path) -> list[str]:
    by_arm = load_results(results, ablation)
    if len(by_arm) < 2:  # one arm alone shows nothing
        return []
    lines = list(measures_table(ablation, by_arm))
    if compared := list(differences(ablation, by_arm)):
        lines += ["", *compared]
    if curves(by_arm, images / f"{ablation.name}.png"):
        lines += ["", f"![validation losses](curves/{ablation.name}.png)"]
    if links := list(strips(ablation, results, by_arm, images.parent)):
        lines += ["", "The first prompts, side by side, of the first seed:", "", "\n\n".join(links)]
    all_results = list(chain.from_iterable(by_arm.values()))
    devices = sorted({str(result["environment"]["device"]) for result in all_results})
    prompts = " or ".join(sorted({str(result["prompts"]) for result in all_results}))
    return [*lines, "", f"n is the number of seeds; {prompts} prompts per run, made on {', '.join(devices)}."]


def _attention_section(results: Path, images: Path) -> list[str]:
    measured = [read_json(path) for path in sorted(results.glob("block_causal-*.json"))]
    if not measured:
        return []
    lines: list[str] = []
    for result in measured:
        lines += [*attention_table(result, steps=20), ""]
    attention_curves(measured, images / "block_causal.png")
    return [*lines, "![time and memory by the number of condition images](curves/block_causal.png)"]


def write(results: Path, target: Path) -> None:
    """Write target/README.md and target/curves."""
    sections = [section(definitions.load(name), results, target / "curves") for name in definitions.names()]
    text = "\n".join([INTRODUCTION, *chain.from_iterable(sections)])
    with atomic_path(target / "README.md") as temporary:
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default %(default)s")
    parser.add_argument("--target", type=Path, default=HERE, help="default %(default)s")
    arguments = parser.parse_args()
    write(arguments.results, arguments.target)
    print(arguments.target / "README.md")


if __name__ == "__main__":
    main()
