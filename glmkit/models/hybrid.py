"""The whole model: every component of one model folder, each loaded when it is first used."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from glmkit.models import checkpoint
from glmkit.models.checkpoint.configs import described_by, read_config
from glmkit.models.quantized import FORMATS
from glmkit.models.semantic_vq.model import halved_size
from glmkit.shortcuts import EXACT

if TYPE_CHECKING:
    from glmkit.models.autoregressive.model import AutoregressiveModel
    from glmkit.models.decoder.model import DiffusionDecoder
    from glmkit.models.glyph.model import GlyphEncoder
    from glmkit.models.semantic_vq.model import SemanticTokenizer
    from glmkit.models.vae.model import Vae


CONDITION_IMAGES = {
    "size": {"shortest_edge": 1, "longest_edge": 1},
    "min_pixels": 1,
    "max_pixels": 1,
    "image_mean": [0.5],
    "image_std": [0.5],
}
FUSED_COMPONENTS = ("autoregressive", "decoder")


@dataclass(frozen=True)
class ConditionImageSettings:
    """Hold how condition images enter the semantic tokenizer: pixel bounds before halving, mean and std per channel."""

    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def halved_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which a condition image enters the tokenizer; UserError for one that no edit takes."""
        return halved_size(height, width, self.min_pixels, self.max_pixels)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> ConditionImageSettings:
        """Read a published `preprocessor_config.json`, in its present form (`size`) or the former (`min_pixels`)."""
        size = settings.get("size", {})
        mean, std = settings["image_mean"], settings["image_std"]
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError("image_mean and image_std are not three numbers each, those of image_std above 0")
        smallest, largest = (
            settings.get(former) or size[now]
            for former, now in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
        )
        if not 0 < smallest <= largest:
            raise ValueError("the smallest and the largest number of pixels are no range")
        return cls(smallest, largest, tuple(mean), tuple(std))


def arithmetic(dtype: torch.dtype, precision: str) -> str:
    """Return `HybridModel.arithmetic` of a model that is not loaded."""
    return str(dtype) if precision == EXACT["precision"] else f"{dtype} {precision}"


