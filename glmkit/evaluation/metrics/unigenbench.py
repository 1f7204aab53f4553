"""The totals of UniGenBench++ (Wang et al. 2025, arXiv 2510.18701), as its `eval_common.py` computes them.

An image counts a row KIND/POINT for each test point: 1 when the judge gives it the score 1. The mean over dimensions is
that of the benchmark's tables; its code leaves it out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glmkit.evaluation.metrics.chains import Chain, Step, mean_of_all, pool
from glmkit.evaluation.metrics.questions import UnreadableAnswerError

# Dimension -> its kinds of test points, without what stands in brackets behind some, each with its Chinese name.
DIMENSIONS: Mapping[str, Mapping[str, str]] = {
    "style": {"Style": "风格"},
    "world_knowledge": {"World Knowledge": "世界知识"},
    "attribute": {
        "Attribute - Quantity": "属性-数量",
        "Attribute - Expression": "属性-表情",
        "Attribute - Material": "属性-材质",
        "Attribute - Size": "属性-大小",
        "Attribute - Shape": "属性-形状",
        "Attribute - Color": "属性-颜色",
    },
    "action": {
        "Action - Hand": "动作-人物/拟人手部动作",
        "Action - Full-body": "动作-人物/拟人全身动作",
        "Action - Animal": "动作-动物动作",
        "Action - Non-contact Interaction": "动作-实体间无接触互动",
        "Action - Contact Interaction": "动作-实体间有接触互动",
        "Action - State": "动作-状态",
    },
    "relationship": {
        "Relationship - Composition": "关系-构成关系",
        "Relationship - Similarity": "关系-相似关系",
        "Relationship - Inclusion": "关系-包含关系",
        "Relationship - Comparison": "关系-比较关系",
    },
    "compound": {
        "Compound - Imagination": "复合考点-想象力",
        "Compound - Feature Matching": "复合考点-不同实体特征匹配",
    },
    "grammar": {
        "Grammar - Pronoun Reference": "语法-代词指代",
        "Grammar - Consistency": "语法-统一性",
        "Grammar - Negation": "语法-否定",
    },
    "layout": {
        "Entity Layout - Two-Dimensional Space": "实体布局-二维空间",
        "Entity Layout - Three-Dimensional Space": "实体布局-三维空间",
    },
    "logical_reasoning": {"Logical Reasoning": "逻辑推理"},
    "text_generation": {"Text Generation": "文本生成"},
}
KINDS: Mapping[str, str] = {kind: name for name, kinds in DIMENSIONS.items() for kind in kinds}  # kind -> dimension
ENGLISH: Mapping[str, str] = {zh: kind for kinds in DIMENSIONS.values() for kind, zh in kinds.items()}

CHAINS: Mapping[str, Chain] = {
    "unigenbench": Chain(tuple(KINDS), (Step(pool, ("group",), into=KINDS), Step(mean_of_all)), is_everywhere=False),
    **{
        f"unigenbench_{name}": Chain(tuple(kinds), (Step(pool),), is_everywhere=False)
        for name, kinds in DIMENSIONS.items()
    },
}


def read_points(answer: str, count: int) -> list[bool]:
    """Read the list between <score> and </score>: whether each test point has the score 1.

    UnreadableAnswerError unless there are lists of `count` analyses and scores, as Python writes them. The benchmark
    keeps them as JSON and reads that as Python, so true, false and null in them cost the whole answer.
    """
    found = [re.search(f"<{tag}>(.*?)</{tag}>", answer, re.DOTALL) for tag in ("analysis", "score")]
    try:
        analyses, scores = (ast.literal_eval(match[1].strip()) for match in found if match)
        fits = len(analyses) == len(scores) == count
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        fits = False
    if not fits:
        raise UnreadableAnswerError(f"no lists of {count} analyses and scores: {answer[:120]!r}")
    if not isinstance(scores, (list, tuple)) or _holds_constant(scores) or _holds_constant(analyses):
        raise UnreadableAnswerError(f"the benchmark does not count such scores: {scores!r}"[:160])
    return [score == 1 for score in scores]


def _holds_constant(value: Any) -> bool:
    """Tell whether True, False or None stands anywhere in a value, or a value that JSON does not know."""
    if isinstance(value, Mapping):
        return any(map(_holds_constant, (*value, *value.values())))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return any(map(_holds_constant, value))
    return isinstance(value, bool) or not isinstance(value, (str, int, float))
