"""Sample the texts of posters: common English words, split by a stable hash, and random strings.

Held-out words never appear on a training poster; almost a third of the training texts are no words at all, so that a
model trained on posters learns to spell letters instead of remembering words.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

Split = Literal["train", "held-out"]

HELD_OUT_SHARE = 0.12
RANDOM_SHARE = 0.3
VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnprstvwz"
# Letters that look like another one (l and I) or like a digit (O) can only be distinguished inside words.
UPPER, LOWER, DIGITS = "ABCDEFGHJKLMNOPQRSTUVWXYZ", "abcdefghijkmnopqrstuvwxyz", "0123456789"


@cache
def words(split: Split) -> tuple[str, ...]:
    """Return all lower-case words of a split, in alphabetical order."""
    listed = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()
    return tuple(word for word in listed if is_held_out(word) == (split == "held-out"))


@cache
def short_words(split: Split, longest: int) -> tuple[str, ...]:
    """Return the words of a split with at most `longest` letters."""
    return tuple(word for word in words(split) if len(word) <= longest)


def is_held_out(word: str) -> bool:
    """Tell whether a word belongs to the held-out split, by a hash of its lower-case letters."""
    digest = hashlib.sha256(word.lower().encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def contains_only(texts: Iterable[str], split: Split) -> bool:
    """Tell whether the texts hold words of the split and nothing else, punctuation at the end of a word apart."""
    return {word.strip("!?.").lower() for text in texts for word in text.split()}.issubset(words(split))


def sample_case(text: str, rng: random.Random) -> str:
    """Return the text as UPPER, Capitalised or lower: half of all headlines are set in capitals."""
    return rng.choices((text.upper(), text.capitalize(), text), weights=(5, 3, 2))[0]


def sample_text(rng: random.Random, split: Split, *, longest: int = 9) -> str:
    """Sample one text of a poster: a word, two short words, or (training only) a random string or a number.

    It has at most `longest` letters and digits, plus punctuation at the end of about a tenth of the words. The held-out
    split holds nothing but held-out words.
    """
    if split == "train" and rng.random() < RANDOM_SHARE:
        return _sample_string(rng, longest)
    if rng.random() < 0.12:
        first = rng.choice(short_words(split, (longest - 1) // 2))
        second = rng.choice(short_words(split, longest - 1 - len(first)))
        text = sample_case(f"{first} {second}", rng)
    else:
        text = sample_case(rng.choice(short_words(split, longest)), rng)
    return text + rng.choice("!!!?.") if rng.random() < 0.1 else text


def _sample_string(rng: random.Random, longest: int) -> str:
    kind = rng.random()
    if kind < 0.4:
        letters = rng.choice((UPPER, LOWER))
        text = "".join(rng.choices(letters, k=rng.randint(2, min(8, longest))))
        return text.capitalize() if letters is LOWER and rng.random() < 0.3 else text
    if kind < 0.75:
        start = rng.randint(0, 1)
        alternating = (VOWELS if (start + i) % 2 else CONSONANTS for i in range(rng.randint(3, min(8, longest))))
        return sample_case("".join(rng.choice(letters) for letters in alternating), rng)
    return sample_number_or_symbols(rng)


def sample_number_or_symbols(rng: random.Random) -> str:
    """Sample a number, a price, a share, a time, or letters around a symbol: . , % $ : - and &."""
    return rng.choice(
        (
            str(rng.randint(2, 9999)),
            f"{rng.randint(1, 99)}%",
            f"-{rng.randint(5, 95)}%",
            f"${rng.randint(1, 999)}",
            f"{rng.randint(1, 12)}:{rng.randint(0, 59):02d}",
            f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}",
            f"{rng.randint(1, 9)},{rng.randint(0, 999):03d}",
            f"{rng.choice(UPPER)} & {rng.choice(UPPER)}",
            f"{rng.choice(UPPER)}-{rng.randint(2, 99)}",
        )
    )


def sample_with_apostrophe(rng: random.Random) -> str:
    """Sample letters around an apostrophe, as in JOE'S and O'Neal, or a year: '98.

    A caption may hold one such text, not two: what stands between two apostrophes is quoted.
    """
    name = rng.choice(CONSONANTS) + rng.choice(VOWELS) + "".join(rng.choices(LOWER, k=rng.randint(1, 4)))
    owner, prefixed = f"{name}'s", f"{rng.choice('DLO')}'{name.capitalize()}"
    return rng.choice((owner, owner.capitalize(), owner.upper(), prefixed, prefixed.upper(), f"'{rng.randint(10, 99)}"))
