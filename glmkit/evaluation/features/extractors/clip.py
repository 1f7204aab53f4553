"""A CLIP by open_clip: `clip:ARCHITECTURE/TAG` (hub), `clip:FOLDER` (open_clip's own format) or `clip:glmkit` (ours).

Features have unit length. With ViT-L-14-336/openai they are the features of CMMD (Jayasumana et al. 2024).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glmkit import shipped
from glmkit.errors import UserError
from glmkit.evaluation.hub import cached_repository
from glmkit.evaluation.metrics.clip import DEFAULT, OURS
from glmkit.extras import require
from glmkit.models.clip import tokenizer_of

FOLDER_OF_OURS = shipped.ROOT / "data" / "clip"
CMMD = "ViT-L-14-336/openai"
LONGEST = 8192  # tokens; more than any prompt has


class OpenClip:
    """Hold both towers in float32 on `device`."""

    def __init__(self, name: str, device: str) -> None:
        require("open_clip_torch", "CLIP")
        import open_clip

        self.model = name
        self._network, self._prepare, self._tokenizer = _open(open_clip, name, device)
        self._device = device
        self.width = int(self._network.visual.output_dim)
        self.weights_sha256 = _weights_sha256(self._network)
        folder = None if name == OURS else Path(name).expanduser()  # a folder may have that name, too
        if folder is not None and folder.is_dir():
            self.spec, self.label = f"clip:{folder.resolve()}", f"clip-{folder.name}-{self.weights_sha256[:8]}"
        else:
            self.spec, self.label = f"clip:{name}", f"clip-{name}"
        preparation = self._network.visual.preprocess_cfg
        self.conventions: Mapping[str, Any] = {
            "network": f"{self.label}, image tower (open_clip)",
            "weights_sha256": self.weights_sha256,
            "preparation": {key: list(v) if isinstance(v, tuple) else v for key, v in preparation.items()},
            "unit_length": True,
            "dtype": "float32",
        }
        plain = "".join(letter if letter.isalnum() else "_" for letter in self.label)
        self.distances: Mapping[str, str] = {"rbf": "cmmd" if name == CMMD else f"rbf_{plain}"}

    @torch.inference_mode()
    def extract(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Encode as features B D of unit length."""
        pixels = torch.stack([self._prepare(image) for image in images]).to(self._device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features: np.ndarray = self._network.encode_image(pixels, normalize=True).float().cpu().numpy()
        return features

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode as features B D of unit length. A text that is too long loses its last tokens, never the end token."""
        ids = self._tokenizer(list(texts)).to(self._device)
        features: np.ndarray = self._network.encode_text(ids, normalize=True).float().cpu().numpy()
        return features

    def is_truncated(self, text: str) -> bool:
        """Tell whether the text with its start and end tokens is longer than the context."""
        pad = getattr(getattr(self._tokenizer, "tokenizer", None), "pad_token_id", 0)
        beyond = self._tokenizer([text], context_length=LONGEST)[0, self._tokenizer.context_length :]
        return bool((beyond != pad).any())


def load(argument: str, device: str) -> OpenClip:
    """Load the CLIP of that name, or the default."""
    return OpenClip(argument or DEFAULT, device)


def check(name: str) -> None:
    """Raise UserError when `name`, ours or ARCHITECTURE/TAG, cannot be loaded here without a download."""
    require("open_clip_torch", "CLIP")
    if name == OURS:
        if not list(FOLDER_OF_OURS.glob("*.safetensors")):
            raise UserError(f"our CLIP is not in {FOLDER_OF_OURS}", fix="install glmkit again")
        return
    import open_clip

    cached_repository(open_clip.get_pretrained_cfg(*name.split("/"))["hf_hub"].rstrip("/"))


def _open(open_clip: Any, name: str, device: str) -> tuple[Any, Any, Any]:
    """Load network, image preparation and tokenizer."""
    folder = FOLDER_OF_OURS if name == OURS else Path(name).expanduser()
    options: dict[str, Any] = {}
    if folder.is_dir():
        source = f"local-dir:{folder}"
        if not list(folder.glob("*.safetensors")):
            raise UserError(f"CLIP folder {folder} holds no weights", fix="open_clip_model.safetensors in it")
    elif name == OURS:
        raise UserError(f"our CLIP is not in {folder}", fix="install glmkit again")
    else:
        source, options = _published(open_clip, name)
    logging.disable(logging.ERROR)  # the hub reports each of a dozen retries; the error below says it once
    try:
        network, _, prepare = open_clip.create_model_and_transforms(source, device=device, precision="fp32", **options)
        return network.eval(), prepare, tokenizer_of(source)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, OSError, UserError) as error:
        raise UserError(
            f"cannot load CLIP {name}",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix=f"check the network, or give a folder in open_clip's format, or {OURS} for the one that ships",
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _published(open_clip: Any, name: str) -> tuple[str, dict[str, Any]]:
    """Look up architecture and options of ARCHITECTURE/TAG; open_clip only warns of another tag's activation."""
    architecture, _, tag = name.partition("/")
    if tag not in open_clip.list_pretrained_tags_by_model(architecture):
        raise UserError(f"unknown CLIP {name!r}", fix=f"{DEFAULT}, {CMMD}, {OURS}, or a folder in open_clip's format")
    quick = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    return architecture, {"pretrained": tag, "force_quick_gelu": quick}


def _weights_sha256(network: torch.nn.Module) -> str:
    """Hash all weights by name, whatever file they came from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
