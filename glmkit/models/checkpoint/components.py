"""The published folder layout of a GLM-Image model: finding, loading and saving its components.

A model folder holds `model_index.json` and one folder per component; `vision_language_encoder/` holds two of them (the
autoregressive model and the semantic tokenizer), the others one each. Parameter names inside the files are the
published ones, so diffusers and transformers load what is written here, and the other way round.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit import errors, shipped
from glmkit.errors import UserError
from glmkit.files import exists, write_json
from glmkit.models.checkpoint import configs, defaults, published, weights

if TYPE_CHECKING:
    import torch
    from torch import nn

NANO = shipped.ROOT / "data" / "nano"
INDEX = "model_index.json"
DEFAULTS = defaults.FILE


@dataclass(frozen=True)
class Component:
    """Describe a module: its folder, the stem of its weight files, and (published, module's) prefixes of its names."""

    folder: str
    stem: str
    prefixes: tuple[tuple[str, str], ...]

    def module_name(self, name: str) -> str | None:
        """Return the name inside the module of a published name; None when the tensor is another component's."""
        for published_prefix, prefix in self.prefixes:
            if name.startswith(published_prefix):
                return prefix + name.removeprefix(published_prefix)
        return None

    def published_name(self, name: str) -> str:
        """Return the published name of a tensor of the module; KeyError for an unknown one."""
        for published_prefix, prefix in self.prefixes:
            if name.startswith(prefix):
                return published_prefix + name.removeprefix(prefix)
        raise KeyError(name)


COMPONENTS = {
    "autoregressive": Component(
        "vision_language_encoder", "model", (("model.language_model.", "language_model."), ("lm_head.", "lm_head."))
    ),
    "semantic_vq": Component(
        "vision_language_encoder", "model", (("model.visual.", "visual."), ("model.vqmodel.", "vqmodel."))
    ),
    "decoder": Component("transformer", "diffusion_pytorch_model", (("", ""),)),
    "glyph": Component("text_encoder", "model", (("", "encoder."),)),
    "vae": Component("vae", "diffusion_pytorch_model", (("", "autoencoder."),)),
}
# T5 stores its embedding once or twice, depending on the version that wrote it.
TIED = {"encoder.encoder.embed_tokens.weight": "encoder.shared.weight"}
PUBLISHED = {
    "vision_language_encoder": published.VISION_LANGUAGE_ENCODER,
    "transformer": published.TRANSFORMER,
    "text_encoder": published.TEXT_ENCODER,
    "vae": published.VAE,
}
SMALL_FOLDERS = {
    "autoregressive": ("processor",),
    "glyph": ("tokenizer",),
    "decoder": ("scheduler",),
    "semantic_vq": ("processor",),
}


def resolve(model: str | Path, components: Iterable[str] = tuple(COMPONENTS)) -> Path:
    """Find the folder of a model: "nano", "glm-image", a folder, or a hub id (`owner/name`, downloaded and cached).

    Only the folders that `components` need are downloaded. UserError for anything else, with the nearest known name.
    """
    name = str(model)
    if name == "nano":
        if not (NANO / INDEX).is_file():
            raise UserError(f"the model nano is not in {NANO}", fix="install glmkit again")
        return NANO
    folder = Path(shipped.find(name)).expanduser()
    try:
        is_there = exists(folder)
    except OSError as error:
        raise UserError(f"model {name[:200]} cannot be read", found=error.strerror, fix="check the path") from error
    if is_there:
        return _model_folder(folder)
    if (published_id := hub_id(name)) is not None:
        return _download(published_id, components)
    if "/" in name:
        raise UserError(
            f"model folder {name[:200]} does not exist", fix="a folder with model_index.json, or nano, glm-image"
        )
    raise errors.unknown("model", name, ("nano", "glm-image"))


def hub_id(model: str | Path) -> str | None:
    """Return the hub id (`owner/name`) of a model that `resolve` would download, None for nano and for folders."""
    name = published.HUB_ID if model == "glm-image" else str(model)
    is_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return name if is_id and not os.path.exists(Path(shipped.find(model)).expanduser()) else None


def _model_folder(folder: Path) -> Path:
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} is not a model folder", found=f"no {INDEX}", fix="the folder that holds model_index.json"
        )
    weights.check_sizes(folder)
    return folder


