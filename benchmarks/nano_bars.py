"""The figures that nano is judged by, measured and written to `benchmarks/results/nano.json`.

    glmkit eval --suite text-render --split simple --limit 64 --run reports/nano_bars
    python benchmarks/nano_bars.py reports/nano_bars

Needs a finished run of the `simple` split: 64 held-out prompts through the whole system. The VAE and the semantic
tokenizer are measured on 64 posters whose words no training poster has.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from PIL import Image

from glmkit import runs
from glmkit.config import VaeStage
from glmkit.files import read_json, read_jsonl, write_json
from glmkit.models.hybrid import HybridModel
from glmkit.posters.check import background_is, shape_is
from glmkit.posters.simple import simple_scenes
from glmkit.training import cache
from glmkit.training.data import PosterPictures
from glmkit.training.objectives.vae import VaeObjective

HELD_OUT, SEED = 64, 987


def pictures_as_described(run: Path) -> dict[str, float]:
    """Shares of pictures whose background and whose shape are the caption's, by its ground truth; time a picture."""
    scenes = {name: scene for name, scene, _ in simple_scenes()}
    rows = [row for row in read_jsonl(run / "images.jsonl") if row["file"]]
    seconds = statistics.median(row["seconds"] for row in rows)
    background, shape = [], []
    for row in rows:
        with Image.open(run / row["file"]) as picture:
            background.append(background_is(picture, scenes[row["prompt_id"]]))
            shape.append(shape_is(picture, scenes[row["prompt_id"]]))
    return {
        "pictures": len(rows),
        "background": sum(background) / len(rows),
        "shape": sum(shape) / len(rows),
        "median_seconds": seconds,
    }


def parts(hybrid: HybridModel) -> dict[str, float]:
    """PSNR of the VAE in dB and the share of the codes that the held-out posters use."""
    posters = PosterPictures(HELD_OUT, 256, 256, SEED, 1, "held-out")
    unused = VaeStage(method="full", steps=1, batch_size=1, learning_rate=1)
    psnr = VaeObjective(hybrid.vae, posters, posters, unused, hybrid.device).held_out()["psnr"]
    everything = list(range(HELD_OUT))
    large = cache.large_cache(hybrid.semantic_vq, posters, hybrid.device)[everything]
    preview = cache.preview_cache(hybrid.semantic_vq, posters, hybrid.device)[everything]
    used = torch.cat([large.flatten(), preview.flatten()]).unique().numel()
    return {"vae_psnr_db": psnr, "codes_used": used / hybrid.semantic_vq.config.num_embeddings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    summary, manifest = read_json(run / "summary.json"), read_json(run / "manifest.json")
    hybrid = HybridModel.load(manifest["settings"]["model"])
    result = {
        "scores": summary["scores"],
        "n_scored": summary["n_scored"],
        "n_total": summary["n_total"],
        "as_described": pictures_as_described(run),
        "parts": parts(hybrid),
        "settings": manifest["settings"],
        "environment": runs.environment("cpu"),
        "date": manifest["started"],
        "command": "python benchmarks/nano_bars.py RUN",
    }
    write_json(Path(__file__).parent / "results" / "nano.json", result)
    for name, score in summary["scores"].items():
        print(f"{name:14} {score['value']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]")
    for name, value in {**result["as_described"], **result["parts"]}.items():
        print(f"{name:14} {value:.3f}")


if __name__ == "__main__":
    main()
