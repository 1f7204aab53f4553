"""HPS v2.1 (Wu et al. 2023, arXiv 2306.09341): an open_clip ViT-H-14 that was fine-tuned on rankings of people.

LOCATION is `HPS_v2.1_compressed.pt` of xswu/HPSv2. Images are resized by their longer side and padded with black.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.scorers import load_weights, loading
from glmkit.extras import require
from glmkit.hashing import large_file_sha256

ABOUT = "HPS v2.1: hpsv2-1:FILE.pt"
CHECKED = "open_clip_torch"
FIX = "hf download xswu/HPSv2 HPS_v2.1_compressed.pt --local-dir ., then --scorer hpsv2-1:HPS_v2.1_compressed.pt"
ARCHITECTURE = "ViT-H-14"
LONGEST = 8192  # tokens; more than any prompt has


class HpsV21:
    """Score how well an image goes with its prompt, by the rankings of people."""

    metric = "hpsv2_1"
    definition = (
        "HPS v2.1, about 15 to 33: 100 times the cosine of the features of image and prompt, float32 (the benchmark: "
        "half precision); mean over images. Not comparable with v2.0. Prompts are cut at 77 tokens."
    )

    def __init__(self, location: str, device: str) -> None:
        require("open_clip_torch", "HPS v2.1")
        import open_clip

        if not location:
            raise UserError("the scorer hpsv2-1 names no file", fix=FIX)
        path = Path(location)
        state = load_weights(path, FIX)
        with loading(path, FIX):
            network = open_clip.create_model(ARCHITECTURE, precision="fp32", load_weights=False)
            network.load_state_dict(state["state_dict"])
        self._network, self._device = network.to(device).eval(), device
        self._prepare = open_clip.image_transform(
            network.visual.image_size, is_train=False, mean=None, std=None, resize_mode="longest"
        )
        self._tokenizer = open_clip.get_tokenizer(ARCHITECTURE)
        self.most_tokens = int(self._tokenizer.context_length)
        self.identity = EngineIdentity(self.metric, {path.name: large_file_sha256(path)})

    @torch.inference_mode()
    def score(self, image: Image.Image, prompt: str) -> float:
        """Compare the features of one image and its prompt."""
        seen = self._network.encode_image(self._prepare(image)[None].to(self._device), normalize=True)
        read = self._network.encode_text(self._tokenizer([prompt]).to(self._device), normalize=True)
        return 100 * float((seen @ read.T)[0, 0])

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of CLIP's tokenizer."""
        return int((self._tokenizer([prompt], context_length=LONGEST) != 0).sum())


def load(location: str, device: str) -> HpsV21:
    """Load the file; UserError when it holds something else."""
    return HpsV21(location, device)
