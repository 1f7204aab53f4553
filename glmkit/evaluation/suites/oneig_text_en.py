"""oneig-text-en: OneIG-Bench, text part, English; prompts, images and score in `suites.shared.oneig`."""

from glmkit.evaluation.suites.shared.oneig import OneigText

SUITE = OneigText("en")
