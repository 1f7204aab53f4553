"""Weights in 8 bits as torchao writes them, which diffusers and transformers load where torchao is installed.

A matrix X.weight N x K is stored as X._weight_qdata, int8 or e4m3, and X._weight_scale, float32 N x 1, or N x G with a
scale per group of inputs; int8 also has X._weight_zero_point. Its value is (qdata - zero point) scale. The metadata of
the file says so once more, one JSON text per tensor, and config.json says which layers were left out. This is the
layout of torchao 0.18 by way of diffusers 0.42 and transformers 5.23; torchao itself is not needed for it.

Shapes: N outputs, K inputs; G groups of a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmkit.errors import UserError
from glmkit.files import atomic_folder, read_json, write_json
from glmkit.models.checkpoint import defaults, weights
from glmkit.models.checkpoint.components import COMPONENTS, load_component, resolve
from glmkit.models.checkpoint.configs import read_config
from glmkit.models.checkpoint.copying import copy
from glmkit.models.checkpoint.identity import fingerprint
from glmkit.models.quantized import (
    BITS,
    FORMATS,
    MATRICES,
    PackedMatrix,
    by_group,
    from_words,
    group_size,
    to_words,
)
from glmkit.runs import check_new

WEIGHT, QDATA, SCALE, ZERO = ".weight", "._weight_qdata", "._weight_scale", "._weight_zero_point"
MADE_FROM = "quantized_from"  # key of glmkit.json: the exact weights behind those of each component
STORED = ("F8_E4M3", "I8")
PER_ROW = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
# What config.json says, by format.
QUANT_TYPES: Mapping[str, dict[str, Any]] = {
    "e4m3": {
        "_type": "Float8WeightOnlyConfig",
        "_version": 2,
        "_data": {
            "granularity": PER_ROW,
            "set_inductor_config": True,
            "weight_dtype": {"_type": "torch.dtype", "_data": "float8_e4m3fn"},
        },
    },
    "int8": {
        "_type": "Int8WeightOnlyConfig",
        "_version": 2,
        "_data": {"granularity": PER_ROW, "group_size": None, "set_inductor_config": True},
    },
}
# Layers that stay as they are, by parts of their names. transformers takes lm_head for one whatever this says.
LEFT_OUT = {
    "decoder": [
        *("norm1", "norm_out", "proj_out", "time_condition_embed"),
        *("image_projector", "glyph_projector", "prior_projector"),
    ],
    "autoregressive": ["visual", "vqmodel", "lm_head", "embed_tokens"],
}


@dataclass(frozen=True)
class StoredMatrix:
    """Hold a matrix as it is stored: `qdata` N x K, `scale`, and `zero_point` of the shape of `scale`, or None."""

    qdata: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def dequantize(self) -> Tensor:
        """Return its values, float32 N x K."""
        values, (rows, columns) = self.qdata.float(), self.qdata.shape

        def spread(one: Tensor) -> Tensor:
            wide = one.float().repeat_interleave(columns // one.shape[1], dim=1)
            return wide.repeat_interleave(rows // one.shape[0], dim=0)

        if self.zero_point is not None:
            values = values - spread(self.zero_point)
        return values * spread(self.scale)

    def packed(self, device: torch.device) -> PackedMatrix | None:
        """Return the same values packed, without a bias, on a device; None where the scales are others than ours."""
        if self.zero_point is not None and self.zero_point.any():
            return None
        qdata, scale = self.qdata.to(device), self.scale.to(device, torch.float32)
        rows, columns = qdata.shape
        if qdata.dtype == torch.float8_e4m3fn:
            return PackedMatrix("e4m3", qdata, scale.expand(rows, 1).contiguous()) if scale.shape[1] == 1 else None
        if scale.shape[0] != rows or columns // scale.shape[1] not in (columns, group_size(columns)):
            return None
        return PackedMatrix("int8", to_words(qdata.to(torch.int16), 8), by_group(scale))


def is_quantized(folder: Path, component: str) -> bool:
    """Tell whether the config of a component says that its weights are in torchao's layout."""
    path = folder / COMPONENTS[component].folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    about = config.get("quantization_config") if isinstance(config, dict) else None
    return isinstance(about, dict) and about.get("quant_method") == "torchao"


