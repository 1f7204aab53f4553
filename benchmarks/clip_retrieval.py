"""What the small CLIP in `data/clip` can tell, by open_clip as it is; written to `benchmarks/results/clip.json`.

    python benchmarks/clip_retrieval.py [FOLDER]

Every poster is one of nano's everyday world, or of its plain grammar, whose words no training poster has. R@1: how
often an image is closest to its own caption among 64 of its kind, or a caption to its own image; chance is 1/64.
Attributes: how often an image is closer to its own caption than to the same caption that says one thing wrongly; chance
is 1/2. The model is ours, trained on such posters alone: its cosines are not comparable with published CLIPScores, and
say nothing about images of any other kind.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor

from glmkit import hashing, runs
from glmkit.files import write_json
from glmkit.models.clip.model import PREFIX
from glmkit.posters import grammar, masks, render
from glmkit.posters.everyday import colours, texts
from glmkit.posters.everyday import render as everyday_render
from glmkit.posters.everyday.captions import caption
from glmkit.posters.everyday.masks import indexed_scene
from glmkit.posters.everyday.scene import EverydayScene
from glmkit.posters.grammar import Scene
from glmkit.pretraining.clip import KINDS, PAIRS, QUOTED, exchanged
from glmkit.sizes import parse_size

FOLDER = Path(__file__).parents[1] / "data" / "clip"
GROUP, SEED = 64, 4321
GROUPS = {"256x256": 8, "320x192": 4, "192x320": 4, "512x512": 4}
LANGUAGES = {"en": "English", "zh": "Chinese"}
# The longest names first, so that "dark red" is no red; quoted texts match whole, so that group 1 is never inside one.
NAMES = [
    sorted(names, key=len, reverse=True) for names in (colours.COLOURS, [two for _, two in colours.COLOURS.values()])
]
COLOUR = re.compile(rf"(?:{QUOTED})|(\b(?:{'|'.join(NAMES[0])})\b|{'|'.join(filter(None, NAMES[1]))})")


@dataclass(frozen=True)
class Poster:
    """A scene of the everyday world and its caption."""

    scene: EverydayScene
    caption: str

    def image(self) -> Image.Image:
        return everyday_render.render(self.scene)


@dataclass(frozen=True)
class PlainPoster:
    """A scene of the plain grammar and its caption."""

    scene: Scene
    caption: str

    def image(self) -> Image.Image:
        return render.render(self.scene)


class Judge:
    """The model as open_clip loads it; unit features."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    @torch.no_grad()
    def images(self, posters: Sequence[Poster] | Sequence[PlainPoster]) -> Tensor:
        pixels = torch.stack([self.prepare(poster.image()) for poster in posters])
        return torch.cat([self.model.encode_image(batch, normalize=True) for batch in torch.split(pixels, GROUP)])

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts)
        return torch.cat([self.model.encode_text(batch, normalize=True) for batch in torch.split(ids, GROUP)])


def unseen_posters(size: str, language: str, number: int) -> list[Poster]:
    """The first so many posters with texts of a language, no two with the same caption."""
    height, width = parse_size(size)
    found: dict[str, Poster] = {}
    for index in count():
        scene = indexed_scene(SEED, index, height=height, width=width, split="held-out")
        if scene.language == language:
            said = caption(scene, random.Random(f"{SEED}-{index}"))
            found.setdefault(said, Poster(scene, said))
        if len(found) == number:
            return list(found.values())
    raise AssertionError


def plain_posters(number: int) -> list[PlainPoster]:
    """The first so many posters of the plain grammar, 256x256."""
    scenes = [masks.indexed_scene(SEED, index, height=256, width=256, split="held-out") for index in range(number)]
    return [PlainPoster(one, grammar.caption(one, random.Random(f"{SEED}-{n}"))) for n, one in enumerate(scenes)]


def recall(queries: Tensor, answers: Tensor) -> dict[str, Any]:
    """R@1 in every group of 64: mean, standard deviation, lowest and highest."""
    shares = []
    for group, candidates in zip(torch.split(queries, GROUP), torch.split(answers, GROUP), strict=True):
        shares.append(float(((group @ candidates.T).argmax(dim=1) == torch.arange(GROUP)).float().mean()))
    spread = {"mean": statistics.mean(shares), "sd": statistics.stdev(shares), "low": min(shares), "high": max(shares)}
    return {"groups": len(shares), **{name: round(value, 4) for name, value in spread.items()}}


