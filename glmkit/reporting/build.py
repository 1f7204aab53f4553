"""One HTML page from evaluation runs: load, compare, build the gallery, render the page.

Every run is compared with those before it: a difference is "run minus baseline" on the prompts that all runs share.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
import shlex
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.files import atomic_files, atomic_folder, atomic_path, called
from glmkit.reporting import wording
from glmkit.reporting.compare import Comparison, compare
from glmkit.reporting.distances import distance_tables
from glmkit.reporting.gallery import PromptCard, gallery
from glmkit.reporting.highlights import highlights
from glmkit.reporting.image_store import TILES, ImageStore, fitting_details, tiles_detail
from glmkit.reporting.leaderboard import Leaderboard, leaderboard
from glmkit.reporting.load import EvalRun, load_runs
from glmkit.reporting.paper import check_paper, write_paper
from glmkit.reporting.provenance import recorded_facts, setup_facts
from glmkit.reporting.tables import image_records, is_data, report_values, write_data
from glmkit.reporting.templates import CONTENT_POLICY, FOLDER, FOLDER_POLICY, template_environment

GENERATOR = '<meta name="generator" content="glmkit report">'  # in the head of a page
MAX_MB = 25.0  # of a page in one file, in megabytes: what mail takes
CARDS_AT_ONCE = 100  # cards that are elements when a page opens; those of more prompts become elements near the screen
MAX_OPEN_DIFFERENCES = 6  # under a score; more, those of five runs or more, are folded away


def write_report(
    folders: Sequence[Path],
    out: Path,
    names: Sequence[str] = (),
    *,
    max_mb: float | None = None,
    as_zip: bool = False,
    paper: Path | None = None,
) -> tuple[Path, ...]:
    """Compare the runs in `folders` on one HTML page, with its data beside it as CSV and JSON.

    The page is the file `out` while it stays under `max_mb`, with images as large as that allows; else
    `index.html` in a folder of that name, with its images as files. `names` are what it calls the runs, by default what
    they call themselves. With `as_zip`, all of it is in one ZIP file, too. Tables and figures for a paper go to the
    folder `paper`. Returns page, CSV, JSON and perhaps ZIP. UserError when the runs cannot be compared, or `out` is no
    HTML file or not of a report.
    """
    max_bytes = round(1_000_000 * (MAX_MB if max_mb is None else checked_limit(max_mb)))
    files, zipped = check_page(out, ".csv", ".json"), out.with_suffix(".zip")
    check_replaceable([zipped] if as_zip else [])
    if paper is not None:
        check_paper(paper)
    # 1 read the run folders; 2 pool and compare the scores
    runs = load_runs(folders, names)
    comparison = compare(runs)
    board = leaderboard(runs, comparison)

    def write(data: Sequence[Path]) -> None:
        write_data(data[1], data[2], report_values(runs, comparison, board), image_records(runs, comparison))

    # 3 render the page, images included, with as much detail as fits
    shown = set(comparison.shown)
    images = [(run.folder, image) for run in runs for image in run.images if image.prompt_id in shown]
    paths = [folder / image.file for folder, image in images if image.file is not None]
    for detail in fitting_details(paths, max_bytes):
        html = render_page(runs, comparison, board, out, ImageStore(detail))
        if len(html) <= max_bytes:
            # 4 write the page and the data that it links to: all of them, or none
            with atomic_files(out.parent) as temporary:
                page, *_ = data = data_files(temporary / out.name)
                with atomic_path(page) as unfinished:
                    unfinished.write_bytes(html)
                write(data)
            break
    else:
        # 4 the same in a folder, which replaces the file of an earlier report
        folder = out.with_suffix("")
        check_replaceable_folder(folder)
        with atomic_folder(folder, replace=True) as temporary:
            store = ImageStore(tiles_detail(paths), temporary)
            page, *_ = data = data_files(temporary / "index.html")
            page.write_bytes(render_page(runs, comparison, board, folder / page.name, store))
            write(data)
        for path in files:
            path.unlink(missing_ok=True)
        files = data_files(folder / "index.html")
    if paper is not None:
        write_paper(paper, runs, comparison, board)
    return (*files, write_zip(zipped, files)) if as_zip else files


def checked_limit(max_mb: float) -> float:
    """Return the limit; UserError when it is none."""
    if not 0 < max_mb < math.inf:
        raise UserError("--max-mb must be above 0", found=max_mb, fix=f"--max-mb {MAX_MB:g}")
    return max_mb


def data_files(page: Path) -> tuple[Path, Path, Path]:
    """Return the paths of a page, its CSV and its JSON."""
    return page, page.with_suffix(".csv"), page.with_suffix(".json")


def check_page(out: Path, *suffixes: str) -> tuple[Path, ...]:
    """Return the page and the files of these suffixes beside it; UserError when they cannot be those of a report."""
    if out.suffix != ".html":
        raise UserError(f"a report is an HTML file, not {out.name}", fix=f"--out {called(out, '.html', 'report')}")
    files = (out, *(out.with_suffix(suffix) for suffix in suffixes))
    check_replaceable(files)
    return files


def check_replaceable(files: Sequence[Path], option: str = "--out") -> None:
    """Raise UserError when one of the files that a report writes is there and was not written by a report."""
    is_ours = {".html": is_page, ".zip": is_zip}
    for path in files:
        if path.exists() and not (path.is_file() and is_ours.get(path.suffix, is_data)(path)):
            fix = f"{option} {shlex.quote(str(path.with_name(f'{path.stem}-report.html')))}, or another name"
            raise UserError(f"{path} is not of a report, and stays as it is", fix=fix)


def check_replaceable_folder(folder: Path) -> None:
    """Raise UserError when a folder is there that is not of a report."""
    page = folder / "index.html"
    if os.path.lexists(folder) and not (page.is_file() and is_page(page) and not (folder / "manifest.json").exists()):
        raise UserError(
            f"the report is too large for one file, and {folder} is not of a report",
            fix=f"--out {shlex.quote(str(folder.with_name(f'{folder.name}-report.html')))}, or a larger --max-mb",
        )


def is_page(path: Path) -> bool:
    """Tell whether `write_report` wrote this page."""
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(2000)


def is_zip(path: Path) -> bool:
    """Tell whether `write_zip` wrote this file."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        pages = [name for name in archive.namelist() if name.endswith(".html")]
        return len(pages) == 1 and GENERATOR.encode() in archive.open(pages[0]).read(2000)
    return False


