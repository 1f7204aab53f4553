"""Texts in Python files that people bring, which are read and never run."""

from __future__ import annotations

import ast
from pathlib import Path

from glmkit.errors import UserError
from glmkit.files import read_text


def text_constants(path: Path, fix: str) -> dict[str, str]:
    """Map names to the texts that a Python file assigns to them at its top level; UserError with `fix` for others."""
    try:
        statements = ast.parse(read_text(path)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is not Python", found=str(error)[:80], fix=fix) from error
    found: dict[str, str] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            name, value = getattr(statement.targets[0], "id", ""), statement.value.value
            if isinstance(value, str) and name:
                found[name] = value
    return found
