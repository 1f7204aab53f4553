"""tiif: TIIF-Bench, testmini; prompts, questions, images and score in `suites.shared.tiif`."""

from glmkit.evaluation.suites.shared.tiif import Tiif

SUITE = Tiif("testmini")
