"""Question files of public benchmarks in miniature: their formats, our words. And posters that answer questions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.judges import engines
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.files import read_jsonl, write_jsonl
from glmkit.records import Score, Summary

DPG_COLUMNS = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed"]
DPG_COLUMNS += ["tuple", "question_natural_language"]
Rows = Sequence[tuple[str, str, str]]  # (proposition, dependency, tuple)
DPG_ROWS: Rows = (
    ("1", "0", "entity - whole (car)"),
    ("2", "1", "attribute - color (car, red)"),
    ("3", "2", "attribute - other (car, old)"),
    ("4", "0", "global - (photo)"),
)


def dpg(folder: Path, items: Mapping[str, Rows], dummy: bool = True) -> Path:
    """`dpg_bench.csv`; the first line of the table is a dummy, which the benchmark's code passes over."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "dpg_bench.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, DPG_COLUMNS, restval="x")
        writer.writeheader()
        rows = [("dummy", ("1", "0", "entity - whole (x)"))] if dummy else []
        for item, (number, dependency, proposition) in [*rows, *((i, row) for i, of in items.items() for row in of)]:
            writer.writerow(
                {
                    "item_id": item,
                    "text": f"a prompt, called {item}",
                    "proposition_id": number,
                    "dependency": dependency,
                    "tuple": proposition,
                    "question_natural_language": f"Is {item} like {number}?",
                }
            )
    return folder


def oneig(folder: Path, items: Mapping[str, tuple[Mapping[str, str], Mapping[str, Sequence[int]]]]) -> Path:
    """The English table, and the questions of each class; `items` of class anime map to questions and dependencies."""
    questions = folder / "scripts" / "alignment" / "Q_D"
    questions.mkdir(parents=True, exist_ok=True)
    categories = {"anime": "Anime_Stylization", "human": "Portrait", "object": "General_Object"}
    with (folder / "OneIG-Bench.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["category", "id", "prompt_en", "type", "prompt_length", "class"])
        writer.writerows(
            [category, key, f"a {name} {key}", "NP", "short", ""]
            for name, category in categories.items()
            for key in items
        )
    for name in categories:
        entries = {
            key: {"question": json.dumps(asked), "dependency": json.dumps(needs)}
            for key, (asked, needs) in items.items()
        }
        (questions / f"{name}.json").write_text(json.dumps(entries if name == "anime" else {}), encoding="utf-8")
    return folder


def tiif(folder: Path, types: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]], subset: str = "testmini") -> Path:
    """Prompt and question files; `types` maps a type to (prompt, question -> expected answer) of each line."""
    for kind, lines in types.items():
        write_jsonl(
            folder / f"{subset}_prompts" / f"{kind}_prompts.jsonl",
            ({"type": kind, "short_description": text, "long_description": f"{text} It is long."} for text, _ in lines),
        )
        write_jsonl(
            folder / f"{subset}_eval_prompts" / f"{kind}_eval_prompts.jsonl",
            (
                {"type": kind, "yn_question_list": list(asked), "yn_answer_list": list(asked.values())}
                for _, asked in lines
            ),
        )
    return folder


