"""oneig-overall-en: OneIG-Bench, the mean of its five parts, English; see `suites.shared.oneig_overall`."""

from glmkit.evaluation.suites.shared.oneig_overall import OneigOverall

SUITE = OneigOverall("en")
