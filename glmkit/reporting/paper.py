"""What papers and model cards take from a report: tables in Markdown and LaTeX, figures as SVG and PNG."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.evaluation.stats import Estimate, percent
from glmkit.files import atomic_path, make_folder
from glmkit.reporting import wording
from glmkit.reporting.compare import Comparison, MetricComparison
from glmkit.reporting.figures import CREATOR, INK, ROOM, RUN_COLOURS, bare, pareto_front, save_figure
from glmkit.reporting.leaderboard import Leaderboard
from glmkit.reporting.load import EvalRun
from glmkit.reporting.provenance import device_text

TABLES = ("scores.md", "scores.tex")
FIGURES = tuple(
    f"{name}{suffix}" for name in ("scores", "quality_seconds", "quality_memory") for suffix in (".svg", ".png")
)
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$])")
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
Cell = Callable[[Estimate | None, bool], str]  # of a score, and whether it is bold


@dataclass(frozen=True)
class Cost:
    """Hold what an image costs in each run that recorded it: its `label`, and the `device` of all of them."""

    figure: str
    label: str
    device: str
    values: Mapping[str, float]

    def cell(self, run: str, none: str) -> str:
        """Return the value of a run for a table; `none` where it recorded none."""
        return f"{self.values[run]:.2f}" if run in self.values else none


def check_paper(folder: Path) -> None:
    """Raise UserError when a file is there that `write_paper` would replace and did not write."""
    for name in (*TABLES, *FIGURES):
        path = folder / name
        if path.exists() and not (path.is_file() and _is_ours(path)):
            raise UserError(f"{path} is not of a report, and stays as it is", fix="--paper, another folder")


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return CREATOR.encode() in file.read(4000)


def write_paper(folder: Path, runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard) -> tuple[Path, ...]:
    """Write tables and a figure of scores, and, where two runs recorded them, quality against seconds and memory."""
    make_folder(folder)
    for path in (folder / name for name in FIGURES):
        path.unlink(missing_ok=True)  # of an earlier report: not each report has all
    for name, table in zip(TABLES, (markdown_table, latex_table), strict=True):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(table(runs, comparison, board), encoding="utf-8", errors="backslashreplace")
    figures = {"scores": scores_figure(comparison)}
    figures |= {
        cost.figure: cost_figure(comparison.metrics[0], cost, runs)
        for cost in recorded_costs(runs)
        if len(cost.values) > 1
    }
    paths = [folder / f"{name}{suffix}" for name in figures for suffix in (".svg", ".png")]
    for path in paths:
        save_figure(figures[path.stem], path)
    return (*(folder / name for name in TABLES), *paths)


def clear_winner(metric: MetricComparison) -> str | None:
    """Return the run that is better than every other one by a resolved difference; None without one."""
    wins = dict.fromkeys(metric.estimates, 0)
    for change in metric.differences:
        if change.outcome != "unresolved":
            wins[change.run if change.outcome == "better" else change.baseline] += 1
    return next((run for run, count in wins.items() if len(wins) > 1 and count == len(wins) - 1), None)


def caption(runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard, costs: Sequence[Cost]) -> list[str]:
    """Say what a reader of a table must know: prompts, intervals, bold, engine or judge, what limits the comparison.

    Beside a judge stands the share of its answers that are no, for one that always says yes can score high.
    """
    bootstrap = runs[0].summary.bootstrap
    engines = dict.fromkeys(run.summary.ocr for run in runs if run.summary.ocr)
    judges = dict.fromkeys(run.summary.judge for run in runs if run.summary.judge)
    devices = dict.fromkeys(cost.device for cost in costs)
    shares = [f"{one.run} {percent(one.no_share)}" for one in board.standings if one.no_share is not None]
    return [
        f"{runs[0].summary.suite}, {wording.count(len(comparison.prompts), 'prompt')}. In brackets the 95 % confidence "
        f"interval (percentile bootstrap over prompts, {bootstrap.get('resamples', '?')} resamples).",
        "Bold: better than every other run by a resolved difference (its 95 % interval, over pairs of the same prompt, "
        "excludes 0).",
        *([f"OCR: {', '.join(engines)}."] if engines else []),
        *([f"Judge: {'; '.join(judges)}."] if judges else []),
        *([f"Share of the judge's answers that are no: {', '.join(shares)}."] if shares else []),
        *([f"Seconds and memory as recorded on {', '.join(devices)}."] if devices else []),
        *comparison.notes,
    ]


def table_rows(comparison: Comparison, board: Leaderboard, cell: Cell) -> list[list[str]]:
    """Return the cells of each run, in the order of the leaderboard."""
    winners = {metric.name: clear_winner(metric) for metric in comparison.metrics}
    names = [name for name, _ in board.columns]
    return [
        [
            cell(estimate, winners.get(name) == standing.run)
            for name, estimate in zip(names, standing.estimates, strict=True)
        ]
        for standing in board.standings
    ]


def markdown_table(runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard) -> str:
    """Return a table for a README or a model card."""

    def cell(estimate: Estimate | None, bold: bool) -> str:
        if estimate is None or estimate.value is None:
            return "–"
        value = f"**{wording.number(estimate.value)}**" if bold else wording.number(estimate.value)
        return value if estimate.low is None else f"{value} [{_both(estimate, wording.number)}]"

    arrows = {"higher": "↑", "lower": "↓"}
    costs = recorded_costs(runs)
    heads = ["Run", *(f"{wording.label(name)} {arrows[direction]}" for name, direction in board.columns)]
    heads += [f"{cost.label} {arrows['lower']}" for cost in costs]
    rows = table_rows(comparison, board, cell)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for one, row in zip(board.standings, rows, strict=True):
        lines.append([_markdown(one.run), *row, *(cost.cell(one.run, "–") for cost in costs)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(_markdown(line) for line in caption(runs, comparison, board, costs))
    return f"<!-- {CREATOR} {__version__} -->\n\n{table}\n\n{notes}\n"


def latex_table(runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard) -> str:
    """Return a tabular of the package booktabs; its caption stands in comments."""

    def cell(estimate: Estimate | None, bold: bool) -> str:
        if estimate is None or estimate.value is None:
            return "--"
        value = rf"\textbf{{{_latex_number(estimate.value)}}}" if bold else _latex_number(estimate.value)
        interval = rf"\,{{\scriptsize [{_both(estimate, _latex_number)}]}}"
        return value if estimate.low is None else value + interval

    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    costs = recorded_costs(runs)
    heads = ["Run", *(f"{_latex(wording.label(name))} {arrows[direction]}" for name, direction in board.columns)]
    heads += [f"{_latex(cost.label)} {arrows['lower']}" for cost in costs]
    body = [
        [_latex(one.run), *row, *(cost.cell(one.run, "--") for cost in costs)]
        for one, row in zip(board.standings, table_rows(comparison, board, cell), strict=True)
    ]
    comments = [f"{CREATOR} {__version__}; \\usepackage{{booktabs}}", *caption(runs, comparison, board, costs)]
    return "\n".join(
        [
            *(f"% {_one_line(line)}" for line in comments),
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            f"{' & '.join(heads)} \\\\",
            r"\midrule",
            *(f"{' & '.join(row)} \\\\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _both(estimate: Estimate, text: Callable[[float], str]) -> str:
    return f"{text(estimate.low or 0.0)}, {text(estimate.high or 0.0)}"


def _one_line(text: str) -> str:
    return " ".join(wording.show_control_characters(text).split())


def _markdown(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", _one_line(text))


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in _one_line(text))


def _latex_number(value: float) -> str:
    text = wording.number(value)
    return f"${text.replace('−', '-')}$" if text.startswith("−") else text


def recorded_costs(runs: Sequence[EvalRun]) -> list[Cost]:
    """Return the median seconds of an image and the peak memory of each run, what runs recorded of it.

    A cost that runs recorded on several devices is left out.
    """
    seconds, peaks, devices = {}, {}, {}
    for run in runs:
        images = [image for image in run.images if image.error is None]
        devices[run.name] = device_text(run.manifest["environment"])
        if of_images := [image.seconds for image in images if image.seconds is not None]:
            seconds[run.name] = median(of_images)
        if of_run := [image.peak_memory_gib for image in images if image.peak_memory_gib is not None]:
            peaks[run.name] = max(of_run)
    costs = []
    for figure, values in {"quality_seconds": seconds, "quality_memory": peaks}.items():
        if len(of_costs := {devices[name] for name in values}) == 1:
            (device,) = of_costs
            memory = "Peak GPU memory, GiB" if device.startswith("cuda") else "Peak memory of the process, GiB"
            label = memory if values is peaks else "Seconds per image, median"
            costs.append(Cost(figure, label, device, values))
    return costs


def scores_figure(comparison: Comparison) -> Any:
    """Plot every metric, one beside the other: runs from the top down, each a dot with its interval."""
    from matplotlib.figure import Figure

    names = list(comparison.scores)
    size = (2.0 + 1.9 * len(comparison.metrics), 0.9 + 0.28 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    for number, metric in enumerate(comparison.metrics):
        axes = figure.add_subplot(1, len(comparison.metrics), number + 1)
        for row, name in enumerate(names):
            estimate, colour = metric.estimates[name], RUN_COLOURS[row % len(RUN_COLOURS)]
            if estimate.low is not None and estimate.high is not None:
                axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2.5, alpha=0.55)
            if estimate.value is not None:
                axes.plot([estimate.value], [row], "o", color=colour, markersize=5)
        labels = [wording.show_control_characters(name) for name in names] if number == 0 else [""] * len(names)
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(f"{wording.label(metric.name)}\n{metric.direction} is better", size=9)
        axes.tick_params(labelsize=8, left=False)
        axes.grid(axis="x", color="#e4e1da", linewidth=0.6)
        axes.set_axisbelow(True)
        bare(axes)
    return figure


def cost_figure(metric: MetricComparison, cost: Cost, runs: Sequence[EvalRun]) -> Any:
    """Plot the leading metric over a cost; a line joins the runs that none beats in both."""
    from matplotlib.figure import Figure

    costs = cost.values
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot(ylabel=f"{wording.label(metric.name)} ({metric.direction} is better)")
    axes.set_xlabel(f"{cost.label} ({cost.device})", parse_math=False)
    sign = 1 if metric.higher_is_better else -1
    known = [(name, one.value, one) for name in costs if (one := metric.estimates[name]).value is not None]
    front = pareto_front([(costs[name], sign * value) for name, value, _ in known])
    line = [(costs[known[index][0]], known[index][1]) for index in front]
    axes.plot([x for x, _ in line], [y for _, y in line], "--", color=INK, linewidth=0.8)
    colours = {run.name: RUN_COLOURS[index % len(RUN_COLOURS)] for index, run in enumerate(runs)}
    for name, value, one in known:
        x, colour = costs[name], colours[name]
        if one.low is not None and one.high is not None:
            axes.plot([x, x], [one.low, one.high], color=colour, linewidth=2, alpha=0.55)
        axes.plot([x], [value], "o", color=colour)
        text = wording.show_control_characters(name)
        axes.annotate(text, (x, value), (7, 4), textcoords="offset points", size=8, color=colour, parse_math=False)
    axes.set_xlim(0, ROOM * max(costs.values()))
    bare(axes)
    return figure
