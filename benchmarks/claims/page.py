"""Rows of `results/` -> curves (PNG) and the page `README.md`: claim, set-up, result with spread, what is not shown.

    python benchmarks/claims/page.py

Whatever has no rows is left out.
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
from definitions import HERE, Claim, run_name

from glmkit.errors import UserError
from glmkit.files import atomic_path, read_json

INK, MUTED = "#222222", "#888888"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by colour-blind readers, too
LOWER_IS_BETTER = {"loss", "preview", "large"}
MEANING = {
    "word_accuracy": "words read by OCR",
    "ned": "NED of what OCR reads",
    "attribute_accuracy": "properties as described",
    "background": "background as described",
    "shape": "shape and its colour as described",
    "shape_place": "place of the shape as described",
    "text_position": "position of the text as described",
    "loss": "validation error of the velocity at 256x256",
    "preview": "validation loss of the preview, nats a token",
    "large": "validation loss of the large grid, nats a token",
    "preview_entropy": "entropy of preview codes without context, nats",
    "large_entropy": "entropy of large codes without context, nats",
    "codes_used": "share of the codes in use",
}
PANELS = (  # of a result of sources.py: key of its rows, label, factor
    ("step", "ms a step", 1e3),
    ("peak_bytes", "MiB to draw", 2**-20),
    ("train", "ms a training step", 1e3),
    ("train_peak_bytes", "MiB to train", 2**-20),
)
INTRODUCTION = """# The claims, measured

What the system's description says about its design, tried on nano with our own runs: one pair of recipes a claim, equal
compute, everything else equal. This page is written by `python benchmarks/claims/page.py` from the rows in `results/`;
what has not been measured is not on it, and a result that contradicts its claim stays.

```bash
python benchmarks/claims/run.py --help              # every side and what a run costs
python benchmarks/claims/run.py glyphs on --seed 0  # train, draw 128 held-out prompts, score; continues when repeated
python benchmarks/claims/sources.py                 # time and memory of source attention
python benchmarks/claims/page.py
```

