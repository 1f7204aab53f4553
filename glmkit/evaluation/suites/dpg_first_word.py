"""dpg-first-word: DPG-Bench for judges that answer in sentences; see `suites.shared.dpg`."""

from glmkit.evaluation.suites.shared.dpg import Dpg

SUITE = Dpg(is_exact=False)
