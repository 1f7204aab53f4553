"""Say in English what a scene shows, as people type it: free order, anything but the texts may be left out.

What is left out is as likely as it is said: places are named when they are unusual, shapes and frames nearly always.
`captions_zh` is the same for Chinese.
"""

from __future__ import annotations

import random

from glmkit.posters.everyday import captions_zh, fonts
from glmkit.posters.everyday.colours import ALIASES
from glmkit.posters.everyday.scene import EverydayScene, TextBlock

NOUNS = [
    "poster", "poster", "poster", "card", "sign", "sign", "label", "cover", "banner", "sticker", "invitation",
    "flyer", "logo", "badge", "ticket", "tag", "menu", "notice", "image", "graphic", "slide", "postcard",
    "billboard", "nameplate", "plaque", "announcement", "book cover", "album cover", "business card",
    "birthday card", "greeting card", "street sign", "door sign", "title card", "thank you card", "shop sign",
    "price tag", "web banner", "name tag", "gift card", "road sign",
]  # fmt: skip
TOPICS = [
    "coffee shop", "gym", "bakery", "birthday party", "wedding", "concert", "book club", "yoga class",
    "summer sale", "garden party", "school play", "bike shop", "pizza place", "hair salon", "flower shop", "museum",
    "library", "festival", "charity run", "movie night", "science fair", "jazz band", "toy store", "farm market",
    "pet store", "dentist", "law firm", "tech startup", "travel agency", "beach bar", "tea house", "bookstore",
    "podcast", "video game", "football club", "swimming pool", "art show", "baby shower", "graduation",
    "house party", "car wash", "ice cream truck", "burger joint", "restaurant", "hotel", "museum exhibition",
    "theatre", "cinema", "church", "workshop", "conference", "hackathon", "camp",
]  # fmt: skip
INTROS = [
    "that says {}", "saying {}", "that reads {}", "reading {}", "with the text {}", "with the words {}", "with {}",
    "which says {}", "with the title {}", "with the headline {}", "{}", "titled {}", "labelled {}", "showing {}",
    "with {} written on it", "with text {}", "text {}",
]  # fmt: skip
NEXT = [
    "and below it {}", "and {} below", "then {}", "{} underneath", "with {} under it", "and {}", "{} below it",
    "followed by {}", "and underneath {}", "{} in the next line",
]  # fmt: skip
COUNTS = {2: ("two",), 3: ("three",), 4: ("four",)}
QUOTES = ('"{}"', '"{}"', "“{}”")
FILLERS = [
    "minimalist", "simple and clean", "flat design", "modern style", "elegant", "bold typography", "vector art",
    "high quality", "plain", "clean layout", "nice font", "professional", "cute", "retro vibe",
]  # fmt: skip
SIZES = ((0.16, ("huge", "very large", "giant")), (0.105, ("large", "big", "large")), (0.062, ("", "medium")),
         (0.0, ("small", "small", "tiny")))  # fmt: skip


def caption(scene: EverydayScene, rng: random.Random) -> str:
    """Sample one of many descriptions. Double quotes hold exactly the scene's texts, in its order."""
    if scene.language == "zh" and rng.random() < 0.72:
        return captions_zh.caption(scene, rng)
    head, colours_said = _head(scene, rng)
    clauses = [_texts(scene, rng, colours_said)]
    if "background" not in colours_said and rng.random() < 0.72:
        clauses.insert(rng.randint(0, 1), _background(scene, rng))
    extra = [phrase for phrase in (_shapes(scene, rng), _frame(scene, rng)) if phrase]
    rng.shuffle(extra)
    for phrase in extra:
        clauses.insert(rng.choice((len(clauses), len(clauses), 0)), phrase)
    if rng.random() < 0.15:
        clauses.append(rng.choice(FILLERS))
    return _joined(head, clauses, rng)


def colour_name(colour: str, rng: random.Random) -> str:
    """Say a colour; grey is also spelt gray."""
    return ALIASES[colour] if colour in ALIASES and rng.random() < 0.35 else colour


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _head(scene: EverydayScene, rng: random.Random) -> tuple[str, set[str]]:
    """Return how the caption begins, and which colours it names already."""
    noun, topic, background = rng.choice(NOUNS), rng.choice(TOPICS), colour_name(scene.background, rng)
    if rng.random() < 0.3:
        noun = rng.choice((f"{noun} for {with_article(topic)}", f"{topic} {noun}", f"{noun} for my {topic}"))
    kind = rng.random()
    if kind < 0.28:
        return with_article(f"{background} {noun}"), {"background"}
    if kind < 0.36:
        return rng.choice(("simple {}", "minimal {}", "clean {}", "modern {}")).format(noun), set()
    if kind < 0.46:
        return rng.choice(("make {}", "design {}", "create {}", "please draw {}", "I need {}", "I want {}")).format(
            with_article(noun)
        ), set()
    return (noun if rng.random() < 0.4 else with_article(noun)), set()


def _background(scene: EverydayScene, rng: random.Random) -> str:
    name = colour_name(scene.background, rng)
    return rng.choice((f"on {name}", f"on {with_article(name)} background", f"with {with_article(name)} background",
                       f"{name} background", f"the background is {name}", f"background {name}", f"{name} backdrop",
                       f"on a plain {name} background", f"background in {name}"))  # fmt: skip


