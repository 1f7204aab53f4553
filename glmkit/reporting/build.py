"""One HTML file from evaluation runs: load, compare, draw the gallery, fill the page.

The first run is the base: differences are "other minus base" on the prompts that all runs share.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

from glmkit import __version__
from glmkit.files import atomic_path
from glmkit.reporting import words
from glmkit.reporting.compare import compare
from glmkit.reporting.distances import distance_tables
from glmkit.reporting.gallery import gallery
from glmkit.reporting.load import load_runs
from glmkit.reporting.provenance import provenance, setup

HERE = Path(__file__).parent


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Compare the evaluation runs in `folders` in one self-contained HTML file; UserError when they cannot be."""
    runs = load_runs(folders)
    comparison = compare(runs)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    page = environment().get_template("page.html")
    html = page.render(
        title=f"{runs[0].summary.suite}: {words.enumerate_words([run.name for run in runs])}",
        runs=runs,
        comparison=comparison,
        distances=distance_tables(runs),
        cards=gallery(runs, comparison),
        setup=setup(runs),
        provenance=provenance(runs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    with atomic_path(out) as temporary:
        temporary.write_text(html, encoding="utf-8")


def environment() -> jinja2.Environment:
    """Whatever a template prints is escaped and free of hidden controls; an unknown name is an error, not a blank."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        finalize=lambda value: words.visible(value) if type(value) is str else value,  # Markup is a subclass
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": words.number, "short": words.short, "label": words.label, "count": words.count}
    made.globals |= {"difference_sentence": words.difference_sentence}
    return made
