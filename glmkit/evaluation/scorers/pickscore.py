"""PickScore v1 (Kirstain et al. 2023, arXiv 2305.01569): a CLIP ViT-H/14 that was fine-tuned on choices of people.

LOCATION is the folder of yuvalkirstain/PickScore_v1, or FOLDER,PROCESSOR with that of laion/CLIP-ViT-H-14-laion2B-s32B-
b79K where the first has no tokenizer.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.scorers import loading
from glmkit.hashing import large_file_sha256

ABOUT = "PickScore v1: pickscore:FOLDER"
CHECKED = "transformers"
FIX = "hf download yuvalkirstain/PickScore_v1 --local-dir pickscore, then --scorer pickscore:pickscore"


class PickScore:
    """Score how well an image goes with its prompt, by the choices of people."""

    metric = "pickscore"
    definition = (
        "PickScore v1: exp(logit scale) times the cosine of the features of image and prompt, about 15 to 25, float32; "
        "mean over images. The softmax over the scores of images of one prompt is the preference. Prompts are cut at "
        "the context length of CLIP."
    )

    def __init__(self, location: str, device: str) -> None:
        from transformers import AutoProcessor, CLIPModel

        name, _, processor = location.partition(",")
        folder = Path(name)
        files = sorted(folder.glob("*.safetensors")) if name and folder.is_dir() else []
        if not files:
            raise UserError(f"{name or 'the scorer pickscore'} holds no *.safetensors files", fix=FIX)
        with loading(folder, FIX):
            model, report = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            if lost := report["missing_keys"]:
                raise UserError(f"{folder} lacks weights of CLIP", found=min(lost), fix=FIX)
            self._processor = AutoProcessor.from_pretrained(processor or folder, local_files_only=True)
        self._model, self._device = model.to(device).eval(), device
        self.most_tokens = int(model.config.text_config.max_position_embeddings)
        self.identity = EngineIdentity(self.metric, {file.name: large_file_sha256(file) for file in files})

    @torch.inference_mode()
    def score(self, image: Image.Image, prompt: str) -> float:
        """Compare the features of one image and its prompt."""
        inputs = self._processor(
            text=[prompt], images=[image], truncation=True, max_length=self.most_tokens, return_tensors="pt"
        )
        logits = self._model(**inputs.to(self._device)).logits_per_image
        value = float(logits[0, 0])
        assert math.isfinite(value)
        return value

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of CLIP's tokenizer."""
        return len(self._processor.tokenizer(prompt)["input_ids"])


def load(location: str, device: str) -> PickScore:
    """Load the folder; UserError when it holds something else."""
    return PickScore(location, device)
