"""geneval2: GenEval 2; prompts, questions, images and score in `suites.shared.geneval2`."""

from glmkit.evaluation.suites.shared.geneval2 import GenEval2

SUITE = GenEval2()
