"""Load a model for inference: adapters merged, projections fused, compiled or not, all components or one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from glmkit.distributed.process_group import ProcessGroup
from glmkit.errors import UserError, unknown
from glmkit.generation.options import InferenceOptions
from glmkit.models import checkpoint
from glmkit.models.checkpoint import torchao
from glmkit.models.checkpoint.adapters import Adapter, change_packed, check_adapter, low_rank_changes, merge_adapter
from glmkit.models.devices import DTYPES, check_bfloat16, dtype_for, pick_device
from glmkit.models.float8 import has_products
from glmkit.models.hybrid import HybridModel
from glmkit.models.quantized import FORMATS, MATRICES
from glmkit.records import Request
from glmkit.shortcuts import EXACT, PRECISIONS


def device_of_rank(name: str) -> torch.device:
    """Return the device called `name`; of several processes on one machine, each takes its own GPU."""
    device, group = pick_device(name), ProcessGroup.from_environment()
    return torch.device("cuda", group.local_rank) if device.type == "cuda" and group.world_size > 1 else device


def dtype_named(name: str, device: torch.device) -> torch.dtype:
    """Return the type called `name`; "auto" is bfloat16 on a GPU that has it, else float32.

    UserError for float16, for bfloat16 on a GPU without it, and for any other name.
    """
    if name == "float16":
        raise UserError(
            "float16 is not supported: what the published bfloat16 weights compute may exceed its range of 65504",
            found="--dtype float16",
            fix="--dtype auto",
        )
    if name != "auto" and name not in DTYPES:
        raise unknown("dtype", name, ("auto", *DTYPES))
    if name == "bfloat16":
        check_bfloat16("--dtype bfloat16", device, "--dtype float32")
    return dtype_for(device) if name == "auto" else DTYPES[name]


def components_for(requests: Iterable[Request]) -> list[str]:
    """Return the components that the requests need: the semantic tokenizer only for edits."""
    edits = any(request.condition_images for request in requests)
    return [component for component in checkpoint.COMPONENTS if component != "semantic_vq" or edits]


def precision_of(folder: Path, precision: str) -> str:
    """Return the precision in which a model folder is used when another is asked for, or "exact" by default.

    Weights that a folder holds in 8 bits are used in these. UserError for other precisions of them, and unknown ones.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if not any(torchao.is_quantized(folder, component) for component in MATRICES):
        return precision
    if precision == "4bit":
        what = f"{folder} holds weights in 8 bits, which 4 bits would round again"
        raise UserError(what, found="--precision 4bit", fix="--precision 8bit, or the model that it was made from")
    return "8bit"


def hold_components(hybrid: HybridModel, adapters: Sequence[Adapter] = ()) -> None:
    """Have every component of a model, as it is read, changed by adapters and in the model's precision."""
    if hybrid.precision != EXACT["precision"]:
        has_products(hybrid.device)  # which says so where there are none
        for component in FORMATS[hybrid.precision]:
            low_rank_changes(component, adapters)  # before anything is read

    def hold(component: str, module: nn.Module) -> nn.Module:
        if hybrid.is_packed(component):
            return change_packed(component, module, adapters, hybrid.precision, hybrid.device)
        for adapter in adapters:
            module = merge_adapter(module, component, adapter)
        return module

    hybrid.on_load = hold


def load_model(
    model: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    adapters: Sequence[str] = (),
    options: InferenceOptions | None = None,
    components: Iterable[str] = (),
    precision: str = EXACT["precision"],
) -> HybridModel:
    """Load a model (nano, a folder or a hub id) with `adapters` (`DIR` or `DIR:WEIGHT`) merged into its weights.

    "auto" takes a GPU where there is one, and bfloat16 there if it can, else float32. `components` are read now, so
    that a broken file shows at once, the others when they are needed. In another `precision` than "exact" the layers
    are held in 8 or 4 bits, with adapters beside them. Raises UserError before anything is read when an adapter or the
    precision does not fit.
    """
    # 1. Check that every adapter fits the model.
    options = options or InferenceOptions()
    if isinstance(device, str):
        device = device_of_rank(device)
    if isinstance(dtype, str):
        dtype = dtype_named(dtype, device)
    folder = checkpoint.resolve(model)
    parsed = [Adapter.parse(adapter) for adapter in adapters]
    for adapter in parsed:
        check_adapter(folder, adapter.folder)
    # 2. Merge them into each component as it is read, or keep them beside what is in fewer bits.
    hybrid = HybridModel(folder, device, dtype, str(model), precision_of(folder, precision))
    hybrid.adapters, hybrid.low_memory = tuple(adapters), options.low_memory
    hold_components(hybrid, parsed)
    # 3. Fuse and compile each component as it is read.
    hybrid.optimize_for_inference(options.compiles_on(device))
    # 4. Read the components that will be needed, unless only one at a time may be there.
    if not options.low_memory:
        for component in components:
            getattr(hybrid, component)
    return hybrid