def write_zip(out: Path, files: Sequence[Path]) -> Path:
    """Pack a page with its data, and the images in the folder `TILES` beside it, under one folder."""
    page, *_ = files
    tiles = (
        sorted((page.parent / TILES).iterdir()) if page.name == "index.html" and (page.parent / TILES).is_dir() else []
    )
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in files:
            archive.write(path, f"{out.stem}/{path.name}", zipfile.ZIP_DEFLATED)
        for path in tiles:  # images are compressed already
            archive.write(path, f"{out.stem}/{TILES}/{path.name}")
    return out


def _url(path: Path, folder: Path) -> str:
    """Return the URL of a file for a page in `folder`: relative, or whole when it is on another drive of Windows."""
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:
        return path.resolve().as_uri()


def render_page(
    runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard, out: Path, store: ImageStore
) -> bytes:
    """Return the HTML of the page that is to lie at `out`, from where it links to the original images."""
    from glmkit.reporting.panels import RUN_COLOURS, panel  # by Matplotlib, which other pages do without

    cards = gallery(runs, comparison, store)
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "viewer.js"))
    environment = template_environment()
    environment.filters["relative_url"] = lambda path: _url(path, out.parent)
    context = {
        "runs": runs,
        "run_colours": RUN_COLOURS,
        "run_index": {run.name: index for index, run in enumerate(runs)},
        "highlights": highlights(cards, comparison),
    }
    macros: Any = environment.get_template("card.html").make_module(context)
    in_one_file = store.folder is None
    html = environment.get_template("page.html").render(
        context,
        macros=macros,
        generator=Markup(GENERATOR),
        policy=Markup(CONTENT_POLICY if in_one_file and store.is_whole else FOLDER_POLICY),
        title=f"{runs[0].summary.suite}: {wording.join_with_and([run.name for run in runs])}",
        name=out.stem,
        in_one_file=in_one_file,
        is_whole=store.is_whole,
        comparison=comparison,
        board=board,
        distances=distance_tables(runs),
        cards=cards,
        cards_at_once=CARDS_AT_ONCE,
        card_data=card_data(cards, macros.prompt_card),
        setup_facts=setup_facts(runs),
        recorded_facts=recorded_facts(runs),
        difference_sentence=wording.difference_sentence,
        panel=panel,
        max_open_differences=MAX_OPEN_DIFFERENCES,
        min_prompts=stats.MIN_PROMPTS,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return html.encode("utf-8", errors="backslashreplace")


def card_data(cards: Sequence[PromptCard], render: Callable[[PromptCard], str]) -> str:
    """Return what the script of a page knows of its cards, with the HTML of those that are not in the page yet.

    It is JSON, gzipped, in base64: cards are much alike, and shrink to a tenth.
    """
    data = [
        {
            "positions": card.positions,
            "split": wording.show_control_characters(card.split),
            "problems": card.problems,
            "search": wording.show_control_characters(card.search_text),
            **({"html": render(card)} if index >= CARDS_AT_ONCE else {}),
        }
        for index, card in enumerate(cards)
    ]
    text = json.dumps(data, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode("ascii")
