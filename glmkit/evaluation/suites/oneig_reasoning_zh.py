"""oneig-reasoning-zh: OneIG-Bench, reasoning, Chinese; see `suites.shared.oneig_measured`."""

from glmkit.evaluation.suites.shared.oneig_measured import OneigReasoning

SUITE = OneigReasoning("zh")
