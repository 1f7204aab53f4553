"""Text from any system: encodings, line ends, JSON without measure, and what is no text."""

from __future__ import annotations

import pytest

from glmkit.errors import UserError
from glmkit.text import check_text, decode, parse_json

TEXT = 'Ein “Café” – größer\nund 「花」\u2028"OPEN"\n'
WESTERN = "A sign that says “OPEN” – it’s Grüße, größer, Café…\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(encoding: str, end: str) -> None:
    assert decode(TEXT.replace("\n", end).encode(encoding), "a.txt") == TEXT


def test_utf_16_of_the_other_byte_order() -> None:
    assert decode(b"\xfe\xff" + TEXT.encode("utf-16-be"), "a.txt") == TEXT


def test_marks_inside_of_files_that_were_joined() -> None:
    assert decode("\ufeff\ufeffa\n\ufeffb\ufeffc".encode(), "a.txt") == "a\nb\ufeffc"


def test_windows_1252_where_nothing_else_is_meant() -> None:
    assert decode(WESTERN.encode("cp1252"), "a.txt") == WESTERN


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ok\nжук", "cp1251"),
        ("ok\nčaj a łódź", "cp1250"),
        ("ok\nğ ş", "cp1254"),
        ("ok\n花好月圆", "gbk"),
        ("ok\nテスト", "shift_jis"),
        ("ok\nένα", "cp1253"),
        ("ok\nCafé", "mac_roman"),
        ("ok\nà la carte", "cp1252"),  # ŕ in central Europe
    ],
)
def test_other_encodings_name_the_line(text: str, encoding: str) -> None:
    with pytest.raises(UserError, match=r"a.txt is not UTF-8 text[\s\S]*line 2[\s\S]*save it as UTF-8"):
        decode(text.encode(encoding), "a.txt")


@pytest.mark.parametrize("data", ["ok\nabc".encode("utf-16-le"), b"ok\na\0b", b"\x89PNG\r\n\x1a\n\0\0"])
def test_what_is_no_text(data: bytes) -> None:
    with pytest.raises(UserError, match=r"a.txt is not"):
        decode(data, "a.txt")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"a": 1, "a": 2}', "{", ""])
def test_json_without_measure(text: str) -> None:
    with pytest.raises(UserError, match=r"a.json is not"):
        parse_json(text, "a.json")


@pytest.mark.parametrize("text", ["", " \n", "\u3000", "A poster \ud83d", "a\0b"])
def test_no_prompt(text: str) -> None:
    with pytest.raises(UserError, match="the caption of a is "):
        check_text(text, "the caption of a")
