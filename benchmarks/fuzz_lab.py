"""The laboratory of `fuzz.py`: small files of every kind that people bring, and the commands that take them.

in/ holds what a user brings, out/ what a command writes (some of it begun before), cache/ what glmkit keeps.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from fuzz_cases import Case, read_document
from fuzz_child import run_child
from fuzz_http import endpoint
from fuzz_inputs import write_inputs
from fuzz_scenarios import EVAL, FEATURES, PROMPT, PUBLIC, SCENARIOS, SMALL, public, sweep

from glmkit.cli import main as glmkit

MAX_RECIPE = 1 << 20


def prepare(base: Path) -> Path:
    """Make the laboratory, if it is not there; its runs, caches and adapter by the commands themselves."""
    if (base / "ready").exists():
        _find_targets(base)
        return base
    shutil.rmtree(base, ignore_errors=True)
    write_inputs(base)
    commands: list[tuple[str, ...]] = [
        ("generate", PROMPT, "--out", "in/plain.png", *SMALL),
        ("finetune", "in/recipe.yaml", "--device", "cpu", "output=in/first"),
        ("generate", "--prompts", "in/prompts.jsonl", "--out", "out/many", *SMALL),
        (*EVAL, *SMALL[:4], "--run", "out/evaluated"),
        (*EVAL, "--images", "in/images", "--run", "in/run"),
        (*EVAL, "--images", "in/images", "--run", "in/other", "--name", "other"),
        *(public(suite, f"in/{name}") for suite, name in PUBLIC.items()),
        ("reference", "add", "stored", "--images", "in/images", *FEATURES),
        ("report", "in/run", "out/evaluated", "--blind", "--out", "in/blind.html"),
        ("reward", "--images", "in/seeds", "--prompts", "in/asked.jsonl"),
    ]
    for command in commands:
        _must(run_child(lambda command=command: glmkit(list(command)), base, {}), base, command)  # type: ignore[misc]
    run_child(_stop_before_result, base, {})
    images = next(one for one in SCENARIOS if (one.group, one.name) == ("endpoint", "images"))
    with endpoint(base, images) as env:
        _must(run_child(lambda: glmkit(list(images.argv)), base, env), base, images.argv)
    (base / "in/first/adapter").rename(base / "in/adapter")
    shutil.rmtree(base / "in/first")
    swept = sweep("--run", "out/swept")
    _must(run_child(lambda: glmkit(list(swept)), base, {}), base, swept)
    _write_votes(base / "in")
    (base / "out/many/notes.txt").write_text("the user's own")
    (base / "ready").touch()
    _find_targets(base)
    return base


def asked_outputs(case: Case, lab: Path) -> set[str]:
    """Return the first parts of the paths that the words of a case, or the recipe that it breaks, give for outputs."""
    words = set(case.argv or ()) - set(case.scenario.argv)
    names = {part for word in words for part in (word, word.partition("=")[2])}
    path = lab / (case.target or "")
    if path.suffix == ".yaml" and path.is_file() and path.stat().st_size < MAX_RECIPE:
        with suppress(ValueError, AttributeError, RecursionError, yaml.YAMLError):  # it is no recipe
            recipe, _ = read_document(path)
            names |= {str(recipe.get("output")), str(recipe.get("save"))}
    return {name.partition("/")[0] for name in names}


def _must(ended: tuple[int, str | None], base: Path, command: tuple[str, ...]) -> None:
    if ended != (0, None):
        raise SystemExit(f"{command}: {ended}\n{base.with_suffix('.err').read_text()}")
    shutil.rmtree(base / "out/new", ignore_errors=True)


def _stop_before_result() -> int:
    """Fine-tune, and stop when the last step's state is there and the result is not."""
    from glmkit.training import finetune

    module: Any = finetune
    write = module.write_json

    def stop(path: str | Path, value: Any) -> None:
        if Path(path).name == "decoder.json":
            raise KeyboardInterrupt
        write(path, value)

    module.write_json = stop
    return glmkit(["finetune", "in/tuned.yaml", "--device", "cpu"])


def _find_targets(base: Path) -> None:
    """Put files in the place of patterns: what a cache holds is called by its content."""
    for number, one in enumerate(SCENARIOS):
        if any("*" in target for target in one.targets):
            files = [path for target in one.targets for path in sorted(base.glob(target + "*/*")) if path.is_file()]
            files = files or [path for path in sorted((base / "cache").rglob("*")) if path.is_file()]
            small = [path for path in files if path.stat().st_size < 100_000]
            targets = tuple(str(path.relative_to(base)) for path in small)
            SCENARIOS[number] = replace(one, targets=targets)


def _write_votes(folder: Path) -> None:
    """Vote as a person does on the page in/blind.html, and export the votes."""
    from glmkit.reporting.blind import decode

    found = re.search('data-page="(.*?)" data-key="(.*?)"', (folder / "blind.html").read_text())
    assert found is not None
    page, key = found.groups()
    votes = [{"pair": name, "choice": "left"} for name in decode(key, "key")["pairs"]]
    (folder / "votes.json").write_text(json.dumps({"page": page, "key": key, "voter": "Ann", "votes": votes}))
