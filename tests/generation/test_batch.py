"""Many images: prior tokens first, then images; resumed; shared by processes of which one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glmkit.cli import main
from glmkit.distributed.process_group import SINGLE_PROCESS
from glmkit.errors import UserError
from glmkit.files import read_jsonl, write_jsonl
from glmkit.generation import hybrid_generator
from glmkit.generation.batch import Result
from glmkit.generation.hybrid_generator import HybridGenerator
from glmkit.generation.loading import load_model
from glmkit.generation.options import InferenceOptions
from glmkit.generation.pipeline import generate_batch
from glmkit.generation.prior_token_files import PriorTokenFiles
from glmkit.models.cpu_threads import threads
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hybrid(tiny_model: Path) -> HybridModel:
    return load_model(tiny_model, CPU, torch.float32)


def requests(count: int = 6) -> list[Request]:
    """Two sizes, prompts of different lengths."""
    return [
        Request(str(n), "a red 'HI' " + "and more " * n, seed=n, height=(64, 96)[n % 2], width=64, steps=2)
        for n in range(count)
    ]


def generate(hybrid: HybridModel, wanted: list[Request], work: Path, **options: Any) -> dict[str, Any]:
    """Results by id: the image as an array, or the error."""
    done: dict[str, Any] = {}

    def report(result: Result) -> None:
        assert result.request.id not in done, "generated twice"
        done[result.request.id] = result.error if result.image is None else np.asarray(result.image)

    generator = HybridGenerator(hybrid, **options)
    generator.generate_missing(wanted, lambda one: one.id not in done, report, work, SINGLE_PROCESS)
    return done


def test_images_are_those_of_single_requests(hybrid: HybridModel, tmp_path: Path) -> None:
    images = generate(hybrid, requests(), tmp_path)
    assert sorted(images) == [str(n) for n in range(6)]
    for one in requests():
        (single,) = generate_batch(hybrid, [one])
        assert np.abs(images[one.id].astype(int) - np.asarray(single).astype(int)).max() <= 1


def test_all_prior_tokens_come_before_the_first_image(
    hybrid: HybridModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of one size, small sizes first; a continued run reads them from the disk."""
    stages: list[tuple[str, list[str]]] = []
    for name in ("generate_prior_tokens", "decode_prior_tokens"):

        def noted(
            model: Any, batch: list[Request], *given: Any, _name: str = name, _call: Any = None, **named: Any
        ) -> Any:
            stages.append((_name, [one.id for one in batch]))
            return _call(model, batch, *given, **named)

        call = getattr(hybrid_generator, name)
        monkeypatch.setattr(
            hybrid_generator,
            name,
            lambda *given, _noted=noted, _call=call, **named: _noted(*given, _call=_call, **named),
        )
    generate(hybrid, requests(), tmp_path, batch_size=2)
    pairs = [["0", "2"], ["4"], ["1", "3"], ["5"]]
    assert stages == [("generate_prior_tokens", pair) for pair in pairs] + [
        ("decode_prior_tokens", pair) for pair in pairs
    ]
    stages.clear()
    generate(hybrid, requests(), tmp_path, batch_size=2)
    assert {name for name, _ in stages} == {"decode_prior_tokens"}


def test_prior_tokens_are_named_after_what_they_depend_on(tmp_path: Path) -> None:
    files, one = PriorTokenFiles(tmp_path, "weights"), requests()[0]
    files.save(one, torch.arange(4).view(2, 2), 1.5, 2.5)
    assert files.has(replace(one, id="other", steps=9, guidance=3.0))
    for change in ({"prompt": "b"}, {"seed": 9}, {"height": 128}, {"top_k": 1}, {"condition_images": ("a.png",)}):
        assert not files.has(replace(one, **change))
    assert files.load(one, CPU).tolist() == [[0, 1], [2, 3]]
    assert files.costs(one) == (1.5, 2.5)
    assert not PriorTokenFiles(tmp_path, "other weights").has(one)
    np.savez(files.path(one), prior_token_ids=np.zeros((2, 2), np.int32), seconds=1.5)  # of earlier versions
    assert files.costs(one) == (1.5, None)
    for content in (b"", files.path(one).read_bytes()[:-30]):  # what a power cut leaves is generated again
        files.path(one).write_bytes(content)
        assert not files.has(one)


