"""Write the edit pairs `data/edits`: posters of the style set without their frame, and with it.

nano was not trained to add a frame. `python -m glmkit.posters.pair_set` writes the pairs again.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from glmkit.files import write_jsonl
from glmkit.posters.sets import FOLDERS, save, write_from_command_line
from glmkit.posters.style_set import render_framed, render_unframed, style_scenes
from glmkit.posters.words import Split

COUNTS: dict[Split, int] = {"train": 24, "held-out": 8}


def write_pairs(folder: Path) -> None:
    """Write `train/` and `validation/`, each with numbered PNG files and a metadata.jsonl."""
    for split, name in FOLDERS.items():
        records = []
        for index, (scene, _) in enumerate(islice(style_scenes(split), COUNTS[split]), start=1):
            images = {"file_name": render_framed(scene), "condition_image": render_unframed(scene)}
            files = {"file_name": f"pair-{index:02d}.png", "condition_image": f"pair-{index:02d}-condition.png"}
            for key, image in images.items():
                save(image, folder / name / files[key])
            records.append({**files, "text": f"Add a double {scene.text_colour} frame."})
        write_jsonl(folder / name / "metadata.jsonl", records)


if __name__ == "__main__":
    write_from_command_line(write_pairs, "data/edits")
