"""The template environment of the HTML pages."""

from __future__ import annotations

from pathlib import Path

import jinja2

from glmkit.evaluation.stats import percent
from glmkit.files import shareable_path
from glmkit.reporting import wording

FOLDER = Path(__file__).parent
# What a page may load and send: nothing but what is inside it. A script needs its hash beside this.
CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Also images beside the page or in run folders: of a page whose images are files, or smaller than their originals.
FOLDER_POLICY = CONTENT_POLICY.replace("img-src data:", "img-src data: 'self' file:")


def template_environment() -> jinja2.Environment:
    """Escape what a template prints and show hidden controls; an unknown name is an error, not a blank."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        # Markup, a subclass of str, is printed as it is.
        finalize=lambda value: wording.show_control_characters(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["content_policy"] = CONTENT_POLICY
    environment.filters |= {
        "count": wording.count,
        "four_digits": wording.four_digits,
        "headline": wording.headline,
        "label": wording.label,
        "label_in_sentence": wording.label_in_sentence,
        "number": wording.number,
        "percent": percent,
        "shareable": shareable_path,
        "zip": zip,
    }
    return environment
