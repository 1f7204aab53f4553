"""Draw the validation curves of nano's training from `benchmarks/results/nano_training.json`.

    python benchmarks/nano_curves.py --out data/nano/curves.svg

Runs of one component follow one another; where its images change, so does what a loss means.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from glmkit.files import read_json
from glmkit.reporting.figures import bare, log_scale, save_figure

RESULT = Path(__file__).parent / "results" / "nano_training.json"
SHOWN = {  # component -> its axis, and what of the validation it shows, by which name
    "VAE": ("dB, higher is better", {"psnr": "posters", "recoloured": "any colours"}),
    "semantic tokenizer": ("loss", {"ink": "ink", "colours": "colours", "shapes": "shapes"}),
    "AR model": ("nats per token", {"preview": "preview", "large": "large grid", "edit": "edits, both grids"}),
    "decoder": ("velocity error", {"loss": "posters", "edit": "edits"}),
}


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw one panel per component, its runs side by side, with a line where the next begins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(SHOWN), 3))
    for axis, (component, group) in zip(
        figure.subplots(1, len(SHOWN)), groupby(runs, lambda run: run["component"]), strict=True
    ):
        unit, names = SHOWN[component]
        begins = 0
        for number, run in enumerate(group):
            for colour, (key, name) in enumerate(names.items()):
                points = [
                    ((begins + at["step"]) / 1000, at[key]) for at in run["validation"] if at["step"] and key in at
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), color=f"C{colour}", label=None if number else name)
                elif not number:
                    axis.plot([], [], color=f"C{colour}", label=name)
            begins += run["steps"]
            axis.axvline(begins / 1000, color="0.85", linewidth=1, zorder=0)
        if component != "VAE":
            log_scale(axis)
        axis.set_title(component, fontsize=9)
        axis.set_xlabel("thousand steps", fontsize=8)
        axis.set_ylabel(unit, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7, frameon=False)
        bare(axis)
    figure.tight_layout()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help=".svg or .png")
    draw(read_json(RESULT)["runs"], parser.parse_args().out)


if __name__ == "__main__":
    main()
