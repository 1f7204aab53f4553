"""Say in English what a scene shows, as people type it: free order, anything but the texts may be left out.

What is left out is as likely as it is said: places are named when they are unusual, shapes and frames nearly always.
`captions_zh` is the same for Chinese.
"""

from __future__ import annotations

import random

from glmkit.posters.everyday import captions_zh, fonts
from glmkit.posters.everyday.colours import ALIASES
from glmkit.posters.everyday.scene import EverydayScene, TextBlock
from glmkit.posters.words import words

NOUNS = [
    "poster", "poster", "poster", "card", "sign", "sign", "label", "cover", "banner", "sticker", "invitation",
    "flyer", "logo", "badge", "ticket", "tag", "menu", "notice", "image", "graphic", "slide", "postcard",
    "billboard", "nameplate", "plaque", "announcement", "book cover", "album cover", "business card",
    "birthday card", "greeting card", "street sign", "door sign", "title card", "thank you card", "shop sign",
    "price tag", "web banner", "name tag", "gift card", "road sign", "warning sign", "warning label",
    "signpost", "t-shirt", "t-shirt print", "mug", "tote bag", "door mat", "phone wallpaper", "wallpaper",
    "certificate", "diploma", "letterhead", "headline", "quote", "motto", "placard", "protest sign",
    "shop window", "awning", "menu board", "chalkboard", "blackboard", "noticeboard", "scoreboard", "packaging",
    "bottle label", "jar label", "wine label", "box", "bumper sticker", "license plate", "luggage tag",
    "bookmark", "calendar", "magazine cover", "podcast cover", "playlist cover", "movie poster",
    "concert poster", "event poster", "gig poster", "film title", "thumbnail", "profile banner", "app icon",
    "button", "stamp", "envelope", "exit sign", "bus stop sign", "station sign", "parking sign", "house number",
    "doorbell label", "toy block", "flag", "ribbon", "medal", "coaster", "napkin", "receipt", "coupon",
    "voucher", "leaflet", "brochure",
]  # fmt: skip
TOPICS = [
    "coffee shop", "gym", "bakery", "birthday party", "wedding", "concert", "book club", "yoga class",
    "summer sale", "garden party", "school play", "bike shop", "pizza place", "hair salon", "flower shop",
    "museum", "library", "festival", "charity run", "movie night", "science fair", "jazz band", "toy store",
    "farm market", "pet store", "dentist", "law firm", "tech startup", "travel agency", "beach bar",
    "tea house", "bookstore", "podcast", "video game", "football club", "swimming pool", "art show",
    "baby shower", "graduation", "house party", "car wash", "ice cream truck", "burger joint", "restaurant",
    "hotel", "museum exhibition", "theatre", "cinema", "church", "workshop", "conference", "hackathon", "camp",
    "office", "kitchen", "garage", "clinic", "pharmacy", "barber", "butcher", "brewery", "vineyard", "harbour",
    "lighthouse", "airport", "farm", "greenhouse", "zoo", "circus", "bank", "post office", "bus line", "ferry",
    "train station", "playground", "christmas market", "new year party", "halloween party", "retirement party",
    "housewarming", "anniversary", "lost cat", "found dog", "yard sale", "bake sale", "quiz night", "open day",
    "job fair", "marathon", "chess club",
]  # fmt: skip
HEADS = [
    "make {}", "design {}", "create {}", "please draw {}", "I need {}", "I want {}", "make me {}",
    "please make {}", "can you make {}", "generate {}", "draw {}", "i need {}", "we need {}",
    "could you design {}", "show {}", "please design {}",
]  # fmt: skip
INTROS = [
    "that says {}", "saying {}", "that reads {}", "reading {}", "with the text {}", "with the words {}",
    "with {}", "which says {}", "with the title {}", "with the headline {}", "{}", "titled {}", "labelled {}",
    "showing {}", "with {} written on it", "with text {}", "text {}", ": {}", ": {}", "with the word {}",
    "with the name {}", "with {} on it", "says {}", "title {}", "where it says {}", "with lettering {}",
    "it says {}", "spelling {}",
]  # fmt: skip
FIRST = [
    "title {}", "headline {}", "first line {}", "heading {}", "name {}", ": {}", "big {}", "main text {}", "{}",
    "{}",
]  # fmt: skip
NEXT = [
    "and below it {}", "and {} below", "then {}", "{} underneath", "with {} under it", "and {}", "{} below it",
    "followed by {}", "and underneath {}", "{} in the next line", "below that {}", "and under that {}",
    "subtitle {}", "second line {}", "under it {}", "with {} underneath", "and then {}", "and below {}",
    "{} right below",
]  # fmt: skip
TEXT_FIRST = [
    "{0} {1}", "{0} {1}", "{0}, {1}", "{0} as {2}", "{0} on {2}", "{0} for {2}", "write {0} on {2}",
    "the words {0} on {2}", "please write {0} on {2}", "put {0} on {2}", "{0} written on {2}",
    "the text {0} on {2}", "text {0}, {1}", "just {0}, {1}",
]  # fmt: skip
LETTERS = ["letters", "letters", "text", "text", "lettering", "type", "font", "writing", "words", "capitals"]
PAIRS = [
    "{ink} on {ground}", "{ink} on {ground}", "{ink} on {ground}", "in {ink} on {ground}",
    "{letters} on {ground}", "{letters} on {ground}", "{letters} on {a_ground} background",
    "{letters}, {ground} background", "{letters} {ground} background", "{ground} background, {letters}",
    "{ground} background and {letters}", "in {ink} on {a_ground} background", "on {ground} in {ink}",
    "in {ink}, background {ground}", "{ink} on {a_ground} background", "on {a_ground} background in {ink}",
    "{letters}, background {ground}", "{ground} with {letters}", "on {ground} with {letters}",
    "on {a_ground} background with {letters}", "in {letters} on {ground}",
    "in {letters} on {a_ground} background", "{ink} against {ground}",
]  # fmt: skip
COUNTS = {2: ("two", "two", "2", "a pair of"), 3: ("three", "three", "3"), 4: ("four", "four", "4")}
QUOTES = ('"{}"', '"{}"', '"{}"', "“{}”", "“{}”", "'{}'")
FILLERS = [
    "minimalist", "simple and clean", "flat design", "modern style", "elegant", "bold typography", "vector art",
    "high quality", "plain", "clean layout", "nice font", "professional", "cute", "retro vibe", "bold",
    "no photo", "easy to read", "nothing fancy", "simple", "text only", "large and readable",
]  # fmt: skip
# They change no colour.
SHADES = ("bright", "solid", "plain", "pure", "soft", "strong", "neon", "matte", "nice", "chalk")
SIZES = ((0.16, ("huge", "very large", "giant", "really big")), (0.105, ("large", "big", "large", "bold")),
         (0.062, ("", "medium")), (0.0, ("small", "small", "tiny", "little")))  # fmt: skip
