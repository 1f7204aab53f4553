"""One HTML file from evaluation runs: load, compare, build the gallery, render the page.

Every run is compared with those before it: a difference is "run minus baseline" on the prompts that all runs share.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.files import atomic_path, called
from glmkit.reporting import wording
from glmkit.reporting.compare import Comparison, compare
from glmkit.reporting.distances import distance_tables
from glmkit.reporting.gallery import gallery
from glmkit.reporting.highlights import highlights
from glmkit.reporting.leaderboard import Leaderboard, leaderboard
from glmkit.reporting.load import EvalRun, load_runs
from glmkit.reporting.panels import RUN_COLOURS, panel
from glmkit.reporting.provenance import recorded_facts, setup_facts
from glmkit.reporting.tables import image_records, is_data, write_csv, write_report_json
from glmkit.reporting.templates import FOLDER, template_environment

GENERATOR = '<meta name="generator" content="glmkit report">'  # in the head of a page
MAX_OPEN_DIFFERENCES = 6  # under a score; more, those of five runs or more, are folded away


def write_report(folders: Sequence[Path], out: Path, names: Sequence[str] = ()) -> tuple[Path, ...]:
    """Compare the runs in `folders` in one self-contained HTML file, with its data beside it as CSV and JSON.

    `names` are what the page calls the runs, by default what they call themselves. Returns the three files. UserError
    when the runs cannot be compared, or `out` is no HTML file.
    """
    files = check_page(out, ".csv", ".json")
    # 1 read the run folders; 2 pool and compare the scores
    runs = load_runs(folders, names)
    comparison = compare(runs)
    board = leaderboard(runs, comparison)
    # 3 render the page, images included, before anything is written
    html = render_page(runs, comparison, board, out)
    # 4 write the data, and last the page that links to them
    records = image_records(runs, comparison)
    write_csv(files[1], records)
    write_report_json(files[2], runs, comparison, board, records)
    with atomic_path(out) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
    return files


def check_page(out: Path, *suffixes: str) -> tuple[Path, ...]:
    """Return the page and the files of these suffixes beside it; UserError when they cannot be those of a report."""
    if out.suffix != ".html":
        raise UserError(f"a report is an HTML file, not {out.name}", fix=f"--out {called(out, '.html', 'report')}")
    files = (out, *(out.with_suffix(suffix) for suffix in suffixes))
    check_replaceable(files)
    return files


def check_replaceable(files: Sequence[Path], option: str = "--out") -> None:
    """UserError when one of the files that a report writes is there and was not written by a report."""
    for path in files:
        is_ours = is_page if path.suffix == ".html" else is_data
        if path.exists() and not (path.is_file() and is_ours(path)):
            fix = f"{option} {path.with_name(f'{path.stem}-report.html')}, or another name"
            raise UserError(f"{path} is not of a report, and stays as it is", fix=fix)


def is_page(path: Path) -> bool:
    """Tell whether `write_report` wrote this page."""
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(2000)


def _url(path: Path, folder: Path) -> str:
    """Return the URL of a file for a page in `folder`: relative, or whole when it is on another drive of Windows."""
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:
        return path.resolve().as_uri()


def render_page(runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard, out: Path) -> str:
    """Return the HTML of the page that is to lie at `out`, from where it links to the original images."""
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    environment = template_environment()
    cards = gallery(runs, comparison)
    environment.filters["relative_url"] = lambda path: _url(path, out.parent)
    return environment.get_template("page.html").render(
        generator=Markup(GENERATOR),
        title=f"{runs[0].summary.suite}: {wording.join_with_and([run.name for run in runs])}",
        name=out.stem,
        runs=runs,
        comparison=comparison,
        board=board,
        distances=distance_tables(runs),
        cards=cards,
        highlights=highlights(cards, comparison),
        setup_facts=setup_facts(runs),
        recorded_facts=recorded_facts(runs),
        difference_sentence=wording.difference_sentence,
        panel=panel,
        run_colours=RUN_COLOURS,
        run_index={run.name: index for index, run in enumerate(runs)},
        max_open_differences=MAX_OPEN_DIFFERENCES,
        min_prompts=stats.MIN_PROMPTS,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
