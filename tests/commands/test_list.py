"""glmkit list: every name that an evaluation takes, and for what cannot run the command that provides it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from glmkit.cli import main
from glmkit.evaluation import baselines, scorers, suites
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.reference_sets import presets, sets, sources

Rows = dict[tuple[str, str], dict[str, object]]


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing downloaded, no key, and a network that must not be asked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("glmkit list uses no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def listed(capsys: pytest.CaptureFixture[str]) -> Rows:
    assert main(["list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {(row["kind"], row["name"]): row for row in rows}


def names(rows: Rows, kind: str) -> set[str]:
    return {name for of, name in rows if of == kind}


def test_every_name_is_there_and_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    assert names(rows, "suite") == set(suites.names())
    assert names(rows, "engine") == set(engines.names())
    assert names(rows, "scorer") == set(scorers.names())
    assert {"fid", "kid", "cmmd", "clip_cosine"} < names(rows, "metric")
    assert len(names(rows, "reference")) == sum(len(preset.models) for preset in presets.PRESETS.values())
    assert {name.partition(":")[0] for name in names(rows, "model")} == {"nano", "glm-image", *baselines.names()}
    assert all(row["ready"] is not bool(row["missing"]) for row in rows.values())
    assert all(row["fix"] for row in rows.values() if row["missing"])
    ready = {name for (_, name), row in rows.items() if row["ready"]}
    assert {"text-render", "nano-edit", "ned", "clip_glmkit_cosine", "paddleocr", "nano"} <= ready
    assert not ready & {"cvtg-2k", "fid", "cmmd", "clip_cosine", "cvtg-paddleocr", "qwen2-5-vl", "glm-image"}
    assert rows["model", "glm-image"]["fix"].startswith("hf download zai-org/GLM-Image")  # type: ignore[attr-defined]
    for (kind, name), row in rows.items():  # what is to be typed begins with a program
        if row["missing"] and kind in ("suite", "reference", "engine", "scorer"):
            assert str(row["fix"]).split()[0] in ("hf", "git", "python", "pip", "glmkit"), name
    assert str(rows["reference", "preset rapidata sd3"]["fix"]).endswith(
        " && glmkit reference add sd3 --preset rapidata --model sd3 --parquet SET/data/*.parquet"
    )
    assert "export OPENAI_API_KEY" in str(rows["model", "openai:MODEL"]["fix"])


def test_what_is_provided_is_no_longer_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninstall: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    uninstall("onnxruntime")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    sets.add("mine", sources.FolderSource(tmp_path / "images", {}), {"images": []}, ("efficientnet-lite0",), "cpu")
    (sets.root() / "cut").mkdir()
    (sets.root() / "cut" / "manifest.json").write_text("{}")
    rows = listed(capsys)
    assert rows["model", "openai:MODEL"]["ready"]
    assert rows["reference", "mine"]["ready"]
    assert rows["reference", "cut"]["missing"] == "not finished"
    assert rows["engine", "paddleocr"]["fix"] == 'pip install "glmkit[eval]"'


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith(" ")][:7] == [
        "suites",
        "metrics",
        "engines",
        "judges",
        "scorers",
        "references",
        "models",
    ]
    assert "  - cvtg-2k" in out
    assert "then --data DIR with CVTG/2.json" in out
    assert "  + paddleocr" in out
