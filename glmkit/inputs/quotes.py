"""Texts in quotes: which the published rule takes from a prompt for the glyph encoder, and which it passes over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Opening and closing quote, in the order in which the published code collects the texts.
QUOTES = (("'", "'"), ("“", "”"), ('"', '"'), ("「", "」"))
# What people quote with that the rule does not know, closing quotes of any habit.
OTHER_QUOTES = (
    *(
        ("„", "“"),
        ("„", "”"),
        ("„", '"'),
        ("”", "”"),
        ("‚", "‘"),
        ("‚", "’"),
        ("‘", "’"),
        ("’", "’"),
        ("`", "`"),
        ("``", "''"),
    ),
    *(
        ("«", "»"),
        ("»", "«"),
        ("»", "»"),
        ("‹", "›"),
        ("›", "‹"),
        ("『", "』"),
        ("《", "》"),
        ("〈", "〉"),
        ("【", "】"),
    ),
    *(
        ("〝", "〞"),
        ("〝", "〟"),
        ("＂", "＂"),
        ("＇", "＇"),
        ("“", '"'),
        ('"', "”"),
        ("“", "“"),
        ("❝", "❞"),
        ("｢", "｣"),
        ("″", "″"),
    ),
)
MARKS = "".join(dict.fromkeys("".join(opening + closing for opening, closing in (*QUOTES, *OTHER_QUOTES))))
SHOWN = 5  # prompts with warnings
LONGEST = 200  # characters between quotes; more is a sentence between an apostrophe and another


def quoted_texts(prompt: str) -> list[str]:
    """Return the texts between quotes, first all of '...', then “...”, "...", 「...」.

    An apostrophe counts as a quote, as in the published code: `It's a dog's day` gives `s a dog`.
    """
    return [
        text
        for opening, closing in QUOTES
        for text in re.findall(f"{opening}([^{opening}{closing}]*){closing}", prompt)
    ]


def rendered_texts(prompt: str, texts: Sequence[str] | None) -> list[str]:
    """Return the texts that were given beside a prompt, or those between its quotes when none were."""
    return quoted_texts(prompt) if texts is None else list(texts)


def _other_quoted() -> re.Pattern[str]:
    """Match any other quoted text: what stands inside holds no quotes, so that the first one that follows closes it."""
    choices = []
    for first in sorted({opening for opening, _ in OTHER_QUOTES}, key=len, reverse=True):
        last = "|".join(re.escape(closing) for opening, closing in OTHER_QUOTES if opening == first)
        # An apostrophe inside of a word opens and closes nothing.
        before, after = (r"(?<!\w)", r"(?!\w)") if first in "‘’" else ("", "")
        choices.append(f"{before}{re.escape(first)}[^\0{re.escape(MARKS)}]{{1,{LONGEST}}}(?:{last}){after}")
    return re.compile("|".join(choices))


OTHER_QUOTED = _other_quoted()


def passed_over(prompt: str) -> list[str]:
    """Return what looks quoted, with its quotes, and is not taken by `quoted_texts`."""
    for opening, closing in QUOTES:  # what is taken, its quotes included, is no part of something else
        prompt = re.sub(f"{opening}[^{opening}{closing}]*{closing}", lambda match: "\0" * len(match[0]), prompt)
    return OTHER_QUOTED.findall(prompt)


def from_apostrophes(prompt: str) -> list[str]:
    """Return the texts that the rule takes from between apostrophes of words, as `s a dog` above."""
    spans = re.finditer("'([^']*)'", prompt)
    return [span[1] for span in spans if re.match(r"\w", prompt[span.start() - 1 : span.start()]) and span[1].strip()]


def describe(prompt: str, texts: Sequence[str] | None = None) -> list[str]:
    """Tell people which texts an image will show, and what looks like one and is none.

    `texts` are those that were given beside the prompt.
    """
    if texts is not None:
        return [f"texts: {' | '.join(texts) or 'none'}, as given"]
    taken = quoted_texts(prompt)
    return [f"texts: {' | '.join(taken) or 'none; words that the image shall show go in quotes'}", *warnings(prompt)]


def warnings(prompt: str) -> list[str]:
    """Tell people of quotes that the rule reads otherwise than they may think."""
    lines = []
    if others := passed_over(prompt):
        straight = ", ".join(f'"{text.strip(MARKS).strip()}"' for text in others)
        lines.append(f"  not read as texts: {shortened(' '.join(others))}; write {shortened(straight)}")
    if wrong := from_apostrophes(prompt):
        lines.append(f"  read between apostrophes: {shortened(' | '.join(wrong))}; write ’ for an apostrophe")
    return lines


def shortened(text: str) -> str:
    """Cut a text to what is shown of it on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def describe_many(prompts: Mapping[str, str], given: int = 0) -> list[str]:
    """Tell people the same of many prompts by their names; beside `given` others there were texts."""
    count = sum(bool(quoted_texts(prompt)) for prompt in prompts.values())
    warned = {name: lines for name, prompt in prompts.items() if (lines := warnings(prompt))}
    lines = [f"{name}: {line.strip()}" for name, of_prompt in warned.items() for line in of_prompt]
    more = [f"  and {len(lines) - SHOWN} more such lines"] if len(lines) > SHOWN else []
    sources = [f"in quotes in {count} of {len(prompts)} prompts"] if prompts else []
    sources += [f"given beside {given} prompts"] if given else []
    return [f"texts: {', '.join(sources)}", *(f"  {line}" for line in lines[:SHOWN]), *more]
