"""The map of the package: imports run one way, and the light layers stay free of torch."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "glmkit"
CORE = {"__init__", "errors", "files", "hashing", "records", "shapes", "config", "runs", "progress", "shipped"}
CORE |= {"extras", "shortcuts", "sizes", "temporary_files", "text", "worker_processes"}
GENERATING = {"core", "inputs", "distributed", "models", "generation"}
MAY_IMPORT = {
    "core": {"core"},
    "inputs": {"core", "inputs"},
    "distributed": {"core", "distributed"},
    "models": {"core", "inputs", "models"},
    "posters": {"core", "posters"},
    "generation": {"core", "inputs", "distributed", "models", "generation"},
    "rewards": GENERATING | {"posters", "metrics", "evaluation", "rewards"},
    "training": GENERATING | {"training", "rewards"},
    "pretraining": GENERATING | {"posters", "training", "pretraining"},
    "metrics": {"core", "metrics"},
    "evaluation": GENERATING | {"posters", "metrics", "evaluation"},
    "reporting": {"core", "inputs", "metrics", "reporting"},
    "api": GENERATING | {"training", "rewards", "metrics", "evaluation", "reporting", "api"},
    "glmkit": {"core", "api"},  # its names, which it imports when they are first used
    "serving": GENERATING | {"serving"},
    "commands": GENERATING
    | {"training", "rewards", "pretraining", "metrics", "evaluation", "reporting", "serving", "api", "commands"},
    "cli": {"core", "commands"},
    "__main__": {"cli"},
}
HEAVY = {"torch", "torchvision", "transformers", "diffusers", "peft", "accelerate", "torchmetrics", "open_clip"}


def layer_of(module: str) -> str:
    """The layer of a dotted module name. Metrics, their statistics and published values are a layer inside evaluation,
    rewards, with the prompts that they read, their processes and the numbers beside them, one inside training.
    """
    parts = module.split(".")[1:]
    if not parts or parts[0] in CORE:
        return "core"
    if parts[0] == "evaluation" and {"metrics", "stats", "published_scores"}.intersection(parts[1:2]):
        return "metrics"
    if parts[:2] == ["training", "rl"] and {"rewards", "prompts", "monitors", "scoring"}.intersection(parts[2:3]):
        return "rewards"
    return parts[0]


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(path: Path, known: set[str]) -> set[str]:
    """Every module that a file imports anywhere in it, `if TYPE_CHECKING` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            source = node.module or ""
            found |= {name if (name := f"{source}.{alias.name}") in known else source for alias in node.names}
    return found


MODULES = modules()


def test_imports_run_one_way() -> None:
    wrong = []
    for module, path in MODULES.items():
        for target in imported(path, set(MODULES)):
            importer = module if module == "glmkit" else layer_of(module)
            if target.split(".")[0] == "glmkit" and layer_of(target) not in MAY_IMPORT[importer]:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_class_names_are_unique() -> None:
    found = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module)
    assert len(found) > 100
    assert not {name: modules for name, modules in found.items() if len(modules) > 1}


@pytest.mark.parametrize("layer", ["core", "metrics", "reporting"])
def test_light_layers_never_name_heavy_packages(layer: str) -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in MODULES.items()
        if layer_of(module) == layer
        for target in imported(path, set(MODULES))
        if target.split(".")[0] in HEAVY
    ]
    assert not wrong


def test_light_layers_load_without_heavy_packages() -> None:
    layers = {"core", "inputs", "distributed", "metrics", "reporting", "commands", "cli"}
    light = [name for name in MODULES if layer_of(name) in layers]
    code = "import importlib, sys\n"
    code += f"for name in {light!r}: importlib.import_module(name)\n"
    code += f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


def test_help_is_quick() -> None:
    """`glmkit --help` in under 0.7 s of processor time (wall time would measure the neighbours, too)."""
    code = "import sys; sys.argv = ['glmkit', '--help']\n"
    code += "try: import runpy; runpy.run_module('glmkit', run_name='__main__')\n"
    code += "finally: print(sorted({'glmkit.config', 'numpy', 'pydantic'} & set(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "[]", "recipes alone need half of that time"

    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "glmkit", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.7


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=]", line)[0].lower().replace("_", "-") for line in requirements}


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_users = declared(project["dependencies"] + extras["eval"] + extras["openai"] + extras["serve"] + extras["train"])
    of_developers = of_users | declared(extras["dev"])
    distributions = importlib.metadata.packages_distributions()
    folder = Path(__file__).parent
    ours = {"glmkit", "tests", *(path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py")}
    missing = set()
    for path in [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        known = of_users if path.is_relative_to(PACKAGE) else of_developers
        for package in {target.split(".")[0] for target in imported(path, set(MODULES))}:
            names = {name.lower().replace("_", "-") for name in distributions.get(package, [package])}
            if package not in sys.stdlib_module_names | ours and not names & known:
                missing.add(f"{path.name} imports {package}")
    assert not missing
