"""The config files of a model folder: what is wrong with one is a UserError that names the file and the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.files import read_json

LAYERS = ("num_hidden_layers", "num_layers", "depth", "layers_per_block")  # keys that say how much is built
MAX_LAYERS, MAX_INTEGER, HUGE = 1000, 1 << 26, 1e30
NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: f"a whole number from 0 to {MAX_INTEGER:,}",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def read_config(path: Path, like: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config whose values have the types of those in `like`; keys that it does not have are passed over.

    `required` keys must be there, `a.b` inside of `a`. UserError names the first key that is missing or wrong.
    """
    values = read_json(path)
    _check(values, like, path, "")
    for name in required:
        *above, key = name.split(".")
        inside = values
        for part in above:
            inside = inside[part]
        if inside.get(key) is None:
            raise _error(path, name, "is missing")
    return dict(values)


def _check(value: Any, like: Any, path: Path, name: str) -> None:
    kind = type(like)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not (numeric and abs(value) < HUGE if kind is float else type(value) is kind):
        raise _error(path, name, f"must be {NAMES[kind]}", value)
    if kind is int:
        least, most = (1, MAX_LAYERS) if name.rpartition(".")[2] in LAYERS else (0, MAX_INTEGER)
        if not least <= value <= most:
            raise _error(path, name, f"must be {least} to {most:,}", value)
    elif kind is dict:
        for key in like.keys() & value.keys():
            if value[key] is not None:
                _check(value[key], like[key], path, f"{name}.{key}".lstrip("."))
    elif kind is list:
        for item in value:
            _check(item, like[0], path, name)


def _error(path: Path, name: str, what: str, value: Any = None) -> UserError:
    found = None if value is None else repr(value)[:80]
    fix = "the config.json that was saved with these weights, or download it again"
    return UserError(f"{path}: {name} {what}" if name else f"{path} {what}", found=found, fix=fix)


@contextmanager
def described_by(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while `what` is made as a file says into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).strip().partition("\n")[0][:300]
        raise UserError(
            f"{path} does not describe {what}",
            found=reason or type(error).__name__,
            fix="the file that was saved with these weights, or download it again",
        ) from error
