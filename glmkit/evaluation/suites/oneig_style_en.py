"""oneig-style-en: OneIG-Bench, style, English; see `suites.shared.oneig_measured`."""

from glmkit.evaluation.suites.shared.oneig_measured import OneigStyle

SUITE = OneigStyle("en")
