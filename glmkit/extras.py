"""Packages that only some commands need: `pip install "glmkit[eval]"` installs those of evaluations."""

from __future__ import annotations

import importlib.metadata
import re

from glmkit.errors import UserError


def require(package: str, what: str) -> None:
    """Raise UserError with the command that installs a package that `what` needs, unless it is installed.

    Nothing is imported, so this is quick and comes before any work.
    """
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"{what} needs the package {package}", fix=f'pip install "{_source(package)}"') from error


def _source(package: str) -> str:
    """Return what to install for a package: the extra of glmkit that lists it, otherwise itself."""
    try:
        requirements = importlib.metadata.requires("glmkit") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source files
        requirements = []
    for requirement in requirements:
        listed = re.match(r"""([\w.-]+)[^;]*;.*extra == ["'](\w+)["']""", requirement)
        # `all` and `dev` list what other extras list, too.
        if listed is not None and listed[2] not in ("all", "dev") and _normal(listed[1]) == _normal(package):
            return f"glmkit[{listed[2]}]"
    return package


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
