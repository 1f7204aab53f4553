"""Sample texts as people quote them: words, names, phrases, numbers, prices, dates, nonsense; English and Chinese.

A text has at most 40 characters and an English word at most 16. Held-out words, by a stable hash, are on no training
image.
"""

from __future__ import annotations

import random
import string
from functools import cache
from pathlib import Path

from glmkit.posters.words import CONSONANTS, DIGITS, LOWER, UPPER, VOWELS, Split, is_held_out, words

HERE = Path(__file__).parent


def _listed(file: str) -> tuple[str, ...]:
    return tuple((HERE / file).read_text(encoding="utf-8").split())


LONGEST_WORD, LONGEST_TEXT, LONGEST_CHINESE = 16, 40, 10
NAMES = _listed("names.txt")
ACCENTED = _listed("accented.txt")
PLACES = ("Street", "Avenue", "Road", "Lane", "Park", "Cafe", "Bakery", "Books", "Studio", "Club", "Hotel", "School")
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
ACCENTS = {"a": "áàâäãå", "e": "éèêë", "i": "íìîï", "o": "óòôöõø", "u": "úùûü", "n": "ñ", "c": "ç"}


@cache
def characters() -> str:
    """Return the Chinese characters of this world, the commonest first."""
    return (HERE / "characters.txt").read_text(encoding="utf-8").strip()


@cache
def chinese_words(split: Split) -> tuple[str, ...]:
    """Return the Chinese words of a split."""
    listed = _listed("words_zh.txt")
    return tuple(word for word in listed if is_held_out(word) == (split == "held-out"))


def sample(rng: random.Random, language: str, split: Split, longest: int = LONGEST_TEXT) -> str:
    """Sample one text of at most `longest` characters."""
    if language == "zh":
        return _chinese(rng, split, min(longest, LONGEST_CHINESE))
    for _ in range(20):
        text = _english(rng, split).strip()
        if 0 < len(text) <= longest and max(map(len, text.split())) <= LONGEST_WORD:
            return text
    return rng.choice(words(split))[:longest]


def misspelt(text: str, rng: random.Random) -> str:
    """Replace, double, drop or swap about one letter in six, at least one: as sampled prior tokens misspell."""
    letters = list(text)
    for _ in range(max(1, round(len(text) / 6))):
        at, kind = rng.randrange(len(letters)), rng.random()
        letter = letters[at]
        if kind < 0.4:
            letters[at] = _other(letter, rng)
        elif kind < 0.65 or len(letters) < 2:
            letters.insert(at, letter)
        elif kind < 0.85:
            del letters[at]
        else:
            letters[at], letters[at - 1] = letters[at - 1], letter
    return "".join(letters)


def _other(letter: str, rng: random.Random) -> str:
    """Return a character of the same kind."""
    for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits, characters()):
        if letter in kind:
            return rng.choice(kind)
    return letter


def _case(text: str, rng: random.Random) -> str:
    """Return the text in capitals, as a title, capitalised, or as it is."""
    return rng.choices((text.upper(), text.title() if "'" not in text else text, text.capitalize(), text),
                       weights=(5, 4, 2, 2))[0]  # fmt: skip


def _english(rng: random.Random, split: Split) -> str:
    if split == "held-out":
        text = " ".join(rng.choice(words(split)) for _ in range(rng.choices((1, 2, 3, 4), (5, 5, 3, 1))[0]))
        return _case(text, rng) + (rng.choice("!?.") if rng.random() < 0.12 else "")
    kinds = ((_words, 30), (_name, 9), (_with_number, 9), (_number, 10), (_string, 14), (_syllables, 14), (_long, 7),
             (_accented, 7), (_symbols, 5))  # fmt: skip
    kind = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
    text = kind(rng)
    return text + rng.choice("!!!?.:") if rng.random() < 0.08 and text[-1].isalnum() else text


def _words(rng: random.Random) -> str:
    count = rng.choices((1, 2, 3, 4, 5, 6), (8, 9, 6, 3, 2, 1))[0]
    return _case(" ".join(rng.choice(words("train")) for _ in range(count)), rng)


def _name(rng: random.Random) -> str:
    first, second = rng.choice(NAMES), rng.choice(NAMES)
    form = rng.choice((first, f"{first} {second}", f"{first} {rng.choice(PLACES)}", f"{first} & {second}",
                       f"{first}'s {rng.choice(PLACES)}", f"{first[0]}. {second}", f"Dr. {second}"))  # fmt: skip
    return form.upper() if rng.random() < 0.35 else form


