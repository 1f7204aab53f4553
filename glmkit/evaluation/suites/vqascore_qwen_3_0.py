"""vqascore-qwen-3-0: VQAScore, one of its versions; see `suites.shared.vqascore`."""

from glmkit.evaluation.suites.shared.vqascore import VqaScore

SUITE = VqaScore("qwen-3-0")
