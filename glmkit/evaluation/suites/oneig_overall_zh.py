"""oneig-overall-zh: OneIG-Bench, the mean of its five parts, Chinese; see `suites.shared.oneig_overall`."""

from glmkit.evaluation.suites.shared.oneig_overall import OneigOverall

SUITE = OneigOverall("zh")
