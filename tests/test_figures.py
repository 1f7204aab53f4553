"""Every figure of README.md, recipes/README.md and benchmarks/README.md is that of the JSON file it names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from documents import ROOT, one_line, table, table_lines

from glmkit.cli import main
from glmkit.evaluation import price
from glmkit.evaluation.plan import GenerationSettings
from glmkit.files import read_json
from glmkit.generation.benchmark import decoder_passes
from glmkit.records import Prompt

RESULTS = ROOT / "benchmarks" / "results"
RUNS = ("before", "after")  # of make demo
PAGE = "benchmarks/README.md"
Figures = dict[str, Any]


def results(name: str) -> Figures:
    figures: Figures = read_json(RESULTS / name)
    return figures


def cases(name: str) -> dict[str, Figures]:
    """The measurements of a file of results/speed_h200, by their case or size."""
    return {row.get("case") or row["size"]: row for row in results(f"speed_h200/{name}.json")["rows"]}


def interval(estimate: Mapping[str, float], digits: int, value: str = "value") -> str:
    """0.88 [0.81, 0.93]; a difference without its sign."""
    low, high = sorted((abs(estimate["low"]), abs(estimate["high"])))
    return f"{abs(estimate[value]):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed(estimate: Mapping[str, float], digits: int, value: str = "value") -> str:
    """+0.05 [−0.02, +0.12]."""
    numbers = [f"{estimate[key]:+.{digits}f}".replace("-", "−") for key in (value, "low", "high")]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def test_nano_by_split() -> None:
    lines = table(PAGE, "split")
    splits = {name: result["figures"] for name, result in results("nano.json")["splits"].items()}
    assert {line.split("`")[1] for line in lines} == {name for name in splits if not name.endswith("edit")}
    for line, (prompts, words, ned, attributes) in lines.items():
        figures = splits[line.split("`")[1]]
        assert int(prompts) == figures["word_accuracy"]["n"] == figures["ned"]["n"]
        assert (words, ned) == (interval(figures["word_accuracy"], 2), interval(figures["ned"], 3))
        assert attributes == interval(figures["attribute_accuracy"], 2)


def test_nano_edits() -> None:
    figures = results("nano.json")["splits"]["nano-edit"]["figures"]
    success, psnr = figures["edit_success"], figures["background_psnr"]
    said = f"Of {success['n']} edits {100 * success['value']:.0f} % show what the instruction asks for"
    assert said in one_line(PAGE)
    assert f"background PSNR is {psnr['value']:.1f} dB" in one_line(PAGE)


def test_the_style_of_the_demo() -> None:
    lines = {cells[0]: cells[1:] for cells in table_lines(PAGE, "| before")}
    distances = {}
    for name, digits in (("form", 3), ("colours", 1)):
        measured = results("style.json")["features"][name]
        distances[name] = [f"{measured['distances'][f'reports/demo/{run}']['value']:.{digits}f}" for run in RUNS]
        difference = signed(measured["differences"]["reports/demo/after"], digits, "difference")
        assert lines[f"kernel distance, {name}"] == [*distances[name], difference]
    before, after, differences = before_and_after("poster_lora")
    for name, metric in (("word accuracy", "word_accuracy"), ("NED", "ned"), ("attributes", "attribute_accuracy")):
        values = [f"{scores[metric]['value']:.2f}" for scores in (before, after)]
        assert lines[name] == [*values, signed(differences[metric], 2)]
    words = [f"{scores['word_accuracy']['value']:.2f}" for scores in (before, after)]
    style = " to ".join(distances["form"])
    said = f"the distance to the style falls from {style}, at word accuracies of {' and '.join(words)}"
    assert said in one_line("README.md")


def before_and_after(example: str) -> tuple[Figures, Figures, Figures]:
    """The scores of nano, those of nano with adapters, and their differences in reports/example."""
    report = read_json(ROOT / "reports" / "example" / f"{example}.json")
    scores = {standing["run"]: standing["scores"] for standing in report["leaderboard"]}
    (baseline,) = scores.keys() & {"nano", "before"}
    (adapted,) = scores.keys() - {baseline}
    return scores[baseline], scores[adapted], {change["metric"]: change for change in report["differences"]}


def test_the_sweeps_of_the_demo() -> None:
    page = one_line("benchmarks/deciding.md")
    first, *others = sweep_of_the_demo("sweep")
    said = [f"{one['score']['value']:.2f} at {one['weight']:g}" for one in others]
    start = f"prompts of `retro`: {first['score']['value']:.2f} at weight {first['weight']:g}"
    assert f"{', '.join([start, *said])}." in page
    grid = sorted(sweep_of_the_demo("grid"), key=lambda one: float(one["score"]["value"]))
    worst, best = (
        f"{one['score']['value']:.2f} at weight {one['weight']:g} and guidance {one['guidance']:g}"
        for one in (grid[0], grid[-1])
    )
    assert f"over {grid[0]['score']['n']} prompts, falls from {best} to {worst}." in page


def sweep_of_the_demo(name: str) -> list[Figures]:
    combinations: list[Figures] = read_json(ROOT / "reports" / "example" / f"poster_lora_{name}.json")["combinations"]
    return combinations


def test_the_passes_of_shortcuts() -> None:
    exact = GenerationSettings("nano", (), 1, 256, 256, steps=30, guidance=1.5, dtype="float32")
    settings = price.parse_settings(price.SETTINGS, exact)
    prompt = Prompt("a", "a")
    passes = {name: decoder_passes(one.request(prompt, 0)) for name, one in settings.items()}
    lines = {cells[0].strip("`"): cells[1:3] for cells in table_lines(PAGE, "setting | passes")}
    assert lines == {name: [str(count), f"{count / passes['exact']:.2f}"] for name, count in passes.items()}


def test_generation_on_an_h200() -> None:
    lines = {cells[0]: cells[1:] for cells in table_lines(PAGE, "| prior tokens")}
    images, decoder = cases("images"), cases("decoder")
    assert lines.keys() == images.keys()
    for name, image in images.items():
        bound = decoder.get(f"{name}, 30 steps", {}).get("lower_bound_s")
        assert lines[name] == [
            f"{image['prior_tokens']:.2f}",
            f"{image['denoising']:.2f}",
            "" if bound is None else f"{bound:.2f}",
            f"{image['vae']:.2f}",
            f"{image['total']:.2f}",
            f"{image['peak_gib']:.1f}",
        ]


def test_generation_on_an_h200_in_words() -> None:
    diffusers = cases("diffusers")["1024x1024"]
    prior_tokens = diffusers["all"]["stages"]["prior_tokens"]["diffusers"]
    said = one_line(PAGE)
    assert (
        f"diffusers takes {diffusers['diffusers']:.1f} s for 1024x1024 and glmkit {diffusers['glmkit']:.1f} s" in said
    )
    assert f"{diffusers['ratio']:.1f} times as fast. {prior_tokens:.1f} s of diffusers are prior tokens" in said
    (batch,) = results("speed_h200/batch.json")["rows"]
    assert f"{batch['images_per_hour']:.0f} images of 1024x1024 per hour" in said
    for size, saved in (("1024x1024", 5), ("2048x2048", 3)):
        block = cases("blocks")[size]
        assert round(100 * (1 - block["kernels"] / block["compiled"])) == saved
        assert f"{saved} % " in said
    agreement = cases("agreement")
    for name, words in (("glmkit and diffusers", "median PSNR of"), ("kernels and eager", "images without them to")):
        psnr = agreement[name]
        expected = rf"{words} {psnr['median_psnr_db']:.0f} dB \(lowest {psnr['min_psnr_db']:.0f}\)"
        assert re.search(expected, said), expected
        assert psnr["images"] == 8


def test_decoding_steps() -> None:
    lines = table(PAGE, "batch")
    steps = cases("tokens")
    for batch, columns in lines.items():
        for kind, cell in zip(("text", "edit"), columns, strict=True):
            measured = [steps[f"{kind}, batch {batch}, prompt {tokens}"]["ms_per_step"] for tokens in (50, 1000)]
            assert cell == ", ".join(f"{milliseconds:.1f}" for milliseconds in measured)


def test_memory_of_generation() -> None:
    lines = {cells[0]: cells[1:] for cells in table_lines(PAGE, "| GPU memory allowed, GiB")}
    for case, row in cases("memory").items():
        size, allowed = re.fullmatch(r"(\S+) under ([\d.]+) GiB", case).groups()  # type: ignore[union-attr]
        assert lines[size] == [
            f"{float(allowed):.0f}",
            f"{row['peak_gib']:.1f}",
            f"{row['host_gib']:.1f}",
            f"{row['total']:.0f}",
        ]


def test_generation_on_a_cpu() -> None:
    speed = results("speed_nano_cpu.json")
    assert (
        f"{speed['glmkit']:.1f} s per image, against {speed['diffusers']:.1f} s of diffusers on the same weights in "
        f"the same run, {speed['ratio']:.1f} times as fast"
    ) in one_line(PAGE)
    assert f"one image takes {speed['glmkit']:.1f} s on 2 cores" in one_line("README.md")


def test_the_hardware_table_of_the_readme() -> None:
    image, (low, *_) = cases("images")["1024x1024"], cases("memory").values()
    peak = f"1024x1024 takes {image['total']:.1f} s and {image['peak_gib']:.0f} GiB on an H200"
    assert f"{peak}, or {low['peak_gib']:.0f} GiB with `--memory low`" in one_line("README.md")


def test_the_sizes_of_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    size = {}
    for model in ("nano", "glm-image"):
        assert main(["info", model, "--json"]) == 0
        size[model] = json.loads(capsys.readouterr().out)
    nano, published = size["nano"], size["glm-image"]
    for said in (
        f"{nano['parameters'] / 1e6:.0f} million parameters, {nano['bytes'] / 2**20:.0f} MiB in bfloat16",
        f"{published['parameters'] / 1e9:.1f} billion parameters, {published['bytes'] / 1e9:.0f} GB in bfloat16",
    ):
        assert said in one_line("README.md")


def test_the_speed_table_of_the_readme() -> None:
    heading = "1024x1024 on an H200, seconds, in one run"
    lines = {cells[0]: cells[1:] for cells in table_lines("README.md", heading)}
    measured = cases("diffusers")["1024x1024"]["all"]
    whole = lines.pop("whole image, with the VAE")
    assert whole == [f"{measured[program]:.1f}" for program in ("glmkit", "diffusers")] + [""]
    assert lines.keys() == {"prior tokens", "denoising"}
    for stage, figures in lines.items():
        seconds = measured["stages"][stage.replace(" ", "_")]
        assert figures == [f"{seconds[name]:.1f}" for name in ("glmkit", "diffusers", "lower_bound")]


MEASURED = (*(f"train_h200/{name}" for name in ("all", "compiled_recipes", "packed")), "precision_h200/training")
TRAINING = [row for name in MEASURED for row in results(f"{name}.json")["rows"] if "stage" in row]


@pytest.mark.parametrize("cells", table_lines(PAGE, "stage"), ids=lambda cells: " ".join(cells[:4]))
def test_training_on_an_h200(cells: list[str]) -> None:
    """The figures of a line are all from one measurement."""
    stage, size, batch, options, *figures = cells
    chosen = set(filter(None, options.split(", ")))
    measured = [
        [
            f"{row['step']:.2f}",
            f"{row['lower_bound']:.2f}",
            f"{row['samples_per_second']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['peak_memory_gib']:.1f}",
        ]
        for row in TRAINING
        if (row["stage"], row["size"], row["batch"]) == (stage, size, int(batch))
        and options_of(row) == chosen
        and row.get("step") is not None
    ]
    assert figures in measured


def options_of(row: Figures) -> set[str]:
    options = {name for name in ("compile", "pack", "offload") if row[name]}
    options |= {f"gradient_checkpointing={row['gradient_checkpointing']}"} if row["gradient_checkpointing"] else set()
    return options | ({f"base={row['base']}"} if row["base"] != "auto" else set())


def test_what_gradient_checkpointing_costs() -> None:
    """The products of one step with and without it, by their lower bounds."""
    bounds = {
        row["gradient_checkpointing"]: row["lower_bound"]
        for row in results("train_h200/all.json")["rows"]
        if (row["stage"], row["size"], row["batch"], row["base"]) == ("decoder", "1024x1024", 1, "auto")
    }
    said = re.search(r"for about (\d+) % more arithmetic", one_line("recipes/README.md"))
    assert said
    assert int(said[1]) == round(100 * (bounds[1] / bounds[0] - 1))


def test_a_million_images() -> None:
    """Rates of results/ times images: seconds, bytes and hours."""
    measured = results("million_images.json")
    runs = {f"{run['images']:,}": run for run in measured["runs"]}
    runs |= {f"{run['images']:,} before": run for run in measured["before"]["runs"]}
    lines = {cells[0]: cells[1:] for cells in table_lines(PAGE, "images | `eval`, seconds")}
    for name, cells in lines.items():
        evaluated, reported = runs[name]["eval"], runs[name]["report"]
        seconds = [evaluated["seconds"], *(evaluated["steps"][step] for step in ("generate_images", "summarize"))]
        expected = [*(f"{value:.0f}" for value in seconds), f"{evaluated['peak_gib']:.1f}"]
        assert cells == [*expected, f"{reported['seconds']:.0f}", f"{reported['peak_gib']:.1f}"]
    last = max(measured["runs"], key=lambda run: run["images"])
    sizes = {name: 2**20 * mib / last["images"] for name, mib in last["report"]["file_mib"].items()}
    rates = {
        stage: max(row.get("samples_per_second") or 0 for row in rows_of_training(stage))
        for stage in ("decoder", "autoregressive")
    }
    seconds = 3600 / cases("batch")["1024x1024, prior tokens by 64"]["images_per_hour"]
    image, latents = measured["image"], 2 * 16 * 128 * 128 * 2
    reading, evaluating = sum(image["seconds"].values()), last["eval"]["seconds"] / last["images"]
    data = sizes["report.csv"] + sizes["report.json"]
    reckoned = {
        "generation, GPU hours": [f"{seconds:.1f} s", f"{1e6 * seconds / 3600:,.0f}", ""],
        "decoder LoRA, one epoch, GPU hours": training_cells(rates["decoder"]),
        "AR LoRA, one epoch, GPU hours": training_cells(rates["autoregressive"]),
        "PNG files as noisy as photos, TB": [
            *(f"{image['bytes'] / 1e6:.1f} MB", f"{image['bytes'] / 1e6:.1f}", f"{image['bytes'] / 1e5:.1f}"),
        ],
        "latents on disk, TB": [f"{latents / 1e6:.1f} MB", "", f"{latents / 1e5:.1f}"],
        "reading images to resume, core hours": [f"{1e3 * reading:.0f} ms", f"{reading * 1e6 / 3600:.1f}", ""],
        "`eval` of what is there, core hours": [f"{1e3 * evaluating:.1f} ms", f"{evaluating * 1e6 / 3600:.1f}", ""],
        "`scores.jsonl`, GB": [f"{sizes['scores.jsonl']:.0f} B", f"{sizes['scores.jsonl'] / 1e3:.1f}", ""],
        "data of the report, GB": [f"{data:.0f} B", f"{data / 1e3:.1f}", ""],
    }
    assert {cells[0]: cells[1:] for cells in table_lines(PAGE, "cost | each")} == reckoned
    held = measured["reports_that_hold_all_records"][-1]
    assert held["images"] == last["images"]
    assert f"took {held['peak_gib']:.1f} GiB and {held['seconds']:.0f} s while it held" in one_line(PAGE)
    first = min(measured["runs"], key=lambda run: run["images"])
    grown = " and ".join(f"{last[stage]['seconds'] / first[stage]['seconds']:.0f}" for stage in ("eval", "report"))
    assert f"From {first['images']:,} to ten times as many, seconds grow by {grown} times" in one_line(PAGE)
    read = rates["decoder"] * latents / 1e6, rates["decoder"]
    assert f"reads {read[0]:.1f} MB of latents in {read[1]:.0f} files per second" in one_line(PAGE)
    assert f"64 GPUs read {64 * read[0]:.0f} MB in {64 * read[1]:.0f}" in one_line(PAGE)
    assert f"`scores.jsonl` of {2**30 / sizes['scores.jsonl'] / 1e6:.1f} million images" in one_line(PAGE)


def training_cells(rate: float) -> list[str]:
    """Seconds per sample, and GPU hours of ten million."""
    return [f"{1 / rate:.2f} s", "", f"{1e7 / rate / 3600:,.0f}"]


def rows_of_training(stage: str) -> list[Figures]:
    """The measurements of LoRA on 1024x1024 in results/train_h200."""
    names = ("all", "compiled_recipes", "packed")
    rows = [row for name in names for row in results(f"train_h200/{name}.json")["rows"]]
    return [row for row in rows if (row["stage"], row["size"]) == (stage, "1024x1024")]


def test_the_load_of_a_server() -> None:
    page, of = "glmkit/serving/README.md", results("serve_load_cpu.json")
    assert of["wrong"] == of["held_at_the_end"] == 0
    kinds = [("image",), ("stream",), ("slow",), ("goes away", "dies"), ("malformed",), ("too large",)]
    counted = [
        sum(count for outcome, count in of["outcomes"].items() if outcome.partition(":")[0] in names) for names in kinds
    ]
    assert [int(cells[1]) for cells in table_lines(page, "clients ask for")] == counted
    assert sum(counted) == of["requests"] == 2000
    assert f"queue was full ({of['outcomes']['slow: full']})" in one_line(page)
    assert f"{', '.join(f'{mib:.0f}' for mib in of['resident_mib']['by_fifths'])} MiB" in one_line(page)


def test_a_server_on_a_gpu() -> None:
    of = {row["clients"]: row for row in results("serve_h200.json")["rows"] if "clients" in row}
    lines = table_lines("glmkit/serving/README.md", "clients | images per hour")
    assert [int(cells[0]) for cells in lines] == list(of)
    for clients, rate, engine, share, *waiting in lines:
        row = of[int(clients)]
        assert not row["errors"]
        assert [rate, engine] == [f"{row[name]:.0f}" for name in ("images_per_hour", "engine_images_per_hour")]
        assert share == f"{row['share_of_engine']:.2f}"
        assert waiting == [f"{row[name]:.1f}" for name in ("p50_s", "p95_s", "first_partial_p50_s")]
