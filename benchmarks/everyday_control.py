"""Score true images of the prompts that say what they name: every check must find what was rendered.

    python benchmarks/everyday_control.py OUT

renders what each prompt names into OUT/images, whatever it leaves open being chosen, and scores it in OUT/SPLIT as
`glmkit eval --suite text-render --images` does. A prompt whose texts need a character that no typeface has, or that do
not fit, has no image; its score is missing, and counted.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from glmkit.evaluation import stats, suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.posters.everyday import colours, masks
from glmkit.posters.everyday.check import BELOW, COLUMNS, ROWS, Named, NamedFrame, NamedShape
from glmkit.posters.everyday.render import render
from glmkit.posters.everyday.scene import (
    GAP,
    LARGEST,
    WIDEST,
    Border,
    EverydayScene,
    PlacedShape,
    TextBlock,
    fit,
    shape_box,
    stand,
    stand_in_row,
    touch,
)
from glmkit.records import Prompt

SPLITS = ("everyday-en", "everyday-zh", "long-words", "multi-text")
SIDE = 256  # pixels, height and width
FACES = {"en": "roboto", "zh": "noto-sans-sc"}
RADII = {"stripe": 0.03, "one": 0.11, "several": 0.07}  # of the side
THICKNESSES = {"thin": 3, "": 5, "thick": 8}  # pixels
FRAME_GAP = 3  # pixels
SHRINKING = (1.0, 0.85, 0.7, 0.55, 0.4)  # sizes of texts that are tried
Place = tuple[str, str]


def everyday_prompts() -> list[Prompt]:
    """Return the prompts that say what they name, if it is more than texts."""
    return [prompt for prompt in suites.prompts(suites.load("text-render")) if prompt.split in SPLITS]


def scene_of(prompt: Prompt) -> EverydayScene | None:
    """Build a scene that shows what a prompt names; None when it cannot."""
    if not set("".join(prompt.texts)) <= set(masks.alphabet()) | {" "}:
        return None
    rng, named = random.Random(prompt.id), Named.from_dict(prompt.named, prompt.id)
    inks = [colour for colour, _ in Counter(filter(None, named.text_colours)).most_common()]
    background = named.background or colours.sample_on(inks[0] if inks else "black", rng)
    inks = inks or [colours.sample_on(background, rng)]
    frame = Border()
    if named.frame is not None:
        wanted = NamedFrame.from_dict(named.frame)
        frame = Border(FRAME_GAP, THICKNESSES[wanted.thickness], wanted.colour or inks[0])
    groups = _groups(named, len(prompt.texts))
    shapes = [shape for one in named.shapes or () for shape in _shapes(NamedShape.from_dict(one), groups, inks[0])]
    for size in SHRINKING:
        blocks = list(_blocks(prompt, groups, inks, named.text_colours, size, rng))
        boxes = [block.box for block in blocks] + [shape_box(shape, SIDE) for shape in shapes]
        if len(blocks) == len(prompt.texts) and not any(
            touch(first, second, GAP * SIDE / 2) for first, second in combinations(boxes, 2)
        ):
            in_order = sorted(blocks, key=lambda block: prompt.texts.index(block.text))
            return EverydayScene(
                SIDE,
                SIDE,
                prompt.language,
                background,
                inks[0],
                inks[-1],
                "spread",
                tuple(in_order),
                tuple(shapes),
                frame,
            )
    return None


def _groups(named: Named, count: int) -> dict[Place, list[int]]:
    """Group the numbers of the texts by the place at which they stand, one under the other."""
    groups: dict[Place, list[int]] = {}
    place: Place = ("middle", "centre")
    for number, said in zip(range(count), (*named.places, *[""] * count), strict=False):
        if said not in ("", BELOW):
            place = _place(said, "middle")
        groups.setdefault(place, []).append(number)
    return groups


def _place(said: str, row: str) -> Place:
    """Turn the words of a place into row and column; `row` where they name none."""
    words = said.split()
    rows, columns = [word for word in words if word in ROWS], [word for word in words if word in COLUMNS]
    return rows[0] if rows else row, columns[0] if columns else "centre"


def _shapes(wanted: NamedShape, groups: dict[Place, list[int]], ink: str) -> Sequence[PlacedShape]:
    taken = {row for row, _ in groups}
    free = next(row for row in ("bottom", "top", "middle") if row not in taken or row == "middle")
    count = wanted.count or 1
    radius = RADII["stripe" if wanted.kind == "stripe" else "one" if count == 1 else "several"] * SIDE
    place = _place(wanted.place, free)
    return stand_in_row(wanted.kind, wanted.colour or ink, count, place, radius, SIDE, SIDE)


def _blocks(
    prompt: Prompt,
    groups: dict[Place, list[int]],
    inks: Sequence[str],
    said: Sequence[str],
    size: float,
    rng: random.Random,
) -> Iterator[TextBlock]:
    """Set the texts of each group, `size` times as large as they may be; a group that does not fit is left out."""
    language, face = prompt.language, FACES[prompt.language]
    rows = [row for row, _ in groups]
    for (row, column), numbers in groups.items():
        widest = (0.4 if rows.count(row) > 1 else WIDEST if column == "centre" else 0.65) * SIDE
        room = min(0.5, 0.75 / len(prompt.texts)) * SIDE
        largest = LARGEST[language] * size * SIDE
        texts = [prompt.texts[number] for number in numbers]
        sizes = [fit(rng, text, face, language, largest, widest, room, SIDE) for text in texts]
        for number, block in zip(numbers, stand(rng, texts, sizes, face, (row, column), SIDE, SIDE), strict=False):
            accented = len(inks) > 1 and said[number] == inks[-1]
            yield TextBlock(**{**vars(block), "accent": accented})


def render_all(folder: Path, prompts: Sequence[Prompt]) -> list[str]:
    """Render true images of the prompts into a folder; returns the ids of those that cannot be built."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out = []
    for prompt in prompts:
        path, scene = folder / f"{prompt.id}.png", scene_of(prompt)
        if scene is None:
            path.unlink(missing_ok=True)  # of other prompts
            left_out.append(prompt.id)
        else:
            render(scene).save(path)
    return left_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path)
    out = parser.parse_args().out
    prompts = everyday_prompts()
    print("without an image:", *(render_all(out / "images", prompts) or ["none"]))
    for split in SPLITS:
        summary = evaluate(EvaluationPlan("text-render", split=split, images=out / "images"), out / split)
        print(f"{split}: {summary.n_scored} of {summary.n_total} images")
        for metric, score in summary.scores.items():
            print(f"  {metric:20} {stats.as_text(score)}")


if __name__ == "__main__":
    main()
