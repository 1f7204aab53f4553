"""oneig-reasoning-en: OneIG-Bench, reasoning, English; see `suites.shared.oneig_measured`."""

from glmkit.evaluation.suites.shared.oneig_measured import OneigReasoning

SUITE = OneigReasoning("en")
