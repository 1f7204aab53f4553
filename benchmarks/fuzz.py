"""Break what people bring in a thousand ways, and count how each command ends: python benchmarks/fuzz.py --out FILE

Every case is a command in a child of this process, with limits of time, memory and file size, in a folder of its own.
It is clean when it ends with code 0 and a right result, or with code 2 and one sentence (1: with an error record). What
was stopped goes on where it was, unless `--fresh`.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib
import os
import random
import re
import shlex
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a child of a process with more threads may wait for ever
os.environ.update(HF_HUB_OFFLINE="1", NO_COLOR="1", TERM="dumb")

import fuzz_cases
import fuzz_http
import fuzz_lab
import fuzz_scenarios
from fuzz_cases import Case, Scenario
from fuzz_child import BUG, run_child
from PIL import Image

from glmkit import runs
from glmkit.cli import main as glmkit
from glmkit.files import append_jsonl, read_jsonl, write_json

MAX_MESSAGE = 1500
DEVICE = "/dev/zero"  # which words and links of the cases name: root can replace it, and all later cases would be void
WHOLE = "as it is"  # name of the case of a scenario in which nothing is broken
HAS_ERROR_RECORDS = ("generate", "eval", "sweep", "reward")
# Broken weights that no command may take: who generates with them believes to see what was trained.
MUST_REFUSE = set(fuzz_cases.WEIGHTS) - {"1e30"}
MAY_TAKE = {"models": {"one more"}}


@dataclass(frozen=True)
class Row:
    """How a case ended: `outcome` is clean or what was wrong; `place` of a traceback; `hint`: it says what to type."""

    id: str
    group: str
    outcome: str
    code: int
    seconds: float
    place: str = ""
    hint: bool = False
    said: str = ""


def run_case(case: Case, base: Path, lab: Path) -> Row:
    """Run one case in a copy of the laboratory `base`, and judge how it ended."""
    shutil.rmtree(lab, ignore_errors=True)
    fuzz_cases.copy_lab(base, lab)
    if case.mutate is not None and case.target is not None:
        here = Path.cwd()
        case.mutate(lab / case.target, random.Random(case.id))
        os.chdir(here)
    before = _snapshot(lab)
    argv = case.argv or case.scenario.argv
    started = time.monotonic()
    with fuzz_http.endpoint(lab, case.scenario) as env:
        code, ending = run_child(lambda: run_command(argv, case.scenario, lab), lab, env)
    seconds = round(time.monotonic() - started, 2)
    error = _tail(lab.with_suffix(".err"))
    outcome = ending or judge(case, lab, base, code, error) or _outside(before, lab, case) or "clean"
    place = _place(error) if outcome == "traceback" else ""
    last = [line for line in error.splitlines() if line.strip()] or [""]
    message = next((line for line in last if line.startswith("error:")), last[-1])
    return Row(case.id, case.scenario.group, outcome, code, seconds, place, "\n  try:" in error, message[:300])


def run_command(argv: Sequence[str], scenario: Scenario, lab: Path) -> int:
    """Run a command; a server gets the request of its scenario, and is stopped."""
    if scenario.request is None:
        return glmkit(list(argv))
    return fuzz_http.serve_and_ask(argv, scenario.request, lab.with_suffix(".out"))


# Judging ----------------------------------------------------------------------------------------------------------


def judge(case: Case, lab: Path, base: Path, code: int, error: str) -> str | None:
    """Say what was wrong with how a case ended; None when it was clean."""
    if code == BUG or "Traceback (most recent call last)" in error:
        return "traceback"
    if case.name == WHOLE and code:
        return "message"  # on whole files every command ends well
    if code == 2:
        messages = [line for line in error.splitlines() if line.startswith("error:")]
        too_long = max(map(len, error.splitlines()), default=0) > MAX_MESSAGE
        return "message" if len(messages) != 1 or too_long or "usage:" in error else None
    if code == 1 and case.scenario.argv[0] == "gate":
        return None  # the run is worse
    if code == 1 and case.scenario.request is not None:  # no image from what was taken: right if the server is broken
        return "message" if case.target == case.scenario.request else None
    if code == 1:
        shown = case.scenario.argv[0] in HAS_ERROR_RECORDS and re.search("failed|no score|no reward|error", error)
        return None if shown else "message"
    if code:
        return "message"
    way = case.name.partition(": ")[2]
    group = case.scenario.group
    is_weights = case.target is not None and case.target.endswith(".safetensors")
    copies = (group, case.scenario.name) == ("models", "merge")  # what has no adapter is copied as it is
    if not copies and is_weights and way in MUST_REFUSE - MAY_TAKE.get(group, set()):
        return "silent"
    if copies:
        return None
    return _wrong_result(case, lab, base)


def _wrong_result(case: Case, lab: Path, base: Path) -> str | None:
    """Look at what a command wrote: images of one colour, JSON that is none, an adapter that changed nothing."""
    given = lab / case.target if case.target is not None and (lab / case.target).is_file() else None
    for path in (lab / "out").rglob("*"):
        is_new_image = path.suffix == ".png" and path.is_file() and not (base / path.relative_to(lab)).exists()
        if is_new_image and given is not None and filecmp.cmp(path, given, shallow=False):
            continue  # what people bring is kept as it is
        if is_new_image:
            with Image.open(path) as image:
                if all(low == high for low, high in image.convert("RGB").getextrema()):  # type: ignore[misc]
                    return "silent"
                reference = case.scenario.differs_from
                if reference is not None:
                    with Image.open(base / reference) as other:
                        if other.size == image.size and other.tobytes() == image.tobytes():
                            return "silent"
        if path.suffix in (".json", ".jsonl") and path.is_file() and not path.is_symlink():
            lines = path.read_text(encoding="utf-8", errors="replace")
            if re.search(r"[:\[,] *-?(NaN|Infinity)\b", lines) and not (base / path.relative_to(lab)).exists():
                return "silent"
    return None


def _snapshot(lab: Path) -> dict[str, tuple[int, int, int]]:
    """Return type, size and time of everything but outputs and caches; the user's own files among the outputs, too."""
    found = {}
    for folder, folders, files in os.walk(lab):
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, lab)
            if relative.split(os.sep)[0] in ("out", "cache") and "notes.txt" not in name:
                continue
            about = os.lstat(path)
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            found[relative] = (about.st_mode, 0 if is_folder else about.st_size, 0 if is_folder else about.st_mtime_ns)
    return found


