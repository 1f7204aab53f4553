"""Generated images on disk, each with its request in the text of its PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

import glmkit
from glmkit.files import atomic_path
from glmkit.records import Request


def described(request: Request, model: str, adapters: Sequence[str] = ()) -> dict[str, str]:
    """The text that an image carries: what is needed to draw it again."""
    text = {
        "prompt": request.prompt,
        "seed": str(request.seed),
        "size": f"{request.width}x{request.height}",
        "steps": str(request.steps),
        "guidance": str(request.guidance),
        "sampling": f"temperature {request.temperature}, top-p {request.top_p}, top-k {request.top_k}",
        "model": model,
        "version": f"glmkit {glmkit.__version__}",
    }
    if request.condition_images:
        text["condition_images"] = "\n".join(request.condition_images)
    if adapters:
        text["adapters"] = "\n".join(adapters)
    return text


def save_image(
    path: str | Path, image: Image.Image, request: Request, model: str, adapters: Sequence[str] = ()
) -> None:
    """Write a PNG that carries its request as text; complete or absent."""
    save_png(path, image, described(request, model, adapters))


def save_png(path: str | Path, image: Image.Image, text: Mapping[str, str]) -> None:
    """Write a PNG that carries `text`; complete or absent."""
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def is_drawn(path: str | Path, request: Request, model: str, adapters: Sequence[str] = ()) -> bool:
    """Whether `path` is the complete image of exactly this request, drawn by any version."""
    try:
        with Image.open(path) as opened:
            opened.load()
            text = dict(getattr(opened, "text", {}))
    except (OSError, SyntaxError, ValueError):
        return False
    wanted = described(request, model, adapters)
    return {**text, "version": wanted["version"]} == wanted
