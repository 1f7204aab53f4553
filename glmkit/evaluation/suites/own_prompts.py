"""own-prompts: the prompts of a file, with `texts`; see `suites.shared.own_prompts`."""

from glmkit.evaluation.suites.shared.own_prompts import OwnPrompts

SUITE = OwnPrompts(from_quotes=False)
