"""Adapters by name: the weights that they change are kept clean, and each request gets its own from there.

Subtracting an adapter from bfloat16 weights would not give them back, so what any adapter changes is copied first, to
the host. The weights change in place: products that were fused, and steps that were recorded, read the new values.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glmkit.errors import UserError
from glmkit.generation.images import weights_digest
from glmkit.models.checkpoint.adapter_files import read
from glmkit.models.checkpoint.adapters import Adapter, check_adapter, merge_adapter
from glmkit.models.hybrid import HybridModel
from glmkit.records import EXACT
from glmkit.serving.fields import Adapters

LORA = ".lora_"


class AdapterSwitch:
    """Gives a model the adapters that a request names. `named` are all that there are, `DIR` or `DIR:WEIGHT`."""

    def __init__(self, hybrid: HybridModel, named: Mapping[str, str]) -> None:
        self.hybrid = hybrid
        self.named = {name: Adapter.parse(text) for name, text in named.items()}
        self._clean: dict[str, dict[str, Tensor]] = {}
        self._digests: dict[Adapters, str] = {}
        self._active: Adapters = ()
        if named and hybrid.precision != EXACT["precision"]:
            what, fix = "a server changes adapters in exact weights only", "glmkit merge, and --model with the result"
            raise UserError(what, found=f"precision {hybrid.precision}, adapter {next(iter(named))}", fix=fix)
        for adapter in self.named.values():
            check_adapter(hybrid.folder, adapter.folder)
        for component in sorted({name for adapter in self.named.values() for name in read(adapter.folder)}):
            self._keep(component)

    def digest(self, adapters: Adapters) -> str:
        """Name the weights with these adapters, as an image's text does."""
        if adapters not in self._digests:
            texts = [f"{one.folder}:{one.weight}" for one in self._weighted(adapters)]
            self._digests[adapters] = weights_digest(self.hybrid.folder, texts, self.hybrid.arithmetic)
        return self._digests[adapters]

    def use(self, adapters: Adapters) -> None:
        """Let the weights be those of the model with these adapters, and no others."""
        if adapters == self._active:
            return
        weighted = self._weighted(adapters)
        with torch.inference_mode(False), torch.no_grad():
            for component, clean in self._clean.items():
                module: nn.Module = getattr(self.hybrid, component)
                parameters = dict(module.named_parameters())
                for name, value in clean.items():
                    parameters[name].data.copy_(value)
                for adapter in weighted:
                    merge_adapter(module, component, adapter)
        self._active = adapters

    def _weighted(self, adapters: Adapters) -> list[Adapter]:
        return [Adapter(self.named[name].folder, self.named[name].weight * weight) for name, weight in adapters]

    def _keep(self, component: str) -> None:
        """Copy the weights of a component that some adapter changes."""
        layers = set()
        for adapter in self.named.values():
            own = read(adapter.folder).get(component)
            for name in own.tensors if own else ():
                layers.add(name.partition(LORA)[0].removeprefix("base_model.model."))
        module: nn.Module = getattr(self.hybrid, component)
        parameters = dict(module.named_parameters())
        self._clean[component] = {
            name: parameters[name].detach().to("cpu", copy=True)
            for layer in sorted(layers)
            if (name := f"{layer}.weight") in parameters
        }
