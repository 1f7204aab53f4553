"""Folders in which one file is one choice: `suites/text_render.py` is what users call `text-render`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from glmkit.errors import unknown


@dataclass(frozen=True)
class NamedFiles:
    """Find the modules of `package` by what users call them; `kind` is the word for one of them in an error."""

    package: str
    kind: str

    def names(self) -> list[str]:
        """List what there is; a folder in the package is no choice."""
        path = importlib.import_module(self.package).__path__
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(path) if not module.ispkg)

    def module(self, name: str) -> str:
        """Give the dotted name of the module of that name; UserError with the nearest name when there is none."""
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        return f"{self.package}.{name.replace('-', '_')}"

    def load(self, name: str) -> ModuleType:
        """Import the module of that name; UserError with the nearest name when there is none."""
        return importlib.import_module(self.module(name))

    def resolve(self, spec: str) -> str:
        """Turn NAME[:LOCATION] into MODULE[:LOCATION]; UserError with the nearest name when there is none."""
        name, colon, location = spec.partition(":")
        return f"{self.module(name)}{colon}{location}"


def find(resolved: str) -> tuple[ModuleType, str]:
    """Import the module of MODULE[:LOCATION]; returns it with the location."""
    module, _, location = resolved.partition(":")
    return importlib.import_module(module), location
