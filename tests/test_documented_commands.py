"""Every command of the documents runs, in their order: on a model of toy size, or all as it stands on nano."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import chat_endpoint
import fake_ocr
import public_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import question_files
import tiny_sd3
import tiny_vision_language
from documents import DOCUMENTS, LAUNCHER, ROOT, command_lines
from PIL import Image

from glmkit import config
from glmkit.cli import build_parser, main
from glmkit.evaluation import plan

MODEL = "zai-org/GLM-Image"  # here a folder of this name
# What a line begins with that no test runs, and why.
NOT_RUN = {
    "make ": "runs these tests, or the commands of the README; tests/test_makefile.py holds its steps",
    "pip install": "tests/test_wheel.py installs what it builds",
    ".venv/bin/": "lint and tests",
    "glmkit serve": "serves until it is ended; tests/serving and tests/test_wheel.py do that",
    "glmkit reward": "images of the toy model show no texts; tests/commands/test_reward.py",
    "glmkit pairs": "as above, and people vote in a browser; tests/commands/test_pairs.py",
    "glmkit finetune recipes/nano/dpo.yaml": "those pairs; tests/training/test_preference.py trains on some",
    "glmkit finetune recipes/nano/rl_": "as above; tests/training/rl/test_runs.py has another reward",
    "hf upload": "sends files to the hub",
    "python benchmarks/": "needs a GPU; tests/benchmarks runs the scripts on a CPU",
    "glmkit eval --suite text-render --split simple --scorer": "users download the weights; small ones are tested",
    "export OPENAI_API_KEY": "the fixture sets another key",
    "glmkit votes": "people vote in a browser; tests/reporting/test_votes.py has simulated ones",
    "python -m venv ocr-cvtg": "PaddleOCR 2.10 has an environment of its own",
    "ocr-cvtg/bin/": "as above; tests/evaluation/ocr/engines/test_cvtg_paddleocr.py runs the program",
    "glmkit eval --suite cvtg-2k --data CVTG-2K --images my_model/cvtg --ocr cvtg-paddleocr:": "as above",
}
# What runs on nano only; on the model of toy size it is parsed.
LONG = ("glmkit bench", "glmkit pretrain", "glmkit validate", "glmkit eval --suite nano-edit")
LONG_DOCUMENTS = [name for name in DOCUMENTS if name.startswith("benchmarks/") and name != "benchmarks/README.md"]
# What stands for files and models that are not here.
HERE = {
    "diffusers:sd3 ": "diffusers:black-forest-labs/FLUX.1-dev ",
    "--model full": "",
    "--clip ": "--clip glmkit ",
    "--clip glmkit glmkit": "--clip glmkit",
    " SET": " SET/PRESET",
    ".steps=2000": ".steps=2",
    "--parallel guidance": "",  # of two processes; tests/generation/test_parallel_denoising.py has them
}
# What makes a command short; the last of two values counts.
SHORT = {
    "generate": f"--size 64x64 --steps 1 --model {MODEL}",
    "edit": f"--size 64x64 --steps 1 --model {MODEL}",
    "eval": "--limit 1",
    "bench speed": f"--size 64x64 --steps 1 --repeats 1 --compile off --model {MODEL}",
    "bench train": f"--size 64x64 --steps 1 --model {MODEL}",
    "bench price": f"--limit 1 --count 1 --repeats 1 --settings reuse=2 --model {MODEL}",
    "sweep": f"--size 64x64 --steps 1 --limit 1 --checkpoints last --weights 1 --model {MODEL}",
    "reference add": "--limit 4 --features efficientnet-lite0",
    "pretrain": f"model={MODEL} architecture=null data.posters.count=4 data.posters.validation=1 data.edits.count=1 "
    "data.edits.validation=1 data.edits.world=everyday "
    "decoder.steps=1 decoder.global_batch_size=2 decoder.compile=false decoder.validation_every=0",
}
RECIPE = {
    "data.train": "mine/train",
    "data.validation": "mine/validation",
    "data.size": "64x64",
    "samples.prompts": "[]",
    "model": MODEL,
}
STAGE = {"steps": "1", "global_batch_size": "1", "validation_every": "0", "save_every": "0", "warmup_steps": "0"}


def shortened(line: str, cache: Path) -> list[str]:
    """The arguments of a line, for what is in the folder."""
    line = LAUNCHER.sub("", line).replace("~/.cache/glmkit", str(cache))
    for written, here in HERE.items():
        line = line.replace(written, here)
    if preset := re.search("--preset (\\S+)", line):
        line = line.replace("SET/PRESET", preset[1])
    words = [name for word in shlex.split(line)[1:] for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    for command in (words[0], " ".join(words[:2])):
        words += SHORT.get(command, "").split()
    if words[0] == "eval" and not {"--images", "--model", "--answers"} & set(words):
        words += SHORT["generate"].split()
    elif "diffusers:" in line:
        words += ["--size", "32x32", "--steps", "1"]
    if "--reuse" in words:  # the first and the last steps reuse nothing
        words += ["--steps", "6"]
    if "--reference" in words:  # a distance needs two images
        words += ["--limit", "2"]
    if words[0] in ("finetune", "validate"):
        given = [word for word in words if re.match(r"[\w.]+=", word)]
        stages = config.load(words[1], given).stages
        short = RECIPE | {f"{stage}.{key}": value for stage in stages for key, value in STAGE.items()}
        named = {word.split("=")[0] for word in given}
        words += [f"{key}={value}" for key, value in short.items() if key not in named]
    return [MODEL if word == "nano" else word for word in words]


def parquet(path: Path, **record: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [value] for name, value in record.items()}), path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, posters: Path) -> Path:
    """What the documents name: images, prompts, captions, public data sets in miniature."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(posters, folder / "mine")
    prompts = [{"prompt": f'A poster that says "{text}"', "texts": [text]} for text in ("OPEN", "CLOSED")]
    for name in ("prompts.jsonl", "mine.jsonl"):
        (folder / name).write_text("\n".join(map(json.dumps, prompts)))
    (folder / "prompts.txt").write_text("a man\na boat\n")
    public_files.cvtg(folder / "CVTG-2K")
    public_files.cvtg_images(folder / "my_model" / "cvtg", "red fox owl")
    public_files.longtext(folder / "X-Omni" / "textbench")
    public_files.oneig(folder / "OneIG-Benchmark" / "scripts" / "text")
    fake_ocr.write(folder / "images" / "text" / "my_model" / "000_0.png", "Big Sale")
    asked = {"Is there a man?": "yes"}
    question_files.tiif(folder / "TIIF-Bench" / "data", {"shape+color": [("a man", asked)]})
    published = folder / "TIIF-Bench/eval-results/testmini_subset_eval_results/testmini_subset_eval_results_GPT-4o"
    for length in ("short", "long"):
        path = published / "DALLE3" / "shape+color" / length / "0.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"questions": list(asked), "model_output": "no, a boat"}))
    question_files.oneig(folder / "OneIG-Benchmark", {"000": ({"1": "Is there a man?"}, {"1": [0]})})
    public_files.grid(folder / "images" / "anime" / "my_model" / "000.webp", ("red", "green", "blue", "white"))
    tiny_vision_language.build(folder / "Qwen" / "Qwen2.5-VL-7B-Instruct")
    tiny_sd3.build(folder / "black-forest-labs" / "FLUX.1-dev")
    for name in ("DIR", "openai-dalle3/coco/3"):
        (folder / name).mkdir(parents=True)
        for number in (1, 2):
            Image.effect_noise((32, 32), 99).save(folder / name / f"{number}_0.png")
    (folder / "openai-dalle3" / "prompts").mkdir()
    shutil.copy(folder / "prompts.txt", folder / "openai-dalle3" / "prompts" / "8k_coco.txt")
    image = {"bytes": (folder / "DIR" / "1_0.png").read_bytes(), "path": ""}
    parquet(folder / "a.parquet", image=image, caption="a man")
    pair = {"image1": image, "model1": "dalle-3", "image2": image, "model2": "sd3"}
    parquet(folder / "rapidata" / "data" / "a.parquet", prompt="a man", **pair)
    kinds = {f"image_{kind}_{model}": image for model in ("dev", "sd") for kind in ("quality", "simplified")}
    captions = {"quality_prompt": "a man", "simplified_prompt": "man"}
    parquet(folder / "open-image-preferences" / "data" / "cleaned-a.parquet", **captions, **kinds)
    with tarfile.open(folder / "a.tar", "w") as archive:
        (folder / "a.json").write_text('{"long_caption": "a man"}')
        archive.add(folder / "DIR" / "1_0.png", "a.png")
        archive.add(folder / "a.json", "a.json")
    return folder