def test_only_the_request_at_fault_fails(hybrid: HybridModel, tmp_path: Path) -> None:
    wanted = [
        replace(one, condition_images=(str(tmp_path / "none.png"),)) if one.id == "2" else one for one in requests()
    ]
    images = generate(hybrid, wanted, tmp_path / "work")
    assert "does not exist" in str(images.pop("2"))
    assert sorted(images) == ["0", "1", "3", "4", "5"]
    assert all(isinstance(value, np.ndarray) for value in images.values())


@pytest.mark.parametrize("component", ["autoregressive", "decoder", "glyph", "vae"])
def test_what_is_no_number_is_an_error_and_no_image(tiny_model: Path, component: str) -> None:
    """Broken weights give neither black pixels nor a token."""
    broken = load_model(tiny_model, CPU, torch.float32)
    list(getattr(broken, component).parameters())[-1].data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        generate_batch(broken, requests(1))


def test_guidance_beyond_numbers_fails_alone(hybrid: HybridModel, tmp_path: Path) -> None:
    one, other = requests(2)
    images = generate(hybrid, [one, replace(other, guidance=1e308)], tmp_path)
    assert isinstance(images["0"], np.ndarray)
    assert "not finite" in str(images["1"])


def test_one_component_at_a_time_generates_the_same(
    hybrid: HybridModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparing = load_model(hybrid.folder, CPU, torch.float32, options=InferenceOptions(memory="low"))
    held = []
    hold = HybridModel.unload_except

    def noted(self: HybridModel, *parts: str) -> None:
        hold(self, *parts)
        held.append(
            {part for part in ("autoregressive", "semantic_vq", "decoder", "glyph", "vae") if part in vars(self)}
        )

    monkeypatch.setattr(HybridModel, "unload_except", noted)
    source = tmp_path / "a.png"
    Image.effect_noise((128, 128), 80).convert("RGB").save(source)
    one = replace(requests()[1], condition_images=(str(source),))
    images = generate(sparing, [one], tmp_path / "work")["1"]
    assert all(len(parts) <= 2 and not {"autoregressive", "decoder"} <= parts for parts in held)
    assert held
    monkeypatch.undo()
    assert np.array_equal(images, generate(hybrid, [one], tmp_path / "other")["1"])


def test_processes_share_the_work_and_survive_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes, one of them killed after its first image, for which the others wait: all images, each generated
    once, the pixels that one process generates in as large batches."""
    rows = [{"id": one.id, "prompt": one.prompt, "seed": one.seed} for one in requests(9)]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    script = tmp_path / "process.py"
    script.write_text(
        "import os, sys, time\n"
        "from glmkit.generation import batch, hybrid_generator\n"
        "from glmkit.cli import main\n"
        "hybrid_generator.IMAGES_BATCH = 1\n"
        "save, index = batch.save_png, os.environ.get('RANK', '0')\n"
        "def noted(path, *given):\n"
        "    save(path, *given)\n"
        "    with open(sys.argv[1], 'a') as log: log.write(f'{index} {path.stem}\\n')\n"
        "    if index == '1': time.sleep(600)\n"
        "    while '\\n1 ' not in '\\n' + open(sys.argv[1]).read(): time.sleep(0.05)\n"
        "batch.save_png = noted\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )

    def command(out: str) -> list[str]:
        shared = ["generate", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / out), "--json"]
        options = ["--device", "cpu", "--size", "64x64", "--steps", "1", "--batch-size", "3"]
        return [*shared, "--model", str(tiny_model), *options]

    def start(**share: str) -> subprocess.Popen[str]:
        argv = [sys.executable, str(script), str(tmp_path / "many.log"), *command("many")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | share
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)

    processes = [start(RANK=str(index), WORLD_SIZE="3") for index in range(3)]
    log = tmp_path / "many.log"
    while not (log.exists() and any(line.startswith("1 ") for line in log.read_text().splitlines())):
        assert processes[1].poll() is None
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0]
    assert '"generated": 9' in outputs[0]
    assert not outputs[2]
    saved = [line.split()[1] for line in log.read_text().splitlines()]
    assert sorted(saved) == [one.id for one in requests(9)]
    assert [row["id"] for row in read_jsonl(tmp_path / "many" / "images.jsonl")] == [one.id for one in requests(9)]
    assert hybrid_generator.IMAGES_BATCH > 1
    monkeypatch.setattr(hybrid_generator, "IMAGES_BATCH", 1)
    with threads(1):
        assert main(command("alone")) == 0
    for one in requests(9):
        many, alone = (np.asarray(Image.open(tmp_path / out / f"{one.id}.png")) for out in ("many", "alone"))
        assert np.array_equal(many, alone)
    assert not (tmp_path / "many" / ".work").exists()
