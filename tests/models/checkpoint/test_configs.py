"""Model folders of others: whatever a config holds, the answer is one sentence that names the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmkit.errors import UserError
from glmkit.files import read_json, write_json
from glmkit.generation.denoising import flow_config
from glmkit.models import checkpoint
from glmkit.models.checkpoint import defaults
from glmkit.models.hybrid import HybridModel

WRONG: tuple[Any, ...] = (-1, "x", 10**12, [], True, float("nan"))


def changed(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every key of a config, and every wrong value for it."""
    for key, inside in value.items():
        yield from (((*path, key), wrong) for wrong in WRONG)
        if isinstance(inside, dict):
            yield from changed(inside, (*path, key))


def put(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    inside = config
    for key in path[:-1]:
        inside = inside[key]
    if value is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return config


@pytest.mark.parametrize("component", checkpoint.COMPONENTS)
def test_a_wrong_value_of_any_key_is_one_sentence(component: str, tiny_copy: Path) -> None:
    """Loads as before, where nothing reads the key; else a UserError that names the file."""
    path = tiny_copy / checkpoint.COMPONENTS[component].folder / "config.json"
    config, refused = read_json(path), 0
    used = {key: config[key] for key in checkpoint.PUBLISHED[path.parent.name] if key in config}
    for where, value in changed(used):
        path.write_text(json.dumps(put(config, where, value)))
        error = error_of(tiny_copy, component)
        assert error is None or (path.parent.name in str(error) and error.fix)
        refused += error is not None
    assert refused > len(WRONG)


def error_of(folder: Path, component: str) -> UserError | None:
    try:
        checkpoint.load_component(folder, component)
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize("component", ["autoregressive", "semantic_vq", "decoder", "vae"])
def test_a_missing_key_is_named(component: str, tiny_copy: Path) -> None:
    path = tiny_copy / checkpoint.COMPONENTS[component].folder / "config.json"
    config = read_json(path)
    key = {"autoregressive": ("text_config", "hidden_size"), "semantic_vq": ("vision_config", "depth")}.get(component)
    write_json(path, put(config, key or ({"decoder": "num_layers", "vae": "latents_mean"}[component],), None))
    with pytest.raises(UserError, match=r"hidden_size|depth|num_layers|latents_mean"):
        checkpoint.load_component(tiny_copy, component)


@pytest.mark.parametrize(("file", "key"), [("transformer", "num_layers"), ("text_encoder", "num_layers")])
def test_too_many_layers_are_refused_before_they_are_built(file: str, key: str, tiny_copy: Path) -> None:
    path = tiny_copy / file / "config.json"
    write_json(path, {**read_json(path), key: 200_000})
    with pytest.raises(UserError, match=f"{key} must be 1 to"):
        checkpoint.load_component(tiny_copy, {"transformer": "decoder", "text_encoder": "glyph"}[file])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "5", '"x"', '{"a": ' * 5000, "\ud800"])
@pytest.mark.parametrize(
    "file",
    ["glmkit.json", "transformer/config.json", "scheduler/scheduler_config.json", "processor/preprocessor_config.json"],
)
def test_a_file_that_is_no_object(file: str, content: str, tiny_copy: Path) -> None:
    (tiny_copy / file).write_text(content, errors="surrogatepass")
    with pytest.raises(UserError, match=Path(file).name):
        read_all(tiny_copy)


def read_all(folder: Path) -> None:
    defaults.load(folder)
    flow_config(folder)
    checkpoint.config(folder, "decoder")
    _ = HybridModel(folder).condition_image_settings


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("glmkit.json", {"defaults": {"steps": "x"}}),
        ("glmkit.json", {"defaults": {"guidance": "x"}}),
        ("glmkit.json", {"defaults": {"size": "²56x256"}}),
        ("glmkit.json", {"defaults": {"size": 256}}),
        ("glmkit.json", {"defaults": []}),
        ("scheduler/scheduler_config.json", {"base_shift": "x"}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}),
        ("scheduler/scheduler_config.json", {"base_image_seq_len": 0}),
        ("processor/preprocessor_config.json", {"size": {"shortest_edge": -1, "longest_edge": 5}}),
        ("processor/preprocessor_config.json", {"size": {"shortest_edge": 10**15, "longest_edge": 10**15}}),
        ("processor/preprocessor_config.json", {"size": {"shortest_edge": 9, "longest_edge": 5}}),
        ("processor/preprocessor_config.json", {"size": {"shortest_edge": "x", "longest_edge": 5}}),
        ("processor/preprocessor_config.json", {"size": []}),
        ("processor/preprocessor_config.json", {"image_mean": ["x", "x", "x"]}),
        ("processor/preprocessor_config.json", {"image_mean": [0.5]}),
        ("processor/preprocessor_config.json", {"image_std": [0.5, 0, 0.5]}),
    ],
)
def test_a_wrong_setting_of_generation(file: str, changes: dict[str, Any], tiny_copy: Path) -> None:
    path = tiny_copy / file
    write_json(path, {**(read_json(path) if path.exists() else {}), **changes})
    with pytest.raises(UserError, match=path.name):
        read_all(tiny_copy)


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        [],
        {},
        {"a": 5},
        {"a": None},
        {"a": []},
        {"a": ""},
        {"a": "."},
        {"a": "../outside.safetensors"},
        {"a": "/outside.safetensors"},
        {"a": "C:\\outside.safetensors"},
        {"a": "x" * 300 + ".safetensors"},
        {"a": "missing.safetensors"},
        {"a": "pickle.bin"},
    ],
)
def test_an_index_names_files_beside_it(weight_map: Any, tiny_copy: Path) -> None:
    where = tiny_copy / "transformer"
    (where / "diffusion_pytorch_model.safetensors").rename(tiny_copy / "outside.safetensors")
    write_json(where / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(UserError, match="transformer"):
        checkpoint.load_component(tiny_copy, "decoder")
