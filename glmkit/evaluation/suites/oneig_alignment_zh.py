"""oneig-alignment-zh: OneIG-Bench, alignment, Chinese; see `suites.shared.oneig_alignment`."""

from glmkit.evaluation.suites.shared.oneig_alignment import OneigAlignment

SUITE = OneigAlignment("zh")
