"""vqascore-gpt-3-1: VQAScore, one of its versions; see `suites.shared.vqascore`."""

from glmkit.evaluation.suites.shared.vqascore import VqaScore

SUITE = VqaScore("gpt-3-1")
