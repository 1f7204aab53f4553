"""wise: WISE, verified; prompts, questions, images and score in `suites.shared.wise`."""

from glmkit.evaluation.suites.shared.wise import Wise

SUITE = Wise()