ENDS = (", {}", ", {}", " {}", ", all {}", "; {}", ", everything {}")  # what is said of all texts
PLACED = 0.3  # of the places stand before their text: at the top "Title"
HEAD = "\0"  # stands where the first quoted text and the head go, when the text comes first


def caption(scene: EverydayScene, rng: random.Random) -> str:
    """Sample one of many descriptions. Quotes hold exactly the scene's texts, in its order.

    Colours that only who asks for them expects (`EverydayScene.is_faint`) are always named.
    """
    if scene.language == "zh" and captions_zh.can_say(scene) and rng.random() < 0.72:
        return captions_zh.caption(scene, rng)
    head, said = _head(scene, rng)
    clauses = [_texts(scene, rng, said)]
    if "background" not in said and (scene.is_faint or rng.random() < 0.72):
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
    name = ALIASES[colour] if colour in ALIASES and rng.random() < 0.35 else colour
    return f"{rng.choice(SHADES)} {name}" if rng.random() < 0.05 else name


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _head(scene: EverydayScene, rng: random.Random) -> tuple[str, set[str]]:
    """Return how the caption begins, and which colours it names already."""
    noun, background, said = _noun(rng), colour_name(scene.background, rng), {"background"}
    kind = rng.random()
    if kind < 0.2:
        head = with_article(f"{background} {noun}")
    elif kind < 0.26:
        head = f"{background} {noun}"
    elif kind < 0.3:
        head = f"{noun} with {with_article(background)} background"
    else:
        said = set()
        simple = ("simple {}", "minimal {}", "clean {}", "modern {}", "plain {}", "big {}", "small {}", "funny {}")
        noun = rng.choice(simple).format(noun) if kind < 0.36 else noun
        head = noun if rng.random() < 0.5 else with_article(noun)
    return rng.choice(HEADS).format(head) if rng.random() < 0.16 else head, said