Spread is the lowest and the highest of the seeds. Differences are taken seed by seed. One seed says nothing about the
spread over seeds; its images are 128, so that a share near 0.5 is known to about 0.09 (95 %).
"""


def rows_of(results: Path, claim: Claim) -> dict[str, list[dict[str, Any]]]:
    """The rows of every measured side, by seed. UserError when a kept part is not the same in all of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in claim.sides:
        source, side, _ = definitions.resolve(claim.name, name)
        rows = [read_json(path) for path in results.glob(f"{source}-{side}-*.json")]
        rows = sorted((row for row in rows if (row["claim"], row["side"]) == (source, side)), key=lambda r: r["seed"])
        if rows:
            found[name] = rows
    kept: dict[str, str] = {}
    for row in chain.from_iterable(found.values()):
        for part, name in row["kept"].items():
            if kept.setdefault(part, name) != name:
                raise UserError(
                    f"the rows of {claim.name} keep different weights of {part}", found=f"{kept[part]}, {name}"
                )
    return found


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and lowest to highest where there is more than one."""
    mean, *ends = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"


def measures_table(claim: Claim, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """A line a measure, a column a side; measures that no side has are left out."""
    yield "| measure | " + " | ".join(f"{name} (n {len(rows)})" for name, rows in found.items()) + " |"
    yield "| --- |" + " --- |" * len(found)
    for measure in claim.measures:
        cells = []
        for rows in found.values():
            values = [row["measures"][measure] for row in rows if measure in row["measures"]]
            cells.append(spread(values) if values else "")
        if any(cells):
            better = "lower is better" if measure in LOWER_IS_BETTER else ""
            label = ", ".join(filter(None, (MEANING[measure], better)))
            yield f"| {label} | " + " | ".join(cells) + " |"
    yield "| training, s | " + " | ".join(spread([_seconds(row) for row in rows], 0) for rows in found.values()) + " |"


def differences(claim: Claim, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """First side minus each other, seed by seed, of the measures that judge the end quality."""
    first, *others = found
    for other in others:
        for measure in claim.measures:
            pairs = [
                a["measures"][measure] - b["measures"][measure]
                for a in found[first]
                for b in found[other]
                if a["seed"] == b["seed"] and measure in a["measures"] and measure in b["measures"]
            ]
            if len(pairs) > 1:
                yield f"- {first} - {other}, {MEANING[measure]}: {spread(pairs)}; {verdict(pairs)}"


def verdict(pairs: Sequence[float]) -> str:
    """What differences of single seeds say together."""
    if not any(pairs):
        return "equal"
    return "the same sign in every seed" if min(pairs) > 0 or max(pairs) < 0 else "not resolved"


def strips(claim: Claim, results: Path, found: Mapping[str, Sequence[Mapping[str, Any]]], page: Path) -> Iterator[str]:
    """A line of images a side, where its run left them; links as from the folder `page`."""
    for name, (row, *_) in found.items():
        path = results / f"{run_name(row['claim'], row['side'], row['seed'])}.png"
        if path.exists():
            yield f"{name}:\n\n![{claim.title}: {name}]({os.path.relpath(path, page)})"


def _seconds(row: Mapping[str, Any]) -> float:
    return sum(step["seconds"] for step in row["steps"])


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> bool:
    """Held-out losses of every kind of step that is trained by two sides; False where there is none."""
    lines: dict[tuple[str, str], list[tuple[str, list[tuple[float, float]]]]] = {}
    for side, rows in found.items():
        for row in rows:
            for step in row["steps"]:
                for key in ("preview", "large") if step["recipe"] == "autoregressive" else ("loss",):
                    points = [
                        (seen / 1e6, losses[key]) for seen, losses in step["validation"] if key in losses and seen
                    ]
                    if points and step["recipe"] != "semantic_vq":
                        lines.setdefault((step["recipe"], key), []).append((side, points))
    if not lines:
        return False
    figure, axes = _figure(len(lines))
    colours = dict(zip(found, COLOURS, strict=False))
    for axis, ((recipe, key), own) in zip(axes, lines.items(), strict=True):
        for side, points in own:
            axis.plot(*zip(*points, strict=True), color=colours[side], label=side, marker=".", linewidth=1.2)
        _finish(axis, f"{recipe}: {key}", "million posters", "validation loss")
        _logarithmic(axis)
    _save(figure, path)
    return True


def source_curves(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds of an image's step and of training, and memory, over the number of sources."""
    shown = [(result, panel) for result in results for panel in PANELS if panel[0] in result["rows"][0]]
    figure, axes = _figure(len(shown), columns=4)
    for axis, (result, (key, label, factor)) in zip(axes, shown, strict=True):
        for way, colour in zip(("block-causal", "full"), COLOURS, strict=False):
            own = [row for row in result["rows"] if row["way"] == way]
            values = [[factor * value for value in _listed(row[key])] for row in own]
            middle = [statistics.median(one) for one in values]
            below = [m - min(one) for m, one in zip(middle, values, strict=True)]
            above = [max(one) - m for m, one in zip(middle, values, strict=True)]
            counts = [row["sources"] for row in own]
            axis.errorbar(counts, middle, [below, above], color=colour, label=way, marker=".", capsize=2, linewidth=1.2)
        _finish(axis, f"{result['decoder']}, {result['size']}, {result['where'].split(',')[0]}", "sources", label)
        axis.set_xticks(range(len({row["sources"] for row in result["rows"]})))
        axis.set_ylim(bottom=0)
    _save(figure, path)


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def sources_table(result: Mapping[str, Any], steps: int) -> Iterator[str]:
    """A line for each number of sources, both ways side by side."""
    by_way = {(row["sources"], row["way"]): row for row in result["rows"]}
    training = "train" in result["rows"][0]
    yield (
        f"Decoder of {result['decoder']} size, {result['size']}, {result['where']}, {result['dtype']}, "
        f"{len(result['rows'][0]['step'])} repeats:\n"
    )
    head = ["sources", "once, ms", "a step, ms", "full: a step, ms", f"{steps} steps, full / block-causal"]
    head += ["MiB to draw", "full: MiB to draw"]
    head += ["training step, ms", "full: training step, ms", "MiB to train", "full: MiB to train"] * training
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for count in sorted({row["sources"] for row in result["rows"]}):
        both = cached, full = by_way[count, "block-causal"], by_way[count, "full"]
        once, step, full_step = (statistics.median(v) for v in (cached["prepare"], cached["step"], full["step"]))
        cells = [_milliseconds(cached["prepare"]) if count else "0", _milliseconds(cached["step"])]
        cells += [_milliseconds(full["step"]), f"{steps * full_step / (once * (count > 0) + steps * step):.2f}"]
        cells += [f"{row['peak_bytes'] / 2**20:.1f}" for row in both]
        if training:
            cells += [_milliseconds(row["train"]) for row in both]
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


