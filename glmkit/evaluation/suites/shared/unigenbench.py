"""UniGenBench++ (Wang et al. 2025, arXiv 2510.18701): 600 prompts, short or long, English or Chinese, 4 images each.

Prompts with test points: `data/test_prompts_<en|en_long|zh|zh_long>.csv` of the repository CodeGoat24/UniGenBench (CC
BY 4.0). Images: `<index>_<n>.png`. The benchmark's judge is gemini-2.5-pro, or a model of its authors; it scores all
points of an image in one answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation.judges.messages import Message
from glmkit.evaluation.metrics.questions import UnreadableAnswerError
from glmkit.evaluation.metrics.unigenbench import DIMENSIONS, ENGLISH, KINDS, read_points
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.shared.base import Counts, OfficialProtocol, files_in
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.inputs.records import read_csv
from glmkit.records import Prompt, Question

SUBSETS = ("en", "en_long", "zh", "zh_long")
KEYS = {"en": ("Testpoints", "Testpoint Description"), "zh": ("考点", "考点对应描述")}
ALL = "all"  # id of the only message about an image
FIX = "git clone https://github.com/CodeGoat24/UniGenBench, then --data UniGenBench/data with {}"
# Our wordings of what the benchmark asks, and of what its kinds of test points mean.
TEMPLATES: Mapping[str, str] = {
    "en": """You check a generated image against its prompt, point by point, by what can be seen alone.

The prompt: {prompt}

The points to check, each with its kind, what the kind means, and what the prompt demands:
{points}

Look at one point after the other. Do not guess: what cannot be seen clearly is not there. Then answer in this form, \
with one text in quotation marks and one number for each of the {count} points, in their order. The number is 1 when \
the image meets the point, otherwise 0.

<analysis>["...", "..."]</analysis>
<score>[1, 0]</score>""",
    "zh": """请只根据画面中看得见的内容，逐个考点检查生成的图像是否符合提示词。

提示词：{prompt}

需要检查的考点，依次为类别、类别的含义、提示词的要求：
{points}

请逐个检查，不要猜测：看不清楚的视为没有。然后按以下形式回答，对 {count} 个考点依次各给出一段带引号的文字和一个数字；\
图像符合该考点为 1，否则为 0。