def _noun(rng: random.Random) -> str:
    """Name a thing to print on: also of a kind that no list has, from any two words."""
    noun, topic = rng.choice(NOUNS), rng.choice(TOPICS)
    if rng.random() < 0.2:
        topic = " ".join(rng.sample(words("train"), rng.choice((1, 1, 2)))).lower()
    if rng.random() < 0.06:
        return topic
    if rng.random() < 0.36:
        own = rng.choice(("my", "our", "the", "your"))
        return rng.choice(
            (f"{noun} for {with_article(topic)}", f"{topic} {noun}", f"{topic} {noun}", f"{noun} for {own} {topic}")
        )
    return noun


def _background(scene: EverydayScene, rng: random.Random) -> str:
    name = colour_name(scene.background, rng)
    return rng.choice((f"on {name}", f"on {with_article(name)} background", f"with {with_article(name)} background",
                       f"{name} background", f"the background is {name}", f"background {name}", f"{name} backdrop",
                       f"on a plain {name} background", f"background in {name}", f"{name} paper", f"on {name} paper",
                       f"background: {name}", f"the background should be {name}", f"everything on {name}"))  # fmt: skip


def _pair(scene: EverydayScene, rng: random.Random) -> str:
    """Say the colours of text and background together, as most people do: white on green."""
    ink, ground = colour_name(scene.text_colour, rng), colour_name(scene.background, rng)
    letters = _letters(scene, scene.blocks[0], ink, rng)
    return rng.choice(PAIRS).format(ink=ink, ground=ground, a_ground=with_article(ground), letters=letters)


def _letters(scene: EverydayScene, block: TextBlock, ink: str, rng: random.Random) -> str:
    """Say "big white serif letters": size and family, each or not, a colour if there is one."""
    tall = scene.capital_share(block)
    size = rng.choice(next(words for least, words in SIZES if tall >= least)) if rng.random() < 0.25 else ""
    face = fonts.TYPEFACES[block.font]
    family = face.family if face.language == "en" and rng.random() < 0.25 else ""
    kinds = [kind for kind in LETTERS if kind != "capitals" or block.text.isupper()]
    if scene.language == "zh":
        kinds = [*LETTERS[:4], "characters", "Chinese text", "Chinese characters"]
    return " ".join(filter(None, (*rng.choice(((size, ink, family), (size, family, ink))), rng.choice(kinds))))


def _texts(scene: EverydayScene, rng: random.Random, said: set[str]) -> str:
    """Say the texts in order, each with what is said of it."""
    apostrophes = any("'" in block.text for block in scene.blocks)
    quote = rng.choice(QUOTES[:-1] if apostrophes else QUOTES)
    named = scene.is_faint or rng.random() < 0.8
    same_style = _style(scene, scene.blocks[0], rng) if named else ""
    if "background" not in said and named and rng.random() < 0.6:
        said.add("background")
        same_style = _pair(scene, rng)
    of_all = ""  # one style for all texts, said at the end: "..." at the top, "..." below, white on blue
    if len(scene.blocks) > 1 and not scene.has_accent and rng.random() < 0.5:
        of_all, same_style = same_style, ""
    before = text_first = False
    if rng.random() < 0.2 and len(scene.blocks) == 1:
        text_first = True
    elif same_style and "background" not in said and rng.random() < 0.2:
        before = True  # brown serif text "..."
    phrases = []
    for number, block in enumerate(scene.blocks):
        quoted = quote.format(block.text)
        if number == 0 and text_first:
            phrase = HEAD + quoted
        elif number == 0 and before:
            ink = colour_name(scene.accent_colour if block.accent else scene.text_colour, rng)
            phrase, same_style = f"{_letters(scene, block, ink, rng)} {quoted}", ""
        elif number == 0:
            phrase = rng.choice(FIRST if len(scene.blocks) > 1 and rng.random() < 0.5 else INTROS).format(quoted)
        elif scene.arrangement == "stack":
            phrase = rng.choice(NEXT).format(quoted)
        else:
            phrase = rng.choice(("and {}", "{}", "{}", "with {}", "then {}")).format(quoted)
        style = same_style if number == 0 else ""
        if block.accent or (number and rng.random() < 0.15):
            style = _style(scene, block, rng)
        where = place(block.place, rng) if scene.sample_is_placed(number, rng) else ""
        if where and not (number == 0 and (text_first or before)) and rng.random() < PLACED:
            phrase = f"{where}{rng.choice((' ', ' ', ': '))}{quoted}"
            where = ""
        details = [detail for detail in (style, where) if detail]
        rng.shuffle(details)
        phrases.append(rng.choice((" ", " ", ", ")).join([phrase, *details]))
    if scene.arrangement == "stack" and len(phrases) > 1 and not before and rng.random() < 0.35:
        plain = [quote.format(block.text) for block in scene.blocks]
        listed = rng.choice((f"{', '.join(plain[:-1])} and {plain[-1]}", ", ".join(plain), " ".join(plain)))
        below = rng.choice((" one under the other", " stacked", " on separate lines", ", each on its own line", "", ""))
        # One style for all does not name a faint accent.
        if not (scene.is_faint and scene.has_accent):
            phrase = rng.choice(INTROS).format(listed)
            return f"{phrase}{below}{rng.choice((' ', ', '))}{of_all or same_style}".strip(" ,")
    return rng.choice((", ", ", ", " ", "; ")).join(phrases) + (rng.choice(ENDS).format(of_all) if of_all else "")


