"""Files of prompts as people keep them, for `generate --prompts` and `eval --prompts`: JSON, a table, or lines of text.

    {"id": "open", "prompt": "A poster that says 'OPEN'", "texts": ["OPEN"], "seed": 1, "size": "512x768", "steps": 20}

Only `prompt` is needed. `id` names the image file, and is the record's number by default. `texts` are what the image
shows, where they are not just what stands in quotes. `condition_images` are paths relative to the file. `named` is what
the prompt says beside its texts, for checks of nano's posters: {"background": "navy", "text_colours": ["white"]}.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkit import errors
from glmkit.errors import UserError
from glmkit.files import read_text
from glmkit.inputs.quotes import quoted_texts
from glmkit.inputs.records import CSV_SUFFIXES, read_records
from glmkit.sizes import parse_size, suggested_size
from glmkit.text import check_text

KEYS = ("id", "prompt", "texts", "seed", "size", "steps", "guidance", "condition_images", "split", "language", "named")
IGNORED = ("ground_truth",)  # of the suites of public benchmarks
# Keys of other programs, and what to write here.
OTHERS: Mapping[str, str] = {
    **dict.fromkeys(("negative_prompt", "negative", "neg_prompt"), "nothing: the model has no negative prompt"),
    **dict.fromkeys(("width", "height", "resolution", "image_size", "aspect_ratio"), '"size": "1024x768"'),
    **dict.fromkeys(("guidance_scale", "cfg", "cfg_scale", "scale"), '"guidance": 1.5'),
    **dict.fromkeys(("num_inference_steps", "sampling_steps", "sample_steps", "num_steps"), '"steps": 30'),
    **dict.fromkeys(("text", "caption", "captions", "prompts", "positive_prompt"), '"prompt": "..."'),
    **dict.fromkeys(("file", "file_name", "filename", "name", "output", "image_name"), '"id": "first"'),
    **dict.fromkeys(("image", "images", "source", "sources", "init_image", "input_image"), '"condition_images": [...]'),
    **dict.fromkeys(("control_image", "ref_image", "reference_image"), '"condition_images": [...]'),
    **dict.fromkeys(("count", "n", "num_images", "num_images_per_prompt", "n_iter", "repeats"), "--count N"),
    **dict.fromkeys(("batch_size", "batch"), "--batch-size N"),
    **dict.fromkeys(("seeds",), "--seeds 0,1,2"),
    **dict.fromkeys(("model", "checkpoint"), "--model MODEL"),
    **dict.fromkeys(("lora", "loras", "adapter", "adapters"), "--adapter DIR:WEIGHT"),
    **dict.fromkeys(("sampler", "sampler_name", "scheduler", "shift", "strength"), "nothing: the model decides it"),
    **dict.fromkeys(("temperature", "top_p", "top_k"), "nothing: the model decides it"),
}
SAFE_ID = re.compile(r"\w[\w.-]*")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows has no files of these names
MAX_COUNT = 10_000  # images of one prompt
SEEDS_HELP = "images per prompt of these seeds: 0,5,9 or 0-9; 2 is seed 2 alone, a number of seeds is --count"
MAX_ID_BYTES = 200  # of the 255 of a file name, which has a seed and an ending, too


@dataclass(frozen=True)
class FilePrompt:
    """Hold one prompt of a file; None or empty is what the record does not say.

    `texts` is None where those in quotes count, and `has_texts` tells whether the record names any. `error` says why
    the prompt cannot be used; the others can.
    """

    id: str
    prompt: str = ""
    texts: tuple[str, ...] | None = None
    seed: int | None = None
    size: str | None = None
    steps: int | None = None
    guidance: float | None = None
    condition_images: tuple[str, ...] = ()
    split: str = "all"
    language: str = "en"
    has_texts: bool = False
    named: Mapping[str, Any] = field(default_factory=dict, hash=False)
    error: UserError | None = None


def read_prompts(path: Path) -> list[FilePrompt]:
    """Read a `.txt` file, a prompt per line, or records: JSON lines, a JSON list, or a table with a header.

    A record whose values cannot be used is a prompt with its error. UserError for what concerns the whole file: it
    cannot be read, is empty, has unknown keys, or ids that are no file names or not one for each.
    """
    records = _records(path)
    if not records:
        raise UserError(f"{path} has no records", fix='one object per line: {"id": "first", "prompt": "a red poster"}')
    prompts: list[FilePrompt] = []
    ids: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        try:
            _check_keys(record)
            id = _id(record.get("id"), number)
        except UserError as error:
            raise UserError(f"{path}, record {number}: {error.what}", found=error.found, fix=error.fix) from error
        # Windows and macOS do not tell file names apart by case, nor by how an accent is written.
        other = ids.setdefault(unicodedata.normalize("NFC", id).casefold(), number)
        if other != number:
            found = f"records {other} and {number}"
            raise UserError(f"{path}: two records have the id {id!r}", found=found, fix="give every record another id")
        prompts.append(_prompt(record, id, path.parent, is_text=path.suffix.lower() in CSV_SUFFIXES))
    return prompts


def parse_seeds(text: str) -> list[int]:
    """Read `0,5,9` or `0-9`; UserError for anything else, and for a seed that is there twice."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,19})(?:-([0-9]{1,19}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not first <= last < first + MAX_COUNT:
            raise UserError(
                "--seeds takes whole numbers and ranges", found=text[:80], fix="--seeds 0,1,2 or --seeds 0-9"
            )
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds) or len(seeds) > MAX_COUNT:
        raise UserError(f"--seeds takes up to {MAX_COUNT} different seeds", found=text[:80], fix="--seeds 0-9")
    return seeds


