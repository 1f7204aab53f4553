"""The edit pairs `data/edits`: posters of the style set without their frame, and with it.

Adding a frame is no edit that nano was taught. `python -m glmkit.posters.pair_set` draws the pairs again.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from glmkit.files import write_jsonl
from glmkit.posters.sets import FOLDERS, draw_again, save
from glmkit.posters.style_set import style_poster, style_scenes, unframed_poster
from glmkit.posters.words import Split

COUNTS: dict[Split, int] = {"train": 24, "held-out": 8}


def write_pairs(folder: Path) -> None:
    """Write `train/` and `validation/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        rows = []
        for index, (scene, _) in enumerate(islice(style_scenes(split), COUNTS[split]), start=1):
            images = {"file_name": style_poster(scene), "condition_image": unframed_poster(scene)}
            files = {"file_name": f"pair-{index:02d}.png", "condition_image": f"pair-{index:02d}-source.png"}
            for key, image in images.items():
                save(image, folder / name / files[key])
            rows.append({**files, "text": f"Add a double {scene.text_colour} frame."})
        write_jsonl(folder / name / "metadata.jsonl", rows)


if __name__ == "__main__":
    draw_again(write_pairs, "data/edits")
