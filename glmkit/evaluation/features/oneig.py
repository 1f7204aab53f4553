"""The image features by which OneIG-Bench (Chang et al. 2025, arXiv 2506.07977) measures diversity and style.

They compare the images of a run with each other and with references of the benchmark, never with reference sets.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.hub import model_folder
from glmkit.extras import require
from glmkit.hashing import json_sha256, large_file_sha256

SIDE = 224
# Of OpenAI's CLIP.
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)
DREAMSIM = ("dino_vitb16_pretrain.pth", "clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar")
ENCODER = "xingpng/OneIG-StyleEncoder"


class _Features:
    """Hold what `extractors.Extractor` asks for; none of these features has distances to reference sets."""

    distances: Mapping[str, str] = {}

    def __init__(self, label: str, files: Sequence[Path], dtype: str, device: str) -> None:
        self.spec = self.label = label
        digest = json_sha256({path.name: large_file_sha256(path) for path in files})
        self.conventions: Mapping[str, Any] = {"network": label, "weights_sha256": digest, "dtype": dtype}
        self._device = device
        self.width = self.extract([Image.new("RGB", (SIDE, SIDE))]).shape[1]

    @torch.inference_mode()
    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode as features B D."""
        features: np.ndarray = torch.cat([self._encode(image) for image in images]).float().cpu().numpy()
        return features

    def _encode(self, image: Image.Image) -> torch.Tensor:
        raise NotImplementedError


class DreamSim(_Features):
    """Encode with DreamSim's ensemble (Fu et al. 2023, arXiv 2306.09344); its distance is 1 - cosine.

    The package brings the networks; `folder` holds their weights, unpacked. It takes code of DINO from torch.hub.
    """

    def __init__(self, folder: Path, device: str) -> None:
        require("dreamsim", "the diversity of OneIG-Bench")
        files = [folder / name for name in DREAMSIM] + sorted((folder / "ensemble_lora").glob("*"))
        missing = next((path for path in files if not path.is_file()), None)
        if missing is not None or len(files) == len(DREAMSIM):
            release = "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints"
            fix = f"unpack {release}/dreamsim_ensemble_checkpoint.zip in {folder}"
            raise UserError(f"the weights of DreamSim are not in {folder}", found=missing and missing.name, fix=fix)
        package = importlib.import_module("dreamsim")
        self._network, self._prepare = package.dreamsim(device=device, cache_dir=str(folder))
        super().__init__("dreamsim-ensemble", files, "float32", device)

    def _encode(self, image: Image.Image) -> torch.Tensor:
        features: torch.Tensor = self._network.embed(self._prepare(image).to(self._device))
        return features


class CsdStyle(_Features):
    """Encode style with CSD (Somepalli et al. 2024, arXiv 2404.01292), a CLIP ViT-L/14, as features of unit length."""

    def __init__(self, checkpoint: Path, device: str) -> None:
        require("open_clip_torch", "the style of OneIG-Bench")
        from open_clip.transformer import QuickGELU, VisionTransformer

        if not checkpoint.is_file():
            fix = "download it by the link in the benchmark's README (CSD model)"
            raise UserError(f"the checkpoint of CSD is not at {checkpoint}", fix=fix)
        try:
            state = _tensors(checkpoint)["model_state_dict"]
            state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
            tower = {name.removeprefix("backbone."): tensor for name, tensor in state.items() if "backbone." in name}
            width, patch = tower["conv1.weight"].shape[0], tower["conv1.weight"].shape[-1]
            side = round((tower["positional_embedding"].shape[0] - 1) ** 0.5) * patch
            layers = len({name.split(".")[2] for name in tower if name.startswith("transformer.resblocks.")})
            self._network = VisionTransformer(side, patch, width, layers, width // 64, 4.0, act_layer=QuickGELU)
            self._network.proj = torch.nn.Parameter(state["last_layer_style"].float())
            self._network.load_state_dict({**tower, "proj": state["last_layer_style"]})
        except (KeyError, TypeError, RuntimeError, AttributeError, OSError, ValueError) as error:
            found = str(error).partition("\n")[0] or type(error).__name__
            fix = "download it again, or, where you trust what it holds beside tensors, save its model_state_dict alone"
            raise UserError(f"{checkpoint} is no checkpoint of CSD", found=found, fix=fix) from error
        self._network = self._network.float().eval().to(device)
        self._side = side
        super().__init__("csd-vit-l", [checkpoint], "float32", device)

    def _encode(self, image: Image.Image) -> torch.Tensor:
        """Resize the shorter side (bicubic), crop the middle, and encode."""
        side, shorter = self._side, min(image.size)
        width, height = (int(side * edge / shorter) for edge in image.size)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - side) / 2), round((height - side) / 2)
        values = np.asarray(resized.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
        pixels = torch.from_numpy((values - MEAN) / STD).permute(2, 0, 1)[None]
        return torch.nn.functional.normalize(self._network(pixels.to(self._device)), dim=-1)


class StyleEncoder(_Features):
    """Encode style with the benchmark's own encoder, a CLIP image tower in bfloat16, as features of unit length."""

    def __init__(self, name: str, device: str) -> None:
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        folder = model_folder(name, f"hf download {ENCODER}")
        try:
            network = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            found = str(error).partition("\n")[0]
            raise UserError(f"{folder} is no style encoder", found=found, fix=f"hf download {ENCODER}") from error
        self._network, self._prepare = network.eval().to(device), CLIPImageProcessor()
        weights = [path for kind in ("*.safetensors", "*.bin") for path in sorted(folder.glob(kind))]
        super().__init__("oneig-style-encoder", weights, "bfloat16", device)

    def _encode(self, image: Image.Image) -> torch.Tensor:
        pixels = self._prepare(images=image.convert("RGB"), return_tensors="pt").pixel_values
        features = self._network(pixels.to(self._device, dtype=torch.bfloat16)).image_embeds
        return torch.nn.functional.normalize(features, p=2, dim=-1)


def style_references(path: Path) -> dict[str, np.ndarray]:
    """Read the features of reference images of each style, N D, float64."""
    try:
        return {name: tensor.double().numpy() for name, tensor in _tensors(path).items()}
    except (OSError, RuntimeError, AttributeError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no features of styles", fix="take the file as it is") from error


def _tensors(path: Path) -> dict[str, Any]:
    """Read a file that torch saved, tensors and plain values alone; ValueError for one that holds anything else."""
    try:
        given: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError("it holds more than tensors") from error
    return given
