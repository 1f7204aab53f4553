"""Whether a JSON value has the shape that a type describes, and where it has not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import lru_cache, partial
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Never,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from glmkit.errors import UserError

FIX = "restore the file, or use a new folder"
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no file in UTF-8 can hold
NAMES = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    NoneType: "null",
    Never: "absent",
}

# The annotations of a class, resolved.
type_hints: Callable[[Any], dict[str, Any]] = lru_cache(partial(get_type_hints, include_extras=True))


def check_shape(value: Any, kind: Any, where: str, path: str = "", fix: str = FIX) -> None:
    """Raise UserError with `where` (a file, its line) and the path of the first field that is not as `kind` says."""
    if found := fault(value, kind, path):
        raise UserError(f"{where}: {found}", found=repr(value), fix=fix)


def fault(value: Any, kind: Any, path: str) -> str | None:
    """Say where and how `value` differs from `kind`; None when it does not.

    `kind` is a TypedDict or a dataclass (its keys are needed unless they are NotRequired, others may be there), a list
    or tuple, a mapping (of Never: an empty one), a union, a literal, or text, number, boolean, None, Any;
    `Annotated[X, kind]` is `kind`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fault(value, arguments[1], path)
    if origin in (Union, UnionType):
        faults = [fault(value, one, path) for one in arguments]
        return None if None in faults else faults[0]
    if origin is Literal:
        return None if value in arguments else _must_be(" or ".join(map(str, arguments)), path)
    if is_typeddict(kind) or is_dataclass(kind):
        return _fault_in_object(value, type_hints(kind), path)
    if origin is Mapping:
        return _fault_in_object(value, arguments[1], path)
    if origin in (tuple, list):
        return _fault_in_list(value, arguments, path)
    if kind is Any or (kind is not Never and _is_plain(value, kind)):
        return None
    return _must_be(NAMES[kind], path)


def _fault_in_object(value: Any, kinds: Any, path: str) -> str | None:
    if not isinstance(value, Mapping):
        return _must_be("an object", path)
    hints = kinds if isinstance(kinds, dict) else dict.fromkeys(value, kinds)
    prefix = f"{path}." if path else ""
    missing = next((key for key, hint in hints.items() if key not in value and not _is_optional(hint)), None)
    if missing is not None:
        return f"{prefix}{missing} is missing"
    present = ((key, get_args(hint)[0] if _is_optional(hint) else hint) for key, hint in hints.items() if key in value)
    return _first(fault(value[key], hint, f"{prefix}{key}") for key, hint in present)


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) is NotRequired


def _fault_in_list(value: Any, kinds: tuple[Any, ...], path: str) -> str | None:
    if not isinstance(value, (list, tuple)):
        return _must_be("a list", path)
    if len(kinds) == 1 or kinds[1] is ...:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        return _must_be(f"a list of {len(kinds)}", path)
    return _first(
        fault(one, kind, f"{path}[{index}]") for index, (one, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _is_plain(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and _is_finite(value)
    return isinstance(value, kind) and not (kind is str and SURROGATE.search(value))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _first(faults: Iterable[str | None]) -> str | None:
    return next(filter(None, faults), None)


def _must_be(what: str, path: str) -> str:
    return f"{path or 'the value'} must be {what}"