def _outside(before: Mapping[str, Any], lab: Path, case: Case) -> str | None:
    """Name files that were changed beside the outputs, which a word of the case or its recipe may name."""
    if not Path(DEVICE).is_char_device():
        raise SystemExit(f"{case.id} replaced {DEVICE}; to mend this machine: mknod -m 666 {DEVICE} c 1 5")
    after = _snapshot(lab)
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    asked = fuzz_lab.asked_outputs(case, lab) if changed else set()
    changed = [name for name in changed if name.partition("/")[0] not in asked]
    return "outside: " + ", ".join(sorted(changed)[:3]) if changed else None


def _tail(path: Path) -> str:
    return path.read_bytes()[-200_000:].decode("utf-8", "replace") if path.exists() else ""


def _place(error: str) -> str:
    """Find the last line of the package that a traceback names, and the error's class."""
    places = re.findall(r'File ".*?/(glmkit/[^"]*)", line (\d+)', error)
    names = re.findall(r"^([\w.]*(?:Error|Exception|Interrupt|Warning|Exit|Bomb\w*))\b", error, re.MULTILINE)
    where = ":".join(places[-1]) if places else "elsewhere"
    return f"{where} {names[-1] if names else ''}".strip()


# All of it --------------------------------------------------------------------------------------------------------


def make_cases(base: Path, count: int, seed: int, scenarios: list[Scenario]) -> list[Case]:
    """Choose about `count` cases, of each scenario by its weight, and each scenario as it is."""
    cases = []
    total = sum(fuzz_scenarios.WEIGHTS_OF.get(one.name, 1) for one in scenarios)
    for one in scenarios:
        rng = random.Random(f"{seed} {one.group} {one.name}")
        share = max(1, round(count * fuzz_scenarios.WEIGHTS_OF.get(one.name, 1) / total))
        cases.append(Case(one, WHOLE))
        if one.group == "command line":
            cases += fuzz_cases.option_cases(one, rng, share)
        elif one.name == "overrides":
            cases += fuzz_cases.override_cases(one, base / "in/recipe.yaml", rng, share)
        else:
            cases += fuzz_cases.file_cases(one, base, rng, share)
    return list({case.id: case for case in cases}.values())


