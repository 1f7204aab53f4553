"""vqascore-t5: VQAScore, one of its versions; see `suites.shared.vqascore`."""

from glmkit.evaluation.suites.shared.vqascore import VqaScore

SUITE = VqaScore("t5")