def _records(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() in CSV_SUFFIXES:
        return list(map(_with_keys, read_records(path)))
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if path.suffix.lower() != ".txt":
        if lines and lines[0][0] not in "{[":
            fix = f"call it {path.with_suffix('.txt').name} if each line is a prompt"
            raise UserError(f"{path} holds no JSON", found=lines[0][:80], fix=fix)
        return list(map(_with_keys, read_records(path)))
    if lines and all(re.fullmatch(r'\{\s*".*\}', line) for line in lines):
        raise UserError(f"{path} holds JSON, not a prompt per line", fix=f"call it {path.with_suffix('.jsonl').name}")
    return [{"prompt": line} for line in lines]


def _with_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record by the keys that are known: people begin the names of columns with a capital letter."""
    keys = {key: key.lower() if key.lower() in (*KEYS, *IGNORED, *OTHERS) else key for key in record}
    return {keys[key]: value for key, value in record.items()} if len({*keys.values()}) == len(keys) else record


def _check_keys(record: Mapping[str, Any]) -> None:
    for key, value in record.items():
        if key in OTHERS and value not in (None, "", []):
            fix = OTHERS[key]
            if {"width", "height"} <= record.keys():
                fix = f'"size": "{record["width"]}x{record["height"]}"' if key in ("width", "height") else fix
            raise UserError(f"{key!r} is no key of a prompt file", found=f"{key}: {value!r}"[:80], fix=fix)
        if key not in OTHERS and key not in KEYS + IGNORED:
            raise errors.unknown("key", key, KEYS)


def _id(value: Any, number: int) -> str:
    id = f"{number:04d}" if value in (None, "") else str(value)
    if isinstance(value, bool | float) or not SAFE_ID.fullmatch(id):
        raise UserError("an id must be a file name of letters, digits, '_', '-' and '.'", found=id[:80])
    if RESERVED.fullmatch(id):
        raise UserError("an id must not be a name that Windows reserves", found=id, fix="another id")
    if (size := len(os.fsencode(id))) > MAX_ID_BYTES:
        found, fix = f"{size} bytes: {id[:40]}...", f"at most {MAX_ID_BYTES} bytes"
        raise UserError("an id is too long for the name of a file", found=found, fix=fix)
    return id


def _prompt(record: Mapping[str, Any], id: str, folder: Path, *, is_text: bool) -> FilePrompt:
    """Read the values of a record; in a table they are texts, and an empty cell says nothing."""
    given = {key: value for key, value in record.items() if value is not None and (value != "" or key == "prompt")}
    prompt = given.get("prompt")
    try:
        if not isinstance(prompt, str):
            raise UserError("the prompt is missing", found=repr(dict(record))[:200], fix='"prompt": "a red poster"')
        check_text(prompt, "the prompt")
        if not isinstance(size := given.get("size", "32x32"), str):
            fix = f'"size": "{suggested_size(size)}"'
            raise UserError("a size is WIDTHxHEIGHT in pixels", found=repr(size)[:80], fix=fix)
        parse_size(size)
        texts = _strings(given, "texts", is_text)
        for text in texts:
            check_text(text, "one of the texts")
        return FilePrompt(
            id,
            prompt,
            None if "texts" not in given or list(texts) == quoted_texts(prompt) else texts,
            _whole(given, "seed"),
            given.get("size"),
            _whole(given, "steps"),
            _number(given, "guidance"),
            tuple(str(folder / name) for name in _strings(given, "condition_images", is_text)),
            str(given.get("split", "all")),
            str(given.get("language", "en")),
            has_texts="texts" in given,
            named=_object(given, "named"),
        )
    except UserError as error:
        # Half a character can be written into no file, nor into the record of the error.
        shown = prompt.encode(errors="replace").decode() if isinstance(prompt, str) else ""
        return FilePrompt(id, shown, error=error)


def _strings(record: Mapping[str, Any], key: str, is_text: bool) -> tuple[str, ...]:
    value = record.get(key, [])
    if is_text and isinstance(value, str):
        value = [part.strip() for part in value.split("|")]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        kind = "paths" if key == "condition_images" else "texts"
        raise UserError(f"{key} must be a list of {kind}", found=repr(value)[:80], fix=f'"{key}": ["..."]')
    return tuple(value)


def _object(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{key} must be an object", found=repr(value)[:80], fix=f'"{key}": {{"background": "navy"}}')
    return value


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{key} is not a number", found=repr(value)[:80], fix=f'"{key}": 1')
    return number


def _whole(record: Mapping[str, Any], key: str) -> int | None:
    value, number = record.get(key), _number(record, key)
    if number is None or isinstance(value, int):
        return value
    if not number.is_integer():
        raise UserError(f"{key} is not a whole number", found=repr(value)[:80], fix=f'"{key}": 1')
    return int(number)
