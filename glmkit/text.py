"""Text that people bring: its encoding, JSON in it, what a prompt or a caption may not hold; and tables for them."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from glmkit.errors import UserError

MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
RELATIVES = ("cp1250", "cp1254", "cp1257")  # of cp1252: Windows for central Europe, Turkey and the Baltic states
SAVE = "save it as UTF-8"
ARCHIVE = b"PK\x03\x04"
MAX_LETTERS = 16_000  # of a prompt or a caption
MAX_NAMES = 5  # that a sentence lists


def decode(data: bytes, name: str) -> str:
    """Decode the text of a file: UTF-8, or UTF-16 with a byte order mark; line ends become line feeds.

    Other 8-bit text is taken for Windows-1252 only where its neighbours read it alike, as typographic quotes and most
    of German. UserError names the first line that cannot be read.
    """
    if data.startswith(ARCHIVE):
        fix = "save a workbook as CSV UTF-8, a document as text"
        raise UserError(f"{name} is not text", found="an archive, as .xlsx, .docx and .zip are", fix=fix)
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        western = _as_western(data) if encoding == "utf-8" else None
        if western is None:
            found = f"line {line}: {_shown(data[max(0, error.start - 20) : error.start + 20])}"
            raise UserError(f"{name} is not {encoding.upper()} text", found=found, fix=SAVE) from error
        text = western
    text = re.sub("^\ufeff+", "", text.replace("\r\n", "\n").replace("\r", "\n"), flags=re.MULTILINE)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{name} is not text: line {line} holds zero bytes, as UTF-16 without a mark does", fix=SAVE)
    return text


def _as_western(data: bytes) -> str | None:
    """Read Windows-1252; None where another code page would read other letters.

    Adjacent letters beyond ASCII mean another alphabet, but for the German ß.
    """
    try:
        text = data.decode("cp1252")
        if any(data.decode(relative) != text for relative in RELATIVES):
            return None
    except UnicodeDecodeError:
        return None
    return None if re.search(r"[^\W\x00-\x7f][^\W\x00-\x7fß]", text) else text


def _shown(data: bytes) -> str:
    return repr(data.decode("ascii", errors="backslashreplace"))


WHOLE = "a whole copy of it, as the program wrote that made it, or mend it in an editor"


def parse_json(text: str, name: str) -> Any:
    """Parse JSON; UserError for whatever is wrong with it, a key given twice in an object among it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise UserError(
            f"{name} is not JSON of any use: its lists and objects lie too deep in one another", fix=WHOLE
        ) from error
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        where = f"line {error.lineno}, " if "\n" in text.strip() else ""
        around = line[max(0, error.colno - 41) : error.colno + 39].strip()
        found = f"{error.msg} at {where}column {error.colno}: {around}"
        raise UserError(f"{name} is not valid JSON", found=found, fix=WHOLE) from error
    except ValueError as error:  # also for a number of thousands of digits
        raise UserError(f"{name} is not valid JSON", found=str(error)[:200], fix=WHOLE) from error


def check_text(text: str, what: str) -> None:
    """Raise UserError for a prompt or a caption that is empty, that no tokenizer reads, or that describes no image."""
    if not text.strip():
        raise UserError(f"{what} is empty", fix="describe the image")
    if broken := re.search(r"[\ud800-\udfff\0]", text):
        kind = "a zero byte" if broken[0] == "\0" else "half a character (a lone surrogate)"
        found = f"{kind} after {text[max(0, broken.start() - 20) : broken.start()]!r}"
        raise UserError(f"{what} is not whole text", found=found, fix="write it anew")
    if len(text) > MAX_LETTERS:
        raise UserError(f"{what} is too long", found=f"{len(text):,} letters", fix=f"at most {MAX_LETTERS:,}")


def some(names: Sequence[str]) -> str:
    """List the first few names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def aligned(lines: Iterable[Sequence[str]]) -> str:
    """Lay out lines of cells as a table, each column as wide as its widest cell."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
