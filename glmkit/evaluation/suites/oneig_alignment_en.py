"""oneig-alignment-en: OneIG-Bench, alignment, English; see `suites.shared.oneig_alignment`."""

from glmkit.evaluation.suites.shared.oneig_alignment import OneigAlignment

SUITE = OneigAlignment("en")
