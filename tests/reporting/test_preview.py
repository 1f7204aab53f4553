"""What training sees of every image, on a page that needs no other file."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmkit.commands import validate
from glmkit.errors import UserError
from glmkit.reporting.preview import PreviewSet, check_preview, write_preview
from glmkit.training import data


def test_the_page_shows_what_training_sees(tmp_path: Path) -> None:
    """Crops, text positions, sources, every caption, and no markup of theirs."""
    Image.new("RGB", (200, 96), "blue").save(tmp_path / "source.png")
    wide = Image.new("RGB", (190, 64))  # 15 black columns at either side are cut off
    wide.paste((0, 255, 0), (15, 0, 175, 64))
    wide.save(tmp_path / "wide.png")
    row = {"file_name": "wide.png", "text": ['<b>A "sign"</b>', "Another"], "condition_image": "source.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**row, "text_boxes": [[95, 0, 190, 64]]}))
    images = data.FileDataset(tmp_path)
    (example,) = images.examples
    write_preview(
        page := tmp_path / "p.html", "mine", ["train: <1>"], [PreviewSet("set", 1, validate._spread([example]))]
    )
    text = page.read_text()
    assert "<b>" not in text
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    for said in (
        "&lt;b&gt;A &#34;sign&#34;",
        "Another",
        "texts: sign",
        "train: &lt;1&gt;",
        "190x64 → 160x64",
        "wide.png",
    ):
        assert said in text
    shown = [
        Image.open(io.BytesIO(base64.b64decode(uri))) for uri in re.findall(r"data:image/webp;base64,([^\"]+)", text)
    ]
    source, target, marked = (np.asarray(image.convert("RGB"), dtype=int).mean(axis=0) for image in shown)
    assert source[0].argmax() == 2
    assert np.abs(target - (0, 255, 0)).max() < 8, "as it is cropped"
    assert np.abs(marked[4] - (0, 255, 0)).max() < 8
    assert marked[-4, 0] > 60, "red where text stands"


def test_many_images_are_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "MAX_SHOWN", 3)
    for number in range(7):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a")
    shown = validate._spread(data.FileDataset(tmp_path).examples)
    assert [image.name for image in shown] == ["0.png", "2.png", "4.png"]


def test_another_file_stays(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text("mine")
    with pytest.raises(UserError, match=r"stays as it is[\s\S]*--preview"):
        check_preview(tmp_path / "p.html")
    write_preview(tmp_path / "q.html", "a", [], [])
    check_preview(tmp_path / "q.html")


def test_pairs_show_both_images(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        Image.new("RGB", (64, 64), "blue").save(tmp_path / f"{name}.png")
    record = {"prompt": "a fox", "chosen_file_name": "good.png", "rejected_file_name": "bad.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(record))
    (shown,) = validate._spread(data.FileDataset(tmp_path).examples)
    assert [label for label, _ in shown.thumbnails] == ["image", "rejected"]
