"""longtext-zh: LongText-Bench, Chinese; prompts, images and score in `suites.shared.longtext`."""

from glmkit.evaluation.suites.shared.longtext import LongText

SUITE = LongText("zh")
