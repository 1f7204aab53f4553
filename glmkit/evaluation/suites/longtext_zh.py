"""longtext-zh: LongText-Bench, Chinese; prompts, pictures and score in `glmkit.evaluation.longtext`."""

from glmkit.evaluation.longtext import LongText

SUITE = LongText("zh")
