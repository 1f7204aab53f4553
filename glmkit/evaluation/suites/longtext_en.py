"""longtext-en: LongText-Bench, English; prompts, images and score in `suites.shared.longtext`."""

from glmkit.evaluation.suites.shared.longtext import LongText

SUITE = LongText("en")
