"""A report's page as a parser sees it."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, text by nearest element, and a check that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.script = ""
        self.card_data = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            if self.tags[-1][1].get("type") == "text/plain":
                self.card_data += data
            else:
                self.script += data
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def cards(self) -> list[dict[str, Any]]:
        """What the script knows of the cards."""
        cards: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(self.card_data)))
        return cards

    @property
    def prompts(self) -> list[dict[str, str | None]]:
        """The cards of the gallery."""
        return [card for card in self.all("article") if str(card["class"]).startswith("prompt")]

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [have for name, have in self.tags if name == tag and attributes.items() <= have.items()]
