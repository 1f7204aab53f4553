"""A model behind an OpenAI-style images endpoint, by the official client: NAME is MODEL or MODEL@QUALITY.

There are no seeds: seed k is the k-th image that was asked for. Key, address and retries: `evaluation.endpoints`.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glmkit.errors import UserError
from glmkit.evaluation import bounded_http
from glmkit.evaluation.baselines import BaselineDefaults
from glmkit.evaluation.endpoints import Endpoint
from glmkit.inputs.images import read_image

if TYPE_CHECKING:
    from openai.types import ImagesResponse
    from PIL import Image

    from glmkit.generation.options import InferenceOptions
    from glmkit.records import Request

DALL_E = "dall-e"  # the only models that must be asked for data instead of an address
# Dollars per million tokens, (text in, image out): OpenAI's list prices, as others quoted them in May 2026.
PRICES: Mapping[str, tuple[float, float]] = {"gpt-image-1": (5.0, 40.0), "gpt-image-1.5": (5.0, 32.0)}
PRICES_OF = "May 2026"


class EndpointBaseline:
    """Ask an images endpoint, several requests at a time, and count what it costs."""

    is_local = False
    workers = 4
    defaults = BaselineDefaults(1024, 1024, None, None)

    def __init__(self, name: str) -> None:
        self._endpoint = Endpoint("images")
        self._model, _, self._quality = name.partition("@")
        self._lock = threading.Lock()
        self._images, self._tokens, self._dollars = 0, 0, 0.0

    def identity(self) -> dict[str, Any]:
        """Name the address without any credentials."""
        return {"endpoint": self._endpoint.address}

    def prepare(self, device: str, dtype: str, options: InferenceOptions) -> None:
        """Load nothing."""

    def generate(self, request: Request) -> tuple[Image.Image, Mapping[str, str]]:
        """Ask for one image; returns it with the prompt that the model made of the request's."""
        with self._endpoint.masking():
            return self._generate(request)

    def _generate(self, request: Request) -> tuple[Image.Image, Mapping[str, str]]:
        size = f"{request.width}x{request.height}"
        answer = self._endpoint.ask(lambda client: self._ask_once(client, request.prompt, size), self._model)
        if not answer.data:
            raise RuntimeError("the endpoint answered without an image")
        first = answer.data[0]
        if first.b64_json:
            data = _decoded(first.b64_json)
        elif first.url:
            data = _download(first.url)
        else:
            raise RuntimeError("the endpoint answered without an image")
        about = {"revised_prompt": self._endpoint.masked(first.revised_prompt)} if first.revised_prompt else {}
        with self._lock:
            self._images += 1
            self._tokens += answer.usage.total_tokens if answer.usage else 0
            self._dollars += price(self._model, self._quality, size, answer) or 0.0
        try:
            return read_image(data, "the endpoint's image"), about
        except UserError as error:  # of this image
            raise RuntimeError(error.what) from error

    def progress_note(self) -> str:
        """Add up the cost of the images that this process has asked for."""
        if self._dollars:
            return f"{self._dollars:.2f} $ (prices of {PRICES_OF})"
        tokens = f"{self._tokens:,} tokens, " if self._tokens else ""
        return f"{tokens}price not known" if self._images else ""

    def _ask_once(self, client: Any, prompt: str, size: str) -> ImagesResponse:
        more: dict[str, Any] = {"quality": self._quality} if self._quality else {}
        if self._model.startswith(DALL_E):
            more["response_format"] = "b64_json"
        answer: ImagesResponse = client.images.generate(model=self._model, prompt=prompt, size=size, n=1, **more)
        return answer


def load(name: str) -> EndpointBaseline:
    """Make the client; UserError without the package or the key."""
    return EndpointBaseline(name)


def price(model: str, quality: str, size: str, answer: ImagesResponse) -> float | None:
    """Calculate the price of one answer in dollars; None when it is not known."""
    if model == "dall-e-3":  # by the image: 4 cents, 4 more for hd, 4 more for a side of 1792
        return 0.04 * (1 + (quality == "hd") + (size != "1024x1024"))
    if model not in PRICES or answer.usage is None:
        return None
    text, image = PRICES[model]
    return float(answer.usage.input_tokens * text + answer.usage.output_tokens * image) / 1e6


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise RuntimeError("the endpoint answered with broken data") from error


def _download(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise RuntimeError(f"the endpoint answered with an address that is none: {url[:80]}")
    with bounded_http.client() as client:
        data: bytes = client.get(url).raise_for_status().content
        return data
