"""Generated images on disk, each with its request, and the content of the weights, in the text of its PNG file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

import glmkit
from glmkit.errors import UserError
from glmkit.files import atomic_path, check_regular, shareable_path
from glmkit.hashing import fingerprint, json_sha256
from glmkit.inputs.images import MAX_BYTES, opened_image
from glmkit.records import Request
from glmkit.shortcuts import EXACT, EXACT_REQUEST, shortcuts

# Keys of an image's text that say where something was, or how it is held; its content is in the key "weights".
PLACES = ("version", "model", "adapters", "condition_images", "precision")
REWRITTEN_FROM = "rewritten_from"  # key of the prompt before it was rewritten, where it was


def weights_digest(folder: Path, adapters: Sequence[str] = (), arithmetic: str = "") -> str:
    """Name the weights of a model folder with adapters (`DIR` or `DIR:WEIGHT`) by their content and `arithmetic`.

    The last is that of `HybridModel`: type and precision.
    """
    from glmkit.models.checkpoint.adapters import Adapter

    parsed = map(Adapter.parse, adapters)
    content = [arithmetic, fingerprint(folder), *((fingerprint(adapter.folder), adapter.weight) for adapter in parsed)]
    return json_sha256(content)[:16]


def condition_image_digests(request: Request) -> list[str]:
    """Name the images that a request edits by their content; those that are missing are left out, as are those that
    are too large to be read.
    """
    paths = [path for path in request.condition_images if os.path.isfile(path) and os.path.getsize(path) <= MAX_BYTES]
    return [fingerprint(path) for path in paths]


def image_text(
    request: Request,
    model: str,
    adapters: Sequence[str] = (),
    weights: str = "",
    precision: str = EXACT["precision"],
) -> dict[str, str]:
    """Return the text that an image carries: what is needed to generate it again.

    `weights` is the `weights_digest` of the model, empty for one that has no folder, `precision` how it holds them.
    """
    text = {
        "prompt": request.prompt,
        "seed": str(request.seed),
        "size": f"{request.width}x{request.height}",
        "steps": str(request.steps),
        "guidance": str(request.guidance),
        "sampling": f"temperature {request.temperature}, top-p {request.top_p}, top-k {request.top_k}",
        "model": shareable_path(model),
        "version": f"glmkit {glmkit.__version__}",
    }
    text |= {name: str(value) for name, value in shortcuts({**request.to_dict(), "precision": precision}).items()}
    if request.condition_images:
        text["condition_images"] = "\n".join(map(shareable_path, request.condition_images))
    if request.texts is not None:
        text["texts"] = json.dumps(request.texts, ensure_ascii=False)
    if adapters:
        text["adapters"] = "\n".join(map(shareable_path, adapters))
    if weights:
        text["weights"] = " ".join([weights, *condition_image_digests(request)])
    return text


def save_png(path: str | Path, image: Image.Image, text: Mapping[str, str]) -> None:
    """Write a PNG that carries `text`; complete or absent."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=png_text(text))


def png_text(text: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    """Return `text` as Pillow writes it into a PNG."""
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    return info


def is_whole_image(path: str | Path) -> bool:
    """Tell whether `path` is an image that can be read to its end; power cuts leave files that cannot."""
    try:
        with opened_image(path):
            return True
    except UserError:
        return False


def is_image_of(path: str | Path, request: Request, weights: str) -> bool:
    """Tell whether `path` is the complete image of this request by these weights, of any version, under any name."""
    try:
        with opened_image(path) as opened:
            text = dict(getattr(opened, "text", {}))
    except UserError:
        return False
    expected = image_text(request, "", (), weights)
    return all(text.get(key) == expected.get(key) for key in {*expected, "texts", *EXACT_REQUEST}.difference(PLACES))


def image_shortcuts(path: Path) -> dict[str, str]:
    """Return the shortcuts that an image of ours was made with, as it says itself; none for anything else.

    A rewritten prompt is one of them.
    """
    info = _info(path)
    return shortcuts(info) | ({"prompt": "rewritten"} if REWRITTEN_FROM in info else {})


def is_ours(path: Path) -> bool:
    """Tell whether glmkit wrote an image, complete or not, or whether nothing is lost with the file."""
    try:
        if check_regular(path, str(path)) == 0:
            return True
    except (UserError, OSError):
        return False
    return str(_info(path).get("version")).startswith("glmkit ")


def _info(path: Path) -> dict[str, Any]:
    """Return what a PNG says before its pixels, which are not decoded; nothing for any other file."""
    try:
        check_regular(path, str(path))
        with Image.open(path, formats=["PNG"]) as image:
            return {str(key): value for key, value in image.info.items()}
    except Exception:  # decoders raise anything for broken files, and for those of too many pixels
        return {}