def _texts(scene: EverydayScene, rng: random.Random, colours_said: set[str]) -> str:
    """Say the texts in order, each with what is said of it."""
    quote = rng.choice(QUOTES)
    same_style = _style(scene, scene.blocks[0], rng) if rng.random() < 0.75 else ""
    if not colours_said and same_style and rng.random() < 0.25:
        colours_said.add("background")
        same_style = f"in {colour_name(scene.text_colour, rng)} on {colour_name(scene.background, rng)}"
    phrases = []
    for number, block in enumerate(scene.blocks):
        quoted = quote.format(block.text)
        if number == 0:
            phrase = rng.choice(INTROS).format(quoted)
        elif scene.arrangement == "stack":
            phrase = rng.choice(NEXT).format(quoted)
        else:
            phrase = rng.choice(("and {}", "{}", "with {}", "then {}")).format(quoted)
        style = same_style if number == 0 else ""
        if block.accent or (number and rng.random() < 0.15):
            style = _style(scene, block, rng)
        where = place(block.place, rng) if scene.sample_is_placed(number, rng) else ""
        details = [detail for detail in (style, where) if detail]
        rng.shuffle(details)
        phrases.append(" ".join([phrase, *details]))
    if scene.arrangement == "stack" and len(phrases) > 2 and rng.random() < 0.4:
        plain = [quote.format(block.text) for block in scene.blocks]
        listed = f"{', '.join(plain[:-1])} and {plain[-1]}"
        below = rng.choice((" one under the other", " stacked", " on separate lines", "", ""))
        return f"{rng.choice(INTROS).format(listed)}{below} {same_style}".strip()
    return (", " if rng.random() < 0.7 else " ").join(phrases)


def _style(scene: EverydayScene, block: TextBlock, rng: random.Random) -> str:
    """Say colour, size and family of a text, each or not."""
    colour = colour_name(scene.accent_colour if block.accent else scene.text_colour, rng) if rng.random() < 0.8 else ""
    tall = scene.capital_share(block)
    size = rng.choice(next(words for least, words in SIZES if tall >= least)) if rng.random() < 0.3 else ""
    face = fonts.TYPEFACES[block.font]
    family = face.family if face.language == "en" and rng.random() < 0.35 else ""
    words = " ".join(filter(None, rng.choice(((size, colour, family), (size, family, colour)))))
    if not words:
        return ""
    if words == colour and rng.random() < 0.35:
        return f"in {colour}"
    return rng.choice(
        ("in {} letters", "in {} text", "in {} type", "in {} lettering", "in a {} font", "in {} font")
    ).format(words)


def place(where: tuple[str, str], rng: random.Random) -> str:
    """Say one of the nine places."""
    row, column = where
    centre = rng.choice(("in the middle", "in the center", "centered", "in the centre"))
    rows = {"top": ("at the top", "at the top", "on top"), "bottom": ("at the bottom",), "middle": (centre,)}
    if column == "centre":
        return rng.choice(rows[row])
    if row == "middle":
        return rng.choice((f"on the {column}", f"on the {column} side", f"{column} aligned"))
    upper = {"top": ("top", "top", "upper"), "bottom": ("bottom", "bottom", "lower")}[row]
    word = rng.choice(upper)
    return rng.choice((f"in the {word} {column}", f"in the {word} {column} corner", f"{word} {column}"))


def _shapes(scene: EverydayScene, rng: random.Random) -> str:
    """Say the shapes, equal ones together."""
    groups = scene.shape_groups
    if not groups or rng.random() < 0.12:
        return rng.choice(("", "", "", "", "no shapes", "nothing else")) if not groups else ""
    phrases = []
    for (kind, colour, where), group in groups.items():
        name = colour_name(colour, rng)
        if len(group) > 1:
            many = f"{rng.choice(COUNTS[len(group)])} {name} {kind}s"
            phrases.append(f"{many} {place(where, rng)}" if rng.random() < 0.85 else many)
        else:
            big = "big " if group[0].radius > 0.135 * min(scene.height, scene.width) and rng.random() < 0.3 else ""
            one = with_article(f"{big}{name} {kind}")
            phrases.append(f"{one} {place(where, rng)}" if rng.random() < 0.85 else one)
    return rng.choice(("{}", "{}", "with {}", "plus {}", "decorated with {}", "add {}")).format(" and ".join(phrases))


def _frame(scene: EverydayScene, rng: random.Random) -> str:
    frame = scene.frame
    if not frame.thickness or rng.random() < 0.1:
        return ""
    thin = "thin" if scene.frame_is_thin else "thick"
    words = " ".join(filter(None, (thin if rng.random() < 0.5 else "", colour_name(frame.colour, rng))))
    framed = f"framed in {colour_name(frame.colour, rng)}"
    return rng.choice((f"with {with_article(words)} border", f"{words} frame", framed, f"{words} border",
                       f"with {with_article(words)} frame"))  # fmt: skip


def _joined(head: str, clauses: list[str], rng: random.Random) -> str:
    """Join the clauses: one sentence, several, or a list of key words."""
    kind = rng.random()
    if kind < 0.62:
        text = head + (" " if rng.random() < 0.7 else ", ") + clauses[0]
        for clause in clauses[1:]:
            text += rng.choice((", ", ", ", " ", ", and ")) + clause
    elif kind < 0.82:
        sentences = [f"{head} {clauses[0]}", *clauses[1:]]
        text = ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    else:
        parts = [head, *clauses]
        text = ", ".join(parts)
    text = text.replace(", and and ", ", and ").replace(", and with", " with")
    if rng.random() < 0.7:
        text = text[0].upper() + text[1:]
    elif rng.random() < 0.3:
        text = text.lower() if not any(character in text for character in '"“') else text
    return text + ("." if rng.random() < 0.5 and text[-1] not in ".!?" else "")
