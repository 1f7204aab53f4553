"""Pairs by rewards and by votes: which images they are, and that a recipe reads what is written."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plain_runs import write_run

from glmkit.api.pairs import pairs_by_rewards, pairs_by_votes
from glmkit.api.rewards import RewardedImage, RewardReport
from glmkit.cli import main
from glmkit.config import Columns
from glmkit.errors import UserError
from glmkit.files import read_json, read_jsonl, write_jsonl
from glmkit.inputs.datasets import read_captioned_images
from glmkit.inputs.tables import RecordImage
from glmkit.records import Score
from glmkit.reporting.blind import decode
from glmkit.reporting.load import EvalRun, load_runs


def rewarded(prompt: str, seed: int, total: float | None, **more: Any) -> RewardedImage:
    error = "OCR: it hung" if total is None else None
    return RewardedImage(
        prompt, f"a {prompt}", ("FOX",), seed, f"{prompt}_{seed}.png", {}, total, None, error=error, **more
    )


def test_the_best_and_the_worst_of_each_prompt_are_a_pair() -> None:
    images = (
        *(rewarded("fox", seed, total) for seed, total in enumerate((0.5, 0.9, 0.9, None, 0.5))),
        *(rewarded("owl", seed, total) for seed, total in enumerate((0.5, 0.55))),  # too near
        rewarded("elk", 0, 0.8),  # alone
        *(rewarded("bat", seed, total) for seed, total in enumerate((None, None))),
        rewarded("yak", 0, -0.2, is_empty=True),
        rewarded("yak", 1, -0.9),
    )
    (pair,) = pairs_by_rewards(RewardReport(images, {}), 0.1)
    assert (pair.prompt, pair.texts) == ("a fox", ("FOX",))
    assert (pair.chosen.name, pair.rejected.name) == ("fox_1.png", "fox_4.png")
    assert pair.about == {"chosen_reward": 0.9, "rejected_reward": 0.5}
    assert len(pairs_by_rewards(RewardReport(images, {}), 0.01)) == 2


@pytest.fixture
def page(tmp_path: Path) -> tuple[list[str], Any]:
    """Two runs of six prompts, and what a page of their images exports, without the votes."""
    runs = []
    for name, level in (("one", 200), ("other", 30)):
        runs.append(str(write_run(tmp_path / name, [(1.0, 1.0)] * 6, images=True)))
        for number, path in enumerate(sorted((tmp_path / name / "images").iterdir())):
            Image.new("RGB", (64, 64), (level, 40, number)).save(path)
    assert main(["report", *runs, "--blind", "--out", str(tmp_path / "blind.html")]) == 0
    match = re.search('data-page="(.*?)" data-key="(.*?)"', (tmp_path / "blind.html").read_text())
    assert match is not None
    return runs, {"page": match[1], "key": match[2]}


def vote(page: Any, path: Path, voter: str, *prefer: str) -> str:
    """The exported file of a voter who prefers these runs, pair by pair."""
    pairs = decode(page["key"], "key")["pairs"]
    choices = [
        "tie" if run == "tie" else next(side for side in ("left", "right") if pair[side]["run"] == run)
        for pair, run in zip(pairs.values(), prefer, strict=False)
    ]
    votes = [{"pair": name, "choice": choice} for name, choice in zip(pairs, choices, strict=False)]
    path.write_text(json.dumps({**page, "voter": voter, "votes": votes}))
    return str(path)


def test_votes_become_pairs_that_a_recipe_reads(page: tuple[list[str], Any], tmp_path: Path) -> None:
    """Two voters agree on three pairs, and leave the fourth undecided; of the fifth there is one vote, a tie."""
    runs, exported = page
    prompts = [pair["prompt_id"] for pair in decode(exported["key"], "key")["pairs"].values()]
    for name in ("condition_image", "condition_image1"):  # of the first pair, an edit of two images
        path = tmp_path / "one/references" / prompts[0] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(path)
    files = [
        vote(exported, tmp_path / "ann.json", "Ann", "one", "other", "one", "one", "tie"),
        vote(exported, tmp_path / "ben.json", "Ben", "one", "other", "tie", "other"),
    ]
    out = tmp_path / "pairs"
    assert main(["pairs", "--votes", *files, "--runs", *runs, "--out", str(out)]) == 0
    records = read_jsonl(out / "metadata.jsonl")
    assert [(record["votes_for"], record["votes_against"]) for record in records] == [(2, 0), (2, 0), (1, 0)]
    found = read_captioned_images(str(out), Columns()).images
    for image, prompt, better in zip(found, prompts, ("one", "other", "one"), strict=False):
        worse = "one" if better == "other" else "other"
        assert (image.captions, image.texts) == ((f"a sign {prompt[1:]}",), ("fox",))
        for read, run in ((image.image, better), (image.rejected, worse)):
            assert isinstance(read, Path)
            assert read.read_bytes() == (tmp_path / run / f"images/{prompt}_0.png").read_bytes()
    assert [len(image.condition_images) for image in found] == [2, 0, 0]
    assert main(["pairs", "--votes", *files, "--runs", *runs, "--out", str(out)]) == 2, "the folder is there"


def test_votes_count_for_the_images_that_people_saw(
    page: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was made again, and one that is called by the name of another, have other images."""
    runs, exported = page
    file = vote(exported, tmp_path / "ann.json", "Ann", "one")
    out = str(tmp_path / "pairs")
    swapped = ["--name", "other", "--name", "one"]
    assert main(["pairs", "--votes", file, "--runs", *runs, *swapped, "--out", out]) == 2
    assert "is not the image that the votes are on" in capsys.readouterr().err
    shown = tmp_path / "one/images" / f"{decode(exported['key'], 'key')['pairs']['pair-1']['prompt_id']}_0.png"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(shown)
    assert main(["pairs", "--votes", file, "--runs", *runs, "--out", out]) == 2
    assert f"{shown} is not the image that the votes are on" in capsys.readouterr().err
    assert main(["report", *runs, "--blind", "--out", str(tmp_path / "second.html")]) == 0
    match = re.search('data-page="(.*?)" data-key="(.*?)"', (tmp_path / "second.html").read_text())
    assert match is not None
    second = vote({"page": match[1], "key": match[2]}, tmp_path / "ben.json", "Ben", *["one"] * 6)
    assert main(["pairs", "--votes", file, second, "--runs", *runs, "--out", out]) == 2
    assert "the votes are on pages with other images of one name" in capsys.readouterr().err
    assert main(["pairs", "--votes", second, "--runs", *runs, "--out", out]) == 0