<analysis>["……", "……"]</analysis>
<score>[1, 0]</score>""",
}
MEANINGS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "Style": "an art form, a photographic or design style, or the manner of a named artist",
        "World Knowledge": "well-known people, buildings, facts and expressions",
        "Attribute - Quantity": "the right number of things, above all three and more",
        "Attribute - Expression": "a face that shows the named emotion",
        "Attribute - Material": "the named material and surface",
        "Attribute - Size": "large or small, high or low, long or short, thick or thin, wide or narrow",
        "Attribute - Shape": "the named shape",
        "Attribute - Color": "the named colour",
        "Action - Hand": "what hands do; no finger is missing or broken",
        "Action - Full-body": "what a person does with the whole body",
        "Action - Animal": "what an animal does",
        "Action - Non-contact Interaction": "two do something together without touching",
        "Action - Contact Interaction": "two do something together and touch",
        "Action - State": "a state that lasts, usually named by a verb",
        "Relationship - Composition": "something consists of one or more other things",
        "Relationship - Similarity": "different things are alike in what is named",
        "Relationship - Inclusion": "something is in or on something else, which may be flat, such as a painting",
        "Relationship - Comparison": "two things differ in an attribute as named",
        "Compound - Imagination": "something that cannot be in reality",
        "Compound - Feature Matching": "different things have different kinds of attributes, each its own",
        "Grammar - Pronoun Reference": "a pronoun stands for the right thing",
        "Grammar - Consistency": "several things share an attribute",
        "Grammar - Negation": "what the prompt says is not there is not there",
        "Entity Layout - Two-Dimensional Space": "where things are in the plane of the image",
        "Entity Layout - Three-Dimensional Space": "where things are in depth",
        "Logical Reasoning": "what follows from the prompt by thinking, without being said",
        "Text Generation": "the text is right, letter by letter, with nothing left out and nothing added",
    },
    "zh": {
        "Style": "艺术、摄影或设计的风格，或某位艺术家的手法",
        "World Knowledge": "众所周知的人物、建筑、常识与说法",
        "Attribute - Quantity": "数量是否正确，尤其是三个及以上",
        "Attribute - Expression": "面部是否表现出所说的情绪",
        "Attribute - Material": "所说的材质与表面",
        "Attribute - Size": "大小、高低、长短、粗细、宽窄",
        "Attribute - Shape": "所说的形状",
        "Attribute - Color": "所说的颜色",
        "Action - Hand": "手的动作；手指不缺、不断、不变形",
        "Action - Full-body": "人物或拟人形象的全身动作",
        "Action - Animal": "动物在做什么",
        "Action - Non-contact Interaction": "两者不接触的互动，例如对视",
        "Action - Contact Interaction": "两者有接触的互动",
        "Action - State": "持续的状态，通常用动词表示",
        "Relationship - Composition": "某物由一个或多个他物组成",
        "Relationship - Similarity": "不同事物在所说方面相似",
        "Relationship - Inclusion": "某物在另一物之中或之上，后者可以是平面，例如画",
        "Relationship - Comparison": "两者的属性按所说的方式不同",
        "Compound - Imagination": "现实中不可能存在的事物",
        "Compound - Feature Matching": "不同事物各有自己的不同类特征",
        "Grammar - Pronoun Reference": "代词指的是正确的对象",
        "Grammar - Consistency": "多个事物具有共同的属性",
        "Grammar - Negation": "提示词说没有的东西确实没有",
        "Entity Layout - Two-Dimensional Space": "事物在画面平面中的位置",
        "Entity Layout - Three-Dimensional Space": "事物在空间纵深中的位置",
        "Logical Reasoning": "需要从提示词推断而未明说的内容",
        "Text Generation": "文字逐字正确，不缺也不多",
    },
}


class UniGenBench(QuestionSuite):
    """Share the test points that an image meets; `subset` is one of `SUBSETS`."""

    asking = "unigenbench-1"

    def __init__(self, subset: str) -> None:
        self.subset, self.language = subset, subset[:2]
        self.file = f"test_prompts_{subset}.csv"
        share = f"UniGenBench++ ({subset}): share of the test points that the judge gives the score 1"
        self.metrics = {
            "unigenbench": {
                "direction": "higher",
                "definition": f"{share}, pooled over the images of a dimension; mean over the ten dimensions, which "
                "must all be there.",
            },
            **{
                f"unigenbench_{name}": {
                    "direction": "higher",
                    "definition": f"{share}, of {', '.join(kinds)}.",
                }
                for name, kinds in DIMENSIONS.items()
            },
        }
        judge = "gemini-2.5-pro, in the benchmark's words"
        self.official = OfficialProtocol(f"UniGenBench++ ({subset})", judge, {}, prompts=600, images_per_prompt=4)

    def files(self, data: Path | None) -> list[Path]:
        """Give the table."""
        name = f"unigenbench-{self.subset.replace('_', '-')}"
        return files_in(name, data, lambda folder: [folder / self.file], FIX.format(self.file))

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Read prompts with their test points; a prompt whose points cannot be read has none, and no score."""
        (path,) = files
        column, points = f"prompt_{self.language}", f"sub_dims_{self.language}"
        lines = read_csv(path)
        if not lines or any(not line.get(name) for line in lines for name in ("index", column, points)):
            what = f"{path} needs lines with the columns index, {column}, {points}"
            raise UserError(what, fix="take the file as it is")
        return [
            Prompt(line["index"], line[column], (), language=self.language, questions=self._points(line[points]))
            for line in lines
        ]

    def _points(self, cell: str) -> tuple[Question, ...]:
        """Read the test points of a prompt; none of a cell that is no JSON, which the published files have, too."""
        try:
            kinds, wanted = (json.loads(cell)[key] for key in KEYS[self.language])
            named = [ENGLISH.get(kind, kind.partition(" (")[0]) for kind in kinds]
            pairs: list[tuple[str, Any]] = list(zip(named, wanted, strict=True))
        except (ValueError, KeyError, TypeError, AttributeError):
            return ()
        if any(kind not in KINDS or not isinstance(text, str) for kind, text in pairs):
            return ()
        return tuple(Question(str(number), text, kind) for number, (kind, text) in enumerate(pairs, start=1))

    def messages(self, prompt: Prompt) -> tuple[Message, ...]:
        """Ask about all points in one request."""
        if not prompt.questions:
            return ()
        names = {kind: zh for zh, kind in ENGLISH.items()} if self.language == "zh" else {}
        meanings = MEANINGS[self.language]
        points = "\n".join(
            f"{one.id}. {names.get(one.group, one.group)} ({meanings[one.group]}): {one.text}"
            for one in prompt.questions
        )
        count = len(prompt.questions)
        text = TEMPLATES[self.language].format(prompt=prompt.prompt, points=points, count=count)
        asked = tuple(one.text for one in prompt.questions)
        return (Message(ALL, text, asked, ("1", "0"), image_first=False, max_tokens=4096),)

    def judged(self, prompt: Prompt, answers: Mapping[str, str]) -> Counts:
        """Read the scores; UnreadableAnswerError without one for each point."""
        if not prompt.questions:
            raise UnreadableAnswerError("the benchmark's file holds no test points for this prompt that can be read")
        met = read_points(answers[ALL], len(prompt.questions))
        pairs = zip(prompt.questions, met, strict=True)
        return {
            **{f"{one.group}/{one.id}": (float(is_met), 1) for one, is_met in pairs},
            NO: (met.count(False), len(met)),
        }