class HybridModel:
    """The components of a model folder on one device in one dtype, in eval mode and without gradients.

    A component may be replaced by assigning to it (training and adapters do). `name` is how the user called the model,
    `adapters` are the folders of the adapters that were merged into it.

    - `optimized`: the weights no longer change or move (see `optimize_for_inference`).
    - `compiled`: Triton's kernels or torch.compile may be used.
    - `inference_cache`: what generation derives from the components and uses again: buffers, recorded and compiled
      steps.
    - `low_memory` trades time for memory: a stage's component is loaded when the stage begins (`unload_except`), and
      the one before leaves, but for those that are `kept` (training needs them).
    - `denoising_partners`: other processes that denoise every image with this one
      (`glmkit.generation.parallel_denoising`); None: this one does it alone.
    - `on_load(component, module)` gives the module to use for one that was just loaded, such as one with adapters.
    - `precision`, one of `PRECISIONS`, is that in which `on_load` gives the components.
    """

    def __init__(
        self,
        folder: Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        name: str | None = None,
        precision: str = EXACT["precision"],
    ) -> None:
        self.folder, self.device, self.dtype, self.precision = folder, torch.device(device), dtype, precision
        self.name = name or folder.name
        self.adapters: tuple[str, ...] = ()
        self.optimized = self.compiled = self.low_memory = False
        self.kept: tuple[str, ...] = ()
        self.inference_cache: dict[str, Any] = {}
        self.denoising_partners: Any = None
        self.on_load: Callable[[str, torch.nn.Module], torch.nn.Module] | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        components: Iterable[str] = tuple(checkpoint.COMPONENTS),
    ) -> HybridModel:
        """Find the model ("nano", folder or hub id) and load `components` now; others load when they are used.

        From the hub only the files of `components` are downloaded; those of all components when it is empty.
        """
        components = tuple(components)
        hybrid = cls(checkpoint.resolve(model, components or tuple(checkpoint.COMPONENTS)), device, dtype, str(model))
        for component in components:
            getattr(hybrid, component)
        return hybrid

    @property
    def arithmetic(self) -> str:
        """Name the type and the precision of the weights, for what depends on their values."""
        return arithmetic(self.dtype, self.precision)

    def optimize_for_inference(self, compiled: bool = False) -> None:
        """Make the components fast, after the last change of a weight.

        Projections of one input become one product, and a GPU's VAE runs by Triton's kernels.
        """
        self.optimized, self.compiled = True, compiled
        for component in checkpoint.COMPONENTS:
            if component in self.__dict__:
                self._optimize(component, self.__dict__[component])

    def _optimize(self, component: str, module: torch.nn.Module) -> None:
        if component in FUSED_COMPONENTS:
            cast("AutoregressiveModel | DiffusionDecoder", module).fuse()
        elif component == "vae" and self.device.type == "cuda":
            cast("Vae", module).use_kernels()

    def unload_except(self, *components: str) -> None:
        """Unload all but what the coming stage needs, where memory is scarce (`low_memory`)."""
        if not self.low_memory:
            return
        self.unload(*(component for component in checkpoint.COMPONENTS if component not in (*components, *self.kept)))

    def unload(self, *components: str) -> None:
        """Let components leave the memory, as far as nothing else holds them; they load again when they are used."""
        for component in components:
            self.__dict__.pop(component, None)
        self.inference_cache.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _component(self, component: str) -> torch.nn.Module:
        # Components are often loaded inside a stage; as tensors of inference mode they could be used nowhere else.
        with torch.inference_mode(False):
            module = self._load(component).requires_grad_(False)
            if self.on_load is not None:
                module = self.on_load(component, module)
            if self.optimized:
                self._optimize(component, module)
        return module

    def _load(self, component: str) -> torch.nn.Module:
        if not self.is_packed(component):
            return checkpoint.load_component(self.folder, component, self.device, self.dtype)
        # On the CPU first: the device may have room for the packed matrices only.
        return checkpoint.load_component(self.folder, component, "cpu", self.dtype, packed=self.device)

    def is_packed(self, component: str) -> bool:
        """Tell whether the matrices of a component are in fewer bits, which `on_load` sees to."""
        return component in FORMATS.get(self.precision, {})

    @cached_property
    def autoregressive(self) -> AutoregressiveModel:
        """Load the autoregressive model."""
        return cast("AutoregressiveModel", self._component("autoregressive"))

    @cached_property
    def semantic_vq(self) -> SemanticTokenizer:
        """Load the semantic tokenizer."""
        return cast("SemanticTokenizer", self._component("semantic_vq"))

    @cached_property
    def decoder(self) -> DiffusionDecoder:
        """Load the diffusion decoder."""
        return cast("DiffusionDecoder", self._component("decoder"))

    @cached_property
    def glyph(self) -> GlyphEncoder:
        """Load the glyph encoder."""
        return cast("GlyphEncoder", self._component("glyph"))

    @cached_property
    def vae(self) -> Vae:
        """Load the VAE."""
        return cast("Vae", self._component("vae"))

    @cached_property
    def condition_image_settings(self) -> ConditionImageSettings:
        """Read how condition images are prepared; UserError names the setting that is missing or wrong."""
        path = self.folder / "processor" / "preprocessor_config.json"
        if path.exists():
            settings = read_config(path, CONDITION_IMAGES)
        else:
            path = path.with_name("processor_config.json")  # where transformers 5 writes them
            settings = read_config(path, {"image_processor": CONDITION_IMAGES}, ["image_processor"])["image_processor"]
        with described_by(path, "how condition images are prepared"):
            return ConditionImageSettings.from_dict(settings)
