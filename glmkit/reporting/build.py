"""One HTML file from evaluation runs: load, compare, draw the gallery, fill the page.

Every run is compared with those before it: differences are "other minus base" on the prompts that all runs share.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.files import atomic_path
from glmkit.reporting import words
from glmkit.reporting.compare import Comparison, compare
from glmkit.reporting.distances import distance_tables
from glmkit.reporting.gallery import gallery
from glmkit.reporting.leaderboard import Leaderboard, leaderboard
from glmkit.reporting.load import EvalRun, load_runs
from glmkit.reporting.panels import RUN_COLOURS, panel
from glmkit.reporting.provenance import provenance, setup
from glmkit.reporting.tables import image_rows, write_all_json, write_csv

HERE = Path(__file__).parent
SHOWN_DIFFERENCES = 6  # under a score; more, those of five runs or more, are folded away
ENOUGH_PROMPTS = 20  # below, percentile intervals are clearly too short (Hesterberg 2015)


def write_report(folders: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Compare the runs in `folders` in one self-contained HTML file, its rows beside it as CSV and JSON.

    Returns the three files. UserError when the runs cannot be compared, or `out` is no HTML file.
    """
    if out.suffix != ".html":
        raise UserError(f"a report is an HTML file, not {out.name}", fix=f"--out {out.with_suffix('.html')}")
    runs = load_runs(folders)
    comparison = compare(runs)
    board = leaderboard(runs, comparison)
    rows = image_rows(runs, comparison)
    html = render(runs, comparison, board, out)
    files = out, out.with_suffix(".csv"), out.with_suffix(".json")
    write_csv(files[1], rows)
    write_all_json(files[2], runs, comparison, board, rows)
    with atomic_path(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return files


def render(runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard, out: Path) -> str:
    """The page that is to lie at `out`, from where it links to the images."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return (
        environment(out.parent)
        .get_template("page.html")
        .render(
            title=f"{runs[0].summary.suite}: {words.enumerate_words([run.name for run in runs])}",
            name=out.stem,
            runs=runs,
            comparison=comparison,
            board=board,
            distances=distance_tables(runs),
            cards=gallery(runs, comparison),
            setup=setup(runs),
            provenance=provenance(runs),
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
    )


def environment(home: Path) -> jinja2.Environment:
    """Whatever a template prints is escaped and free of hidden controls; an unknown name is an error, not a blank.

    The filter `link` turns a path into an address relative to the folder `home`.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        finalize=lambda value: words.visible(value) if type(value) is str else value,  # Markup is a subclass
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": words.number, "short": words.short, "label": words.label, "count": words.count}
    made.filters |= {"inside": words.inside, "headline": words.headline}
    made.filters["zip"] = zip
    made.filters["link"] = lambda path: quote(Path(os.path.relpath(path, home)).as_posix())
    made.globals |= {
        "difference_sentence": words.difference_sentence,
        "panel": panel,
        "run_colours": RUN_COLOURS,
        "shown_differences": SHOWN_DIFFERENCES,
        "enough_prompts": ENOUGH_PROMPTS,
    }
    return made