def warm_up(base: Path, scenarios: list[Scenario], work: Path) -> None:
    """Import here what the commands import, so that a child begins with it."""
    lab = work / "warm"
    names = set()
    for one in {one.argv[0]: one for one in scenarios}.values():
        shutil.rmtree(lab, ignore_errors=True)
        fuzz_cases.copy_lab(base, lab)
        listed = lab.with_suffix(".modules")

        def command(one: Scenario = one, listed: Path = listed) -> int:
            code = run_command(one.argv, one, lab)
            listed.write_text("\n".join(sys.modules))
            return code

        with fuzz_http.endpoint(lab, one) as env:
            run_child(command, lab, env)
        names |= set(listed.read_text().split()) if listed.exists() else set()
        listed.unlink(missing_ok=True)
    for name in sorted(names - set(sys.modules)):
        try:
            importlib.import_module(name)
        except Exception:
            continue


def table(rows: list[Row]) -> str:
    """Lay out a line for each group: tried, clean, and what was not."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    lines = ["| group | tried | clean | not clean | of which |", "| --- | --- | --- | --- | --- |"]
    for name, own in [*groups.items(), ("all", rows)]:
        wrong = Counter(row.outcome.partition(":")[0] for row in own if row.outcome != "clean")
        of_which = ", ".join(f"{count} {outcome}" for outcome, count in wrong.most_common())
        lines.append(f"| {name} | {len(own)} | {len(own) - wrong.total()} | {wrong.total()} | {of_which} |")
    return "\n".join(lines)


def summary(rows: list[Row], arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the result file of what was tried."""
    wrong = [row for row in rows if row.outcome != "clean"]
    refused = [row for row in rows if row.code == 2 and row.outcome == "clean"]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/fuzz.py", *sys.argv[1:]]),
        "environment": runs.environment("cpu"),
        "seed": arguments.seed,
        "cases": len(rows),
        "clean": len(rows) - len(wrong),
        "refused": len(refused),
        "refused_with_what_to_type": sum(row.hint for row in refused),
        "outcomes": Counter(row.outcome.partition(":")[0] for row in rows),
        "places": dict(Counter(row.place for row in wrong if row.place).most_common()),
        "table": table(rows).splitlines(),
        "not_clean": [asdict(row) for row in wrong],
    }


def main(argv: list[str] | None = None) -> int:
    """Try the cases that have no row yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the result, as JSON")
    parser.add_argument("--cases", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group", action="append", help="only this one (repeat for more)")
    parser.add_argument("--only", help="only cases whose id this pattern is in")
    parser.add_argument("--work", type=Path, default=Path("/tmp/glmkit-fuzz"), help="folder of the laboratories")
    parser.add_argument("--fresh", action="store_true", help="try again what has a row")
    parser.add_argument("--show", action="store_true", help="print every case that is not clean")
    arguments = parser.parse_args(argv)
    work, journal = arguments.work.resolve(), arguments.work.resolve() / "rows.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(1)
    base = fuzz_lab.prepare(work / "base")
    scenarios = [one for one in fuzz_scenarios.SCENARIOS if not arguments.group or one.group in arguments.group]
    if arguments.fresh:
        journal.unlink(missing_ok=True)
    done = {row["id"]: Row(**row) for row in (read_jsonl(journal, partial=True) if journal.exists() else [])}
    cases = make_cases(base, arguments.cases, arguments.seed, scenarios)
    cases = [case for case in cases if not arguments.only or re.search(arguments.only, case.id)]
    if left := [case.scenario for case in cases if case.id not in done]:
        warm_up(base, left, work)
    rows = []
    for number, case in enumerate(cases, 1):
        row = done.get(case.id) or run_case(case, base, work / "lab")
        if case.id not in done:
            append_jsonl(journal, asdict(row))
        rows.append(row)
        if row.outcome != "clean" and arguments.show:
            print(f"{number}/{len(cases)} {row.id}: {row.outcome} {row.place} ({row.said[:120]})", flush=True)
    print(table(rows))
    if arguments.out:
        write_json(arguments.out, summary(rows, arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