def _style(scene: EverydayScene, block: TextBlock, rng: random.Random) -> str:
    """Say colour, size and family of a text, each or not; the colour always where nothing else would suggest it."""
    named = scene.is_faint or rng.random() < 0.8
    colour = colour_name(scene.accent_colour if block.accent else scene.text_colour, rng) if named else ""
    letters = _letters(scene, block, colour, rng)
    if len(letters.split()) == 1:
        return ""
    if colour and rng.random() < 0.25:
        return rng.choice(("in {}", "in {}", "text in {}", "{} colour", "colour {}", "text colour {}")).format(colour)
    if letters.endswith(" font") and rng.random() < 0.5:
        return f"in {with_article(letters)}"
    return rng.choice(("in {}", "in {}", "{}", "with {}")).format(letters)


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
            things = rng.choice((f"{name} {kind}s", f"{name} {kind}s", f"{kind}s in {name}"))
            phrase = f"{rng.choice(COUNTS[len(group)])} {things}"
        else:
            big = "big " if group[0].radius > 0.135 * min(scene.height, scene.width) and rng.random() < 0.3 else ""
            thing = rng.choice((f"{big}{name} {kind}", f"{big}{name} {kind}", f"{big}{kind} in {name}"))
            phrase = rng.choice((with_article(thing), with_article(thing), thing, f"one {thing}"))
        if rng.random() < 0.88:
            at = place(where, rng)
            phrase = f"{phrase} {at}" if rng.random() < 0.85 else f"{at} {phrase}"
        phrases.append(phrase)
    return rng.choice(("{}", "{}", "with {}", "with {}", "plus {}", "decorated with {}", "add {}", "and {}")).format(
        " and ".join(phrases)
    )


def _frame(scene: EverydayScene, rng: random.Random) -> str:
    frame = scene.frame
    if not frame.thickness or rng.random() < 0.1:
        return ""
    thin = "thin" if scene.frame_is_thin else "thick"
    words = " ".join(filter(None, (thin if rng.random() < 0.5 else "", colour_name(frame.colour, rng))))
    framed = f"framed in {colour_name(frame.colour, rng)}"
    return rng.choice((f"with {with_article(words)} border", f"{words} frame", framed, f"{words} border",
                       f"with {with_article(words)} frame", f"with {with_article(words)} frame around it",
                       f"{words} frame around it", f"and {with_article(words)} border",
                       f"{words} border around it", f"{with_article(words)} frame around everything"))  # fmt: skip


def _joined(head: str, clauses: list[str], rng: random.Random) -> str:
    """Join the clauses: one sentence, several, or a list of key words; the text first where a clause says so."""
    for number, clause in enumerate(clauses):
        if clause.startswith(HEAD):
            mark = max(clause.rfind(end) for end in "\"”'") + 1
            text = clause[len(HEAD) : mark]
            if any(head.startswith(ask.split(" {")[0] + " ") for ask in HEADS):
                head = f"{text} for {with_article(_noun(rng))}"
            else:
                bare = head.removeprefix("an ").removeprefix("a ")
                head = rng.choice(TEXT_FIRST).format(text, bare, with_article(bare))
            clauses[number] = clause[mark:].strip(" ,")
            clauses = [one for one in clauses if one]
            break
    kind = rng.random()
    if not clauses:
        text = head
    elif kind < 0.66:
        text = head + (" " if rng.random() < 0.6 else ", ") + clauses[0]
        for clause in clauses[1:]:
            text += rng.choice((", ", ", ", " ", "; ", ", and ")) + clause
    elif kind < 0.82:
        sentences = [f"{head} {clauses[0]}", *clauses[1:]]
        text = ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    else:
        text = ", ".join([head, *clauses])
    for wrong, right in ((" and and ", " and "), (", and with", " with"), (" : ", ": "), (",: ", ": "), (", : ", ": ")):
        text = text.replace(wrong, right)
    text = text.lstrip(": ")
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.4 and text[-1] not in ".!?" else "")
