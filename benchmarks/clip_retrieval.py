"""What the small CLIP in `data/clip` can tell, by open_clip as it is; written to `benchmarks/results/clip.json`.

    python benchmarks/clip_retrieval.py [FOLDER]

Every poster shows words that no training poster has. R@1: how often an image is closest to its own caption among 64,
or a caption to its own image; chance is 1/64. Attributes: how often an image is closer to its own caption than to
the same caption with one thing changed; chance is 1/2. The model is ours, trained on such posters alone: its cosines
are not comparable with published CLIPScores, and say nothing about images of any other kind.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from glmkit import hashing, runs
from glmkit.files import write_json
from glmkit.models.clip.model import PREFIX
from glmkit.posters.grammar import COLOURS, POSITIONS, SHAPES, Scene, caption
from glmkit.posters.masks import indexed_scene
from glmkit.posters.render import render
from glmkit.posters.words import sample_text
from glmkit.sizes import parse_size

FOLDER = Path(__file__).parents[1] / "data" / "clip"
GROUP, SEED = 64, 4321
GROUPS = {"256x256": 8, "320x192": 4, "192x320": 4, "512x512": 4}
ATTRIBUTES = ("background", "text colour", "text position", "shape colour", "shape side", "shape kind", "words")


class Judge:
    """The model as open_clip loads it; unit features."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    @torch.no_grad()
    def images(self, scenes: list[Scene]) -> Tensor:
        pixels = torch.stack([self.prepare(render(scene)) for scene in scenes])
        return torch.cat([self.model.encode_image(batch, normalize=True) for batch in torch.split(pixels, GROUP)])

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(texts)
        return torch.cat([self.model.encode_text(batch, normalize=True) for batch in torch.split(ids, GROUP)])


def unseen_scenes(size: str, count: int) -> list[Scene]:
    height, width = parse_size(size)
    return [indexed_scene(SEED, index, height=height, width=width, split="held-out") for index in range(count)]


def caption_of(index: int, scene: Scene) -> str:
    """The wording follows from the index, so that a changed scene is described in the same words but one."""
    return caption(scene, random.Random(f"{SEED}-{index}"))


def recall(queries: Tensor, answers: Tensor) -> dict[str, Any]:
    """R@1 in every group of 64: mean, standard deviation, lowest and highest."""
    shares = []
    for group, candidates in zip(torch.split(queries, GROUP), torch.split(answers, GROUP), strict=True):
        shares.append(float(((group @ candidates.T).argmax(dim=1) == torch.arange(GROUP)).float().mean()))
    spread = {"mean": statistics.mean(shares), "sd": statistics.stdev(shares), "low": min(shares), "high": max(shares)}
    return {"groups": len(shares), **{name: round(value, 4) for name, value in spread.items()}}


def changed(scene: Scene, attribute: str, rng: random.Random) -> Scene | None:
    """The scene with one thing changed that its caption names; None where there is nothing to change."""
    shape = scene.shape
    if attribute.startswith("shape") and shape.kind == "none":
        return None
    used = {scene.background, scene.text_colour, shape.colour}
    colour = rng.choice([name for name in COLOURS if name not in used])
    if attribute == "background":
        return replace(scene, background=colour)
    if attribute == "text colour":
        return replace(scene, text_colour=colour)
    if attribute == "text position":
        return replace(scene, position=rng.choice([position for position in POSITIONS if position != scene.position]))
    if attribute == "words":
        lines = (replace(line, text=sample_text(rng, "held-out")) for line in scene.lines)
        return replace(scene, lines=tuple(lines))
    if attribute == "shape colour":
        return replace(scene, shape=replace(shape, colour=colour))
    if attribute == "shape side":
        row, _, side = shape.position.partition(" ")
        other = rng.choice([name for name in ("left", "", "right") if name != side])
        return (
            None if shape.kind == "stripe" else replace(scene, shape=replace(shape, position=f"{row} {other}".strip()))
        )
    return replace(scene, shape=replace(shape, kind=rng.choice([kind for kind in SHAPES if kind != shape.kind])))


def attributes(judge: Judge, scenes: list[Scene], images: Tensor, captions: Tensor) -> dict[str, Any]:
    accuracy = {}
    for attribute in ATTRIBUTES:
        rng = random.Random(f"{SEED} {attribute}")
        pairs = [(index, other) for index, scene in enumerate(scenes) if (other := changed(scene, attribute, rng))]
        indices = [index for index, _ in pairs]
        wrong = judge.texts([caption_of(index, scene) for index, scene in pairs])
        right = (images[indices] * captions[indices]).sum(dim=1) > (images[indices] * wrong).sum(dim=1)
        accuracy[attribute] = {"n": len(indices), "right": round(float(right.float().mean()), 4)}
    return accuracy


def measure(folder: Path) -> dict[str, Any]:
    judge, result = Judge(folder), {}
    for size, groups in GROUPS.items():
        scenes = unseen_scenes(size, groups * GROUP)
        texts = [caption_of(index, scene) for index, scene in enumerate(scenes)]
        images, captions = judge.images(scenes), judge.texts(texts)
        result[f"image_to_caption {size}"] = recall(images, captions)
        result[f"caption_to_image {size}"] = recall(captions, images)
        if size == "256x256":
            prefixed = judge.texts([PREFIX + text for text in texts])
            result[f"image_to_caption {size}, {PREFIX.strip()!r} before the caption"] = recall(images, prefixed)
            cosines = images[:GROUP] @ captions[:GROUP].T
            others = cosines[~torch.eye(GROUP, dtype=torch.bool)]
            pairs = {"own caption": cosines.diagonal(), "another caption": others}
            extra = {
                "attributes": attributes(judge, scenes, images, captions),
                "cosine": {
                    name: {"mean": round(float(values.mean()), 3), "sd": round(float(values.std()), 3)}
                    for name, values in pairs.items()
                },
            }
    parameters = sum(parameter.numel() for parameter in judge.model.parameters())
    return {"recall_at_1_among_64": result, **extra, "parameters": parameters}


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
    for name, row in [*result["recall_at_1_among_64"].items(), *result["attributes"].items()]:
        print(f"{name:80} {row}")


if __name__ == "__main__":
    main()
