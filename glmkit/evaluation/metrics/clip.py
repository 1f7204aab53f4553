"""CLIP alignment of an image with its prompt: the cosine of their CLIP features, and the scales made of it.

CLIPScore (Hessel et al. 2021) is 2.5 max(cosine, 0) with the text "A photo depicts " + prompt; CVTG-2K takes it with
OpenAI's ViT-L/14. The cosine is what is stored; a mean of clipped cosines is not a clipped mean, so a scale is derived
from each image.
"""

from __future__ import annotations

DEFAULT = "ViT-L-14/openai"
OURS = "glmkit"  # the small CLIP in data/clip
TEMPLATE = "A photo depicts {prompt}"
WEIGHT = 2.5


def text(prompt: str) -> str:
    """Make the text that is compared with the image."""
    return TEMPLATE.format(prompt=prompt)


def clipscore(cosine: float) -> float:
    """Scale a cosine as CLIPScore and CVTG-2K do: 0 to 2.5, published values are near 0.8."""
    return WEIGHT * max(cosine, 0.0)


def name(label: str, model: str) -> str:
    """Name the metric of a model. Cosines of two models cannot be compared: only the default has the bare name."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in label)
    return "clip_cosine" if model == DEFAULT else f"{plain}_cosine"


def about(label: str, model: str, weights_sha256: str) -> dict[str, str]:
    """Give direction and definition for a report."""
    definition = (
        f"glmkit-clip-1: cosine of the features of the image and of '{TEMPLATE}' by {label} (open_clip, float32, "
        f"weights {weights_sha256[:12]}), mean over images. Long prompts are cut at the context length and keep "
        "their end token."
    )
    if model != DEFAULT:
        definition += " Not comparable with published CLIPScores, which are from OpenAI's ViT-L/14."
    return {"direction": "higher", "definition": definition}
