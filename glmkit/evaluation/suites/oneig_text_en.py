"""oneig-text-en: OneIG-Bench, text part, English; prompts, images and score in `glmkit.evaluation.oneig`."""

from glmkit.evaluation.oneig import OneigText

SUITE = OneigText("en")
