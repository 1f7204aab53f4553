"""oneig-text-zh: OneIG-Bench, text part, Chinese; prompts, images and score in `glmkit.evaluation.oneig`."""

from glmkit.evaluation.oneig import OneigText

SUITE = OneigText("zh")
