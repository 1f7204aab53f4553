"""tiif-test: TIIF-Bench, the whole set; see `suites.shared.tiif`."""

from glmkit.evaluation.suites.shared.tiif import Tiif

SUITE = Tiif("test")
