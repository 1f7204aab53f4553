"""oneig-diversity-zh: OneIG-Bench, diversity, Chinese; see `suites.shared.oneig_measured`."""

from glmkit.evaluation.suites.shared.oneig_measured import OneigDiversity

SUITE = OneigDiversity("zh")
