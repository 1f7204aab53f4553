"""Prompts to learn from by reward, in place of images: read once, and sorted into rounds by size as images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from glmkit import shipped
from glmkit.config import Data, Recipe
from glmkit.errors import UserError
from glmkit.evaluation.suites.shared.own_prompts import as_prompt
from glmkit.generation.requests import check_request, new_request
from glmkit.hashing import json_sha256
from glmkit.inputs.prompts import FilePrompt, read_prompts
from glmkit.models import checkpoint
from glmkit.models.checkpoint import published
from glmkit.records import Prompt, Request


class PromptDataset:
    """Prompts, each with the request for its image that the model's defaults make of it: an `ImageDataset` of nothing
    but captions and sizes.
    """

    unit = "prompts"
    condition_images: dict[int, tuple[int, ...]]
    rejected: dict[int, int]
    same_image: dict[int, int]

    def __init__(self, prompts: Sequence[tuple[Prompt, Request]]) -> None:
        self.prompts = [prompt for prompt, _ in prompts]
        self.requests = [request for _, request in prompts]
        self.captions = [prompt.prompt for prompt in self.prompts]
        self.texts = [prompt.glyph_texts for prompt in self.prompts]
        self.sizes = [(request.height, request.width) for request in self.requests]
        self.repeats, self.regularization = [1] * len(prompts), list[int]()
        self.condition_images, self.rejected, self.same_image = {}, {}, {}
        both = zip(self.prompts, self.sizes, strict=True)
        self.keys: list[str] | None = [
            json_sha256([prompt.prompt, prompt.texts, prompt.glyph_texts, size]) for prompt, size in both
        ]
        self.text_keys: list[str] | None = self.keys

    def pixels(self, *_: object) -> Tensor:
        """Fail: there are no images before the model generates them."""
        raise NotImplementedError

    text_mask = pixels


def load(recipe: Recipe) -> tuple[PromptDataset, PromptDataset]:
    """Read the prompts to learn from and those of validation; these are a share of the others, where a recipe asks.

    Without validation prompts the rewards of training prompts are measured in their place. UserError names the first
    prompt that cannot be used.
    """
    # The defaults of the published model are known without its files, which a plan does not download.
    is_published = published.is_published(recipe.model)
    data, model = recipe.data, Path(recipe.model) if is_published else checkpoint.resolve(recipe.model)
    train = _read(str(data.prompts), data, model)
    if isinstance(data.validation, str):
        return PromptDataset(train), PromptDataset(_read(data.validation, data, model))
    if data.validation is None:
        both = PromptDataset(train)
        return both, both
    if len(train) < 2:
        raise UserError("one prompt is too few to keep some back", fix="data.validation=FILE, or =null for none")
    every = round(1 / data.validation)
    kept = train[:: max(2, every)]
    return PromptDataset([one for one in train if one not in kept]), PromptDataset(kept)


def _read(path: str, data: Data, model: Path) -> list[tuple[Prompt, Request]]:
    found = []
    for number, prompt in enumerate(read_prompts(Path(shipped.find(path))), start=1):
        try:
            found.append(_example(prompt, data, model))
        except UserError as error:
            raise UserError(f"{path}, record {number}: {error.what}", found=error.found, fix=error.fix) from error
    return found


def _example(prompt: FilePrompt, data: Data, model: Path) -> tuple[Prompt, Request]:
    """Return what a prompt must show, and the request for it. UserError when it cannot be used."""
    made = as_prompt(prompt, from_quotes=True)
    if prompt.condition_images:
        raise UserError("an edit cannot be learnt from rewards", found=prompt.prompt[:200], fix="leave it out")
    request = new_request(model, prompt.id, prompt.prompt, size=prompt.size or data.size, texts=prompt.texts)
    request = replace(request, seed=prompt.seed or 0)
    check_request(request)
    return replace(made, size=f"{request.width}x{request.height}"), request