def _download(hub_id: str, components: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    folders = {COMPONENTS[component].folder for component in components}.union(
        *(SMALL_FOLDERS.get(component, ()) for component in components)
    )
    patterns = [INDEX, DEFAULTS, *(f"{folder}/*" for folder in sorted(folders))]
    try:
        return _model_folder(Path(snapshot_download(hub_id, allow_patterns=patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        known = sorted(path.parent.as_posix() for path in Path(hub_id).parent.glob(f"*/{INDEX}"))
        here = f"one of the folders here ({', '.join(known[:5])})" if known else "a folder"
        fix = f"check the name and the network, or give {here}, or nano, which is here"
        raise UserError(f"cannot get model {hub_id} from the hub", found=reason, fix=fix) from error


def config(folder: Path, component: str) -> dict[str, Any]:
    """Read the published config.json that describes a component; UserError names a key that is missing or wrong."""
    where, required = COMPONENTS[component].folder, published.REQUIRED.get(component, ())
    return configs.read_config(folder / where / "config.json", PUBLISHED[where], required)


def build_component(component: str, settings: Mapping[str, Any], tokenizer: Path | None = None) -> nn.Module:
    """Build a component with fresh weights, on torch's current default device.

    `settings` are its published config, `tokenizer` is the ByT5 folder of a glyph encoder.
    """
    with configs.described_by(Path(COMPONENTS[component].folder, "config.json"), f"the {component} of a GLM-Image"):
        return _build(component, settings, tokenizer)


def _build(component: str, settings: Mapping[str, Any], tokenizer: Path | None) -> nn.Module:
    if component == "autoregressive":
        from glmkit.models.autoregressive.config import AutoregressiveConfig
        from glmkit.models.autoregressive.model import AutoregressiveModel

        return AutoregressiveModel(AutoregressiveConfig.from_dict(dict(settings)))
    if component == "semantic_vq":
        from glmkit.models.semantic_vq.model import SemanticTokenizer, SemanticVqConfig

        return SemanticTokenizer(SemanticVqConfig.from_dict(dict(settings)))
    if component == "decoder":
        from glmkit.models.decoder.config import DecoderConfig
        from glmkit.models.decoder.model import DiffusionDecoder

        return DiffusionDecoder(DecoderConfig.from_dict(dict(settings)))
    if component == "glyph":
        from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

        from glmkit.models.glyph.model import GlyphEncoder

        with configs.described_by(tokenizer or Path("tokenizer"), "a ByT5 tokenizer"):
            byt5 = ByT5Tokenizer.from_pretrained(tokenizer) if tokenizer else ByT5Tokenizer()
        return GlyphEncoder(T5EncoderModel(T5Config.from_dict(dict(settings))), byt5)
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from glmkit.models.vae.model import Vae

    known = inspect.signature(AutoencoderKL.__init__).parameters  # others raise from diffusers 0.42 on
    return Vae(AutoencoderKL.from_config({key: value for key, value in settings.items() if key in known}))


def new_component(folder: Path, component: str) -> nn.Module:
    """Build a component with the folder's config and fresh weights (torch's global generator), float32 on the CPU."""
    return build_component(component, config(folder, component), folder / "tokenizer")


def load_component(
    folder: Path,
    component: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    packed: torch.device | None = None,
) -> nn.Module:
    """Load one component with its weights, in eval mode. `dtype` None is float32.

    Weights go from the mapped file to their device tensor by tensor. Matrices that are stored in 8 bits get the values
    that these stand for, or with `packed` stay as they are, on that device. UserError names the file when it is
    missing, cut short, or does not fit the config.
    """
    import torch

    from glmkit.models.checkpoint import torchao
    from glmkit.models.quantized import PackedLinear, PackedMatrix

    spec = COMPONENTS[component]
    with torch.device("meta"):
        module = build_component(component, config(folder, component), folder / "tokenizer")
    stored = stored_tensors(folder, component)
    _check(folder, component, module, torchao.whole(stored))
    dtype = dtype or torch.float32
    state: dict[str, torch.Tensor] = {}
    matrices: dict[str, PackedMatrix] = {}
    for name, value in torchao.read(stored):
        own_name = str(spec.module_name(name))
        if isinstance(value, torchao.StoredMatrix):
            if packed is not None and (matrix := value.packed(packed)) is not None:
                matrices[own_name.removesuffix(torchao.WEIGHT)] = matrix
                state[own_name] = torch.empty(value.qdata.shape, device="meta")
                continue
            value = value.dequantize()
        state[own_name] = value.to(device, dtype if value.is_floating_point() else None)
    for alias, name in TIED.items():
        if component == "glyph":
            state[alias] = state[name] = state.get(name, state.get(alias))  # type: ignore[assignment]
    module.load_state_dict(state, strict=True, assign=True)
    for layer, matrix in matrices.items():
        bias = state.get(f"{layer}.bias")
        module.set_submodule(layer, PackedLinear(replace(matrix, bias=None if bias is None else bias.to(packed))))
    module = rebuild_derived(component, module).to(device)
    unloaded = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]
    assert not unloaded, f"{component}: no values for {weights.listed(unloaded)}"
    return module.eval()


def rebuild_derived(component: str, module: nn.Module) -> nn.Module:
    """Rebuild what the meta device cannot hold: the VAE's statistics (from its config), T5's one shared embedding."""
    if component == "vae":
        from glmkit.models.vae.model import Vae

        return Vae(module.autoencoder)
    if component == "glyph":
        module.encoder.tie_weights()  # type: ignore[operator, union-attr]
    return module


def stored_tensors(folder: Path, component: str) -> dict[str, weights.StoredTensor]:
    """Return the stored tensors of one component, by published name."""
    spec = COMPONENTS[component]
    return {
        name: e
        for name, e in weights.stored_tensors(folder / spec.folder, spec.stem).items()
        if spec.module_name(name) is not None
    }


def _check(folder: Path, component: str, module: nn.Module, stored: Mapping[str, weights.StoredTensor]) -> None:
    """Raise UserError unless the stored names and shapes are exactly those of the module."""
    spec = COMPONENTS[component]
    expected = {
        spec.published_name(TIED.get(name, name)): tuple(value.shape) for name, value in module.state_dict().items()
    }
    untied = (
        {spec.published_name(copy): spec.published_name(source) for copy, source in TIED.items()}
        if component == "glyph"
        else {}
    )
    by_name = {untied.get(name, name): entry for name, entry in stored.items()}
    where = folder / spec.folder
    fix = f"weights that were saved together with {where / 'config.json'}"
    if missing := set(expected) - set(by_name):
        raise UserError(
            f"{where} lacks {len(missing)} tensors of the {component}", found=f"no {weights.listed(missing)}", fix=fix
        )
    if extra := set(by_name) - set(expected):
        file = by_name[min(extra)].file
        raise UserError(
            f"{file} holds {len(extra)} tensors that the {component} does not have",
            found=weights.listed(extra),
            fix=fix,
        )
    for name, shape in expected.items():
        if by_name[name].shape != shape:
            raise UserError(
                f"{by_name[name].file}: {name} has another shape than the config says",
                found=f"{by_name[name].shape}, expected {shape}",
                fix=fix,
            )


def save_component(
    folder: Path,
    component: str,
    module: nn.Module,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = weights.DEFAULT_SHARD_BYTES,
) -> None:
    """Write a component's weights (as `dtype`, or as they are) under their published names; the config must be there.

    The other component of a shared folder is kept: its tensors are carried over from the files that are replaced.
    """
    spec = COMPONENTS[component]
    where = folder / spec.folder
    if not (where / "config.json").is_file():
        raise UserError(f"{where} has no config.json", fix="write the configs first (checkpoint.create)")
    if component == "vae":
        statistics = {key: list(module.autoencoder.config[key]) for key in ("latents_mean", "latents_std")}  # type: ignore[union-attr, index]
        write_json(where / "config.json", {**config(folder, component), **statistics})
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        if name not in TIED:
            tensors[spec.published_name(name)] = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    if any(where.glob(f"{spec.stem}*.safetensors")):
        kept = {
            name: e for name, e in weights.stored_tensors(where, spec.stem).items() if spec.module_name(name) is None
        }
        tensors.update(weights.read(kept))
    weights.write(where, spec.stem, tensors, max_shard_bytes)


def create(
    folder: Path,
    configs: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> None:
    """Write everything of a new model folder but weights and `processor/`.

    `configs` maps `vision_language_encoder`, `transformer`, `text_encoder` and `vae` to their published config keys;
    `defaults` becomes `glmkit.json` (`glmkit.models.checkpoint.defaults`), and `sampling` the keys of the generation
    config that are not as published (`glmkit.records.SAMPLING`).
    """
    from transformers import ByT5Tokenizer

    write_json(folder / INDEX, published.MODEL_INDEX)
    for name in PUBLISHED:
        write_json(folder / name / "config.json", dict(configs[name]))
    encoder = configs["vision_language_encoder"]
    ids = {key: encoder["text_config"][key] for key in ("eos_token_id", "pad_token_id")}
    write_json(
        folder / "vision_language_encoder" / "generation_config.json",
        {**published.GENERATION, **ids, **(sampling or {})},
    )
    write_json(folder / "scheduler" / "scheduler_config.json", published.SCHEDULER)
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    if defaults:
        write_json(folder / DEFAULTS, {"defaults": dict(defaults)})
