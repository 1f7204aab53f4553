"""oneig-text-zh: OneIG-Bench, text part, Chinese; prompts, images and score in `suites.shared.oneig`."""

from glmkit.evaluation.suites.shared.oneig import OneigText

SUITE = OneigText("zh")
