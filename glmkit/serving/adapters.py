"""Adapters by name: the weights that they change are kept clean, and each request gets its own from there.

Subtracting an adapter from bfloat16 weights would not give them back, so what any adapter changes is copied first, to
the host. The weights change in place: products that were fused, and steps that were recorded, read the new values.
Matrices in fewer bits do not change: adapters are beside them. With one component at a time in the memory, each is read
with its adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.generation.images import weights_digest
from glmkit.generation.loading import hold_components
from glmkit.models.checkpoint.adapter_files import PEFT_PREFIX, read
from glmkit.models.checkpoint.adapters import (
    Adapter,
    check_adapter,
    exchange_changes,
    low_rank_changes,
    merge_adapter,
)
from glmkit.models.host_weights import matrix_of
from glmkit.models.hybrid import HybridModel
from glmkit.models.quantized import PackedLinear
from glmkit.serving.fields import Adapters

LORA = ".lora_"
MAX_DIGESTS = 256  # that are remembered: clients choose any weights


def checked_adapters(folder: Path, named: Mapping[str, str]) -> dict[str, Adapter]:
    """Read `DIR` or `DIR:WEIGHT` of each name; UserError for what does not fit the model in `folder`."""
    adapters = {}
    for name, text in named.items():
        try:
            adapters[name] = Adapter.parse(text)
        except UserError as error:
            fix = error.fix and error.fix.replace("--adapter ", f"--adapter {name}=")
            raise UserError(error.what, found=error.found, fix=fix) from error
        check_adapter(folder, adapters[name].folder)
    return adapters


class AdapterSwitch:
    """Gives a model the adapters that a request names. `named` are all that there are, of `checked_adapters`."""

    def __init__(self, hybrid: HybridModel, named: Mapping[str, Adapter]) -> None:
        self.hybrid, self.named = hybrid, named
        self._clean: dict[str, dict[str, Tensor]] = {}
        self._digests: dict[Adapters, str] = {}
        self._active: Adapters = ()
        for component in sorted({name for adapter in self.named.values() for name in read(adapter.folder)}):
            if hybrid.is_packed(component):
                low_rank_changes(component, list(self.named.values()))  # which refuses what cannot be beside a matrix
            self._clean[component] = {} if hybrid.low_memory else self._kept(component)

    def digest(self, adapters: Adapters) -> str:
        """Name the weights with these adapters, as an image's text does."""
        if adapters not in self._digests:
            if len(self._digests) >= MAX_DIGESTS:
                self._digests.clear()
            texts = [f"{one.folder}:{one.weight}" for one in self._weighted(adapters)]
            self._digests[adapters] = weights_digest(self.hybrid.folder, texts, self.hybrid.arithmetic)
        return self._digests[adapters]

    def use(self, adapters: Adapters) -> None:
        """Let the weights be those of the model with these adapters, and no others."""
        if adapters == self._active:
            return
        weighted = self._weighted(adapters)
        if self.hybrid.low_memory:
            hold_components(self.hybrid, weighted)
            self.hybrid.unload(*self._clean)
        else:
            with torch.inference_mode(False), torch.no_grad():
                for component, clean in self._clean.items():
                    self._change(component, clean, weighted)
        self._active = adapters

    def _change(self, component: str, clean: Mapping[str, Tensor], adapters: list[Adapter]) -> None:
        module: nn.Module = getattr(self.hybrid, component)
        for layer, values in clean.items():
            matrix_of(module.get_submodule(layer)).copy_(values)
        if self.hybrid.is_packed(component):
            exchange_changes(component, module, adapters)
            self.hybrid.inference_cache.clear()  # recorded steps know the former products
        else:
            for adapter in adapters:
                merge_adapter(module, component, adapter)

    def _weighted(self, adapters: Adapters) -> list[Adapter]:
        return [Adapter(self.named[name].folder, self.named[name].weight * weight) for name, weight in adapters]

    def _kept(self, component: str) -> dict[str, Tensor]:
        """Copy the weights of a component that some adapter changes."""
        layers = set()
        for adapter in self.named.values():
            own = read(adapter.folder).get(component)
            for name in own.tensors if own else ():
                layers.add(name.partition(LORA)[0].removeprefix(PEFT_PREFIX))
        module: nn.Module = getattr(self.hybrid, component)
        plain = [layer for layer in sorted(layers) if not isinstance(module.get_submodule(layer), PackedLinear)]
        return {layer: matrix_of(module.get_submodule(layer)).to("cpu", copy=True) for layer in plain}