def genai(folder: Path, prompts: Mapping[str, str], basic: Sequence[int] = ()) -> Path:
    """`genai_image.json`, with the skills of `basic` prompts; the others are advanced."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {name: {"prompt": prompt, "models": {"DALLE_3": [5, 5, 4]}} for name, prompt in prompts.items()}
    (folder / "genai_image.json").write_text(json.dumps(entries), encoding="utf-8")
    skills = {"attribute": list(basic), "basic": list(basic)}
    skills["advanced"] = [int(name) for name in prompts if int(name) not in basic]
    (folder / "genai_skills.json").write_text(json.dumps(skills), encoding="utf-8")
    return folder


def geneval2(folder: Path, lines: Sequence[tuple[str, Sequence[tuple[str, str, str]]]]) -> Path:
    """`geneval2_data.jsonl`: prompts with (question, answer, skill) of each."""
    write_jsonl(
        folder / "geneval2_data.jsonl",
        (
            {
                "prompt": prompt,
                "atom_count": len(asked),
                "vqa_list": [[question, answer] for question, answer, _ in asked],
                "skills": [skill for _, _, skill in asked],
            }
            for prompt, asked in lines
        ),
    )
    return folder


def wise(folder: Path, numbers: Sequence[int]) -> Path:
    """The three verified files, with a prompt for each of these ids."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"cultural_common_sense": (1, 400), "spatio-temporal_reasoning": (401, 640), "natural_science": (641, 2000)}
    for name, (first, last) in names.items():
        entries = [
            {"Prompt": f"prompt {number}", "Explanation": f"it shows {number}", "prompt_id": number}
            for number in numbers
            if first <= number <= last
        ]
        (folder / f"{name}_verified.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def t2i_corebench(folder: Path, prompts: Mapping[str, Sequence[str]]) -> Path:
    """The files of the twelve dimensions; `prompts` maps ids to questions."""
    from glmkit.evaluation.metrics.t2i_corebench import DIMENSIONS

    folder.mkdir(parents=True, exist_ok=True)
    for dimension in DIMENSIONS:
        entries = {
            name: {"Prompt": f"about {name}", "Checklist": [{"question": text, "tags": []} for text in asked]}
            for name, asked in prompts.items()
            if name.startswith(dimension)
        }
        (folder / f"{dimension}.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def unigenbench(folder: Path, prompts: Mapping[str, Sequence[str] | str], subset: str = "en") -> Path:
    """The table of a subset; `prompts` maps indices to kinds of test points, or to the cell itself."""
    folder.mkdir(parents=True, exist_ok=True)
    language = subset[:2]
    keys = ("Testpoints", "Testpoint Description") if language == "en" else ("考点", "考点对应描述")
    with (folder / f"test_prompts_{subset}.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["index", f"prompt_{language}", f"sub_dims_{language}"])
        for index, kinds in prompts.items():
            wanted = [f"point {number}" for number in range(len(kinds))]
            cell = kinds if isinstance(kinds, str) else json.dumps(dict(zip(keys, (kinds, wanted), strict=True)))
            writer.writerow([index, f"prompt {index}", cell])
    return folder


def gedit(folder: Path, items: Sequence[tuple[str, str, str, bool]]) -> Path:
    """A parquet file with (key, task, language, whether all closed models gave an image); images of 20 x 10."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "task_type": task,
            "key": key,
            "instruction": f"change {key}",
            "instruction_language": language,
            "input_image": {"bytes": png((20, 10), (number, 0, 0)), "path": None},
            "input_image_raw": {"bytes": b"", "path": None},
            "Intersection_exist": is_common,
        }
        for number, (key, task, language, is_common) in enumerate(items)
    ]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return folder


def imgedit(folder: Path, edits: Mapping[str, str]) -> Path:
    """Edits (key -> type) with a rubric for each type, and the images to edit in their folders."""
    entries = {
        key: {"id": f"{kind}/00{key}.png", "prompt": f"change {key}", "edit_type": kind} for key, kind in edits.items()
    }
    for number, entry in enumerate(entries.values()):
        path = folder / "original_images" / entry["id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((20, 10), (number, 0, 0)))
    (folder / "basic_edit.json").write_text(json.dumps(entries), encoding="utf-8")
    rubrics = {kind: f"Grade a {kind} of <edit_prompt>.\nA: 1 to 5" for kind in edits.values()}
    (folder / "prompts.json").write_text(json.dumps(rubrics), encoding="utf-8")
    return folder


def png(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    """An image file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format="PNG")
    return stream.getvalue()


def judged(suite: str, folder: Path, judge: str, **more: Any) -> Summary:
    return evaluate(EvaluationPlan(suite, judge=engines.resolve(judge), **more), folder)


def scores(run: Path) -> dict[str, Score]:
    return {line["id"]: Score.from_dict(line) for line in read_jsonl(run / "scores.jsonl")}


def golden(path: Path, answers: Mapping[tuple[str, int, str], str]) -> str:
    write_jsonl(
        path,
        (
            {"prompt_id": prompt, "image": seed, "question_id": question, "answer": answer, "source": "people"}
            for (prompt, seed, question), answer in answers.items()
        ),
    )
    return f"golden:{path}"


TWO_TYPES = {
    "shape+color": [("a red star", {"Is there a star?": "yes", "Is it red?": "Yes"}), ("a cat", {"A cat?": "yes"})],
    "negation": [("a table without a cat", {"Is there a table?": "yes", "Is there a cat?": "no"})],
}
