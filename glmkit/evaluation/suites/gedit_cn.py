"""gedit-cn: GEdit-Bench; instructions, images, judging and score in `suites.shared.gedit`."""

from glmkit.evaluation.suites.shared.gedit import GEdit

SUITE = GEdit("cn")
