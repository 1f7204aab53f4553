"""The prompts of a run or of a folder of images, rewritten once (`result_store`)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.work_queue import exclusive
from glmkit.evaluation.asking import ask_all, said
from glmkit.evaluation.result_store import Key, ResultStore
from glmkit.evaluation.rewriting.rewriters import Original, Rewrite, Rewriter
from glmkit.evaluation.rewriting.texts import required_texts
from glmkit.hashing import json_sha256
from glmkit.records import Request

FILE = "rewrites.jsonl"
Rewrites = Mapping[str, Rewrite | RuntimeError]  # id of a prompt -> what became of it, or why there is nothing yet
EMPTY: Mapping[str, Exception] = MappingProxyType({})


def rewrite_prompts(
    folder: Path, prompts: Mapping[str, tuple[str, Sequence[str] | None]], rewriter: Rewriter, lock: Path
) -> Rewrites:
    """Rewrite prompts, which `prompts` maps from their ids with the texts beside them, None for those in quotes.

    What any run has had rewritten by the same rewriter is not asked again, nor what another process asks in the folder
    `lock`. Every result is one line of `FILE` in `folder`. It is printed how many were rewritten.
    """
    originals = {name: Original(prompt, required_texts(prompt, texts)) for name, (prompt, texts) in prompts.items()}
    with exclusive(lock):
        results = _rewrite_all(folder, originals.values(), rewriter)
    rewrites = {name: results[original] for name, original in originals.items()}
    if ProcessGroup.from_environment().is_main:
        print(described(rewrites, rewriter), file=sys.stderr)
    return rewrites


def put_into(
    requests: Sequence[Request], rewrites: Rewrites, failed: Mapping[str, Exception] = EMPTY
) -> tuple[list[Request], dict[str, Exception]]:
    """Put the rewritten prompts of requests, by their ids, into them; adds the errors of those without one."""
    changed, errors = [], dict(failed)
    for request in requests:
        rewrite = rewrites.get(request.id)
        if isinstance(rewrite, RuntimeError):
            errors[request.id] = rewrite
        changed.append(replace(request, prompt=rewrite.rewritten) if isinstance(rewrite, Rewrite) else request)
    return changed, errors


def _rewrite_all(
    folder: Path, originals: Iterable[Original], rewriter: Rewriter
) -> dict[Original, Rewrite | RuntimeError]:
    key = rewriter.identity.key
    store = ResultStore(folder / FILE, "rewrites", key, "texts", "rewrite", Rewrite.to_dict, Rewrite.from_dict)
    keys: dict[Original, Key] = {original: _key(original) for original in originals}
    known = store.find(keys.values())
    results: dict[Original, Rewrite | RuntimeError] = {one: known[key] for one, key in keys.items() if key in known}
    missing = {original: original for original in keys if original not in results}
    if missing:
        for original, result in ask_all(missing, rewriter.rewrite, rewriter.workers, rewriter.note, "rewriting"):
            if isinstance(result, Rewrite):
                results[original] = result
                store.add(keys[original], result)
            else:
                results[original] = RuntimeError(f"rewriting: {said(result)}")
    return results


def counted(rewrites: Rewrites, rewriter: Rewriter) -> dict[str, Any]:
    """Count for a summary what became of the prompts (`records.Rewriting`)."""
    done = {name: result for name, result in rewrites.items() if isinstance(result, Rewrite)}
    kept = {name: result.kept for name, result in done.items() if result.kept}
    return {
        "rewriter": str(rewriter.identity),
        "prompts": len(rewrites),
        "rewritten": len(done) - len(kept),
        "kept": kept,
    }


def described(rewrites: Rewrites, rewriter: Rewriter) -> str:
    """Tell people how many prompts were rewritten, and why others were not."""
    count = counted(rewrites, rewriter)
    lines = [f"prompts: {count['rewritten']} of {count['prompts']} rewritten by {count['rewriter']}"]
    if kept := count["kept"]:
        name, why = next(iter(kept.items()))
        lines.append(f"  {len(kept)} stay as they are, as {FILE} says; {name}: {why}")
    if failed := {name: result for name, result in rewrites.items() if isinstance(result, RuntimeError)}:
        name, error = next(iter(failed.items()))
        lines.append(f"  {len(failed)} failed and are tried again by the same command; {name}: {error}")
    return "\n".join(lines)


def _key(original: Original) -> Key:
    return hashlib.sha256(original.prompt.encode(errors="surrogatepass")).hexdigest(), json_sha256(original.texts)[:16]
