"""longtext-en: LongText-Bench, English; prompts, images and score in `glmkit.evaluation.longtext`."""

from glmkit.evaluation.longtext import LongText

SUITE = LongText("en")
