"""What `fuzz.py` tries: files that people bring, each broken in many ways, and hostile values of every option."""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, PngImagePlugin

from glmkit.cli import build_parser

Mutate = Callable[[Path, random.Random], None]
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**12, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "x", "²", "\ud800", "a" * 300),
    *("../../x", "/proc/x", "a\0b", "'\"><script>alert(1)</script>", [], {}, [None], [[5]], {"x": {"y": []}}),
)
WORDS = (
    *("", "x", "-1", "0", "²", "²56x256", "1e400", "nan", "9" * 5000, "a" * 300, "../nothing", "/proc/x", "/dev/zero"),
    *("a\nb", ":", "a:nan", "b" * 5000, "64x64x64", "320000x320000", "\udcff", "[", "{a: b}", "=", "key=value"),
)
DEEP = 100_000


@dataclass(frozen=True)
class Scenario:
    """A command that ends well on the files of a laboratory (see `fuzz_lab.py`), and those that are broken one by one.

    `differs_from`: a PNG that its image must not equal, such as that of the model without the adapter. `answer`: a file
    that an endpoint answers with. `request`: a file that is sent to the server which the command starts.
    """

    group: str
    name: str
    argv: tuple[str, ...]
    targets: tuple[str, ...] = ()
    differs_from: str | None = None
    answer: str | None = None
    request: str | None = None


@dataclass(frozen=True)
class Case:
    """One scenario with one file broken, or with other words on the command line."""

    scenario: Scenario
    name: str
    mutate: Mutate | None = None
    target: str | None = None
    argv: tuple[str, ...] | None = None

    @property
    def id(self) -> str:
        """The name of a case, the same in every run with one seed."""
        return f"{self.scenario.group}/{self.scenario.name}/{self.name}"


# Any file ---------------------------------------------------------------------------------------------------------


def _replace(path: Path, data: bytes) -> None:
    path.unlink()  # files may be hard links to those of other cases
    path.write_bytes(data)


def _changed(change: Callable[[bytes, random.Random], bytes]) -> Mutate:
    return lambda path, rng: _replace(path, change(path.read_bytes(), rng))


def _instead(make: Callable[[Path], object]) -> Mutate:
    def mutate(path: Path, _: random.Random) -> None:
        path.unlink()
        make(path)

    return mutate