def _with_number(rng: random.Random) -> str:
    word, number = rng.choice(words("train")), _number(rng)
    return _case(rng.choice((f"{word} {number}", f"{number} {word}", f"{word} {rng.randint(1990, 2040)}")), rng)


def _number(rng: random.Random) -> str:
    month = rng.choice(MONTHS)
    month = month[:3] if rng.random() < 0.5 else month
    day, year, hour = rng.randint(1, 31), rng.randint(1950, 2040), rng.randint(1, 12)
    return rng.choice((
        str(rng.randint(1, 99999)), str(year), f"{rng.randint(1, 99)}%", f"${rng.randint(1, 999)}",
        f"${rng.randint(1, 99)}.{rng.randint(0, 99):02d}", f"€{rng.randint(1, 999)}", f"£{rng.randint(1, 99)}",
        f"{month} {day}", f"{day} {month} {year}", f"{day}.{rng.randint(1, 12)}.{year}", f"{day}/{rng.randint(1, 12)}",
        f"{hour}:{rng.randint(0, 59):02d}", f"{hour} {rng.choice(('am', 'pm', 'AM', 'PM'))}", f"No. {day}", f"#{day}",
        f"+{rng.randint(10, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}", f"-{rng.randint(5, 95)}%",
        f"{rng.randint(1, 9)},{rng.randint(0, 999):03d}", f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}",
    ))  # fmt: skip


def _string(rng: random.Random) -> str:
    letters = rng.choice((string.ascii_uppercase, LOWER, UPPER + DIGITS[2:], DIGITS))
    text = "".join(rng.choices(letters, k=rng.randint(2, 12)))
    return text.capitalize() if letters.islower() and rng.random() < 0.4 else text


def _syllables(rng: random.Random) -> str:
    start, length = rng.randint(0, 1), rng.choices(range(3, 17), weights=(*[4] * 7, *[3] * 7))[0]
    text = "".join(rng.choice(VOWELS if (start + i) % 2 else CONSONANTS + "xqj") for i in range(length))
    second = " " + rng.choice(words("train")) if rng.random() < 0.25 else ""
    return _case(text + second, rng)


def _long(rng: random.Random) -> str:
    endings = ("ing", "tion", "hood", "ness", "able", "ful", "less", "ship", "ity", "ism", "ward", "like", "ology")
    text = rng.choice(words("train")) + rng.choice((rng.choice(words("train")), rng.choice(endings)))
    return _case(text[:LONGEST_WORD], rng)


def _accented(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return _case(rng.choice(ACCENTED), rng).replace("SS", "ß") if rng.random() < 0.2 else rng.choice(ACCENTED)
    text = "".join(
        rng.choice(ACCENTS[x]) if x in ACCENTS and rng.random() < 0.5 else x for x in _syllables(rng).lower()
    )
    return text if "ß" in text else _case(text, rng)


def _symbols(rng: random.Random) -> str:
    first, second = rng.choice(words("train")), rng.choice(words("train"))
    return _case(rng.choice((
        f"{first} & {second}", f"{first}+{second}"[:16], f"{first} - {second}", f"{first}/{second}"[:16], f"({first})",
        f"@{first}", f"#{first}", f"{first}.com", f"{first}: {second}", f"{first}, {second}", f"{first} {second}?",
        f"{first}... {second}", f"{first}_{second}"[:16], f"*{first}*", f"{first} = {second}",
    )), rng)  # fmt: skip


def _chinese(rng: random.Random, split: Split, longest: int) -> str:
    kind = rng.random() if split == "train" else 0.9
    if kind < 0.4:  # any characters: spelling, not words
        common = characters()[:350] if rng.random() < 0.3 else characters()
        text = "".join(rng.choices(common, k=rng.randint(1, longest)))
    elif kind < 0.52:
        number, word = rng.randint(1, 99), rng.choice(chinese_words(split))
        text = rng.choice((
            f"{number}元", f"￥{number}", f"{number % 9 + 1}折", f"{rng.randint(1990, 2040)}年", f"{word}{number}",
            f"{number % 12 + 1}月{number % 28 + 1}日", f"第{number}{word[0]}", f"{number}%",
        ))  # fmt: skip
    else:
        text = ""
        for _ in range(rng.choices((1, 2, 3), (5, 6, 2))[0]):
            text += rng.choice(chinese_words(split))
    text = text[:longest]
    return text[: longest - 1] + rng.choice("！！？。") if rng.random() < 0.08 else text
