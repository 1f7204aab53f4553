"""own-prompts-quotes: the prompts of a file, with `texts` or those in quotes; see `suites.shared.own_prompts`."""

from glmkit.evaluation.suites.shared.own_prompts import OwnPrompts

SUITE = OwnPrompts(from_quotes=True)