def test_the_expected_texts_of_a_run_are_collected_once(
    page: tuple[list[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each pair, of which there may be thousands."""
    runs, exported = page
    collected = []

    class Scores(tuple[Score, ...]):
        def __iter__(self) -> Iterator[Score]:
            collected.append(self)
            return super().__iter__()

    def watched(*arguments: Any) -> list[EvalRun]:
        return [replace(run, scores=Scores(run.scores)) for run in load_runs(*arguments)]

    monkeypatch.setattr("glmkit.reporting.load.load_runs", watched)
    file = vote(exported, tmp_path / "ann.json", "Ann", "one", "other", "one")
    assert len(pairs_by_votes([Path(file)], list(map(Path, runs)))) == 3
    assert len(collected) == len(runs)


def test_the_same_image_twice_is_no_pair(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name, [(1.0, 1.0)] * 2, images=True)) for name in ("one", "two")]
    same = Path("images/p0_0.png")
    (tmp_path / "one" / same).write_bytes((tmp_path / "two" / same).read_bytes())
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "one/images/p1_0.png")
    assert main(["report", *runs, "--blind", "--out", str(tmp_path / "blind.html")]) == 0
    match = re.search('data-page="(.*?)" data-key="(.*?)"', (tmp_path / "blind.html").read_text())
    assert match is not None
    file = vote({"page": match[1], "key": match[2]}, tmp_path / "ann.json", "Ann", "one", "one")
    assert main(["pairs", "--votes", file, "--runs", *runs, "--out", str(tmp_path / "pairs")]) == 0
    assert [record["prompt"] for record in read_jsonl(tmp_path / "pairs/metadata.jsonl")] == ["a sign 1"]


def in_base64(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(("kind", "start"), [("PNG", ""), ("JPEG", "data:image/jpeg;base64,"), ("WEBP", "")])
def test_the_page_of_a_server_exports_pairs_that_a_recipe_reads(kind: str, start: str, tmp_path: Path) -> None:
    """Its images stand in the records themselves; a record that is cut off is the error of that pair."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    better, worse = (start + in_base64(Image.fromarray(levels), kind) for levels in noise)
    record = {"prompt": "a 'fox'", "chosen": better, "rejected": worse, "chosen_seed": 4, "rejected_seed": 5}
    write_jsonl(tmp_path / "pairs.jsonl", [record, {**record, "chosen": better.rstrip("=")[:-2] + "A" * 3}])
    whole, cut = read_captioned_images(str(tmp_path / "pairs.jsonl"), Columns()).images
    assert whole.captions == ("a 'fox'",)
    for image, text in ((whole.image, better), (whole.rejected, worse)):
        assert isinstance(image, RecordImage)
        assert image.read() == base64.b64decode(text.removeprefix(start))
    assert isinstance(cut.image, RecordImage)
    with contextlib.suppress(UserError):  # where the length happens to be right, the file is broken
        assert cut.image.read() != base64.b64decode(better.removeprefix(start))


def test_votes_and_collected_pairs_train_dpo(
    page: tuple[list[str], Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the page of a report and from that of a server, through the command line, to an adapter."""
    runs, exported = page
    file = vote(exported, tmp_path / "ann.json", "Ann", "one", "other", "one")
    assert main(["pairs", "--votes", file, "--runs", *runs, "--out", str(tmp_path / "voted twice")]) == 0
    assert shlex.split(capsys.readouterr().out)[-1] == f"data.train={tmp_path / 'voted twice'}"
    images = {
        name: in_base64(Image.new("RGB", (64, 64), (40, level, 40)), "PNG")
        for name, level in (("chosen", 200), ("rejected", 30))
    }
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "a 'green' card", **images}])
    recipe = {
        "model": str(tiny_model),
        "output": str(tmp_path / "dpo"),
        "data": {"train": [str(tmp_path / "voted twice"), str(tmp_path / "pairs.jsonl")]},
        "decoder": {
            "lora": {"rank": 2, "targets": ["to_q"]},
            "steps": 1,
            "global_batch_size": 4,
            "learning_rate": 1e-3,
            "dpo": {},
        },
    }
    (tmp_path / "dpo.yaml").write_text(json.dumps(recipe))
    assert main(["finetune", str(tmp_path / "dpo.yaml"), "--device", "cpu"]) == 0
    about = read_json(tmp_path / "dpo/data.json")["train"]
    assert (about["images"], about["pairs"]) == (4, 4)
    assert read_json(tmp_path / "dpo/decoder.json")["before"]["dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert (tmp_path / "dpo/adapter/decoder/adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pairs need --images"),
        (("--images", "x"), "pairs need --prompts"),
        (("--votes", "ann.json"), "pairs need --runs"),
        (("--votes", "ann.json", "--runs", "one", "--margin", "0.2"), "pairs by votes take no --margin"),
        (("--votes", "ann.json", "--runs", "one", "other", "--margin", "0"), "pairs by votes take no --margin"),
        (("--images", "x", "--prompts", "y", "--name", "one"), "pairs by rewards take no --name"),
        (("--images", "x", "--prompts", "y", "--margin", "-1"), "a margin is at least 0"),
        (("--votes", "ann.json", "--runs", "one"), "the votes are on runs that are not there"),
        (("--votes", "tie.json", "--runs", "one", "other"), "there are no pairs to write"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: tuple[str, ...],
    message: str,
    page: tuple[list[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    vote(page[1], tmp_path / "ann.json", "Ann", "one")
    vote(page[1], tmp_path / "tie.json", "Ben", "tie")
    assert main(["pairs", *arguments, "--out", "pairs"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize("command", ["pairs --images x --prompts y", "merge TINY --adapter x", "quantize TINY"])
@pytest.mark.parametrize("kind", ["full", "empty", "link"])
def test_what_is_there_is_refused_before_any_work(
    command: str, kind: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder can be renamed onto a link, nor onto an empty folder on Windows."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/1.png").write_text("a file of somebody")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    words = command.replace("TINY", str(tiny_model)).split()
    assert main([*words, "--out", str(tmp_path / kind)]) == 2
    assert f"{tmp_path / kind} exists\n" in capsys.readouterr().err
