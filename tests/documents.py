"""The documents that people read, as the tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "recipes/README.md",
    "benchmarks/README.md",
    "benchmarks/baselines.md",
    "benchmarks/deciding.md",
    "benchmarks/public_questions.md",
    "benchmarks/public_text.md",
    "benchmarks/reference_sets.md",
    "data/README.md",
    "glmkit/serving/README.md",
)
# Several processes: tests/training/test_distributed.py.
LAUNCHER = re.compile(r"^(?:accelerate launch|torchrun) .*-m (?=glmkit )")


def read(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def code_blocks(document: str, language: str) -> list[str]:
    """Its code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(document), flags=re.MULTILINE | re.DOTALL)


def command_lines(document: str) -> list[str]:
    """Its shell lines without comments, continued ones joined."""
    text = "".join(code_blocks(document, "bash")).replace("\\\n", " ")
    return [line for line in (re.sub(r"(^|\s+)#.*", "", line) for line in text.splitlines()) if line]


def prose(document: str) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```", "", read(document), flags=re.MULTILINE | re.DOTALL)


def one_line(document: str) -> str:
    """Its prose in one line."""
    return " ".join(prose(document).split())


def table(document: str, first_column: str) -> dict[str, list[str]]:
    """The cells of the table whose first heading is `first_column`, by the text in the first one; ** is dropped."""
    return {cells[0]: cells[1:] for cells in table_lines(document, first_column)}


def table_lines(document: str, first_columns: str) -> list[list[str]]:
    """The lines of the table whose heading begins with `first_columns` (as "a | b"), without heading and rule."""
    lines = read(document).splitlines()
    (start,) = [index for index, line in enumerate(lines) if line.startswith(f"| {first_columns} |")]
    rest = lines[start + 2 :]
    end = next((index for index, line in enumerate(rest) if not line.startswith("|")), len(rest))
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in rest[:end]]
