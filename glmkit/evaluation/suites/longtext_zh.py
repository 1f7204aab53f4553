"""longtext-zh: LongText-Bench, Chinese; prompts, images and score in `glmkit.evaluation.longtext`."""

from glmkit.evaluation.longtext import LongText

SUITE = LongText("zh")