def whole(stored: Mapping[str, weights.StoredTensor]) -> dict[str, weights.StoredTensor]:
    """Describe what is stored by the names and shapes that it has unpacked; UserError for a layout unknown here."""
    described = {}
    for name, entry in stored.items():
        layer = name.removesuffix(QDATA)
        if name.endswith((SCALE, ZERO)) and f"{name.rpartition('._weight_')[0]}{QDATA}" in stored:
            continue
        if layer != name and (entry.dtype not in STORED or len(entry.shape) != 2 or f"{layer}{SCALE}" not in stored):
            what, fix = f"{entry.file} holds weights in a layout that is not read here", "int8 or e4m3 with its scales"
            raise UserError(what, found=f"{name}, {entry.dtype}, {entry.shape}", fix=fix)
        if layer != name:
            _check_scale(layer, entry, stored)
        described[name if layer == name else f"{layer}{WEIGHT}"] = entry
    return described


def _check_scale(layer: str, qdata: weights.StoredTensor, stored: Mapping[str, weights.StoredTensor]) -> None:
    """Raise UserError unless the scales of a matrix belong to equal blocks of it."""
    for name in (f"{layer}{SCALE}", f"{layer}{ZERO}"):
        shape = stored[name].shape if name in stored else (1, 1)
        if len(shape) != 2 or any(not of or whole % of for whole, of in zip(qdata.shape, shape, strict=True)):
            what = f"{stored[name].file}: {name} does not fit its matrix"
            raise UserError(what, found=f"{shape}, of {qdata.shape}", fix="download or copy this file again")