def _finish(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=9, color=INK)
    axis.set_xlabel(x, fontsize=8, color=INK)
    axis.set_ylabel(y, fontsize=8, color=INK)
    axis.tick_params(labelsize=7, colors=MUTED)
    axis.spines[["top", "right"]].set_visible(False)


def _logarithmic(axis: Any) -> None:
    """Losses of one panel rarely span a power of ten: values are written out between them, too."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _save(figure: Any, path: Path) -> None:
    """With one legend of what any panel shows."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, metadata={"Software": None})


def section(claim: Claim, results: Path, images: Path) -> list[str]:
    """The claim's part of the page; empty while nothing is measured."""
    result = _of_sources(results, images) if not claim.sides else _of_sides(claim, results, images)
    if not result:
        return []
    words = [f"## {claim.title}\n", f"**Claim.** {claim.claim}\n", f"**Set-up.** {claim.setup}\n", "**Result.**\n"]
    reading = [f"\n**Reading.** {claim.reading}"] if claim.reading else []
    return [*words, *result, *reading, f"\n**What it does not show.** {claim.not_shown}\n"]


def _of_sides(claim: Claim, results: Path, images: Path) -> list[str]:
    found = rows_of(results, claim)
    if len(found) < 2:  # one side alone shows nothing
        return []
    lines = list(measures_table(claim, found))
    if compared := list(differences(claim, found)):
        lines += ["", *compared]
    if curves(found, images / f"{claim.name}.png"):
        lines += ["", f"![validation losses](curves/{claim.name}.png)"]
    if shown := list(strips(claim, results, found, images.parent)):
        lines += ["", "The first prompts, side by side, of the first seed:", "", "\n\n".join(shown)]
    devices = sorted({str(row["environment"]["device"]) for rows in found.values() for row in rows})
    prompts = " or ".join(sorted({str(row["prompts"]) for rows in found.values() for row in rows}))
    return [*lines, "", f"n is the number of seeds; {prompts} prompts a run, made on {', '.join(devices)}."]


def _of_sources(results: Path, images: Path) -> list[str]:
    found = [read_json(path) for path in sorted(results.glob("block_causal-*.json"))]
    if not found:
        return []
    lines: list[str] = []
    for result in found:
        lines += [*sources_table(result, steps=20), ""]
    source_curves(found, images / "block_causal.png")
    return [*lines, "![time and memory by the number of sources](curves/block_causal.png)"]


def write(results: Path, target: Path) -> None:
    """target/README.md and target/curves."""
    parts = [section(definitions.load(name), results, target / "curves") for name in definitions.names()]
    text = "\n".join([INTRODUCTION, *(line for part in parts for line in part)])
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