@pytest.fixture(params=["tiny", pytest.param("nano", marks=pytest.mark.thorough)])
def model(
    request: pytest.FixtureRequest, files: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The name of the model that is there, beside those files; the toy's images are read by a fake engine."""
    work = Path(shutil.copytree(files, tmp_path / "work"))
    (work / MODEL).parent.mkdir()
    (work / MODEL).symlink_to(tiny_model if request.param == "tiny" else ROOT / "data" / "nano")
    if request.param == "tiny":
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""))))
        monkeypatch.setattr(plan, "DEFAULT_ENGINE", "fake_ocr")
    monkeypatch.chdir(work)
    with chat_endpoint.running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield request.param


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_runs(
    document: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that the commands before it wrote. An example that trains by another recipe begins a run anew."""
    runs: dict[str, str] = {}
    for line in command_lines(document):
        if line.startswith(tuple(NOT_RUN)):
            continue
        argv = shortened(line, tmp_path / "cache")
        if model == "tiny" and (line.startswith(LONG) or document in LONG_DOCUMENTS):
            build_parser().parse_args(argv)
            continue
        output = next((word.removeprefix("output=") for word in argv if word.startswith("output=")), "")
        if output and runs.setdefault(output, argv[1]) != argv[1]:
            shutil.rmtree(output)
            runs[output] = argv[1]
        assert main(argv) == 0, f"{line}\nas {shlex.join(argv)}\n{capsys.readouterr().err[-800:]}"


def test_what_is_not_run_is_in_a_document() -> None:
    shown = [line for document in DOCUMENTS for line in command_lines(document)]
    assert all(any(line.startswith(start) for line in shown) for start in (*NOT_RUN, *LONG))
    assert all(any(written in line for line in shown) for written in HERE if "glmkit" not in written)
