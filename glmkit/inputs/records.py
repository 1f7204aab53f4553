"""Lists of records as people keep them: JSON lines, a JSON list, or a table of comma-separated values."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.files import read_jsonl, read_text

CSV_SUFFIXES = (".csv", ".tsv")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a `.csv` or `.tsv` file, or of one with JSON."""
    return list(read_csv(path)) if path.suffix.lower() in CSV_SUFFIXES else read_jsonl(path)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table of comma-separated values, or with the semicolons or tabs that spreadsheets write.

    A first line `sep=;`, which Excel reads, names the separator. Empty cells and numbers of lines in columns without a
    name, which spreadsheets and pandas add, are left out. UserError for a line with more or fewer cells than the one
    that names the columns: a text that holds the separator must stand in quotes.
    """
    text = read_text(path)
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=([,;\t])", first.strip(" "), re.IGNORECASE)
    separator, text = (named[1], rest) if named else (max(",;\t", key=first.count), text)
    skipped = 1 if named else 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := next((name for name in header if name and header.count(name) > 1), None):
            raise UserError(f"{path} has two columns {twice}", fix="give one of them another name")
        for cells in reader:
            if len(cells) != len(header) and cells:
                found = f"{len(cells)} cells, {len(header)} columns ({', '.join(header)})"
                fix = f'put "..." around a text that holds {separator!r}'
                raise UserError(
                    f"{path}, line {skipped + reader.line_num} does not fit its columns", found=found, fix=fix
                )
            if any(cells):
                pairs = zip(header, cells, strict=True)
                records.append({name: cell for name, cell in pairs if name or not (cell == "" or cell.isdigit())})
    except csv.Error as error:
        raise UserError(f"{path}, line {skipped + reader.line_num} is not CSV", found=error) from error
    return records
