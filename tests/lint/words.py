"""Look for words that the field does not use: `python tests/lint/words.py`; exit code 1 when there are any.

`WORDS` maps an old word to the one to use. It is searched as a whole word, in any case, in the package, the recipes,
the benchmarks and the documents. `EXCEPTIONS` says where one of them is right, and why.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SEARCHED = ("glmkit", "recipes", "benchmarks", "data", "*.md", "pyproject.toml", "Makefile")
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".html", ".css", ".js", "Makefile")

WORDS = {
    r"pictures?": "image",
    r"codes": "prior tokens, token ids or codebook",
    r"code ?writer": "prefill, decode",
    r"drawn|draws": "generated (an image), sampled (a number), rendered (a poster)",
    r"settled?|thaw": "optimize_for_inference, unfreeze",
    r"keeper": "FeatureCache",
    r"team|sheets?|ledger|proof": "process group, batch, memory tracker, before/after evaluation",
    r"held[_ -]out": "validation",
    r"recompute(d|s)?": "gradient checkpointing",
    r"stock": "the reference implementation, diffusers or transformers by name",
    r"floors?": "lower bound (roofline)",
    r"told|usual|nobody|whoever": "the value's own name: conditional, default, unknown",
    r"the house": "the package",
    r"autoregressive half": "AR model",
    r"(ms|seconds?|milliseconds?|GiB|tokens|bytes|one|file|line|row|number|images?) a "
    r"(step|stage|second|layer|token|image|prompt|line|row|side)": "per",
    r"a step": "per step, one step",
    r"order_weight|sign_weight|clip_norm|resident_gib|preserve": "the key's new name",
}


class Allowed(NamedTuple):
    """Where a word is right: a path that begins so, a pattern that the line matches, and the reason."""

    path: str
    pattern: str
    reason: str


EXCEPTIONS = (
    Allowed("glmkit/inputs/captions.py", r"IMAGE_NAMES", "what others call a column"),
    Allowed("benchmarks/LOG.md", r"", "history: commands and names as they were typed then"),
    Allowed("CHANGELOG.md", r"", "says which old word became which"),
    Allowed("glmkit/reporting/axis.py", r"math\.floor", "Python's function"),
    Allowed("glmkit/generation/flow_matching.py", r"floor", "the function that rounds down"),
    Allowed("glmkit/pretraining/posters.py", r"held-out", "the name of the split seeds its posters"),
    Allowed("benchmarks/style_distance.py", r"floor", "a field of style.json"),
    Allowed(
        "glmkit/posters/",
        r"(?i)held[-_ ]out",
        "words that no training poster has; the name of the split seeds its posters",
    ),
    Allowed(
        "tests/posters/",
        r"(?i)held[-_ ]out",
        "words that no training poster has; the name of the split seeds its posters",
    ),
    Allowed(
        "benchmarks/", r"(?i)held[-_ ]out", "words that no training poster has; the name of the split seeds its posters"
    ),
    Allowed(
        "tests/benchmarks/",
        r"(?i)held[-_ ]out",
        "words that no training poster has; the name of the split seeds its posters",
    ),
    Allowed("data/", r"(?i)held[-_ ]out", "words that no training poster has; the name of the split seeds its posters"),
    Allowed("data/nano/README.md", r"^\| \d", "prompts as people typed them"),
)


def offences() -> list[str]:
    """The lines with an old word, as `path:line: word -> better word`."""
    tracked = subprocess.run(["git", "ls-files", *SEARCHED], cwd=ROOT, capture_output=True, text=True, check=True)
    patterns = {re.compile(rf"(?<![\w-])(?:{old})(?![\w-])", re.IGNORECASE): new for old, new in WORDS.items()}
    found = []
    for name in tracked.stdout.split():
        if not name.endswith(SUFFIXES) or not (ROOT / name).is_file():
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
            for pattern, new in patterns.items():
                if (match := pattern.search(line)) and not is_excepted(name, line):
                    found.append(f"{name}:{number}: {match[0]!r} -> {new}")
    return found


def is_excepted(name: str, line: str) -> bool:
    return any(name.startswith(one.path) and re.search(one.pattern, line) for one in EXCEPTIONS)


def main() -> int:
    found = offences()
    print("\n".join(found) if found else "no old words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