def _flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(max(1, len(data)))
    return data[:place] + bytes([(data[place] if data else 0) ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # an address has 108 letters at most
        one.bind(path.name)


def _sparse(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(1 << 36)


ANY_FILE: dict[str, Mutate] = {
    "empty": _changed(lambda data, rng: b""),
    "cut": _changed(lambda data, rng: data[: len(data) // 2]),
    "cut short": _changed(lambda data, rng: data[: rng.randrange(1, 40)]),
    "garbage": _changed(lambda data, rng: rng.randbytes(len(data) % 5000 + 1)),
    "flipped bit": _changed(_flip),
    "flipped bits": _changed(lambda data, rng: _flip(_flip(_flip(data, rng), rng), rng)),
    "twice": _changed(lambda data, rng: data + data),
    "zeros": _changed(lambda data, rng: bytes(len(data))),
    "missing": _instead(lambda path: None),
    "a folder": _instead(lambda path: path.mkdir()),
    "a link to nothing": _instead(lambda path: path.symlink_to("nothing")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "a link to /dev/zero": _instead(lambda path: path.symlink_to("/dev/zero")),
    "a FIFO": _instead(os.mkfifo),
    "a socket": _instead(_socket),
    "64 GiB": _instead(_sparse),
}
TEXT: dict[str, Mutate] = {
    "BOM": _changed(lambda data, rng: b"\xef\xbb\xbf" + data),
    "UTF-16": _changed(lambda data, rng: data.decode("utf-8", "replace").encode("utf-16")),
    "Latin-1": _changed(lambda data, rng: data + "é\n".encode("latin-1")),
    "NUL": _changed(lambda data, rng: data + b"\0"),
    "CRLF": _changed(lambda data, rng: data.replace(b"\n", b"\r\n")),
    "one long line": _changed(lambda data, rng: b"x" * 5_000_000),
    "deep lists": _changed(lambda data, rng: b"[" * DEEP),
    "deep maps": _changed(lambda data, rng: b'{"a":' * DEEP),
    "many digits": _changed(lambda data, rng: b'{"seed": ' + b"9" * 6000 + b"}"),
    "a list": _changed(lambda data, rng: b"[]\n"),
    "null": _changed(lambda data, rng: b"null\n"),
    "a number": _changed(lambda data, rng: b"5\n"),
}

# Values in a document ---------------------------------------------------------------------------------------------


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a document, but of long lists' only the first two."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in items:
        yield from paths_of(one, (*path, key))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a document with another value at a path; `...` takes the key out."""
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


def read_document(path: Path) -> tuple[Any, Callable[[Any], str]]:
    """Read a JSON, JSONL (its first records) or YAML file; returns it with what writes it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()], lambda rows: "".join(
            json.dumps(row) + "\n" for row in rows
        )
    if path.suffix in (".yaml", ".yml"):
        return yaml.safe_load(text), lambda value: str(yaml.safe_dump(value))
    return json.loads(text), json.dumps


def values(target: Path) -> dict[str, Mutate]:
    """Return every hostile value at every path of a document."""

    def mutation(path: tuple[Any, ...], value: Any) -> Mutate:
        def mutate(file: Path, _: random.Random) -> None:
            document, dump = read_document(file)
            _replace(file, dump(with_value(document, path, value)).encode("utf-8", "surrogatepass"))

        return mutate

    return {
        f"{'/'.join(map(str, path))}={_short(value)}": mutation(path, value)
        for path in paths_of(read_document(target)[0])
        for value in (..., *HOSTILE)
    }


def _short(value: Any) -> str:
    if value is ...:
        return "(missing)"
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**20 else "10^400"
    return text if len(text) < 40 else f"{text[:36]}... {len(text)}"


# Weights and images -----------------------------------------------------------------------------------------------


def _header(change: Callable[[dict[str, Any], random.Random], Any]) -> Mutate:
    def mutate(path: Path, rng: random.Random) -> None:
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        text = change(header, rng)
        text = json.dumps(header if text is None else text).encode() if not isinstance(text, bytes) else text
        _replace(path, struct.pack("<Q", len(text)) + text + data[8 + size :])

    return mutate


def _tensor(change: Callable[[str, dict[str, Any], dict[str, Any]], object]) -> Mutate:
    """Change the entry of one tensor in the header: `change(name, entry, header)`."""

    def of_header(header: dict[str, Any], rng: random.Random) -> None:
        name = rng.choice([key for key in header if key != "__metadata__"])
        change(name, header[name], header)

    return _header(of_header)


def _numbers(value: float) -> Mutate:
    def mutate(path: Path, _: random.Random) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(path)
        path.unlink()
        save_file({name: tensor.clone().fill_(value) for name, tensor in tensors.items()}, path)

    return mutate


WEIGHTS: dict[str, Mutate] = {
    "no tensors": _header(lambda header, rng: {}),
    "all renamed": _header(lambda header, rng: {f"x.{key}": value for key, value in header.items()}),
    "one missing": _tensor(lambda name, entry, header: header.pop(name)),
    "one renamed": _tensor(lambda name, entry, header: header.update({f"{name}.x": header.pop(name)})),
    "one more": _tensor(lambda name, entry, header: header.update({f"{name}.x": entry})),
    "unknown dtype": _tensor(lambda name, entry, header: entry.update(dtype="F99")),
    "other dtype": _tensor(lambda name, entry, header: entry.update(dtype="I32")),
    "other shape": _tensor(lambda name, entry, header: entry.update(shape=[*entry["shape"][::-1], 1])),
    "negative shape": _tensor(lambda name, entry, header: entry.update(shape=[-1, *entry["shape"][1:]])),
    "huge shape": _tensor(lambda name, entry, header: entry.update(shape=[10**15, 10**15])),
    "negative offsets": _tensor(lambda name, entry, header: entry.update(data_offsets=[-8, 0])),
    "far offsets": _tensor(lambda name, entry, header: entry.update(data_offsets=[10**15, 10**15 + 8])),
    "overlap": _tensor(lambda name, entry, header: entry.update(data_offsets=[0, entry["data_offsets"][1]])),
    "no entry": _tensor(lambda name, entry, header: header.update({name: None})),
    "deep header": _header(lambda header, rng: b'{"a":' * DEEP),
    "a list as header": _header(lambda header, rng: []),
    "huge header": _changed(lambda data, rng: struct.pack("<Q", 1 << 62) + data[8:]),
    "NaN": _numbers(float("nan")),
    "inf": _numbers(float("inf")),
    "1e30": _numbers(1e30),
}


def _saved(make: Callable[[Image.Image], Image.Image], format: str = "PNG", **options: Any) -> Mutate:
    def mutate(path: Path, _: random.Random) -> None:
        with Image.open(path) as image:
            changed = make(image.convert("RGB"))
        path.unlink()
        with path.open("wb") as handle:
            changed.save(handle, format=format, **options)

    return mutate


def _drawn(size: tuple[int, int], mode: str = "1") -> Mutate:
    return _instead(lambda path: Image.new(mode, size).save(path, format="PNG"))


def _long_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    return info


def _animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n"
IMAGES: dict[str, Mutate] = {
    **{f"mode {mode}": _saved(lambda image, mode=mode: image.convert(mode)) for mode in ("1", "L", "LA", "P", "RGBA")},  # type: ignore[misc]
    "16 bits": _saved(lambda image: image.convert("I").point(lambda value: value * 257).convert("I;16")),
    "32 bits": _saved(lambda image: image.convert("F"), "TIFF"),
    "CMYK": _saved(lambda image: image.convert("CMYK"), "JPEG"),
    "LAB": _saved(lambda image: image.convert("YCbCr"), "TIFF"),
    "WebP": _saved(lambda image: image, "WEBP"),
    "BMP": _saved(lambda image: image, "BMP"),
    "ICO": _saved(lambda image: image, "ICO"),
    "PPM": _saved(lambda image: image, "PPM"),
    "PDF": _saved(lambda image: image, "PDF"),
    "GIF": _changed(lambda data, rng: _animation()),
    "broken profile": _saved(lambda image: image, icc_profile=b"no profile" * 20),
    "broken EXIF": _saved(lambda image: image, "JPEG", exif=b"Exif\0\0no exif"),
    "long text": _saved(lambda image: image, pnginfo=_long_text()),
    "blank": _saved(lambda image: Image.new("RGBA", image.size)),
    "1x1": _drawn((1, 1)),
    "1x5000": _drawn((1, 5000)),
    "a bomb": _drawn((20000, 20000)),
    "a great bomb": _drawn((50000, 10000)),
    "EPS": _changed(lambda data, rng: EPS),
    "SVG": _changed(lambda data, rng: b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'),
    "HTML": _changed(lambda data, rng: b"<html><body>404</body></html>"),
    "0x0": _changed(lambda data, rng: data[:16] + bytes(8) + data[24:]),
}

# All cases --------------------------------------------------------------------------------------------------------


def mutations(target: Path) -> dict[str, dict[str, Mutate]]:
    """Return the kinds of breaking that fit a file, each with its ways."""
    kinds: dict[str, dict[str, Mutate]] = {"file": ANY_FILE}
    if target.suffix in (".json", ".jsonl", ".yaml"):
        kinds["values"] = values(target)
    if target.suffix in (".json", ".jsonl", ".yaml", ".txt", ".csv", ".jinja"):
        kinds["text"] = TEXT
    if target.suffix == ".safetensors":
        kinds["weights"] = WEIGHTS
    if target.suffix in (".png", ".jpg"):
        kinds["images"] = IMAGES
    return kinds


def file_cases(scenario: Scenario, lab: Path, rng: random.Random, count: int) -> list[Case]:
    """Choose `count` ways to break a file of a scenario, as many of each kind and file as of the others."""
    queues = []
    for target in scenario.targets:
        for ways in mutations(lab / target).values():
            cases = [Case(scenario, f"{target}: {name}", way, target) for name, way in ways.items()]
            rng.shuffle(cases)
            queues.append(cases)
    return _in_turn(queues, rng, count)


def option_cases(scenario: Scenario, rng: random.Random, count: int) -> list[Case]:
    """Choose hostile values for the words and options of a command, which argparse itself lists."""
    parser: argparse.ArgumentParser = build_parser()
    words = list(scenario.argv)
    while choices := [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]:
        parser = choices[0].choices[words.pop(0)]
    queues = []
    prefix = scenario.argv[: len(scenario.argv) - len(words)]
    for action in parser._actions:
        if action.option_strings and action.nargs != 0:
            flag = action.option_strings[0]
            argvs = [(f"{flag}={word}", (*scenario.argv, f"{flag}={word}")) for word in WORDS]
            queues.append([Case(scenario, f"option {name[:60]!a}", argv=argv) for name, argv in argvs])
    for place, old in enumerate(words):
        if not old.startswith("-"):
            swapped = [(word, (*prefix, *words[:place], word, *words[place + 1 :])) for word in WORDS]
            queues.append([Case(scenario, f"word {place} {word[:40]!a}", argv=argv) for word, argv in swapped])
    for queue in queues:
        rng.shuffle(queue)
    return _in_turn(queues, rng, count)


def override_cases(scenario: Scenario, recipe: Path, rng: random.Random, count: int) -> list[Case]:
    """Choose hostile values of `key=value` for the keys of a recipe."""
    keys = [path for path in paths_of(read_document(recipe)[0]) if all(isinstance(key, str) for key in path)]
    every = [f"{'.'.join(path)}={word}" for path in keys for word in WORDS if "\n" not in word]
    chosen = rng.sample(every, min(count, len(every)))
    return [Case(scenario, f"override {word[:60]!a}", argv=(*scenario.argv, word)) for word in chosen]


def _in_turn(queues: list[list[Case]], rng: random.Random, count: int) -> list[Case]:
    rng.shuffle(queues)
    chosen: list[Case] = []
    while queues and len(chosen) < count:
        queues = [queue for queue in queues if queue]
        chosen += [queue.pop() for queue in queues]
    return chosen[:count]


def copy_lab(source: Path, target: Path) -> None:
    """Copy a laboratory; large files become hard links, which every mutation breaks before it writes."""

    def link(one: str, other: str) -> None:
        os.link(one, other) if os.path.getsize(one) > 200_000 else shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=link, symlinks=True, dirs_exist_ok=True)
