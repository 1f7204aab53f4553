"""Images as the API answers with them: in base64, once or as events of a stream."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.generation.images import png_text
from glmkit.generation.prior_tokens import prompt_tokenizer
from glmkit.generation.sequence import grids
from glmkit.serving.fields import FORMATS, ImageRequest
from glmkit.serving.scheduler import Finished


def answer(parsed: ImageRequest, images: Sequence[Finished], folder: Path) -> dict[str, Any]:
    """Return the JSON of an answer."""
    data = [image_data(parsed, image, number) for number, image in enumerate(images)]
    return {"created": int(time.time()), "data": data, **described(parsed), "usage": usage(parsed, images[0], folder)}


def image_data(parsed: ImageRequest, image: Finished, number: int = 0) -> dict[str, Any]:
    """Return image `number` of a request, with the seed that makes it again."""
    return {"b64_json": encoded(image, parsed.format, parsed.compression), "seed": parsed.requests[number].seed}


def described(parsed: ImageRequest) -> dict[str, Any]:
    """Say how the images of a request are written."""
    return {
        "background": "opaque",
        "output_format": parsed.format,
        "quality": parsed.quality,
        "size": parsed.size,
    }


def encoded(image: Finished, format: str, compression: int | None) -> str:
    """Return an image file in base64; a PNG carries the request that made it."""
    options: dict[str, Any] = {} if compression is None else {"quality": 100 - compression}
    if format == "png":
        options["pnginfo"] = png_text(image.text)
    buffer = io.BytesIO()
    image.image.save(buffer, FORMATS[format], **options)
    return base64.b64encode(buffer.getvalue()).decode()


def usage(parsed: ImageRequest, image: Finished, folder: Path) -> dict[str, Any]:
    """Count tokens as the AR model reads and generates them; `image` is any of the request's.

    An edit reads those of its condition images, and generates no preview.
    """
    request, tokenizer = parsed.requests[0], prompt_tokenizer(folder)
    shape = grids(request.height, request.width)
    if image.condition_ids:
        ids = tokenizer.edit(request.prompt, image.condition_ids, request.height, request.width)
        generated = [shape.large]
    else:
        ids = tokenizer.text_to_image(request.prompt, request.height, request.width)
        generated = [shape.preview, shape.large]
    output = len(parsed.requests) * sum(rows * columns for rows, columns in generated)
    images = sum(grid.numel() for grid in image.condition_ids)
    return {
        "input_tokens": len(ids),
        "input_tokens_details": {"text_tokens": len(ids) - images, "image_tokens": images},
        "output_tokens": output,
        "total_tokens": len(ids) + output,
    }


def stream_event(name: str, values: Mapping[str, Any]) -> str:
    """Return an event of a stream, whose data say its type, too."""
    return event(name, {"type": name, **values})


def event(name: str, values: Mapping[str, Any]) -> str:
    """Return an event of a stream."""
    return f"event: {name}\ndata: {json.dumps(values)}\n\n"