def with_colour(said: str, name: str, rng: random.Random) -> str:
    """The caption with another colour in place of one, wherever it stands outside of quotes; itself without it."""
    others = [one for one, (_, chinese) in colours.COLOURS.items() if chinese and colours.are_different(one, name)]
    other = rng.choice(others)
    swap = {name: other, colours.COLOURS[name][1]: colours.COLOURS[other][1]}
    return COLOUR.sub(lambda match: swap.get(match[1], match[0]), said)


def with_words(poster: Poster, rng: random.Random) -> str:
    """The caption with other texts of the same languages."""
    said = poster.caption
    for block in poster.scene.blocks:
        language = "en" if block.text.isascii() else "zh"
        said = said.replace(block.text, texts.sample(rng, language, "held-out"))
    return said


WRONG: dict[str, Callable[[Poster, random.Random], str]] = {
    "background": lambda one, rng: with_colour(one.caption, one.scene.background, rng),
    "text colour": lambda one, rng: with_colour(one.caption, one.scene.text_colour, rng),
    "shape colour": lambda one, rng: (
        with_colour(one.caption, one.scene.shapes[0].colour, rng) if one.scene.shapes else one.caption
    ),
    "kind of shape": lambda one, rng: exchanged(one.caption, (), KINDS, rng) or one.caption,
    "top and bottom": lambda one, rng: exchanged(one.caption, [*PAIRS[:2], *PAIRS[3:6]], (), rng) or one.caption,
    "left and right": lambda one, rng: exchanged(one.caption, [PAIRS[2], PAIRS[6]], (), rng) or one.caption,
    "words": with_words,
}


def attributes(judge: Judge, posters: Sequence[Poster], images: Tensor, captions: Tensor) -> dict[str, Any]:
    accuracy = {}
    for attribute, wrong in WRONG.items():
        rng = random.Random(f"{SEED} {attribute}")
        said = {index: wrong(poster, rng) for index, poster in enumerate(posters)}
        said = {index: one for index, one in said.items() if one != posters[index].caption}
        indices = list(said)
        others = judge.texts(list(said.values()))
        right = (images[indices] * captions[indices]).sum(dim=1) > (images[indices] * others).sum(dim=1)
        accuracy[attribute] = {"n": len(indices), "right": round(float(right.float().mean()), 4)}
    return accuracy


def cosines(images: Tensor, captions: Tensor) -> dict[str, Any]:
    """Means and standard deviations of the first group."""
    found = images[:GROUP] @ captions[:GROUP].T
    pairs = {"own caption": found.diagonal(), "another caption": found[~torch.eye(GROUP, dtype=torch.bool)]}
    return {
        name: {"mean": round(float(values.mean()), 3), "sd": round(float(values.std()), 3)}
        for name, values in pairs.items()
    }


def measure(folder: Path) -> dict[str, Any]:
    judge, found, right, cosine = Judge(folder), dict[str, Any](), dict[str, Any](), dict[str, Any]()
    for size, groups in GROUPS.items():
        for language, name in LANGUAGES.items():
            posters = unseen_posters(size, language, groups * GROUP)
            said = [poster.caption for poster in posters]
            images, captions = judge.images(posters), judge.texts(said)
            found[f"image_to_caption {size} {name}"] = recall(images, captions)
            found[f"caption_to_image {size} {name}"] = recall(captions, images)
            if size == "256x256":
                prefixed = judge.texts([PREFIX + text for text in said])
                found[f"image_to_caption {size} {name}, {PREFIX.strip()!r} before it"] = recall(images, prefixed)
                right[name] = attributes(judge, posters, images, captions)
                cosine[name] = cosines(images, captions)
    plain = plain_posters(GROUPS["256x256"] * GROUP)
    images, captions = judge.images(plain), judge.texts([poster.caption for poster in plain])
    found["image_to_caption 256x256 plain grammar"] = recall(images, captions)
    found["caption_to_image 256x256 plain grammar"] = recall(captions, images)
    parameters = sum(parameter.numel() for parameter in judge.model.parameters())
    return {"recall_at_1_among_64": found, "attributes": right, "cosine": cosine, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args().folder
    result = {
        "model": "glmkit's own small CLIP; not comparable with published CLIPScores",
        "weights": hashing.fingerprint(folder / "open_clip_model.safetensors"),
        **measure(folder),
        "environment": runs.environment("cpu"),
        "command": "python benchmarks/clip_retrieval.py",
    }
    write_json(Path(__file__).parent / "results" / "clip.json", result)
    rows = {f"{name}: {what}": row for name, table in result["attributes"].items() for what, row in table.items()}
    for name, row in {**result["recall_at_1_among_64"], **rows}.items():
        print(f"{name:80} {row}")


if __name__ == "__main__":
    main()