def read(stored: Mapping[str, weights.StoredTensor]) -> Iterator[tuple[str, Tensor | StoredMatrix]]:
    """Yield every tensor, and every stored matrix by the name of its weight, in the order of the files."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.read(stored):
        layer = name.rpartition("._weight_")[0]
        if f"{layer}{QDATA}" not in stored:
            yield name, tensor
            continue
        own = parts.setdefault(layer, {})
        own[name.removeprefix(layer)] = tensor
        if all(part in own or f"{layer}{part}" not in stored for part in (QDATA, SCALE, ZERO)):
            yield f"{layer}{WEIGHT}", StoredMatrix(own[QDATA], own[SCALE], own.get(ZERO))
            del parts[layer]


def quantized_from(folder: Path, component: str) -> str | None:
    """Return the fingerprint of the exact weights that `write_quantized_model` made those of a folder from."""
    made_from = _about(folder).get(MADE_FROM) or {}
    return made_from.get(component)


def _about(folder: Path) -> dict[str, Any]:
    """Read glmkit.json of a model folder, which need not be there."""
    path = folder / defaults.FILE
    return read_config(path, {**defaults.EXAMPLE, MADE_FROM: dict.fromkeys(COMPONENTS, "")}) if path.is_file() else {}


def write_quantized_model(model: str | Path, out: Path, progress: Callable[[str, int, int], None]) -> None:
    """Write a model folder whose layers are in 8 bits, and all else as it was; `progress(component, done, total)`.

    UserError before anything is written when `out` exists, or the model is in 8 bits already.
    """
    base, formats = resolve(model), FORMATS["8bit"]
    check_new(out)
    about = _about(base)
    for component in formats:
        if is_quantized(base, component):
            raise UserError(f"the {component} of {base} is in 8 bits already", fix="the model that it was made from")
        load_component(base, component, dtype=torch.bfloat16)  # which checks names and shapes, and copies nothing
    with atomic_folder(out) as unfinished:
        copy(base, unfinished)
        for component, format in formats.items():
            _write_component(base, component, format, unfinished, progress)
        made_from = {component: fingerprint(base, component) for component in formats}
        write_json(unfinished / defaults.FILE, {**about, MADE_FROM: made_from})


def _write_component(
    base: Path, component: str, format: str, out: Path, progress: Callable[[str, int, int], None]
) -> None:
    """Write the weights of a component, and of what else its folder holds; read back and compared."""
    spec = COMPONENTS[component]
    where = out / spec.folder
    stored = weights.stored_tensors(base / spec.folder, spec.stem)
    tensors: dict[str, Tensor] = {}
    about: dict[str, str] = {}
    for done, (name, tensor) in enumerate(weights.read(stored), start=1):
        layer, own_name = name.removesuffix(WEIGHT), spec.module_name(name)
        if own_name is not None and _is_packed(component, own_name, tensor):
            matrix = PackedMatrix.pack(tensor, format)
            if not torch.isfinite(matrix.scale).all():
                fix = "download or copy this file again"
                raise UserError(f"{stored[name].file}: {name} holds what is no finite number", fix=fix)
            own_tensors, own_about = to_store(layer, matrix, tensor.dtype)
            tensors, about = tensors | own_tensors, about | own_about
        else:
            tensors[name] = tensor
        progress(component, done, len(stored))
    weights.write(where, spec.stem, tensors, metadata=metadata(list(stored), about))
    config = {**read_json(where / "config.json"), "quantization_config": quantization_config(component, format)}
    write_json(where / "config.json", config)
    for name, value in weights.read(weights.stored_tensors(where, spec.stem)):
        if not torch.equal(value, tensors[name]):
            raise UserError(f"{out} does not hold what was written into it", found=name, fix="another disk")


def _is_packed(component: str, name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor of a component is a matrix that is stored in 8 bits; the head is packed when it is read."""
    layer = name.removesuffix(WEIGHT)
    return layer != name and layer != "lm_head" and tensor.ndim == 2 and bool(MATRICES[component].match(layer))


def to_store(layer: str, matrix: PackedMatrix, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a packed matrix in 8 bits, which stands for a weight of type `dtype`."""
    rows, groups = len(matrix.values), matrix.scale.shape[1]
    data: dict[str, Any] = {"block_size": [1, matrix.inputs // groups], "act_quant_kwargs": None}
    if matrix.format == "e4m3":
        tensors = {QDATA: matrix.values, SCALE: matrix.scale}
        data |= {"mm_config": None, "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"}}
    else:
        zero_point = torch.zeros(rows, groups, dtype=torch.int8)
        tensors = {QDATA: from_words(matrix.values, BITS["int8"]), SCALE: matrix.scale, ZERO: zero_point}
        data["reduce_range"] = False
    data["dtype"] = {"_type": "torch.dtype", "_data": str(dtype).removeprefix("torch.")}
    about = {
        "_type": "Float8Tensor" if matrix.format == "e4m3" else "Int8Tensor",
        "_data": data,
        "_tensor_data_names": [name.removeprefix("._weight_") for name in tensors],
    }
    return {f"{layer}{name}": value for name, value in tensors.items()}, {f"{layer}{WEIGHT}": json.dumps(about)}


def metadata(names: list[str], of_matrices: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of files that hold tensors of these names, as if unpacked, some of them packed matrices."""
    plain = json.dumps({"_type": "Tensor"})
    return {"tensor_names": json.dumps(names), **{name: of_matrices.get(name, plain) for name in names}}


def quantization_config(component: str, format: str) -> dict[str, Any]:
    """Return what the config.json of a component in a format says of it."""
    return {
        "quant_method": "torchao",
        "quant_type": {"default": QUANT_TYPES[format]},
        "modules_to_not_convert": LEFT_OUT[component],
    }
