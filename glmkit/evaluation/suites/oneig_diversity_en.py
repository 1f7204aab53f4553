"""oneig-diversity-en: OneIG-Bench, diversity, English; see `suites.shared.oneig_measured`."""

from glmkit.evaluation.suites.shared.oneig_measured import OneigDiversity

SUITE = OneigDiversity("en")
