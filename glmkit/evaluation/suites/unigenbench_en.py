"""unigenbench-en: UniGenBench++; prompts, test points and score in `suites.shared.unigenbench`."""

from glmkit.evaluation.suites.shared.unigenbench import UniGenBench

SUITE = UniGenBench("en")
