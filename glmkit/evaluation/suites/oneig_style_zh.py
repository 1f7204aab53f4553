"""oneig-style-zh: OneIG-Bench, style, Chinese; see `suites.shared.oneig_measured`."""

from glmkit.evaluation.suites.shared.oneig_measured import OneigStyle

SUITE = OneigStyle("zh")
