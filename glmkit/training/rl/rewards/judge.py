"""The share of right answers of a judge of `glmkit eval --judge`: judge:openai:MODEL, judge:transformers:FOLDER, ...

It is asked the `questions` of a prompt or, where there are none, those of the suite text-attributes: whether each text
is there, in the colour, place and font that the prompt's `named` says, and whether there is any other text. An image
with a question that has no answer is not rewarded.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.judges import engines
from glmkit.evaluation.judges.messages import Inquiry, Judge, spoken
from glmkit.evaluation.stats import NO
from glmkit.evaluation.suites.text_attributes import SUITE, with_questions
from glmkit.training.rl.rewards import RewardSample

ABOUT = "share of right answers to questions about the prompt's texts, judge:JUDGE: 0 to 1"
MIN_STD = 0.05


class JudgeReward:
    """Ask a judge about one image after the other, as many questions at a time as it takes."""

    needs_base, gates, is_slow = False, False, False

    def __init__(self, judge: Judge, reads_text: bool, identity: str) -> None:
        self.judge, self.reads_text, self.identity = judge, reads_text, identity

    def score(self, sample: RewardSample) -> float | None:
        """Score by the answers."""
        prompt = sample.prompt
        if not prompt.questions:
            if not prompt.texts:
                return None
            try:
                prompt = with_questions("judge", prompt, prompt.named)
            except UserError as error:  # of what this prompt names
                raise ValueError(error.what) from error
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(self.judge.workers) as pool:
            file = Path(folder) / "image.png"
            sample.image.save(file, compress_level=1)
            messages = SUITE.messages(prompt)
            inquiries = [Inquiry(one, file, prompt.id, prompt.seed, tuple(sample.lines)) for one in messages]
            answers = {
                inquiry.message.id: spoken(answer)
                for inquiry, answer in zip(inquiries, pool.map(self.judge.answer, inquiries), strict=True)
            }
        counted = SUITE.judged(prompt, answers)
        right = [value for name, (value, _) in counted.items() if name != NO]
        return sum(right) / len(right)


def check(what: str) -> None:
    """UserError for an unknown judge, and for what it lacks here."""
    if not what:
        raise UserError("the reward judge needs the name of one", fix="judge:openai:MODEL; glmkit list shows all")
    module, _ = engines.find(engines.resolve(what))
    module.check()


def load(what: str, _device: str) -> JudgeReward:
    """Load the judge."""
    module, location = engines.find(engines.resolve(what))
    return JudgeReward(module.load(location), module.READS_TEXT, module.identity(location).key)
