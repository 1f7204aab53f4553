"""The images of nano's README: none is left out of the first ones, and every component has its curves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image
from scripts import load_script

from glmkit.files import write_jsonl


def test_the_first_images_and_gaps_for_those_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contact_sheet = load_script("contact_sheet")
    for name, colour in (("b", "red"), ("c", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    files = {"c": "c.png", "a": None, "b": "b.png"}
    write_jsonl(tmp_path / "images.jsonl", ({"id": n, "prompt": f"p {n}", "file": f} for n, f in files.items()))
    out = tmp_path / "out.png"
    monkeypatch.setattr(sys, "argv", ["contact_sheet.py", str(tmp_path), "--first", "2", "--out", str(out)])
    contact_sheet.main()
    assert capsys.readouterr().out.splitlines() == ["| 1.1 | p a |", "| 1.2 | p b |"]
    with Image.open(out) as image:
        side = contact_sheet.SIDE
        assert [image.getpixel((x, side // 2)) for x in (side // 2, side + side // 2)] == [(255,) * 3, (255, 0, 0)]


def test_every_component_has_curves(tmp_path: Path) -> None:
    nano_curves = load_script("nano_curves")
    runs = nano_curves.read_json(nano_curves.RESULT)["runs"]
    assert list(dict.fromkeys(run["component"] for run in runs)) == list(nano_curves.SHOWN)
    nano_curves.draw(runs, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 200 * len(nano_curves.SHOWN)
