"""Training images on one page as training sees them: cropped, with their text positions and captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from glmkit import __version__
from glmkit.files import atomic_path
from glmkit.reporting.build import GENERATOR, check_replaceable
from glmkit.reporting.templates import template_environment
from glmkit.reporting.thumbnails import Thumbnail, embedded

MARK, MARK_OPACITY = (220, 30, 30), 0.45  # of where text stands


@dataclass(frozen=True)
class PreviewImage:
    """One image with (label, thumbnail) of all that training sees of it; `facts` says what was done to it."""

    name: str
    captions: Sequence[str]
    texts: Sequence[str]
    facts: Sequence[str]
    thumbnails: Sequence[tuple[str, Thumbnail]]

    @classmethod
    def create(
        cls,
        name: str,
        captions: Sequence[str],
        texts: Sequence[str],
        facts: Sequence[str],
        target: Image.Image,
        mask: Image.Image | None,
        condition_images: Sequence[Image.Image],
        rejected: Image.Image | None = None,
    ) -> PreviewImage:
        """Embed the target, the same with its text positions in red, what an edit begins with, the worse of a pair."""
        images = [("condition image", image) for image in condition_images] + [("image", target)]
        if rejected is not None:
            images.append(("rejected", rejected))
        if mask is not None:
            red = Image.composite(Image.new("RGB", target.size, MARK), target, mask)
            images.append(("where text stands", Image.blend(target, red, MARK_OPACITY)))
        return cls(name, captions, texts, facts, [(label, embedded(image)) for label, image in images])


@dataclass(frozen=True)
class PreviewSet:
    """The images of one origin that are shown, of `total`."""

    name: str
    total: int
    images: Sequence[PreviewImage]


def check_preview(path: Path) -> None:
    """Raise UserError when the page may not be written: another file is there."""
    check_replaceable([path], "--preview")


def write_preview(path: Path, title: str, lines: Sequence[str], sets: Iterable[PreviewSet]) -> None:
    """Write one HTML file that needs no other; `lines` are the report on the data."""
    template = template_environment().get_template("preview.html")
    html = template.render(generator=Markup(GENERATOR), title=title, lines=lines, sets=list(sets), version=__version__)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
