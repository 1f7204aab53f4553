"""YAML files as plain values, and `key=value` over them; `config.recipe` checks what is read here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from glmkit import shipped
from glmkit.errors import UserError, nearest
from glmkit.files import exists, read_text

MAX_BYTES = 2**20  # of a recipe
MAX_NODES, MAX_DEPTH, MAX_NUMBER = 100_000, 50, 100  # values, aliases resolved; sections in sections; digits


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key_node.start_mark)
        key = loader.construct_object(key_node)
        if key in seen:
            raise UserError(
                f"{key_node.start_mark.name}: key {key!r} is given twice",
                found=f"again on line {key_node.start_mark.line + 1}",
                fix="keep one of the two",
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 1e-4 as text; recipes are full of such numbers.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse(text: str, name: str, kind: type[yaml.SafeLoader] = _Loader) -> Any:
    """Return the value of one YAML document, `name` in messages; UserError when it is broken, or beyond the limits."""
    try:
        loader = kind(text)
        loader.name = name
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, 0)
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{name} is not valid YAML", found=str(error), fix="a line for each value: seed: 0") from error


def _check(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Count the values in a node; ValueError when there are too many, as aliases of aliases make, or they lie too deep.

    `sizes` are those of the nodes counted before.
    """
    if depth > MAX_DEPTH:  # an alias may also stand inside of what it stands for
        raise ValueError(f"sections or lists lie more than {MAX_DEPTH} deep in one another")
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith(":int") and len(node.value) > MAX_NUMBER:
            raise ValueError(f"a number of {len(node.value)} digits")
        return 1
    if id(node) not in sizes:
        children = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        sizes[id(node)] = 1 + sum(_check(child, sizes, depth + 1) for child in children)
    if sizes[id(node)] > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES:,} values")
    return sizes[id(node)]


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping, or the shipped recipe of that name; UserError when it is missing or broken."""
    try:
        is_there = exists(shipped.recipe(path))
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UserError(f"recipe {str(path)[:200]!r} cannot be read", found=error) from error
    if not is_there:
        folder = Path(path).parent
        known = [str(other) for other in folder.glob("*.yaml")] if folder.is_dir() else []
        guess = nearest(str(path), [*known, *shipped.recipes()])
        fix = f"did you mean {guess}?" if guess else "glmkit recipe list shows those that come with glmkit"
        raise UserError(f"recipe {path} does not exist", fix=fix)
    value = parse(read_text(shipped.recipe(path), MAX_BYTES), str(path))
    if not isinstance(value, dict):
        raise UserError(
            f"{path} must hold `key: value` lines", found=type(value).__name__, fix="model: nano, and so on"
        )
    return value


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return `values` with `a.b.c=value` assignments applied; values are read as YAML."""
    pairs = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError("an override must look like key=value", found=assignment, fix="decoder.steps=50")
        pairs.append((path, parse(text, f"override {assignment[:80]}")))
    return assign(values, pairs)


def assign(values: Mapping[str, Any], pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return `values` with each value at its path `a.b.c`; UserError for a path through a value."""
    result: dict[str, Any] = _copy(values)
    for path, value in pairs:
        *parents, last = path.split(".")
        target = result
        for key in parents:
            child = target.setdefault(key, {})
            if not isinstance(child, dict):
                raise UserError(f"override {path[:80]!r}: {key!r} is a value, not a section")
            target = child
        target[last] = value
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(child) for key, child in value.items()} if isinstance(value, Mapping) else value
